"""Folders of a Cloud Storage bucket, as `gs://bucket/prefix` names them."""

import re
from dataclasses import dataclass

SCHEME = "gs://"
MAX_PREFIX = 512  # characters; an object's name may have 1,024 bytes
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_LONGEST_PART = 63  # characters of a bucket's name between two dots
# Marks of URLs and of patterns: meant as something else, and never part of the name by intent.
_RUBBISH = re.compile(r"[\x00-\x20\x7f\\?#*\[\]]")


@dataclass(frozen=True, slots=True)
class CloudFolder:
    """A bucket and what the names in it begin with; no prefix is the whole bucket."""

    bucket: str
    prefix: str = ""

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")

    def name_of(self, path: str) -> str:
        """Name the object at a path inside the folder."""
        return f"{self.prefix}/{path}" if self.prefix else path


def read_cloud_folder(text: str) -> CloudFolder | None:
    """Read `gs://bucket[/prefix][/]`; None if it names no URL at all.

    Raises ValueError, with what is wrong, if it is another URL or no sound name.
    """
    if "://" not in text:
        return None
    if not text.startswith(SCHEME):
        raise ValueError(f"only {SCHEME} URLs are read")
    bucket, _, prefix = text.removeprefix(SCHEME).partition("/")
    if not _BUCKET.fullmatch(bucket) or any(
        not 0 < len(part) <= _LONGEST_PART for part in bucket.split(".")
    ):
        raise ValueError(
            f"{bucket!r:.80} is no bucket's name (3 to 63 of a-z, 0-9, '-', '_' and '.')"
        )
    prefix = prefix.removesuffix("/")
    parts = prefix.split("/") if prefix else []
    if _RUBBISH.search(prefix) or len(prefix) > MAX_PREFIX or {"", ".", ".."} & set(parts):
        raise ValueError(f"{prefix!r:.80} is no plain path inside the bucket")
    return CloudFolder(bucket, prefix)
