"""The worker's process: it serves pushes at once, loads, draws, and gives back when it must end."""

import gc
import logging
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter
from waitress.server import create_server

from shared.clock import new_id
from shared.errors import StoreUnavailable, WeightsError
from shared.holds import why_held
from shared.jobs import Job
from shared.program import begin
from shared.requirements import require_worker
from shared.settings import Backend, Settings
from shared.signals import EndWishes
from shared.stages import Stages, age
from shared.wiring import Backends, open_backends, push_identity
from shared.workers import WorkerRecord, WorkerState
from worker.app import Health, create_app
from worker.desk import Desk
from worker.drawing import Pipeline
from worker.heartbeat import Pace
from worker.measures import Measures
from worker.pipeline.weights.fetching import Fetching
from worker.presence import Presence
from worker.push import PushAnswer, answer_push
from worker.workplace import Workplace

log = logging.getLogger(__name__)

DIED, NO_WEIGHTS, HUNG = 1, 3, 70
LOOK_EVERY = 0.05  # seconds between two looks at whether the end is wished
# Seconds: a SQLite file bears five writes a second easily, a Firestore document one.
PROGRESS_EVERY = {Backend.EMBEDDED: 0.2, Backend.GCP: 5.0}
STEP_GRACE = 2.0  # seconds a step has to end in after SIGTERM, before its job is given back
LAST_MOMENT = 8.0  # seconds after SIGTERM; the platform kills at ten
# A stranger on this machine may leave requests half sent: they must not use up the connections.
CONNECTIONS = {"connection_limit": 800, "channel_timeout": 20, "cleanup_interval": 5}
READY_PATIENCE = 30.0  # seconds that a push waits for the weights
WINDOW = 0.9  # of the queue's deadline, in which a call claims; it may have waited before that


class Worker:
    """One process that draws, from its start to its orderly end."""

    def __init__(self, settings: Settings, backends: Backends, fetching: Fetching) -> None:
        self._settings, self._backends, self._fetching = settings, backends, fetching
        self._registry = CollectorRegistry()
        self._measures = Measures(self._registry)
        self._poison = Counter("illo_poison", "Messages nobody can read", registry=self._registry)
        self._stopping, self._ready, self._ended = (threading.Event() for _ in range(3))
        self._ill: str | None = None
        self._failed: int | None = None  # the exit status of a start that came to nothing
        self._desk: Desk | None = None
        now = backends.workers.now()
        record = WorkerRecord(
            id=new_id("wrk"),
            state=WorkerState.STARTING,
            started_at=now,
            at=now,
            source=settings.weights,
            pid=os.getpid(),
        )
        self._presence = Presence(record, workers=backends.workers)

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; return the exit status."""
        with EndWishes() as wishes:
            self._serve()
            self._presence.tell()
            self._in_background(partial(self._presence.keep_telling, self._ended))
            self._in_background(self._start)
            while not wishes.heard and self._failed is None:
                time.sleep(LOOK_EVERY)
        self._stopping.set()
        if self._failed is not None:
            return self._failed
        self._give_back()
        return 0

    def _start(self) -> None:
        """Load, then go on with what was queued before this worker started."""
        error, status = "it could not start; its log says more", DIED
        try:
            self._open_desk(self._load())
        except WeightsError as refusal:
            error, status = str(refusal), NO_WEIGHTS
            log.error("weights refused", extra={"reason": error})
        finally:
            if not self._ready.is_set():
                self._presence.tell(state=WorkerState.BROKEN, error=error)
                self._failed = status
        try:
            if self._desk:
                self._desk.draw_due()
        except StoreUnavailable as away:  # a push, or the sweep's, comes later
            log.warning("the store is away", extra={"reason": str(away)})

    def _serve(self) -> None:
        app = create_app(
            identity=push_identity(self._settings),
            health=Health(ill=lambda: self._ill, unready=self._why_unready),
            answer=self._answer,
            registry=self._registry,
        )
        server = create_server(
            app,
            host=self._settings.host,
            port=self._settings.port,
            threads=self._settings.http_threads,
            **CONNECTIONS,
        )
        log.info("listening", extra={"port": server.effective_port})
        self._in_background(server.run)

    def _load(self) -> Pipeline:
        advanced_at = time.monotonic()

        def stage(name: str, fraction: float) -> None:
            nonlocal advanced_at
            advanced_at = time.monotonic()
            self._presence.loading(name, fraction)

        def watch() -> None:
            limit = self._settings.load_timeout_seconds
            while not self._ready.wait(1.0):
                if time.monotonic() - advanced_at > limit:
                    self._give_up(f"loading showed no advance for {limit:g} s")

        self._in_background(watch)
        stage("importing", 0.0)
        stages, took = Stages(), self._measures.start_stage
        stages.done("before")
        from worker.pipeline.start import begin

        stages.done("importing torch")
        start = begin(
            self._fetching,
            residency=self._settings.residency,
            together=self._settings.together,
            max_pixels=self._settings.max_pixels,
            paid_card=self._settings.cloud_run_service is not None,
        )
        stages.done("planning")
        from worker.pipeline.kontext import Kontext

        gc.freeze()  # else each full collection looks through all that was imported, for 0.2 s
        stages.done("importing models")
        log.info("imported", extra={"stages": stages.seconds()})
        for name, seconds in stages.seconds().items():
            took(name, seconds)
        kontext = Kontext(
            start, threads=self._settings.pipeline_threads, on_stage=stage, on_took=took
        )
        fetched = self._fetching.fetched()
        self._measures.fetched(fetched.bytes_per_second, connections=fetched.connections)
        return kontext

    def _open_desk(self, pipeline: Pipeline) -> None:
        settings, backends = self._settings, self._backends
        workplace = Workplace(
            holder=self._presence.record.id,
            jobs=backends.jobs,
            artifacts=backends.artifacts,
            pipeline=pipeline,
            terms=settings.terms,
            pace=Pace(
                heartbeat=settings.heartbeat_seconds,
                progress=PROGRESS_EVERY[settings.backend],
                step_timeout=settings.step_timeout_seconds,
                save_seconds=settings.checkpoint_seconds,
                save_steps=settings.checkpoint_steps,
            ),
            stopping=self._stopping,
            hung=self._give_up,
            illo_version=version("illo"),
            measures=self._measures,
        )
        self._desk = Desk(
            workplace,
            held=lambda: why_held(backends.jobs, backends.workers, settings),
            changed=self._tell_drawing,
            window=claiming_window(settings),
        )
        self._ready.set()
        self._presence.tell(
            state=WorkerState.IDLE,
            stage="ready",
            fraction=1.0,
            weights=pipeline.weights,
            device=getattr(pipeline, "device", None),
        )
        self._measures.start_stage("until ready", age())
        log.info("ready", extra={"weights": pipeline.weights.label, "seconds": round(age(), 3)})

    def _answer(self, body: bytes) -> int:
        if not self._ready.wait(READY_PATIENCE) or self._desk is None or self._stopping.is_set():
            return PushAnswer.DONE  # the job stays queued; this worker looks for it when ready
        holder = self._presence.record.id
        return answer_push(
            body,
            jobs=self._backends.jobs,
            desk=self._desk,
            holder=holder,
            poisoned=self._poison.inc,
        )

    def _tell_drawing(self, job: Job | None, rate: float | None) -> None:
        if self._stopping.is_set():
            return
        self._presence.tell(
            state=WorkerState.DRAWING if job else WorkerState.IDLE,
            job=job.id if job else None,
            seconds_per_megapixel_step=rate,
        )

    def _give_back(self) -> None:
        """Give the step a moment to end by itself, then give its jobs back and go."""
        began = time.monotonic()
        self._presence.tell(state=WorkerState.DRAINING)
        if self._desk:
            self._desk.hands.drain(step=STEP_GRACE, last_moment=LAST_MOMENT)
        self._ended.set()
        self._presence.tell(state=WorkerState.STOPPED, job=None)
        log.info("stopped", extra={"seconds": round(time.monotonic() - began, 2)})

    def _why_unready(self) -> str | None:
        if self._stopping.is_set():
            return "stopping"
        record = self._presence.record
        return None if self._ready.is_set() else f"{record.stage} {record.fraction:.0%}"

    def _give_up(self, reason: str) -> None:
        """End a process whose device hangs: only that frees it, and the lease runs out."""
        self._ill = reason
        log.critical("hung", extra={"reason": reason})
        self._presence.tell(state=WorkerState.BROKEN, error=reason)
        os._exit(HUNG)

    @staticmethod
    def _in_background(work: Callable[[], object]) -> None:
        threading.Thread(target=work, daemon=True).start()


def main() -> None:
    """Run a worker by the environment's settings."""
    settings = begin(require_worker)
    log.info("started", extra={"seconds": round(age(), 3)})
    fetching = _fetch(settings)
    status = Worker(settings, open_backends(settings), fetching).run()
    # Daemon threads may still be inside a step or a request: nothing of theirs is awaited.
    logging.shutdown()
    os._exit(status)


def claiming_window(settings: Settings) -> float | None:
    """Say for how many seconds one call may go on claiming, so that a push is answered in time.

    None, for ever, where our own queue pushes: it costs nothing when that sends again.
    """
    return WINDOW * settings.ack_deadline_seconds if settings.backend is Backend.GCP else None


def _fetch(settings: Settings) -> Fetching:
    """Begin to fetch before anything else: the link is idle while torch is imported."""
    return Fetching(
        str(settings.weights_bucket or settings.weights_directory),
        endpoint=settings.storage_emulator,
        connections=settings.fetch_connections,
    )
