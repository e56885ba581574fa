"""Find the scenes that a reprocess means."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

from api.batch_orders import asked_for
from api.batch_requests import Selection
from api.batch_views import all_scenes
from api.problems import Fault, invalid, pointer
from api.service import Service
from shared.batches import Batch, BatchScene, Take, groups, is_stale, newest_take

TakesByKey = Mapping[str, Sequence[Take]]
Asked = Callable[[Take], bool]  # whether this very request asked for a take, when it came before


def selected_scenes(
    selection: Selection, batch: Batch, takes: TakesByKey, service: Service, *, asked: Asked
) -> list[BatchScene]:
    """List the selected scenes in order; those that this request has served before are among them.

    Raises a Refusal unless exactly one way of selecting is used, and for a key that is not there.
    """
    _refuse_vague(selection)
    if selection.scenes is not None:
        return _named(selection.scenes, batch, service)
    return list(_matching(selection, batch, takes, service, asked))


def asked_before(takes: TakesByKey, request: str, service: Service) -> Asked:
    """Make the rule whether a take was asked for by this very request, when it came before.

    What it needs of all newest takes' jobs is read when it is first asked.
    """

    @cache
    def known() -> frozenset[str]:
        newest = [newest_take(theirs) for theirs in takes.values()]
        now, jobs = service.backends.workers.now(), service.backends.jobs
        drawn_again = [take.job for take in newest if take and take.take > 1]
        return frozenset(
            job.id
            for group in groups(drawn_again)
            for job in jobs.get_all(group).values()
            if asked_for(job, request, now)
        )

    return lambda take: take.job in known()


def _refuse_vague(selection: Selection) -> None:
    ways = (selection.status, selection.scenes, selection.stale or None, selection.all or None)
    if sum(way is not None for way in ways) != 1:
        detail = "choose exactly one of status, scenes, stale: true and all: true"
        raise invalid([Fault(pointer=pointer("select"), detail=detail)])


def _named(keys: Sequence[str], batch: Batch, service: Service) -> list[BatchScene]:
    found = service.backends.batches.scenes_by_key(batch.id, list(dict.fromkeys(keys)))
    faults = [
        Fault(pointer=pointer("select", "scenes", place), detail=f"the batch has no scene {key!r}")
        for place, key in enumerate(keys)
        if key not in found
    ]
    if faults:
        raise invalid(faults)
    return sorted(found.values(), key=lambda scene: scene.position)


def _matching(
    selection: Selection, batch: Batch, takes: TakesByKey, service: Service, asked: Asked
) -> Iterator[BatchScene]:
    for scene in all_scenes(service.backends.batches, batch.id):
        theirs = takes.get(scene.key, ())
        newest = newest_take(theirs)
        if selection.all:
            wanted = True
        elif selection.status is not None:
            wanted = newest is not None and newest.status in selection.status
        else:
            wanted = is_stale(scene, theirs, weights=service.weights)
        if wanted or (newest is not None and newest.take > 1 and asked(newest)):
            yield scene
