"""How parameters move, and that a training can be ended at any moment and gone on with."""

import json
from pathlib import Path
from random import Random

import pytest
import torch
from torch import nn
from torch.nn import functional

from shared.errors import WrongWeights
from worker.pipeline.artist import captions, flow_training, vae_training, workbench
from worker.pipeline.artist.album import Album, Page
from worker.pipeline.artist.examples import Shown, draw_examples, make_examples
from worker.pipeline.artist.flow_training import _ids, train_flow
from worker.pipeline.artist.learning import Learner, Rates, _orthogonal
from worker.pipeline.artist.stories import SCENES, story
from worker.pipeline.artist.vae_training import train_vae
from worker.pipeline.artist.workbench import Beginning, Stand, Workbench

RATES = Rates(matrices=0.05, rest=0.01, slowing=0.5, average=0.9)
CPU = torch.device("cpu")
FOREVER = 1e9  # seconds: the rates stay where they are


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(vae_training, "BATCH", 2)
    monkeypatch.setattr(flow_training, "BATCH", {"cpu": 2})


def a_page(count: int = 4) -> Page:
    """Latents of chance, of stories that are told."""
    torch.manual_seed(0)
    return Page(
        stories=[story(9 * number, seed=0) for number in range(count)],
        plain=torch.randn(count, 16, 8, 8),
        scenes=torch.randn(count, SCENES, 16, 8, 8),
        counts=1 + torch.rand(count, SCENES, 16),
    )


def an_album() -> Album:
    return Album(pages=[a_page()], unseen=a_page())


def teach_flow(bench: Workbench, *, until: int, seed: int = 0) -> None:
    """Teach until there were so many steps, then press Ctrl-C."""

    def stop(what: str, fraction: float, detail: str) -> None:
        if detail.startswith(f"step {until},"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_flow(
            bench, an_album(), seed=seed, seconds=FOREVER, device=CPU, on_step=stop,
            on_taught=lambda reader, step: None,
        )  # fmt: skip


def teach_vae(bench: Workbench, *, until: int, seed: int = 0) -> None:
    def stop(what: str, fraction: float, detail: str) -> None:
        if detail.startswith(f"step {until},"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_vae(bench, seed=seed, seconds=FOREVER, device=CPU, on_step=stop)


def test_orthogonal_matrices_have_singular_values_near_one() -> None:
    for shape in ((3, 40, 12), (2, 16, 64)):
        values = torch.linalg.svdvals(_orthogonal(torch.randn(*shape)).float())
        assert values.min() > 0.6
        assert values.max() < 1.3


def test_a_learner_learns_matrices_and_the_rest() -> None:
    torch.manual_seed(0)
    model, given = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4)), torch.randn(64, 8)
    right = torch.tanh(given @ torch.randn(8, 8))[:, :4]
    learner, losses = Learner({"model": model}, RATES), []
    for _ in range(150):
        loss = (model(given) - right).square().mean()
        loss.backward()
        learner.learn(0.0)
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 10


def test_gentle_parts_move_as_little_as_their_gradients_say() -> None:
    torch.manual_seed(0)
    parts = {name: nn.Linear(8, 8) for name in ("eager", "gentle")}
    before = {name: part.weight.detach().clone() for name, part in parts.items()}
    learner = Learner(parts, RATES, gently=["gentle"])
    sum(part(torch.randn(64, 8)).square().mean() for part in parts.values()).backward()
    learner.learn(0.0)
    moved = {name: part.weight.detach() - before[name] for name, part in parts.items()}
    values = torch.linalg.svdvals(moved["eager"])
    assert values.min() > 0.5 * values.max()  # in all directions alike
    each = torch.full((8, 8), learner.rates.at(0, 0) * RATES.rest)  # Adam's first step
    torch.testing.assert_close(moved["gentle"].abs(), each, rtol=1e-3, atol=1e-6)


def test_the_average_follows_from_the_first_step_on() -> None:
    model = nn.Linear(4, 4)
    before = model.weight.detach().clone()
    learner = Learner({"model": model}, RATES)
    for step, kept in enumerate((1 / 10, 2 / 11)):  # less than RATES.average at first
        model(torch.ones(1, 4)).sum().backward()
        learner.learn(0.0)
        before = before.lerp(model.weight.detach(), 1 - kept)
        assert learner.step == step + 1
        torch.testing.assert_close(learner.averaged("model")["weight"], before)


def test_of_what_was_saved_the_averages_are_taken() -> None:
    parts = {"vae": nn.Linear(2, 2), "other": nn.Linear(2, 2)}
    learner = Learner(parts, RATES)
    sum(part(torch.ones(1, 2)).sum() for part in parts.values()).backward()
    learner.learn(0.0)
    taken = vae_training.averaged(learner.saved(), "vae")
    assert taken.keys() == {"weight", "bias"}
    assert all(torch.equal(each, learner.averaged("vae")[name]) for name, each in taken.items())
    assert not torch.equal(taken["weight"], parts["vae"].weight)


def test_rates_rise_at_the_start_and_fall_to_nothing_at_the_end() -> None:
    assert RATES.at(0, 0) < RATES.at(10, 0) < RATES.at(100, 0) == 1
    assert RATES.at(100, 0.5) == 1
    assert RATES.at(100, 0.75) == 0.5
    assert RATES.at(100, 1.0) == RATES.at(100, 1.5) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("teach", "phase"), [(teach_vae, "vae"), (teach_flow, "flow")])
def test_what_was_ended_goes_on_to_the_same_numbers(
    tmp_path: Path, teach: "object", phase: str
) -> None:
    assert callable(teach)
    at_once, ended = Workbench(tmp_path / "a"), Workbench(tmp_path / "b")
    for bench in (at_once, ended):
        bench.begin(Beginning(seed=0, stories=9), resume=False)
    teach(at_once, until=4)
    teach(ended, until=2)
    assert ended.stand_of(phase).step == 2
    teach(ended, until=4)
    one, other = at_once.load(phase), ended.load(phase)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize(("teach", "phase"), [(teach_vae, "vae"), (teach_flow, "flow")])
def test_a_step_that_was_ended_half_way_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teach: "object", phase: str
) -> None:
    assert callable(teach)
    bench = Workbench(tmp_path)
    bench.begin(Beginning(seed=0, stories=9), resume=False)
    teach(bench, until=2)
    saved, move = bench.load(phase), Learner._move_rest
    steps = iter([False, True])

    def stop(learner: Learner, rate: float) -> None:
        if next(steps):  # matrices have moved, and the rest has not
            raise KeyboardInterrupt
        move(learner, rate)

    monkeypatch.setattr(Learner, "_move_rest", stop)
    teach(bench, until=9)
    assert bench.stand_of(phase).step == 2
    again = bench.load(phase)
    assert all(torch.equal(saved[name], again[name]) for name in saved)


@pytest.mark.slow
@pytest.mark.parametrize("step", range(4))
def test_pictures_of_the_vae_count_more_where_somebody_stands(step: int) -> None:
    pixels, counts = vae_training._batch(0, step, CPU)
    assert counts.shape == (2, 1, *pixels.shape[2:])
    assert counts.mean().item() == pytest.approx(1)
    ink = (pixels < -0.6).all(dim=1, keepdim=True)  # of outlines and eyes; of nights, too
    white = (pixels > 0.95).all(dim=1, keepdim=True)  # of eyes, and of flakes
    eyes = white & functional.max_pool2d(ink.float(), 5, 1, 2).bool()
    assert eyes.any()
    assert counts[eyes].mean() > 1.5


@pytest.mark.slow
def test_another_seed_learns_something_else(tmp_path: Path) -> None:
    for seed in (0, 1):
        bench = Workbench(tmp_path / str(seed))
        bench.begin(Beginning(seed=seed, stories=9), resume=False)
        teach_vae(bench, until=1, seed=seed)
    one, other = (Workbench(tmp_path / str(seed)).load("vae") for seed in (0, 1))
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_a_save_that_fails_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Workbench(tmp_path)
    bench.save("vae", {"a": torch.ones(3)}, Stand(step=1, seconds=2.0))

    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(workbench, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        bench.save("vae", {"a": torch.zeros(3)}, Stand(step=2, seconds=4.0))
    assert bench.stand_of("vae") == Stand(step=1, seconds=2.0)
    assert torch.equal(bench.load("vae")["a"], torch.ones(3))


def test_a_training_is_not_begun_over_another(tmp_path: Path) -> None:
    bench, began = Workbench(tmp_path), Beginning(seed=3, stories=90)
    assert bench.begin(began, resume=False) == began
    with pytest.raises(WrongWeights, match="holds a training; --resume"):
        bench.begin(began, resume=False)
    with pytest.raises(WrongWeights, match="--seed 3, not 4"):
        bench.begin(Beginning(seed=4, stories=90), resume=True)
    with pytest.raises(WrongWeights, match="other shapes or words; go on with the illo that began"):
        bench.begin(Beginning(seed=3, stories=90, models="a level more"), resume=True)
    # the stories are those that it began with, however many are asked for now
    assert bench.begin(Beginning(seed=3, stories=9), resume=True) == began


def test_nothing_is_not_gone_on_with(tmp_path: Path) -> None:
    bench = Workbench(tmp_path / "mistyped")
    with pytest.raises(WrongWeights, match="holds no training"):
        bench.begin(Beginning(seed=3, stories=90), resume=True)
    assert not bench.folder.exists()


def test_of_two_that_begin_at_once_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, exists = tmp_path / "training", Path.exists
    first, second = (Beginning(seed=seed, stories=90) for seed in (1, 2))

    def meanwhile(path: Path) -> bool:
        found = exists(path)
        monkeypatch.setattr(Path, "exists", exists)
        Workbench(folder).begin(first, resume=False)  # after the other has looked
        return found

    monkeypatch.setattr(Path, "exists", meanwhile)
    with pytest.raises(WrongWeights, match="holds a training"):
        Workbench(folder).begin(second, resume=False)
    assert Workbench(folder).begin(first, resume=True) == first
    assert [each.name for each in folder.iterdir()] == ["beginning.json"]


def test_one_at_a_time_teaches_in_a_folder(tmp_path: Path) -> None:
    with (
        Workbench(tmp_path).alone(),
        pytest.raises(WrongWeights, match="somebody teaches there"),
        Workbench(tmp_path).alone(),
    ):
        pytest.fail("both teach")
    with Workbench(tmp_path).alone():  # the first one has ended
        pass


def test_losses_are_noted_line_by_line(tmp_path: Path) -> None:
    bench = Workbench(tmp_path)
    bench.note("vae", Stand(step=1, seconds=2.0), {"loss": 0.5})
    bench.note("flow", Stand(step=3, seconds=4.0), {"loss": 0.25})
    lines = [json.loads(each) for each in (tmp_path / "losses.jsonl").read_text().splitlines()]
    assert [(each["phase"], each["step"], each["loss"]) for each in lines] == [
        ("vae", 1, 0.5), ("flow", 3, 0.25),
    ]  # fmt: skip


def test_a_target_is_never_its_own_reference() -> None:
    page = a_page()
    for seed in range(30):
        examples = make_examples(page, [0, 1, 2, 3], Random(seed), Shown.SCENE)
        [references] = examples.references
        assert not any(
            torch.equal(one, other) for one, other in zip(examples.targets, references, strict=True)
        )


def test_references_come_alone_together_and_not_at_all() -> None:
    chance, page = Random(0), a_page()
    counts = [len(draw_examples(page, chance, count=2).references) for _ in range(300)]
    assert 20 < counts.count(0) < 80
    assert 160 < counts.count(1) < 260
    assert 10 < counts.count(2) < 60


def test_parts_are_numbered_picture_by_picture_row_by_row() -> None:
    ids = _ids(make_examples(a_page(), [0], Random(0), Shown.BOTH))
    assert ids[:, 0].tolist() == [0] * 16 + [1] * 16 + [2] * 16
    for number in range(3):
        of_one = ids[16 * number : 16 * (number + 1), 1:].tolist()
        assert of_one == [[row, column] for row in range(4) for column in range(4)]


def test_examples_count_as_their_targets_do() -> None:
    page = a_page()
    examples = make_examples(page, [2, 0], Random(0), Shown.PLAIN)
    for row, target, counts in zip([2, 0], examples.targets, examples.counts, strict=True):
        [at] = [n for n in range(SCENES) if torch.equal(page.scenes[row, n], target)]
        assert torch.equal(counts, page.counts[row, at])


def test_a_caption_says_the_setting_of_its_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions, "say_setting", lambda setting, chance: f"<{setting.value}>")
    page = a_page()
    for seed in range(20):
        examples = make_examples(page, [0, 1, 2, 3], Random(seed), Shown.PLAIN)
        for row, caption in enumerate(examples.captions):
            [at] = [
                n for n in range(SCENES) if torch.equal(page.scenes[row, n], examples.targets[row])
            ]
            assert f"<{page.stories[row].settings[at].value}>" in caption
