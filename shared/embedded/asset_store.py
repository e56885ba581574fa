"""What is known of uploaded images, in SQLite."""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from shared.assets import Asset, forget, prolong
from shared.batches import groups
from shared.cursors import decode_cursor, encode_cursor
from shared.documents import from_json, to_json
from shared.embedded.database import Database, micros
from shared.ports import Page


class SqliteAssetStore:
    """See AssetStore."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, asset: Asset, *, instead_of: Asset | None = None) -> bool:
        """See AssetStore.save."""
        with self._database.write() as connection:
            known = _read(connection, asset.tenant, asset.id)
            if known and not (instead_of and _bytes_of(known) == _bytes_of(instead_of)):
                return False
            _write(connection, asset)
            return True

    def get(self, tenant: str, id: str) -> Asset | None:
        """See AssetStore.get."""
        with self._database.read() as connection:
            asset = _read(connection, tenant, id)
            return None if asset is None or asset.deleted_at else asset

    def get_all(self, tenant: str, ids: Sequence[str]) -> dict[str, Asset]:
        """See AssetStore.get_all."""
        select = (
            "SELECT document FROM assets WHERE tenant = ? "
            "AND id IN (SELECT value FROM json_each(?))"
        )
        found = dict[str, Asset]()
        for group in groups(ids):
            with self._database.read() as connection:
                rows = connection.execute(select, (tenant, json.dumps(group)))
                assets = [from_json(Asset, document) for (document,) in rows]
            found |= {asset.id: asset for asset in assets if not asset.deleted_at}
        return found

    def keep(self, tenant: str, id: str, *, until: datetime | None) -> bool:
        """See AssetStore.keep."""
        with self._database.write() as connection:
            asset = _read(connection, tenant, id)
            if asset is not None:
                _write(connection, prolong(asset, until))
            return asset is not None

    def recall(self, tenant: str, id: str, *, until: datetime) -> Asset | None:
        """See AssetStore.recall."""
        with self._database.write() as connection:
            asset = _read(connection, tenant, id)
            if asset is not None:
                _write(connection, replace(prolong(asset, until), deleted_at=None))
            return asset

    def find(self, tenant: str, *, limit: int, cursor: str | None = None) -> Page[Asset]:
        """See AssetStore.find."""
        of = f"assets {tenant}"
        last = decode_cursor(cursor, of=of) if cursor is not None else None
        place, values = ("AND (created_at, id) < (?, ?)", last) if last else ("", ())
        with self._database.read() as connection:
            rows = connection.execute(
                f"SELECT document FROM assets WHERE tenant = ? {place} "  # noqa: S608
                "AND document ->> 'deleted_at' IS NULL ORDER BY created_at DESC, id DESC LIMIT ?",
                (tenant, *values, limit + 1),
            )
            found = [from_json(Asset, document) for (document,) in rows]
        assets, more = found[:limit], len(found) > limit
        end = encode_cursor(micros(assets[-1].created_at), assets[-1].id, of=of) if more else None
        return Page(items=tuple(assets), cursor=end)

    def delete(self, tenant: str, id: str) -> None:
        """See AssetStore.delete."""
        with self._database.write() as connection:
            asset = _read(connection, tenant, id)
            if asset is not None and asset.deleted_at is None:
                _write(connection, forget(asset, self._database.clock.now()))

    def retired(self, limit: int) -> list[Asset]:
        """See AssetStore.retired."""
        select = "SELECT document FROM assets WHERE expire_at <= ? ORDER BY expire_at LIMIT ?"
        with self._database.read() as connection:
            now = micros(self._database.clock.now())
            rows = connection.execute(select, (now, limit))
            return [from_json(Asset, document) for (document,) in rows]

    def remove(self, asset: Asset) -> bool:
        """See AssetStore.remove."""
        with self._database.write() as connection:
            if _read(connection, asset.tenant, asset.id) != asset:
                return False
            delete = "DELETE FROM assets WHERE tenant = ? AND id = ?"
            connection.execute(delete, (asset.tenant, asset.id))
            select = "SELECT 1 FROM assets WHERE artifact = ? LIMIT 1"
            return connection.execute(select, (asset.artifact,)).fetchone() is None


def _write(connection: sqlite3.Connection, asset: Asset) -> None:
    connection.execute(
        "REPLACE INTO assets (tenant, id, document, created_at, expire_at, artifact) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (
            asset.tenant,
            asset.id,
            to_json(asset),
            micros(asset.created_at),
            _end(asset.expire_at),
            asset.artifact,
        ),
    )


def _bytes_of(asset: Asset) -> tuple[str, int]:
    return asset.artifact, asset.generation


def _read(connection: sqlite3.Connection, tenant: str, id: str) -> Asset | None:
    row = connection.execute(
        "SELECT document FROM assets WHERE tenant = ? AND id = ?", (tenant, id)
    ).fetchone()
    return None if row is None else from_json(Asset, row[0])


def _end(expire_at: datetime | None) -> int | None:
    return None if expire_at is None else micros(expire_at)
