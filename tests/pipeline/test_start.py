"""The beginning of a load: what it plans, what it needs, and that it leaves nothing behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from shared.errors import CardTooSmall, CardUnused, WeightsMissing
from shared.settings import Residency
from tests.programs import gone, until
from worker.pipeline import start as module
from worker.pipeline.start import begin
from worker.pipeline.weights.fetching import Fetching

BEGIN = """
import json, sys
from pathlib import Path
from worker.pipeline.start import begin
with begin(Path(sys.argv[1]), device="cpu").arrival:
    print(json.dumps(sorted(name.partition(".")[0] for name in sys.modules)))
"""


@pytest.mark.slow
def test_it_needs_torch_and_no_library_of_models(tiny: Path) -> None:
    begun = subprocess.run(
        [sys.executable, "-c", BEGIN, str(tiny)],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    modules = set(json.loads(begun.stdout))
    assert "torch" in modules
    assert not modules & {"diffusers", "transformers", "accelerate", "gguf", "flask"}


def test_it_says_how_and_where_it_will_be_drawn(tiny: Path) -> None:
    begun = begin(tiny, device="cpu", together=3)
    with begun.arrival:
        assert (begun.device, begun.dtype) == (torch.device("cpu"), torch.float32)
        assert (begun.plan.residency, begun.together) == (Residency.RESIDENT, 3)


@pytest.fixture
def unusable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a card, and a torch that was not built for it."""
    monkeypatch.setattr(module, "has_card", lambda: True)


@pytest.mark.usefixtures("unusable")
@pytest.mark.skipif(torch.cuda.is_available(), reason="this torch can use the card")
def test_a_card_that_torch_cannot_use_is_refused_where_it_is_paid_for(
    tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(CardUnused, match="there is a GPU, but torch"):
        begin(tiny, paid_card=True)
    with begin(tiny).arrival:
        assert "card unused" in caplog.messages


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_where_there_is_no_card_nobody_misses_it(
    tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun = begin(tiny, paid_card=True)
    with begun.arrival:
        assert begun.device == torch.device("cpu")
        assert not caplog.messages


def test_a_folder_without_weights_is_refused_and_no_fetch_is_left(tmp_path: Path) -> None:
    fetching = Fetching(str(tmp_path / "nothing"))
    with pytest.raises(WeightsMissing):
        begin(fetching, device="cpu")
    until(lambda: gone(fetching.pid))


def test_a_card_that_is_too_small_is_refused_and_no_fetch_is_left(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_small(*_: object, **__: object) -> None:
        raise CardTooSmall("the card has 1 byte")

    monkeypatch.setattr(module, "plan_for", too_small)
    fetching = Fetching(str(tiny))
    with pytest.raises(CardTooSmall):
        begin(fetching, device="cpu")
    until(lambda: gone(fetching.pid))
