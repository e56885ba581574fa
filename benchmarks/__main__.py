"""Run the benchmarks: `python -m benchmarks [name…]`."""

import json
import platform
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import accept, claims, cold, disk, fetch, google, overhead, png, poll
from benchmarks.report import Figure, print_table

OUT = Path("build/benchmarks")
BENCHMARKS: dict[str, Callable[[Path], list[Figure]]] = {
    "accept": accept.measure,
    "poll": poll.measure,
    "overhead": overhead.measure,
    "claims": claims.measure,
    "google": google.measure,
    "fetch": fetch.measure,
    "cold": cold.measure,
    "disk": disk.measure,
    "png": png.measure,
}


def main(names: list[str]) -> None:
    """Measure those that are named, or all."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    OUT.mkdir(parents=True, exist_ok=True)
    for name in names or BENCHMARKS:
        with tempfile.TemporaryDirectory(prefix="illo-bench-") as folder:
            figures = BENCHMARKS[name](Path(folder))
        print_table(name, figures)
        measured = {
            "benchmark": name,
            "at": datetime.now(UTC).isoformat(),
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
            "figures": [figure.document() for figure in figures],
        }
        (OUT / f"{name}.json").write_text(json.dumps(measured, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
