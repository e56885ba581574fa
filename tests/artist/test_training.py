"""A training from nothing to weights that a worker draws with; far too short to draw anything."""

import json
from hashlib import sha256
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from deploy.commands.train_tiny import train_tiny
from shared.errors import NoSuchDevice, WrongWeights
from shared.manifest import Role, read_manifest
from tests.pipeline.drawings import a_drawing, a_scene, drawn
from worker.pipeline.artist import album, flow_training, sketch, training, vae_training
from worker.pipeline.artist.characters import Setting, draw_character
from worker.pipeline.artist.drawings import SIZES, draw_plain
from worker.pipeline.artist.export import LABEL, export
from worker.pipeline.artist.flow_training import make_tokenizers, taught_reader
from worker.pipeline.artist.sketch import assembled
from worker.pipeline.artist.training import train, workbench_of
from worker.pipeline.artist.vae_training import taught_vae
from worker.pipeline.artist.workbench import Workbench
from worker.pipeline.kontext import Kontext
from worker.pipeline.start import begin
from worker.pipeline.weights.verify import verify_folder

pytestmark = pytest.mark.slow

A_MOMENT = 1e-9  # minutes: one step of each phase
MOST_BYTES = 12 * 10**6
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def small() -> object:
    with pytest.MonkeyPatch.context() as patched:
        torch.set_num_threads(1)
        patched.setattr(vae_training, "BATCH", 2)
        patched.setattr(vae_training, "ALL_LATENTS", 8)
        patched.setattr(flow_training, "BATCH", {"cpu": 2})
        patched.setattr(album, "UNSEEN", 4)
        patched.setattr(sketch, "CHARACTERS", 1)
        patched.setattr(sketch, "STEPS", 1)
        patched.setattr(training, "STORIES", 9)
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training of a moment wrote; nobody may write into it."""
    directory = tmp_path_factory.mktemp("trained") / "artist"
    train(directory, minutes=A_MOMENT, device="cpu", stories=9)
    return directory


def test_what_is_written_is_whole_small_and_says_what_it_is(weights: Path) -> None:
    manifest = read_manifest(weights)
    assert (manifest.label, manifest.text_tokens, manifest.usual_pixels) == (LABEL, 32, 128 * 128)
    assert sum(file.bytes for file in manifest.files) < MOST_BYTES
    assert verify_folder(weights).problems == ()
    packed = {file.role for file in manifest.files if file.quantization == "Q8_0"}
    assert packed == {Role.TRANSFORMER, Role.TEXT_ENCODER_2}


def test_a_worker_draws_what_the_training_would(weights: Path) -> None:
    """Wrong names, scale, shift, text tokens or words would give another picture."""
    bench = Workbench(workbench_of(weights))
    pipeline = assembled(
        taught_vae(bench, CPU), taught_reader(bench, CPU), make_tokenizers(bench.folder)
    )
    reference = draw_plain(draw_character(Random(1)), SIZES[1], Random(2))
    words = "the character sits in the snow, at night"
    mine = sketch.sketch(pipeline, words, [reference], size=SIZES[0], seed=7, steps=3)
    kontext = Kontext(begin(weights, device="cpu"), threads=1)
    digest = sha256(reference.tobytes()).hexdigest()
    scene = a_scene(
        prompt=words, width=SIZES[0][0], height=SIZES[0][1], steps=3,
        references=(sketch._reference(digest, reference),),
    )  # fmt: skip
    [outcome] = kontext.draw([a_drawing(scene, read=lambda _: reference)])
    [theirs] = drawn(outcome).images
    apart = np.abs(np.asarray(mine, dtype=float) - np.asarray(theirs, dtype=float))
    assert apart.mean() < 1.0  # packing and rounding the weights
    assert np.asarray(mine).std() > 3


def test_a_worker_reads_capitals_as_small_letters(weights: Path) -> None:
    kontext = Kontext(begin(weights, device="cpu"), threads=1)
    said = ("in the forest", "In The Forest", "in the snow")
    with torch.no_grad():
        small, capital, other = (
            kontext._encoder.encode(a_scene(prompt=words), lambda _: pytest.fail("no reference"))
            for words in said
        )
    assert torch.equal(small.prompt, capital.prompt)
    assert torch.equal(small.pooled, capital.pooled)
    assert not torch.equal(small.prompt, other.prompt)


def test_a_sheet_shows_each_setting_beside_the_reference(weights: Path) -> None:
    [sheet] = workbench_of(weights).glob("sheet-*.png")
    with Image.open(sheet) as opened:
        assert opened.size == ((128 + sketch.GAP) * (len(Setting) + 1), 128 + sketch.GAP)
    assert (workbench_of(weights) / "losses.svg").read_text().count("<polyline") >= 2


def test_the_average_is_what_is_written_of_each_model(weights: Path) -> None:
    bench = Workbench(workbench_of(weights))
    saved, own = bench.load("flow"), taught_reader(bench, CPU).parts
    names = {name.removeprefix("average ") for name in saved if name.startswith("average ")}
    assert {name.partition(".")[0] for name in names} == own.keys() == {"clip", "t5", "transformer"}
    for name in names:
        part, _, inside = name.partition(".")
        assert torch.equal(own[part].state_dict()[inside], saved[f"average {name}"])
    missing = {f"{part}.{name}" for part, model in own.items() for name in model.state_dict()}
    # T5 has one under two names, which was averaged under one of them
    assert len(missing - names) == 1
    assert missing - names < {"t5.shared.weight", "t5.encoder.embed_tokens.weight"}


def test_more_minutes_go_on_after_the_end_and_replace_what_was_written(tmp_path: Path) -> None:
    directory, bench = tmp_path / "artist", Workbench(tmp_path / "artist-training")
    train(directory, minutes=A_MOMENT, device="cpu", stories=9)
    before, steps = read_manifest(directory), bench.stand_of("flow").step

    def stop(what: str, fraction: float, detail: str) -> None:
        if detail.startswith(f"step {steps + 2},"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(directory, minutes=1000, device="cpu", resume=True, on_step=stop)
    assert read_manifest(directory) == before
    train(directory, minutes=A_MOMENT, device="cpu", resume=True)
    assert bench.stand_of("flow").step == steps + 2
    assert read_manifest(directory).sha256 != before.sha256
    assert sorted(each.name for each in tmp_path.iterdir()) == ["artist", "artist-training"]


def test_something_else_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(WrongWeights, match="something else"):
        train(tmp_path, minutes=A_MOMENT, device="cpu")
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]
    assert not workbench_of(tmp_path).exists()  # said before anything is taught


@pytest.mark.parametrize(
    ("device", "told"),
    [
        ("mps", "only cpu and cuda are taught on"),
        ("meta", "only cpu and cuda are taught on"),
        ("brush", "only cpu and cuda are taught on"),
        ("cpu:brush", "--device cpu:brush: "),
        pytest.param(
            "cuda", "--device cuda: ", marks=pytest.mark.skipif("torch.cuda.is_available()")
        ),
    ],
)
def test_a_device_that_is_none_is_refused_before_anything_is_begun(
    tmp_path: Path, device: str, told: str
) -> None:
    with pytest.raises(NoSuchDevice, match=told):
        train(tmp_path / "artist", minutes=A_MOMENT, device=device)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("at", ["before", "after"])
def test_an_earlier_artist_outlives_a_failure_while_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    directory = tmp_path / "artist"
    train(directory, minutes=A_MOMENT, device="cpu", stories=9)
    before, rename, failures = read_manifest(directory), Path.rename, iter([at == "before", True])

    def fail(path: Path, target: Path) -> Path:
        if next(failures, False):
            raise OSError(28, "No space left on device")
        return rename(path, target)

    reader = taught_reader(Workbench(workbench_of(directory)), CPU)
    vae = taught_vae(Workbench(workbench_of(directory)), CPU)
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="No space"):
        export(directory, vae, reader)
    assert read_manifest(directory) == before
    assert verify_folder(directory).problems == ()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["artist", "artist-training"]


def test_the_command_takes_the_folder_that_it_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "artist").mkdir()
    monkeypatch.chdir(tmp_path / "artist")
    words = [".", "--minutes", str(A_MOMENT), "--device", "cpu"]
    told = CliRunner().invoke(train_tiny, words, standalone_mode=False)
    assert told.exception is None
    assert read_manifest(tmp_path / "artist").label == LABEL


def test_the_command_trains_and_tells(tmp_path: Path) -> None:
    directory = str(tmp_path / "artist")
    words = [directory, "--minutes", str(A_MOMENT), "--device", "cpu"]
    told = CliRunner().invoke(train_tiny, [*words, "--json"], standalone_mode=False)
    assert told.exception is None
    document = json.loads(told.stdout)
    assert document["label"] == LABEL
    assert document["sha256"] == read_manifest(Path(directory)).sha256
    assert document["bytes"] < MOST_BYTES
