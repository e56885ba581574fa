"""Store an uploaded image under its content's name, without its metadata."""

import hashlib

from api.problems import Fault, Refusal
from api.service import Service
from shared.assets import Asset, asset_id
from shared.errors import InvalidReference

LARGEST_FILE = 10 * 1024 * 1024
CONTENT_TYPE = "image/png"


def upload(file: bytes, tenant: str, service: Service) -> tuple[Asset, bool]:
    """Store an image, or find the asset it already is; say whether it is new.

    Raises a Refusal if the file is too large or no image that can be drawn from.
    """
    if len(file) > LARGEST_FILE:
        detail = f"an image has at most {LARGEST_FILE:,} bytes"
        raise Refusal(status=413, code="too_large", detail=detail)
    asset = _stored(file, tenant, service)
    new = service.backends.assets.save(asset)
    if not new:
        _live_on(asset, service)
    return service.backends.assets.get(tenant, asset.id) or asset, new


def _stored(file: bytes, tenant: str, service: Service) -> Asset:
    from shared.pictures import normalise  # it brings Pillow, which only uploads need

    try:
        content, width, height = normalise(file)
    except InvalidReference as error:
        raise _no_image(str(error)) from None
    sha256 = hashlib.sha256(content).hexdigest()
    name = f"assets/{sha256}.png"
    stored = service.backends.artifacts.put(name, content, content_type=CONTENT_TYPE)
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
        artifact=name,
        generation=stored.generation,
    )


def _no_image(detail: str) -> Refusal:
    fault = Fault(pointer="/file", detail=detail)
    return Refusal(status=422, code="invalid_image", detail=detail, faults=[fault])


def _live_on(asset: Asset, service: Service) -> None:
    known = service.backends.assets.get(asset.tenant, asset.id)
    if known and known.expire_at is not None:
        service.backends.assets.keep(asset.tenant, asset.id, until=asset.expire_at)
