"""The benchmarks of a card, tried on a CPU with small weights, so that they will run on a card."""

import json
import math
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

import benchmarks.gpu as package
from benchmarks.gpu import __main__ as command
from benchmarks.gpu.bench import RESULTS, Bench, Results, read_results
from benchmarks.gpu.blocks import SPREADS, random_blocks
from benchmarks.gpu.floors import TERA, peak_of, step_work
from benchmarks.gpu.memory import GIB, Moved
from benchmarks.gpu.parts import PARTS, parts_of
from benchmarks.gpu.run import TABLE, Run, make
from benchmarks.gpu.sizes import FULL, SMALL
from benchmarks.gpu.start import ALL, Spans
from benchmarks.gpu.weights import make_full_weights
from benchmarks.report import Figure
from shared.errors import WrongWeights
from shared.stages import Stages
from shared.vocabulary import Phase
from tests.pipeline.conftest import THREADS
from worker.pipeline.plan import CONTEXT_BYTES
from worker.pipeline.weights.flux_shapes import expected_shapes
from worker.pipeline.weights.t5_names import encoder_shapes

pytestmark = pytest.mark.slow  # whole drawings, many of them

Measured = Callable[..., dict[str, Any]]

MEGAPIXEL = 1024**2
ON_A_CPU = [name for name in PARTS if name != "compiled"]  # compiling for a CPU takes minutes


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all sets of small weights."""
    return tmp_path_factory.mktemp("sets")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(THREADS)


@pytest.fixture(scope="module")
def measured(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """Measure a part, once for all tests, and give what it told."""
    kept = tmp_path_factory.mktemp("out")

    def measured(name: str, *, afresh: bool = False) -> dict[str, Any]:
        out = tmp_path_factory.mktemp("out") if afresh else kept
        if name not in read_results(out):
            part = PARTS[name]
            bench = part.bench(sets, device="cpu", small=True)
            make(bench)
            part.load()(bench, Results(folder=out, part=name))
        return read_results(out)[name]

    return measured


def figures_of(told: dict[str, Any]) -> dict[str, Figure]:
    return {each["what"]: Figure(**each) for each in told["figures"]}


@pytest.mark.parametrize("name", ON_A_CPU)
def test_a_part_tells_figures_and_what_they_were_measured_on(name: str, measured: Measured) -> None:
    told = measured(name)
    assert told["figures"]
    assert all(math.isfinite(each["value"]) and each["value"] >= 0 for each in told["figures"])
    assert told["device"]
    assert told["libraries"]["diffusers"] == version("diffusers")


def test_what_must_be_equal_is_equal_to_the_bit_on_a_cpu_too(measured: Measured) -> None:
    figures = figures_of(measured("equality")).values()
    exact = [each for each in figures if "at once" not in each.what]
    assert len(exact) == 6
    assert [each.what for each in exact if each.value] == []
    assert all(each.value <= 1 for each in figures)


def test_steps_stand_beside_each_peer_and_their_floor(measured: Measured) -> None:
    figures = figures_of(measured("steps"))
    against = {what: figure.against for what, figure in figures.items()}
    for case in ("with a reference", "without"):
        assert against[f"illo, {case}, a step"].startswith("÷ floor by measured rates")
        assert against[f"diffusers' GGUF, {case}, a step"] == "÷ illo"
        assert against[f"plain float32, {case}, a step"] == "÷ illo"


def test_a_stock_start_is_compared_with_the_workers(measured: Measured) -> None:
    ours, stock = (figures_of(measured(name))[ALL] for name in ("start", "start-stock"))
    assert stock.against == "÷ illo's start"
    assert stock.ratio == stock.value / ours.value


def test_a_start_tells_what_the_worker_logs_of_it(measured: Measured) -> None:
    told = measured("start")
    assert any(note.startswith("log: weights fetched: bytes=") for note in told["notes"])
    stages = [each["value"] for each in told["figures"] if each["unit"] == "s"]
    *parts, whole, _another = stages
    assert whole == pytest.approx(sum(parts))


@pytest.fixture
def told_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the parts believe in a card of 80 GiB, and torch's questions about it be answered."""
    monkeypatch.setattr(Bench, "cuda", property(lambda self: True))
    answers: dict[str, Any] = {
        "empty_cache": None,
        "get_device_name": "NVIDIA H100 80GB HBM3",
        "max_memory_allocated": 18 * GIB,
        "max_memory_reserved": 20 * GIB,
        "mem_get_info": (60 * GIB, 80 * GIB),
        "memory_allocated": 17 * GIB,
        "memory_reserved": 19 * GIB,
        "reset_peak_memory_stats": None,
        "set_per_process_memory_fraction": None,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)


@pytest.mark.usefixtures("told_card")
def test_on_a_card_each_phase_stands_beside_what_was_planned(
    measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed: list[float] = []
    limit = "set_per_process_memory_fraction"
    monkeypatch.setattr(torch.cuda, limit, lambda fraction, device: allowed.append(fraction))
    figures = figures_of(measured("memory-22", afresh=True))
    # what is neither free nor the allocator's is the context: 80 - 60 - 19
    assert figures["context, and whoever else is on the card"].value == 1
    whole = figures["reserved and context at the peak"]
    assert whole.value == 20 + 1
    for phase in (Phase.ENCODING, Phase.DENOISING, Phase.DECODING):
        figure = figures[f"{phase}, allocated and context"]
        assert figure.value == 18 + 1
        planned = float(figure.against.split()[-2])
        assert figure.ratio == pytest.approx(19 / planned, rel=0.01)
    assert allowed == [pytest.approx((22.2 - CONTEXT_BYTES / GIB) / 80)]


@pytest.mark.usefixtures("told_card")
def test_on_a_card_that_is_known_a_step_has_a_floor_by_data_sheet(measured: Measured) -> None:
    told = measured("steps", afresh=True)
    assert "NVIDIA H100 80GB HBM3, data sheet" in figures_of(told)
    against = [each["against"] for each in told["figures"]]
    assert sum(each.startswith("÷ floor by data sheet") for each in against) == 2


@pytest.mark.usefixtures("told_card")
def test_on_a_card_the_memory_of_the_vae_is_told(measured: Measured) -> None:
    beside = figures_of(measured("encoders", afresh=True))["  memory beside weights"]
    assert beside.value == 1024


def test_a_step_of_kontext_is_165_tera_operations() -> None:
    work = step_work(FULL.flux, pixels=MEGAPIXEL, reference_pixels=MEGAPIXEL)
    assert work.linear / TERA == pytest.approx(112.4, abs=0.05)
    assert work.attention / TERA == pytest.approx(53.1, abs=0.05)
    twice = step_work(FULL.flux, pixels=MEGAPIXEL, reference_pixels=MEGAPIXEL, images=2)
    assert twice.all == 2 * work.all


def test_full_weights_are_as_large_as_those_people_download() -> None:
    transformer = expected_shapes(FULL.flux, FULL.naming)
    for shapes, gib in ((transformer, 11.78), (encoder_shapes(FULL.t5), 4.71)):
        packed = sum(map(math.prod, shapes.values())) * 34 / 32
        assert packed / 2**30 == pytest.approx(gib, abs=0.01)


@pytest.mark.parametrize(
    ("card", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA A100-SXM4-40GB", 312.0),
        ("Tesla T4", None),
    ],
)
def test_a_card_is_known_by_its_name(card: str, peak: float | None) -> None:
    assert peak_of(card) == peak


@pytest.mark.parametrize("quantization", SPREADS)
def test_random_blocks_unpack_to_numbers_of_the_size_asked_for(quantization: str) -> None:
    packed = random_blocks((128, 3072), quantization, name="any", seed=0, size=0.02)
    numbers = gguf.dequantize(packed, gguf.GGMLQuantizationType[quantization])
    assert numbers.shape == (128, 3072)
    assert np.isfinite(numbers).all()
    assert numbers.std() == pytest.approx(0.02, rel=0.05)
    again = random_blocks((128, 3072), quantization, name="any", seed=0, size=0.02)
    other = random_blocks((128, 3072), quantization, name="other", seed=0, size=0.02)
    assert np.array_equal(packed, again)
    assert not np.array_equal(packed, other)


def test_weights_are_made_once_and_others_are_not_taken_for_them(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    made = make_full_weights(folder, blocks=(1, 2), t5_blocks=1, sizes=SMALL)
    inode = (folder / "transformer/model.gguf").stat().st_ino
    assert make_full_weights(folder, blocks=(1, 2), t5_blocks=1, sizes=SMALL) == made
    assert (folder / "transformer/model.gguf").stat().st_ino == inode
    with pytest.raises(WrongWeights, match="choose another directory"):
        make_full_weights(folder, blocks=(2, 2), t5_blocks=1, sizes=SMALL)


def test_a_stage_that_comes_back_is_told_once_with_all_of_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Stages, "seconds", lambda self: {"fetching": 1.5, "loading": 0.5})
    spans = Spans()
    for stage in ("fetching", "fetching", "loading", "fetching", "ready"):
        spans.hear(stage, 0.0)
    assert spans.seconds == {"fetching": 3.0, "loading": 0.5}


def test_the_readme_names_every_part() -> None:
    text = Path(package.__file__).with_name("README.md").read_text()
    for name in PARTS:
        stem = name.removeprefix("memory")
        assert f"`{name}`" in text or (stem != name and f"`{stem}`" in text), name


def test_a_figure_is_on_disk_as_soon_as_it_is_known(tmp_path: Path) -> None:
    results = Results(folder=tmp_path, part="one")
    results.add(Figure(what="a", value=1.5, unit="s"))
    assert json.loads((tmp_path / RESULTS).read_text())["one"]["figures"][0]["value"] == 1.5
    assert Results(folder=tmp_path, part="two").peer("one", "a") == 1.5
    assert Results(folder=tmp_path, part="two").peer("one", "b") is None


def test_bytes_are_counted_that_go_from_one_device_to_another() -> None:
    numbers = torch.ones(1000)
    with Moved() as moved:
        numbers.to(torch.bfloat16)
        numbers.clone()
        numbers.to("meta")
        torch.empty(10, device="meta").copy_(numbers[:10])
    assert (moved.bytes, moved.largest) == (4040, 4000)


def test_parts_are_chosen_by_the_beginnings_of_their_names() -> None:
    assert [part.name for part in parts_of(["steps", "start-"])] == ["steps", "start-stock"]
    assert len(parts_of([])) == len(PARTS)


def test_an_unknown_part_is_refused_with_those_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--out", str(tmp_path), "--only", "speed"]) == 2
    assert "encoders" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card here")
def test_without_a_card_it_says_how_to_try_the_scripts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--out", str(tmp_path)]) == 2
    assert "--small --device cpu" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_measures_a_part_in_a_process_of_its_own(sets: Path, tmp_path: Path) -> None:
    told = ["--small", "--device", "cpu", "--weights", str(sets), "--out", str(tmp_path)]
    assert command.main([*told, "--only", "encoders"]) == 0
    assert "T5, 8 of 512 tokens" in (tmp_path / TABLE).read_text()
    assert "failed" not in read_results(tmp_path)["encoders"]


def test_a_part_without_time_is_named_and_keeps_its_figures(sets: Path, tmp_path: Path) -> None:
    make(PARTS["encoders"].bench(sets, device="cpu", small=True))
    Results(folder=tmp_path, part="encoders").add(Figure(what="before", value=1.0, unit="s"))
    run = Run(tmp_path, sets, device="cpu", small=True, budget_seconds=0.3)
    assert not run.measure(PARTS["encoders"])
    told = read_results(tmp_path)["encoders"]
    assert "budget" in told["failed"]
    assert told["figures"][0]["what"] == "before"
    assert "before" in (tmp_path / TABLE).read_text()
    assert "FAILED" in (tmp_path / TABLE).read_text()
