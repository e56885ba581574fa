"""The programs that `illo up` keeps alive: each started again when it dies, ever less eagerly."""

import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from deploy.lifeline import Lifeline
from deploy.program_logs import last_complaint
from shared.settings import Settings, child_environment

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 30.0  # seconds between a death and the next start
STEADY_AFTER = 10.0  # seconds; who lived for longer is started again at once-again pace


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

    def log_of(self, role: Role) -> Path:
        """Say where a child's log is, if it has one."""
        return self.logs / f"{role.name}.log"

    def start(self, role: Role) -> subprocess.Popen[bytes]:
        """Start a child; what it says goes to its log, or to the terminal if that is wished."""
        log = None if self.verbose else _open_log(self.log_of(role))
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
        self._death: tuple[str, str] | None = None  # how it died last, and what it said of it
        self._alike = 0  # deaths of that kind in a row
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
        """Start the program again if it died and its pause is over; tell whether it did.

        What is said of a death is said again only at growing distances while it is the same.
        """
        if self.alive:
            return False
        if self._due is None:
            self.deaths = 1 if now - self._started > STEADY_AFTER else self.deaths + 1
            self._due = now + pause_after(self.deaths)
            self._tell_death(say)
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
        log = self._nursery.log_of(self.role)
        self._log_began = log.stat().st_size if log.exists() else 0
        self._program = self._nursery.start(self.role)
        self._started, self._due = now, None

    def _tell_death(self, say: Callable[[str], None]) -> None:
        log, how = self._nursery.log_of(self.role), ending(self._program.returncode)
        ended_itself = self._program.returncode > 0  # else what it said last is not why
        reason = last_complaint(log, since=self._log_began) if ended_itself else ""
        # A program that complains dies of the same thing also when it takes long to find it.
        same = (how, reason) == self._death and (self.deaths > 1 or bool(reason))
        self._alike = self._alike + 1 if same else 1
        self._death = (how, reason)
        if not worth_saying(self._alike):
            return
        times = f" ({self._alike} times now)" if self._alike > 1 else ""
        why = f"\n  {reason}\n  {log} says more" if reason else ""
        say(f"{self.role.name} {how}{times}; it is started again{why}")


def pause_after(deaths: int) -> float:
    """Say how many seconds to leave a child alone after so many deaths in a row."""
    return min(FIRST_PAUSE * 2.0 ** min(deaths - 1, 20), LONGEST_PAUSE)


def worth_saying(times: int) -> bool:
    """Say whether a thing that happened so many times is said once more: at 1, 2, 4, 8…"""
    return times & (times - 1) == 0


def ending(status: int) -> str:
    """Put an exit status in words."""
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def _open_log(path: Path) -> IO[bytes]:
    return path.open("ab")
