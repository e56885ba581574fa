"""What a worker counts: every figure of the table in docs/metrics.md, and nothing secret."""

import re
from dataclasses import replace
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from shared.jobs import Job
from shared.vocabulary import Metrics, Status
from tests.builders import a_job, a_reference, a_scene
from tests.worker.conftest import Surroundings, value
from worker.measures import Measures
from worker.run_job import run_job

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
USED = Metrics(
    gpu_seconds=9.0,
    stages={"encoding": 0.5, "denoising": 4.0},
    steps=8,
    steps_per_second=2.0,
    resumed_at=20,
    peak_bytes=1_000,
    remembered=1,
)


def ended(**what_matters: object) -> Job:
    scene = a_scene(references=(a_reference(), a_reference("sofa")))
    return a_job(status=Status.SUCCEEDED, scene=scene, metrics=USED, **what_matters)


def test_an_attempt_is_counted_with_what_it_took() -> None:
    measures = Measures()
    measures.attempted(ended())
    assert value(measures, "illo_attempts_total", status="succeeded") == 1
    assert value(measures, "illo_stage_seconds_sum", stage="denoising") == 4.0
    assert value(measures, "illo_steps_total") == 8
    assert value(measures, "illo_step_seconds_sum") == 0.5
    assert value(measures, "illo_resumed_total") == 1
    assert value(measures, "illo_encodings_total", outcome="remembered") == 1
    assert value(measures, "illo_encodings_total", outcome="encoded") == 2


def test_what_an_attempt_did_not_do_is_not_counted() -> None:
    measures = Measures()
    measures.attempted(replace(ended(), status=Status.QUEUED, metrics=Metrics(resumed_at=0)))
    assert value(measures, "illo_attempts_total", status="queued") == 1
    for name in ("illo_steps_total", "illo_step_seconds_count", "illo_resumed_total"):
        assert value(measures, name) == 0
    assert value(measures, "illo_encodings_total", outcome="encoded") == 0


def test_the_peak_is_that_of_the_largest_drawing() -> None:
    measures = Measures()
    for peak in (500, 1_000, 700):
        measures.attempted(replace(ended(), metrics=replace(USED, peak_bytes=peak)))
    measures.attempted(replace(ended(), metrics=Metrics()))
    assert value(measures, "illo_peak_memory_bytes") == 1_000


def test_bytes_and_checkpoints_are_counted_by_kind() -> None:
    measures = Measures()
    measures.image_stored(700)
    measures.checkpoint_stored(30)
    measures.checkpoint_stored(12)
    measures.checkpoint_not_stored()
    measures.checkpoint_refused()
    assert value(measures, "illo_stored_bytes_total", kind="images") == 700
    assert value(measures, "illo_stored_bytes_total", kind="latents") == 42
    counts = [
        value(measures, "illo_checkpoints_total", outcome=outcome)
        for outcome in ("stored", "failed", "refused")
    ]
    assert counts == [2, 1, 1]


def test_the_stages_of_a_start_are_gauges() -> None:
    measures = Measures()
    measures.start_stage("importing", 2.5)
    assert value(measures, "illo_start_seconds", stage="importing") == 2.5


def test_the_first_image_is_counted_from_the_beginning_of_the_process() -> None:
    measures = Measures()
    measures.attempted(replace(ended(), status=Status.FAILED))
    assert value(measures, "illo_start_seconds", stage="until first image") == 0
    measures.attempted(ended())
    first = value(measures, "illo_start_seconds", stage="until first image")
    measures.attempted(ended())
    again = value(measures, "illo_start_seconds", stage="until first image")
    assert 0 < first == again


def test_no_figure_has_the_words_or_the_id_of_a_job(around: Surroundings) -> None:
    registry = CollectorRegistry()
    job = around.claimed(scene=a_scene("the secret prompt"), tenant="secretive")
    done = run_job(job, around.workplace(measures=Measures(registry)))
    assert done is not None
    told = generate_latest(registry).decode()
    assert 'illo_attempts_total{status="succeeded"} 1.0' in told
    assert not re.search(f"secret|{job.id}|{job.recipe}", told)


ROW = re.compile(r"^\| `(illo_\w+)` \| (\w+) \| (?:–|`(\w+)`) \|", re.MULTILINE)


def test_the_document_lists_every_figure_with_its_kind_and_label() -> None:
    measures = Measures()
    measures.attempted(ended())
    measures.image_stored(1)
    measures.checkpoint_refused()
    measures.start_stage("importing", 1.0)
    measures.fetched(1e9, connections=16)
    told = set()
    for family in measures.registry.collect():
        ending = "_total" if family.type == "counter" else ""
        labels = {name for sample in family.samples for name in sample.labels} - {"le"}
        told.add((family.name + ending, family.type, "".join(labels)))
    of_a_worker = DOCUMENT.read_text().partition("## Of the API")[0]
    assert told == set(ROW.findall(of_a_worker))
