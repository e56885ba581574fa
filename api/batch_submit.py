"""Accept a batch: fix every scene, write them down together, then begin to expand."""

import logging
from collections.abc import Iterable
from dataclasses import replace

from api.batch_requests import BatchRequest
from api.batch_responses import BatchBody
from api.batch_scenes import (
    Surroundings,
    plan_scenes,
    stored_defaults,
)
from api.batch_takes import wake_first
from api.batch_views import accepted_body
from api.expand import expand, write_plan
from api.idempotency import Keep
from api.rate_limits import judge, quota_of, refusing_excess, tell
from api.routing import reply
from api.service import Service
from shared.batches import Batch, BatchScene, take_id
from shared.errors import ArtifactError, IdempotencyRecorded, QuotaExceeded, StoreError
from shared.ports import Answer, IdempotencyRecord
from shared.quotas import Usage

PLAN_TYPE = "application/jsonl"

log = logging.getLogger(__name__)


def submit_batch(
    request: BatchRequest, tenant: str, service: Service, *, keep: Keep, traceparent: str
) -> Answer:
    """Write the scenes as one artifact, the batch and its record in one transaction; answer 202.

    All or nothing: raises a Refusal with every fault or if the quota has no room for all scenes,
    and IdempotencyRecorded if an equal request was first. What follows the transaction may fail:
    the sweep finishes it.
    """
    named = [name for said in (request.defaults, *request.scenes) for name in said.references]
    around = read_surroundings(named, tenant, service)
    given = request.defaults.seed.base
    base = service.new_seed() if given is None else given
    name = service.new_id("bat")
    scenes = plan_scenes(request, around, batch=name, base=base)
    batch = _planned(request, len(scenes), tenant, service, id=name, base=base)
    answer = _accepted(accepted_body(batch, service.settings))
    record = keep(answer, batch.created_at)
    with refusing_excess(len(scenes), tenant, service, pointer="/scenes"):
        judge(len(scenes), tenant, service, record=record)
        for asset in around.assets.values():
            service.backends.assets.keep(tenant, asset.id, until=None)
        batch, usage = _written(batch, scenes, service, record=record)
    service.meters.accepted.inc(len(scenes))
    _begin(batch, scenes, service, traceparent=traceparent)
    return tell(answer, usage, service, batch.created_at)


def read_surroundings(named: Iterable[str], tenant: str, service: Service) -> Surroundings:
    """Read the assets that are named; those that there are not are left out."""
    found = service.backends.assets.get_all(tenant, list(dict.fromkeys(named)))
    return Surroundings(
        assets=found,
        weights=service.weights,
        usual_pixels=service.usual_pixels,
        max_pixels=service.settings.max_pixels,
    )


def _planned(
    request: BatchRequest, scenes: int, tenant: str, service: Service, *, id: str, base: int
) -> Batch:
    now = service.backends.workers.now()
    return Batch(
        id=id,
        tenant=tenant,
        title=request.title,
        created_at=now,
        updated_at=now,
        scene_count=scenes,
        artifact=f"batches/{id}/scenes.jsonl",
        generation=0,  # until it is written
        defaults=stored_defaults(request, base=base),
        priority=request.defaults.priority,
        metadata=request.metadata,
    )


def _written(
    batch: Batch,
    scenes: list[BatchScene],
    service: Service,
    *,
    record: IdempotencyRecord | None,
) -> tuple[Batch, Usage | None]:
    plan, quota = write_plan(scenes), quota_of(service.settings)
    stored = service.backends.artifacts.put(batch.artifact, plan, content_type=PLAN_TYPE)
    batch = replace(batch, generation=stored.generation)
    try:
        return batch, service.backends.batches.create(batch, record=record, quota=quota)
    except (IdempotencyRecorded, QuotaExceeded):
        service.backends.artifacts.delete(batch.artifact)
        raise


def _accepted(body: BatchBody) -> Answer:
    headers = {"Location": f"/v1/batches/{body.id}", "Retry-After": "1"}
    return reply(body, status=202, headers=headers)


def _begin(batch: Batch, scenes: list[BatchScene], service: Service, *, traceparent: str) -> None:
    ids = {"batch_id": batch.id, "scenes": len(scenes), "traceparent": traceparent}
    log.info("batch_accepted", extra=ids)
    try:
        after = expand(service.backends, service.settings, batch, pages=1)
    except (ArtifactError, StoreError) as error:
        log.warning("expansion_failed", extra={**ids, "error": type(error).__name__})
        return
    first = [take_id(batch.id, scene.key, 1) for scene in scenes[: after.expanded]]
    wake_first(service.backends, service.settings, first, traceparent=traceparent)
