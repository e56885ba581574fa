"""Follow a job or a batch to its end."""

import time
from collections.abc import Callable
from typing import Any, Protocol

from deploy.client import Client, Query

ENDED_JOB = frozenset({"succeeded", "failed", "canceled"})
ENDED_BATCH = frozenset({"completed", "completed_with_failures", "canceled"})
WAIT = 20  # seconds a long poll may last
QUEUED_WAIT = 3  # seconds while it is queued: why it waits changes without the job
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
    wait: int | None = None  # the first look is to show at once what it waits for
    while True:
        reply = client.get(f"/v1/jobs/{id}", {"wait": wait}, etag=etag)
        if reply.status == 304:
            sleep(PAUSE)
            continue
        job, etag = reply.json(), reply.headers.get("ETag")
        show(*job_line(job))
        if job["status"] in ENDED_JOB:
            return job
        wait = QUEUED_WAIT if job["status"] == "queued" else WAIT


def follow_batch(client: Client, id: str, show: Show, *, sleep: Sleep = time.sleep) -> Any:
    """Show which scenes of a batch are drawn, or why none is, until all have ended; return it."""
    pause, seen = BATCH_PAUSES[0], None
    while True:
        batch = client.get(f"/v1/batches/{id}").json()
        running = client.get("/v1/jobs", {"batch": id, "status": "running"}).json()["data"]
        waiting = None if running else _one_queued(client, id)
        line = batch_line(batch, running, waiting)
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


def batch_line(batch: Any, running: list[Any], waiting: Any = None) -> tuple[str, str, float]:
    """Say where a batch stands, from it, its jobs that are being drawn, and one that waits."""
    counts = batch["counts"]
    total = sum(counts.get(status, 0) for status in (*ENDED_JOB, "queued", "running"))
    done = sum(counts.get(status, 0) for status in ENDED_JOB)
    if batch["status"] in ENDED_BATCH:
        return f"{done}/{total} scenes", "", 1.0
    lines = [(job["batch"]["scene"], *job_line(job)) for job in running]
    drawing = ", ".join(sorted(scene for scene, *_ in lines))
    detail = ", ".join(" ".join(filter(None, line[1:3])) for line in sorted(lines))
    what = f"{done}/{total} scenes" + (f", drawing {drawing}" if drawing else "")
    if waiting and not drawing:
        what += f", {(waiting['queue'] or {}).get('reason') or 'waiting for their turn'}"
    return what, detail, (done + sum(line[3] for line in lines)) / max(total, 1)


def _one_queued(client: Client, id: str) -> Any:
    query: Query = {"batch": id, "status": "queued", "limit": 1}
    return next(iter(client.get("/v1/jobs", query).json()["data"]), None)
