"""Weights that cannot be used: no job is claimed, the queue says why, and it heals when they do."""

import shutil
from pathlib import Path

import pytest

from tests.service import running
from worker.pipeline.tiny import make_tiny_weights

pytestmark = pytest.mark.slow


def test_a_truncated_transformer_is_never_drawn_with(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    make_tiny_weights(weights)
    model = weights / "transformer" / "model.gguf"
    whole = tmp_path / "whole.gguf"
    shutil.copy(model, whole)
    model.write_bytes(whole.read_bytes()[:-1000])
    with running(tmp_path / "data", "--weights", str(weights), sweep_seconds="0.5") as service:
        wish = {"prompt": "x", "width": 64, "height": 64, "steps": 1}
        job = service.post("/v1/jobs", wish)["id"]
        waiting = service.until(
            lambda: service.get(f"/v1/jobs/{job}"),
            lambda seen: "starts of a worker failed" in (seen["queue"]["reason"] or ""),
            120,
        )
        assert (waiting["status"], waiting["attempt"]) == ("queued", 0)
        assert "model.gguf" in waiting["queue"]["reason"]
        states = [worker["state"] for worker in service.get("/v1/workers")["data"]]
        assert states.count("broken") >= 3

        model.write_bytes(whole.read_bytes())
        assert service.ended(job, within=120)["status"] == "succeeded"
