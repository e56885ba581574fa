"""An asset is an uploaded image, named by its content."""

import hashlib
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """What is known of an upload; its bytes are the artifact of this name and generation."""

    id: str
    tenant: str
    created_at: datetime
    expire_at: datetime | None  # none: a batch needs it for as long as the batch lives
    sha256: str
    width: int
    height: int
    bytes: int
    content_type: str
    artifact: str
    generation: int


def asset_id(tenant: str, sha256: str) -> str:
    """Name an asset: the same picture of the same tenant always has the same id."""
    return "ast_" + hashlib.sha256(f"{tenant}\0{sha256}".encode()).hexdigest()
