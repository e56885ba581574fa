"""On a card: a drawing stays within the plan, and a resident model within its place."""

import pytest

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.memory import (
    GIB,
    Moved,
    PhasePeaks,
    limit_memory,
    models_of,
    places,
    plan_for,
)
from benchmarks.gpu.product import a_scene, draw, open_kontext, pipeline_of
from shared.settings import Residency
from worker.pipeline.kontext import Kontext
from worker.pipeline.plan import CONTEXT_BYTES

pytestmark = pytest.mark.gpu

# pictures, noise and words, both ways; the smallest set of weights takes twenty times as much
JOB_BYTES = 64 * 2**20
PLENTY_GIB = 80.0


@pytest.mark.parametrize("residency", [Residency.RESIDENT, Residency.STREAM_T5, Residency.OFFLOAD])
def test_a_drawing_needs_no_more_than_the_plan_says(bench: Bench, residency: Residency) -> None:
    planned = plan_for(bench, models_of(bench), PLENTY_GIB, residency)
    limit_memory(bench, planned.peak / GIB)
    kontext = open_kontext(bench, residency=residency)
    peaks = PhasePeaks(bench)
    draw(kontext, [a_scene(bench)], on_progress=peaks.hear)
    peaks.end()
    assert kontext.residency is residency, "it stepped down"
    assert not pipeline_of(kontext).vae.use_tiling, "it stepped down to tiles"
    assert peaks.found
    for phase, most in peaks.found.items():
        assert most + CONTEXT_BYTES <= planned.peaks[phase], phase


def test_no_weight_moves_between_the_jobs_of_resident_models(
    bench: Bench, kontext: Kontext
) -> None:
    before = places(pipeline_of(kontext))
    for number in range(10):
        with Moved() as moved:
            draw(kontext, [a_scene(bench, seed=number, prompt=f"page {number}", steps=2)])
        assert 0 < moved.bytes < JOB_BYTES
    assert places(pipeline_of(kontext)) == before
