"""What is known of uploaded images, in Firestore."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial

from shared.assets import Asset, forget, prolong
from shared.documents import from_json, to_json
from shared.gcp import shapes
from shared.gcp.firestore import Fields, Firestore
from shared.gcp.pages import cursor_of, place_of
from shared.gcp.shapes import ASSETS
from shared.gcp.transactions import Transaction
from shared.ports import Page

Change = Callable[[Asset, datetime], Asset]


class FirestoreAssetStore:
    """See AssetStore."""

    def __init__(self, firestore: Firestore) -> None:
        self._firestore = firestore

    def save(self, asset: Asset, *, instead_of: Asset | None = None) -> bool:
        """See AssetStore.save."""
        return self._firestore.transact(partial(_save, asset=asset, instead_of=instead_of))

    def get(self, tenant: str, id: str) -> Asset | None:
        """See AssetStore.get."""
        asset = _asset_of(self._firestore.get(ASSETS, _name_of(tenant, id)))
        return None if asset is None or asset.deleted_at else asset

    def get_all(self, tenant: str, ids: Sequence[str]) -> dict[str, Asset]:
        """See AssetStore.get_all."""
        found = self._firestore.get_all(ASSETS, [_name_of(tenant, id) for id in ids])
        assets = map(_read_asset, found.values())
        return {asset.id: asset for asset in assets if not asset.deleted_at}

    def keep(self, tenant: str, id: str, *, until: datetime | None) -> bool:
        """See AssetStore.keep."""
        return self._change(tenant, id, lambda asset, now: prolong(asset, until)) is not None

    def recall(self, tenant: str, id: str, *, until: datetime) -> Asset | None:
        """See AssetStore.recall."""
        return self._change(
            tenant, id, lambda asset, now: replace(prolong(asset, until), deleted_at=None)
        )

    def find(self, tenant: str, *, limit: int, cursor: str | None = None) -> Page[Asset]:
        """See AssetStore.find."""
        of = f"assets {tenant}"
        after = place_of(cursor, of=of) if cursor is not None else None
        ask = shapes.ASSETS_OF_TENANT.ask(
            tenant=tenant, deleted=False, after=after, limit=limit + 1
        )
        found = [_read_asset(fields) for fields in self._firestore.run(ask)]
        assets, more = found[:limit], len(found) > limit
        last = assets[-1] if more and assets else None
        end = cursor_of((last.created_at, last.id), of=of) if last else None
        return Page(items=tuple(assets), cursor=end)

    def delete(self, tenant: str, id: str) -> None:
        """See AssetStore.delete."""
        self._change(
            tenant, id, lambda asset, now: asset if asset.deleted_at else forget(asset, now)
        )

    def retired(self, limit: int) -> list[Asset]:
        """See AssetStore.retired."""
        ask = shapes.ASSETS_OVER.ask(expire_at=self._firestore.now(), limit=limit)
        return [_read_asset(fields) for fields in self._firestore.run(ask)]

    def remove(self, asset: Asset) -> bool:
        """See AssetStore.remove."""
        tries: list[Asset] = []
        return self._firestore.transact(partial(_remove, asset=asset, tries=tries), locking=True)

    def _change(self, tenant: str, id: str, change: Change) -> Asset | None:
        """Change an asset, if it is known, and return it as it was before."""
        return self._firestore.transact(partial(_change, tenant=tenant, id=id, change=change))


def _save(transaction: Transaction, *, asset: Asset, instead_of: Asset | None) -> bool:
    known = _read(transaction, asset.tenant, asset.id)
    if known and not (instead_of and _bytes_of(known) == _bytes_of(instead_of)):
        return False
    _write(transaction, asset)
    return True


def _change(transaction: Transaction, *, tenant: str, id: str, change: Change) -> Asset | None:
    before = _read(transaction, tenant, id)
    if before is not None:
        after = change(before, transaction.now)
        if after != before:  # one picture may be kept by many jobs a second, a document may not
            _write(transaction, after)
    return before


def _remove(transaction: Transaction, *, asset: Asset, tries: list[Asset]) -> bool:
    """Remove an asset and look who else has its artifact.

    One that is gone after a try may have been removed by that try, whose answer was lost. Then the
    artifact is ours to delete, and if it was another's, deleting it twice does no harm.
    """
    there = _read(transaction, asset.tenant, asset.id)
    if there != asset and not (there is None and tries):
        return False
    # two, for one of them may be this very asset
    sharing = transaction.run(shapes.ASSETS_OF_ARTIFACT.ask(artifact=asset.artifact, limit=2))
    if there is not None:
        transaction.delete(ASSETS, _name_of(asset.tenant, asset.id))
        tries.append(asset)
    own = (asset.tenant, asset.id)
    return all((fields["tenant"], fields["id"]) == own for fields in sharing)


def _read(transaction: Transaction, tenant: str, id: str) -> Asset | None:
    return _asset_of(transaction.get(ASSETS, _name_of(tenant, id)))


def _write(transaction: Transaction, asset: Asset) -> None:
    transaction.write(ASSETS, _name_of(asset.tenant, asset.id), _fields_of(asset))


def _asset_of(fields: Fields | None) -> Asset | None:
    return None if fields is None else _read_asset(fields)


def _read_asset(fields: Fields) -> Asset:
    return from_json(Asset, fields["document"])


def _fields_of(asset: Asset) -> Fields:
    return {
        "id": asset.id,
        "document": to_json(asset),
        "tenant": asset.tenant,
        "created_at": asset.created_at,
        "expire_at": asset.expire_at,
        "artifact": asset.artifact,
        "deleted": asset.deleted_at is not None,
    }


def _name_of(tenant: str, id: str) -> str:
    """Name the document of an asset; whoever asks for one may have made up any id."""
    return hashlib.sha256(json.dumps([tenant, id]).encode()).hexdigest()


def _bytes_of(asset: Asset) -> tuple[str, int]:
    return asset.artifact, asset.generation
