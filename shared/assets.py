"""An asset is an uploaded image, named by its content."""

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

GRACE = timedelta(hours=1)  # a job that is being submitted may still name a deleted asset


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
    deleted_at: datetime | None = None


def asset_id(tenant: str, sha256: str) -> str:
    """Name an asset: the same picture of the same tenant always has the same id."""
    return "ast_" + hashlib.sha256(f"{tenant}\0{sha256}".encode()).hexdigest()


def forget(asset: Asset, now: datetime) -> Asset:
    """Delete an asset; its bytes stay for GRACE, and for ever if a batch needs it."""
    end = None if asset.expire_at is None else now + GRACE
    return replace(asset, deleted_at=now, expire_at=end)


def prolong(asset: Asset, until: datetime | None) -> Asset:
    """Put off an asset's end; it is never brought forward."""
    if asset.expire_at is None or until is None:
        return replace(asset, expire_at=None)
    return replace(asset, expire_at=max(asset.expire_at, until))
