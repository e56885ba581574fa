"""Builders: make a valid value from only what matters to a test."""

import hashlib
import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Any

from shared.artifact_names import latents_name
from shared.assets import Asset, asset_id
from shared.batches import Batch, BatchScene, take_id
from shared.jobs import Job, Terms
from shared.ports import Answer, IdempotencyRecord
from shared.scenes import Reference, Scene, Weights, recipe_of
from shared.vocabulary import Checkpoint, DrawnImage, Latents, Lease, Status
from shared.workers import WorkerRecord, WorkerState

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
TERMS = Terms()
WEIGHTS = Weights(label="tiny", sha256="0" * 64)
TENANT = "ada"

_numbers = itertools.count(1)


class FakeClock:
    """A clock that stands still until a test moves it; safe to read from several threads."""

    def __init__(self, start: datetime = NOW) -> None:
        self._now = start
        self._lock = Lock()

    def now(self) -> datetime:
        with self._lock:
            return self._now

    def advance(self, pause: timedelta | float) -> None:
        """Move on, by a timedelta or by seconds."""
        step = pause if isinstance(pause, timedelta) else timedelta(seconds=pause)
        with self._lock:
            self._now += step


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def sha(text: object) -> str:
    """64 hexadecimal digits that stand for something."""
    return hashlib.sha256(str(text).encode()).hexdigest()


def job_id(seed: object) -> str:
    """A well-formed job id; the same seed always gives the same one."""
    return take_id("builders", str(seed), 0)


def a_reference(seed: object = "mia", **what_matters: Any) -> Reference:
    given: dict[str, Any] = {
        "asset": asset_id(TENANT, sha(seed)),
        "sha256": sha(seed),
        "artifact": f"assets/{sha(seed)}.png",
        "generation": 1,
        "width": 64,
        "height": 64,
    }
    return Reference(**given | what_matters)


def a_scene(prompt: str = "Mia wakes up", **what_matters: Any) -> Scene:
    given: dict[str, Any] = {
        "width": 64,
        "height": 64,
        "steps": 4,
        "guidance": 2.5,
        "seed": 7,
        "weights": WEIGHTS,
    }
    return Scene(prompt=prompt, **given | what_matters)


def a_lease(holder: str = "worker-1", token: int = 1, **what_matters: Any) -> Lease:
    """A lease that was given at NOW."""
    return Lease(holder=holder, token=token, **{"expires_at": NOW + TERMS.lease} | what_matters)


def an_expired_lease(holder: str = "worker-1", token: int = 1) -> Lease:
    """A lease that ran out a minute before NOW, so that it can be stolen."""
    return a_lease(holder, token, expires_at=NOW - timedelta(minutes=1))


def a_job(**what_matters: Any) -> Job:
    """A queued job, due at NOW, with an id of its own.

    A running one gets a lease, an ended one its end; anything that is given goes before that.
    """
    scene = what_matters.pop("scene", None) or a_scene()
    status = what_matters.get("status", Status.QUEUED)
    given: dict[str, Any] = {
        "id": job_id(next(_numbers)),
        "tenant": TENANT,
        "recipe": recipe_of(scene),
        "created_at": NOW,
        "updated_at": NOW,
        "expire_at": NOW + timedelta(days=30),
        "not_before": NOW,
        "wake_at": NOW,
    }
    if status is Status.RUNNING:
        lease = what_matters.get("lease") or a_lease(token=what_matters.get("attempt", 1))
        given |= {"lease": lease, "attempt": lease.token, "claimed_at": NOW}
    elif status.final:
        given |= {"attempt": 1, "claimed_at": NOW, "finished_at": NOW}
    return Job(scene=scene, **given | what_matters)


def a_checkpoint(job: Job, step: int = 2, **what_matters: Any) -> Checkpoint:
    """A checkpoint of a job's present attempt."""
    attempt = what_matters.get("attempt", job.attempt)
    given: dict[str, Any] = {
        "artifact": latents_name(job.id, attempt, step),
        "generation": 1,
        "attempt": job.attempt,
        "step": step,
        "recipe": job.recipe,
    }
    return Checkpoint(**given | what_matters)


def saved_at(job: Job, step: int = 2) -> Job:
    """The same job with a checkpoint of its present attempt."""
    latents = (*job.latents, Latents(attempt=job.attempt, step=step))
    return replace(job, checkpoint=a_checkpoint(job, step), latents=latents)


def an_image(job: Job | None = None, index: int = 0, **what_matters: Any) -> DrawnImage:
    job = job or a_job()
    given: dict[str, Any] = {
        "artifact": f"jobs/{job.id}/a{job.attempt}/{index}.png",
        "generation": 1,
        "sha256": sha((job.id, index)),
        "bytes": 1000,
        "width": job.scene.width,
        "height": job.scene.height,
        "seed": job.scene.seeds[0],
    }
    return DrawnImage(**given | what_matters)


def a_batch(**what_matters: Any) -> Batch:
    number = next(_numbers)
    given: dict[str, Any] = {
        "id": f"bat_{number}",
        "tenant": TENANT,
        "title": "Mia and the storm",
        "created_at": NOW,
        "updated_at": NOW,
        "scene_count": 2,
        "artifact": f"batches/bat_{number}/scenes.json",
        "generation": 1,
        "defaults": {},
    }
    return Batch(**given | what_matters)


def a_batch_scene(batch: Batch | str = "bat_0", key: str = "p1", **what_matters: Any) -> BatchScene:
    given: dict[str, Any] = {"position": 0, "scene": a_scene(), "source": {"prompt": "Mia"}}
    of = batch if isinstance(batch, str) else batch.id
    return BatchScene(batch=of, key=key, **given | what_matters)


def a_take(scene: BatchScene, take: int = 1, **what_matters: Any) -> Job:
    """The job of a scene's take."""
    given: dict[str, Any] = {
        "id": take_id(scene.batch, scene.key, take),
        "scene": scene.scene,
        "batch": scene.batch,
        "scene_key": scene.key,
        "take": take,
    }
    return a_job(**given | what_matters)


def an_asset(seed: object = "mia", **what_matters: Any) -> Asset:
    tenant = what_matters.get("tenant", TENANT)
    given: dict[str, Any] = {
        "id": asset_id(tenant, sha(seed)),
        "tenant": tenant,
        "created_at": NOW,
        "expire_at": NOW + timedelta(days=30),
        "sha256": sha(seed),
        "width": 64,
        "height": 64,
        "bytes": 1000,
        "content_type": "image/png",
        "artifact": f"assets/{sha(seed)}.png",
        "generation": 1,
    }
    return Asset(**given | what_matters)


def a_worker(**what_matters: Any) -> WorkerRecord:
    given: dict[str, Any] = {
        "id": f"worker-{next(_numbers)}",
        "state": WorkerState.IDLE,
        "started_at": NOW,
        "at": NOW,
        "source": "tiny",
    }
    return WorkerRecord(**given | what_matters)


def an_answer(body: bytes = b'{"id": 1}\n', **what_matters: Any) -> Answer:
    given: dict[str, Any] = {"status": 202, "headers": {"Content-Type": "application/json"}}
    return Answer(body=body, **given | what_matters)


def a_record(key: object = "key", **what_matters: Any) -> IdempotencyRecord:
    """The answer to a request with an Idempotency-Key, good for a day after NOW."""
    given: dict[str, Any] = {
        "tenant": TENANT,
        "path": "/v1/jobs",
        "key_sha256": sha(key),
        "request_sha256": sha("request"),
        "answer": an_answer(),
        "expire_at": NOW + timedelta(hours=24),
    }
    return IdempotencyRecord(**given | what_matters)


def older(job: Job, by: float) -> Job:
    """The same job, created so many seconds earlier."""
    return replace(job, created_at=job.created_at - seconds(by))
