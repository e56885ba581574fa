"""The keys of a running service: read when it starts, and again when their file changes."""

import logging
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

from shared.clock import SystemClock
from shared.errors import BadSettings
from shared.keys import LARGEST_FILE, Keys, is_key, read_keys
from shared.ports import Clock
from shared.settings import Settings

LOOK_EVERY = 1.0  # seconds between two looks at whether the file has changed

Stamp = tuple[int, ...]

log = logging.getLogger(__name__)


class KeyFile:
    """What ILLO_KEYS says, a file or the JSON itself, as it is now.

    Opening it raises BadSettings with every fault. A file that becomes unreadable later leaves the
    keys as they were. Safe to use from all threads.
    """

    def __init__(
        self, setting: str, *, clock: Clock, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock, self._monotonic = clock, monotonic
        self._path = None if setting.startswith("{") else Path(setting)
        self._looking = threading.Lock()
        self._looked = monotonic()
        self._stamp = _stamp_of(self._path) if self._path else None
        self._fault: str | None = None
        self._keys = load_keys(setting, clock)

    def current(self) -> Keys:
        """Give the keys, by id; a change of the file shows within a second."""
        due = self._monotonic() - self._looked >= LOOK_EVERY
        if self._path and due and self._looking.acquire(blocking=False):
            try:
                self._look(self._path)
            finally:
                self._looking.release()
        return self._keys

    def _look(self, path: Path) -> None:
        self._looked = self._monotonic()
        stamp = _stamp_of(path)  # before it is read: what changes meanwhile shows at the next look
        if stamp == self._stamp and self._fault is None:
            return
        self._stamp = stamp
        try:
            self._keys = load_keys(str(path), self._clock)
        except BadSettings as error:
            if str(error) != self._fault:
                self._fault = str(error)
                log.error("keys not read", extra={"reason": self._fault, "kept": len(self._keys)})
            return
        self._fault = None
        log.info("keys read", extra={"keys": len(self._keys)})


def require_keys(settings: Settings) -> None:
    """Raise BadSettings, with every fault, if there are to be keys and they cannot be read."""
    if settings.keys is not None:
        load_keys(settings.keys, SystemClock())


def load_keys(setting: str, clock: Clock) -> Keys:
    """Read what ILLO_KEYS says; raises BadSettings with every fault."""
    if is_key(setting):  # not repeated: the message may be logged
        raise BadSettings(
            "ILLO_KEYS: this is a key; set the file of their hashes here, and the key as ILLO_KEY "
            "where it is used"
        )
    where = "ILLO_KEYS" if setting.startswith("{") else f"ILLO_KEYS: {setting}"
    try:
        return read_keys(setting if setting.startswith("{") else _text_of(setting), clock.now())
    except BadSettings as error:
        told = str(error).splitlines()
        raise BadSettings("\n".join(f"{where}: {line}" for line in told)) from None


def _text_of(name: str) -> str:
    path = Path(name)
    try:
        # anything else than a file could be read only once, or never end
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadSettings("not a file")
        with path.open("rb") as opened:
            content = opened.read(LARGEST_FILE + 1)
        text = content.decode()
    except FileNotFoundError:
        raise BadSettings("not there; make it with `illo keys new --file`") from None
    except OSError as error:
        raise BadSettings(error.strerror or type(error).__name__) from None
    except ValueError:
        raise BadSettings("not text in UTF-8") from None
    if len(content) > LARGEST_FILE:
        raise BadSettings(f"larger than {LARGEST_FILE:,} bytes")
    return text


def _stamp_of(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    # ctime too: a file that may be read again has changed in nothing else
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
