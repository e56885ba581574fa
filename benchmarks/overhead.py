"""The time that is not drawing: of a job, and between two of them."""

import time
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import urllib3

from benchmarks.between import measure_between
from benchmarks.load import JOB
from benchmarks.report import Figure
from benchmarks.servers import all_of_illo

JOBS = 40
PIPELINE = ("encoding", "denoising", "decoding")


def measure(folder: Path) -> list[Figure]:
    """Draw small jobs one after the other and read their own records."""
    with all_of_illo(folder / "data") as url:
        _ended(url, _submitted(url))  # the first waits for the weights
        began = time.perf_counter()
        jobs = [_ended(url, job) for job in [_submitted(url) for _ in range(JOBS)]]
        took = time.perf_counter() - began
    drawing = [_pipeline_seconds(job) for job in jobs]
    other = [_seconds(job) - drawn for job, drawn in zip(jobs, drawing, strict=True)]
    idle = took / JOBS - median(drawing)
    return [
        Figure(what="claim to commit, median", value=median(map(_seconds, jobs)) * 1000, unit="ms"),
        Figure(what="of it the pipeline", value=median(drawing) * 1000, unit="ms"),
        Figure(
            what="of it everything else", value=median(other) * 1000, unit="ms",
            ratio=median(other) / median(drawing), against="÷ the pipeline, 64 × 64 in 4 steps",
        ),
        Figure(
            what="of a job's share of the time, not drawing", value=idle * 1000, unit="ms",
            ratio=idle / median(drawing), against="÷ the pipeline, 64 × 64 in 4 steps",
        ),
        *measure_between(folder),
    ]  # fmt: skip


def _submitted(url: str) -> str:
    answer = urllib3.request("POST", f"{url}/v1/jobs", json=JOB)
    assert answer.status == 202, answer.data
    return str(answer.json()["id"])


def _ended(url: str, id: str) -> dict[str, Any]:
    while True:
        job = urllib3.request("GET", f"{url}/v1/jobs/{id}?wait=30", timeout=40.0).json()
        if job["status"] in ("succeeded", "failed", "canceled"):
            assert job["status"] == "succeeded", job["error"]
            return dict(job)


def _seconds(job: dict[str, Any]) -> float:
    began, ended = (datetime.fromisoformat(job[name]) for name in ("started_at", "finished_at"))
    return (ended - began).total_seconds()


def _pipeline_seconds(job: dict[str, Any]) -> float:
    stages: dict[str, float] = job["metrics"]["stages"]
    return sum(stages.get(phase, 0.0) for phase in PIPELINE)
