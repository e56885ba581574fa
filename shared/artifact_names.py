"""How artifacts are named, and which names are safe: as files, as objects and in links."""

import re

from shared.errors import ArtifactError

LONGEST_NAME = 500
# A leading dot is ours: temporary files have one, so no artifact can be taken for one.
_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,149}")


def image_name(job: str, attempt: int, index: int, ending: str) -> str:
    """Name an image that an attempt draws; no other attempt ever writes there."""
    return f"jobs/{job}/a{attempt}/{index}.{ending}"


def latents_name(job: str, attempt: int, step: int) -> str:
    """Name the latents that an attempt has after a step; no other attempt ever writes there."""
    return f"jobs/{job}/a{attempt}/latents-{step}"


def parts_of(name: str) -> list[str]:
    """Split an artifact's name at its slashes; raises ArtifactError if it is not a safe one."""
    parts = name.split("/")
    if len(name) > LONGEST_NAME or not all(_PART.fullmatch(part) for part in parts):
        raise ArtifactError(
            f"{name[:80]!r} cannot name an artifact: letters, digits, `_`, `-` and `.` between "
            "slashes, no part empty or with a leading dot"
        )
    return parts
