"""Follow a job or a batch to its end."""

import time
from collections.abc import Callable
from typing import Any, Protocol

from deploy.client import Client

ENDED_JOB = frozenset({"succeeded", "failed", "canceled"})
ENDED_BATCH = frozenset({"completed", "completed_with_failures", "canceled"})
WAIT = 20  # seconds a long poll may last
PAUSE = 0.25  # seconds, where the server could not let us wait
BATCH_PAUSES = (0.2, 2.0)  # seconds between looks: the first after a change, the longest

Sleep = Callable[[float], None]


class Show(Protocol):
    """See Display.show."""

    def __call__(self, what: str, detail: str, fraction: float) -> None:
        """Show what goes on."""


def follow_job(client: Client, id: str, show: Show, *, sleep: Sleep = time.sleep) -> Any:
    """Show a job's progress until it has ended; return it."""
    etag: str | None = None
    while True:
        reply = client.get(f"/v1/jobs/{id}", {"wait": WAIT}, etag=etag)
        if reply.status == 304:
            sleep(PAUSE)
            continue
        job, etag = reply.json(), reply.headers.get("ETag")
        show(*job_line(job))
        if job["status"] in ENDED_JOB:
            return job


def follow_batch(client: Client, id: str, show: Show, *, sleep: Sleep = time.sleep) -> Any:
    """Show which scenes of a batch are being drawn until all have ended; return the batch."""
    pause, seen = BATCH_PAUSES[0], None
    while True:
        batch = client.get(f"/v1/batches/{id}").json()
        running = client.get("/v1/jobs", {"batch": id, "status": "running"}).json()["data"]
        line = batch_line(batch, running)
        show(*line)
        if batch["status"] in ENDED_BATCH:
            return batch
        pause = BATCH_PAUSES[0] if line != seen else min(pause * 1.5, BATCH_PAUSES[1])
        seen = line
        sleep(pause)


def job_line(job: Any) -> tuple[str, str, float]:
    """Say where a job stands: what, a detail, and a fraction."""
    if job["status"] in ENDED_JOB:
        return job["status"], "", 1.0
    if job["status"] == "queued":
        reason = (job["queue"] or {}).get("reason")
        return (f"queued: {reason}" if reason else "queued"), "", 0.0
    progress = job["progress"]
    if progress is None:
        return "claimed", "", 0.0
    return progress["phase"], f"step {progress['step']}/{progress['steps']}", progress["fraction"]


def batch_line(batch: Any, running: list[Any]) -> tuple[str, str, float]:
    """Say where a batch stands, from it and from its jobs that are being drawn."""
    counts = batch["counts"]
    total = sum(counts.get(status, 0) for status in (*ENDED_JOB, "queued", "running"))
    done = sum(counts.get(status, 0) for status in ENDED_JOB)
    if batch["status"] in ENDED_BATCH:
        return f"{done}/{total} scenes", "", 1.0
    lines = [(job["batch"]["scene"], *job_line(job)) for job in running]
    drawing = ", ".join(sorted(scene for scene, *_ in lines))
    detail = ", ".join(" ".join(filter(None, line[1:3])) for line in sorted(lines))
    what = f"{done}/{total} scenes" + (f", drawing {drawing}" if drawing else "")
    return what, detail, (done + sum(line[3] for line in lines)) / max(total, 1)
