"""Store an uploaded image, without its metadata, as an asset that its content names."""

import hashlib
from dataclasses import replace

from api.problems import RETRY_AFTER, Fault, Refusal
from api.service import Service
from shared.assets import Asset, asset_id
from shared.errors import ArtifactDamaged, ArtifactNotFound, InvalidReference, StoreUnavailable

LARGEST_FILE = 10 * 1024 * 1024
CONTENT_TYPE = "image/png"
TRIES = 5  # another upload of the same picture, or the sweep, may be faster


def upload(file: bytes, tenant: str, service: Service) -> tuple[Asset, bool]:
    """Store an image, or find the asset it already is; say whether it is new.

    An asset whose bytes are gone or damaged gets them anew. Raises a Refusal if the file is too
    large, no image that can be drawn from, or too many others are being read.
    """
    if len(file) > LARGEST_FILE:
        detail = f"an image has at most {LARGEST_FILE:,} bytes"
        raise Refusal(status=413, code="too_large", detail=detail)
    content, width, height = _normalised(file)
    asset = _described(content, width, height, tenant, service)
    until = asset.created_at + service.settings.retention
    for _ in range(TRIES):
        known = service.backends.assets.recall(tenant, asset.id, until=until)
        if known and _readable(known, service):
            found = service.backends.assets.get(tenant, asset.id)
            return found or replace(known, deleted_at=None), known.deleted_at is not None
        written = _stored(asset, content, known, service)
        if written:
            return written, known is None or known.deleted_at is not None
    raise StoreUnavailable(f"{asset.id} is being uploaded by others")


def _normalised(file: bytes) -> tuple[bytes, int, int]:
    from shared.pictures import normalise  # it brings Pillow, which only uploads need

    try:
        return normalise(file)
    except InvalidReference as error:
        raise _no_image(str(error)) from None
    except StoreUnavailable as busy:
        raise Refusal(
            status=503, code="store_unavailable", detail=str(busy), headers=RETRY_AFTER
        ) from None


def _described(content: bytes, width: int, height: int, tenant: str, service: Service) -> Asset:
    sha256 = hashlib.sha256(content).hexdigest()
    now = service.backends.workers.now()
    return Asset(
        id=asset_id(tenant, sha256),
        tenant=tenant,
        created_at=now,
        expire_at=now + service.settings.retention,
        sha256=sha256,
        width=width,
        height=height,
        bytes=len(content),
        content_type=CONTENT_TYPE,
        artifact="",
        generation=0,
    )


def _readable(asset: Asset, service: Service) -> bool:
    try:
        service.backends.artifacts.get(asset.artifact, asset.generation)
    except (ArtifactNotFound, ArtifactDamaged):
        return False
    return True


def _stored(asset: Asset, content: bytes, known: Asset | None, service: Service) -> Asset | None:
    """Store bytes under a name of their own, so that nobody who drops others' drops these."""
    name = f"assets/{asset.sha256}/{service.new_id('up')}.png"
    stored = service.backends.artifacts.put(name, content, content_type=CONTENT_TYPE)
    whole = replace(asset, artifact=name, generation=stored.generation)
    if known:
        end = None if known.expire_at is None else asset.expire_at
        whole = replace(whole, created_at=known.created_at, expire_at=end)
    if not service.backends.assets.save(whole, instead_of=known):
        service.backends.artifacts.delete(name)
        return None
    return whole


def _no_image(detail: str) -> Refusal:
    fault = Fault(pointer="/file", detail=detail)
    return Refusal(status=422, code="invalid_image", detail=detail, faults=[fault])
