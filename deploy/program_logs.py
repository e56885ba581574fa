"""The logs of the programs that `illo up` keeps alive: begun anew, and read when one has died."""

import json
from pathlib import Path

KEPT_LOG_BYTES = 2 * 1024 * 1024  # of each log of an earlier run
READ_BYTES = 65_536  # of a log's end; an event with a traceback has some 8,000
GRAVE = frozenset({"ERROR", "CRITICAL"})


def rotate_logs(logs: Path) -> None:
    """Begin new logs: what an earlier run wrote stays as <name>.log.1, the last of it."""
    logs.mkdir(parents=True, exist_ok=True)
    for log in logs.glob("*.log"):
        with log.open("rb") as opened:
            opened.seek(max(0, log.stat().st_size - KEPT_LOG_BYTES))
            kept = opened.read()
        log.with_suffix(".log.1").write_bytes(kept)
        log.unlink()


def last_complaint(log: Path, *, since: int = 0) -> str:
    """Find what a program said last of why it cannot go on, past a place in its log.

    That is its last line if that is no event, else the reason of its last grave event.
    """
    lines = _lines(log, since)
    for line in reversed(lines):
        try:
            event = json.loads(line)
        except ValueError:
            if line is lines[-1]:
                return line
            continue  # a library's chatter
        if isinstance(event, dict) and event.get("severity") in GRAVE:
            exception = str(event.get("exception", "")).splitlines()
            return str(event.get("reason") or (exception or [event.get("message", "")])[-1])
    return ""


def _lines(log: Path, since: int) -> list[str]:
    if not log.exists():
        return []
    with log.open("rb") as opened:
        end = log.stat().st_size
        opened.seek(max(since, end - READ_BYTES))
        lines = opened.read().decode(errors="replace").splitlines()
    return [line for line in lines if line.strip()]
