"""The programs that `illo up` keeps alive: each started again when it dies, ever less eagerly."""

import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from deploy.lifeline import Lifeline
from shared.settings import Settings, child_environment

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 30.0  # seconds between a death and the next start
STEADY_AFTER = 10.0  # seconds; who lived for longer is started again at once-again pace
KEPT_LOG_BYTES = 2 * 1024 * 1024  # of each log of an earlier run


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """What a child is: its kind and name, the code it runs, and the settings it reads."""

    kind: str
    name: str
    code: str
    settings: Settings
    arguments: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Nursery:
    """What all children share: their tie to the parent, the folder's lock and the logs."""

    lifeline: Lifeline
    lock: int
    logs: Path
    verbose: bool = False

    def start(self, role: Role) -> subprocess.Popen[bytes]:
        """Start a child; what it says goes to its log, or to the terminal if that is wished."""
        log = None if self.verbose else _open_log(self.logs / f"{role.name}.log")
        try:
            return self.lifeline.start(
                role.code,
                *role.arguments,
                environment=child_environment(role.settings),
                inherited=(self.lock,),
                stderr=log,
            )
        finally:
            if log:
                log.close()


class Child:
    """One role and the program that fills it at present."""

    def __init__(self, role: Role, nursery: Nursery, *, now: float) -> None:
        self.role = role
        self.deaths = 0  # in a row
        self._nursery = nursery
        self._due: float | None = None  # when to start it again, once it has died
        self._start(now)

    @property
    def pid(self) -> int:
        """The program's id; that of the last one while the next has not started."""
        return self._program.pid

    @property
    def alive(self) -> bool:
        """Whether the program has not ended."""
        return self._program.poll() is None

    def tend(self, now: float, say: Callable[[str], None]) -> bool:
        """Start the program again if it died and its pause is over; tell whether it did."""
        if self.alive:
            return False
        if self._due is None:
            self.deaths = 1 if now - self._started > STEADY_AFTER else self.deaths + 1
            self._due = now + pause_after(self.deaths)
            say(f"{self.role.name} {ending(self._program.returncode)}; it is started again")
        if now < self._due:
            return False
        self._start(now)
        return True

    def signal(self, sign: signal.Signals) -> None:
        """Send a signal; nothing happens if the program has ended."""
        self._program.send_signal(sign)

    def wait(self, seconds: float) -> bool:
        """Wait for the end; tell whether it came in time."""
        try:
            self._program.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _start(self, now: float) -> None:
        self._program = self._nursery.start(self.role)
        self._started, self._due = now, None


def pause_after(deaths: int) -> float:
    """Say how many seconds to leave a child alone after so many deaths in a row."""
    return min(FIRST_PAUSE * 2.0 ** min(deaths - 1, 20), LONGEST_PAUSE)


def ending(status: int) -> str:
    """Put an exit status in words."""
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def rotate_logs(logs: Path) -> None:
    """Begin new logs: what an earlier run wrote stays as <name>.log.1, the last of it."""
    logs.mkdir(parents=True, exist_ok=True)
    for log in logs.glob("*.log"):
        with log.open("rb") as opened:
            opened.seek(max(0, log.stat().st_size - KEPT_LOG_BYTES))
            kept = opened.read()
        log.with_suffix(".log.1").write_bytes(kept)
        log.unlink()


def last_lines(log: Path, count: int = 5) -> str:
    """Read the end of a log, for an error that the log explains."""
    if not log.exists():
        return ""
    with log.open("rb") as opened:
        opened.seek(max(0, log.stat().st_size - 8192))
        return "\n".join(opened.read().decode(errors="replace").splitlines()[-count:])


def _open_log(path: Path) -> IO[bytes]:
    return path.open("ab")
