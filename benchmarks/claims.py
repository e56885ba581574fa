"""Claims that race: five processes want each job at the same moment, and one may have it."""

import multiprocessing
import os
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median, quantiles

from benchmarks.report import Figure
from deploy.emulators import emulators, missing
from shared.clock import SystemClock
from shared.embedded.database import Database
from shared.embedded.job_store import SqliteJobStore
from shared.errors import LeaseHeld
from shared.jobs import Job, Terms, claim, enqueue
from shared.ports import JobStore
from shared.scenes import Scene, Weights, recipe_of

JOBS = 100
RACERS = 5
WAIT = 120.0  # seconds
HOST = "FIRESTORE_EMULATOR_HOST"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A store that any process can open: a SQLite file, or a project of the emulator."""

    name: str
    where: str

    def open(self) -> JobStore:
        """Connect to it."""
        if self.name == "SQLite":
            return SqliteJobStore(Database(Path(self.where), clock=SystemClock()))
        from shared.gcp.firestore import Firestore
        from shared.gcp.job_store import FirestoreJobStore

        return FirestoreJobStore(Firestore(self.where))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one claim: whether the job was had, and after how many seconds one knew."""

    won: bool
    seconds: float


def measure(folder: Path) -> list[Figure]:
    """Race on SQLite and, where there is one, on the emulator of Firestore."""
    embedded = _figures(Place(name="SQLite", where=str(folder / "illo.sqlite")))
    if not os.environ.get(HOST) and missing():
        return embedded
    with _firestore(folder):
        emulated = _figures(
            Place(name="Firestore emulator", where=f"claims-{secrets.token_hex(4)}")
        )
    beside = [
        replace(figure, ratio=figure.value / peer.value, against="÷ SQLite")
        for figure, peer in zip(emulated, embedded, strict=True)
    ]
    return [*embedded, *beside]


@contextmanager
def _firestore(folder: Path) -> Iterator[None]:
    """Use the caller's emulator, or one of our own."""
    if os.environ.get(HOST):
        yield
        return
    with emulators(folder / "emulators") as hosts:
        os.environ[HOST] = hosts.firestore
        try:
            yield
        finally:
            del os.environ[HOST]


def _figures(place: Place) -> list[Figure]:
    outcomes, wall = _race(place)
    won = [outcome.seconds for of_a_job in outcomes for outcome in of_a_job if outcome.won]
    lost = [outcome.seconds for of_a_job in outcomes for outcome in of_a_job if not outcome.won]
    winners = Counter(sum(outcome.won for outcome in of_a_job) for of_a_job in outcomes)
    assert winners == {1: JOBS}, f"jobs by how many had them: {winners}"
    told = partial(Figure, against=f"{RACERS} processes, {JOBS} jobs")
    return [
        told(what=f"{place.name}: jobs with one winner", value=winners[1], unit="jobs"),
        told(what=f"{place.name}: all races", value=wall, unit="s"),
        told(what=f"{place.name}: winner's claim, median", value=median(won) * 1000, unit="ms"),
        told(what=f"{place.name}: winner's claim, 95 %", value=_most(won) * 1000, unit="ms"),
        told(what=f"{place.name}: a refusal, median", value=median(lost) * 1000, unit="ms"),
        told(what=f"{place.name}: a refusal, 95 %", value=_most(lost) * 1000, unit="ms"),
    ]


def _most(seconds: list[float]) -> float:
    return quantiles(seconds, n=20)[-1]


def _race(place: Place) -> tuple[list[tuple[Outcome, ...]], float]:
    """Let every process claim every job at the same moment; list the outcomes by job."""
    jobs = [waiting_job() for _ in range(JOBS)]
    ids = [job.id for job in jobs]
    place.open().create(jobs)
    context = multiprocessing.get_context("spawn")
    start, barrier, results = context.Barrier(RACERS + 1), context.Barrier(RACERS), context.Queue()
    racers = [
        context.Process(target=_claim_all, args=(place, ids, f"racer-{n}", start, barrier, results))
        for n in range(RACERS)
    ]
    for racer in racers:
        racer.start()
    try:
        start.wait(timeout=WAIT)
        began = time.perf_counter()
        outcomes = [results.get(timeout=WAIT) for _ in racers]
        wall = time.perf_counter() - began
    finally:
        for racer in racers:
            racer.join(timeout=WAIT)
            racer.kill()
    return list(zip(*outcomes, strict=True)), wall


def _claim_all(
    place: Place,
    ids: list[str],
    holder: str,
    start: Barrier,
    barrier: Barrier,
    results: "Queue[list[Outcome]]",
) -> None:
    jobs, outcomes = place.open(), []
    jobs.counts()  # or the first race would be to connect
    start.wait(timeout=WAIT)
    for id in ids:
        barrier.wait(timeout=WAIT)
        outcomes.append(_claim(jobs, id, holder))
    results.put(outcomes)


def _claim(jobs: JobStore, id: str, holder: str) -> Outcome:
    began = time.perf_counter()
    try:
        jobs.update(id, partial(claim, holder=holder, terms=Terms()))
        won = True
    except LeaseHeld:
        won = False
    return Outcome(won=won, seconds=time.perf_counter() - began)


def waiting_job() -> Job:
    """Make a small job that is due."""
    weights = Weights(label="tiny", sha256="0" * 64)
    scene = Scene(
        prompt="Mia wakes up", width=64, height=64, steps=4, guidance=2.5, seed=7, weights=weights
    )
    return enqueue(
        id=f"job_{secrets.token_hex(13)}",
        tenant="ada",
        scene=scene,
        recipe=recipe_of(scene),
        now=SystemClock().now() - timedelta(minutes=1),
        retention=timedelta(days=1),
    )
