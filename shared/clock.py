"""The machine's clock and its dice; everything else is given the time and the ids it uses."""

import base64
import secrets
from datetime import UTC, datetime


class SystemClock:
    """See Clock."""

    def now(self) -> datetime:
        """See Clock.now."""
        return datetime.now(UTC)


def new_id(prefix: str) -> str:
    """Make an id of 128 random bits, like job_c4x…"""
    return f"{prefix}_{base64.b32encode(secrets.token_bytes(16)).decode().rstrip('=').lower()}"


def new_seed() -> int:
    """Draw a seed, 0 to 2^32 - 1."""
    return secrets.randbelow(2**32)
