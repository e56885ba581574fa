"""The routes of assets."""

from functools import partial

from api.idempotency import answer_once_afterwards
from api.images import show_artifact
from api.pages import next_link, with_cursor
from api.present import present_asset
from api.problems import Refusal, not_found
from api.requests import Empty, PageQuery
from api.responses import AssetBody, AssetsBody
from api.routing import Call, Route, reply
from api.service import Service
from api.upload import LARGEST_FILE, upload
from shared.assets import Asset
from shared.ports import Answer

FRAMING = 65_536  # what multipart adds around a file


def asset_routes(service: Service) -> list[Route]:
    """Upload, list, read and delete images to draw from."""
    return [
        Route(
            method="POST",
            path="/v1/assets",
            view=partial(create_asset, service),
            name="createAsset",
            tag="assets",
            summary="Upload a PNG, JPEG or WebP; the same picture again is the same asset",
            upload=True,
            largest_body=LARGEST_FILE + FRAMING,
            answers={201: AssetBody, 200: AssetBody},
        ),
        Route(
            method="GET",
            path="/v1/assets",
            view=partial(find_assets, service),
            name="listAssets",
            tag="assets",
            summary="List assets, newest first",
            query=PageQuery,
            answers={200: AssetsBody},
        ),
        Route(
            method="GET",
            path="/v1/assets/{id}",
            view=partial(read_asset, service),
            name="readAsset",
            tag="assets",
            summary="Read what is known of an asset",
            answers={200: AssetBody},
        ),
        Route(
            method="GET",
            path="/v1/assets/{id}/content",
            view=partial(read_content, service),
            name="readAssetContent",
            tag="assets",
            summary="Read an asset's image, or be sent to where it is",
            answers={200: "image/png", 302: None, 304: None},
        ),
        Route(
            method="DELETE",
            path="/v1/assets/{id}",
            view=partial(delete_asset, service),
            name="deleteAsset",
            tag="assets",
            summary="Delete an asset that no unfinished job and no batch needs",
            answers={204: None},
        ),
    ]


def create_asset(service: Service, call: Call[bytes, Empty]) -> Answer:
    """Store an image."""

    def act() -> Answer:
        asset, new = upload(call.body, call.tenant, service)
        headers = {"Location": f"/v1/assets/{asset.id}"}
        return reply(present_asset(asset), status=201 if new else 200, headers=headers)

    return answer_once_afterwards(
        call.once, service.backends.jobs, service.backends.workers.now, act
    )


def find_assets(service: Service, call: Call[None, PageQuery]) -> Answer:
    """List assets."""
    found = with_cursor(
        lambda: service.backends.assets.find(
            call.tenant, limit=call.query.limit, cursor=call.query.cursor
        )
    )
    body = AssetsBody(data=[present_asset(a) for a in found.items], next_cursor=found.cursor)
    return reply(body, headers=next_link(call.path, call.arguments, found.cursor))


def read_asset(service: Service, call: Call[None, Empty], id: str) -> Answer:
    """Read what is known of an asset."""
    return reply(present_asset(_find(id, call.tenant, service)))


def read_content(service: Service, call: Call[None, Empty], id: str) -> Answer:
    """Read an asset's image."""
    asset = _find(id, call.tenant, service)
    return show_artifact(
        asset.artifact,
        asset.generation,
        sha256=asset.sha256,
        content_type=asset.content_type,
        headers=call.headers,
        service=service,
    )


def delete_asset(service: Service, call: Call[None, Empty], id: str) -> Answer:
    """Delete an asset; the sweep removes its bytes once nobody can be using them."""
    asset = _find(id, call.tenant, service)
    if asset.expire_at is None or service.backends.jobs.needs_asset(asset.id):
        detail = f"{asset.id} is needed by a batch or by an unfinished job"
        raise Refusal(status=409, code="asset_in_use", detail=detail)
    service.backends.assets.delete(call.tenant, asset.id)
    return reply(status=204)


def _find(id: str, tenant: str, service: Service) -> Asset:
    asset = service.backends.assets.get(tenant, id)
    if asset is None:
        raise not_found(f"there is no asset {id[:80]!r}")
    return asset
