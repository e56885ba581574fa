"""Run the benchmarks of a card: `python -m benchmarks.gpu --out DIR`."""

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.gpu.bench import Results
from benchmarks.gpu.parts import PARTS, parts_of
from benchmarks.gpu.run import Run, make

BUDGET_SECONDS = 570.0  # a little less than the ten minutes that many a machine allows a command


def main(arguments: list[str]) -> int:
    """Measure the parts that are asked for; the exit status tells whether all of them ended."""
    asked = _parser().parse_args(arguments)
    if asked.make or asked.part:
        return _one(asked)
    try:
        parts = parts_of([name for name in asked.only.split(",") if name])
    except KeyError as unknown:
        print(f"no part is called {unknown}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    if asked.device.startswith("cuda") and not _has_card():
        print("no CUDA device here; --small --device cpu tries the scripts", file=sys.stderr)
        return 2
    run = Run(
        asked.out,
        asked.weights,
        device=asked.device,
        small=asked.small,
        budget_seconds=asked.budget_seconds,
    )
    ended = [run.measure(part) for part in parts]
    return 0 if all(ended) else 1


def _one(asked: argparse.Namespace) -> int:
    part = PARTS[asked.make or asked.part]
    bench = part.bench(asked.weights, device=asked.device, small=asked.small)
    if asked.make:
        make(bench)
    else:
        part.load()(bench, Results(folder=asked.out, part=part.name))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where results and tables go")
    parser.add_argument("--only", default="", help="parts by the beginnings of their names: a,b,c")
    parser.add_argument("--budget-seconds", type=float, default=BUDGET_SECONDS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny weights: to try the scripts")
    parser.add_argument(
        "--weights",
        type=Path,
        default=Path(tempfile.gettempdir()) / "illo-gpu-weights",
        help="a folder for random weights, 31 GB in all; they are kept for the next call",
    )
    # what this command asks its own children
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--make", choices=PARTS, help=argparse.SUPPRESS)
    return parser


def _has_card() -> bool:
    import torch  # not at the top: a part that measures a start has not begun yet

    return bool(torch.cuda.is_available())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
