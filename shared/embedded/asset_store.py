"""What is known of uploaded images, in SQLite."""

import sqlite3
from dataclasses import replace
from datetime import datetime

from shared.assets import Asset
from shared.documents import from_json, to_json
from shared.embedded.cursors import decode_cursor, encode_cursor
from shared.embedded.database import Database, micros
from shared.ports import Page


class SqliteAssetStore:
    """See AssetStore."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, asset: Asset) -> bool:
        """See AssetStore.save."""
        with self._database.write() as connection:
            written = connection.execute(
                "INSERT INTO assets (tenant, id, document, created_at, expire_at, artifact) "
                "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (tenant, id) DO NOTHING",
                (
                    asset.tenant,
                    asset.id,
                    to_json(asset),
                    micros(asset.created_at),
                    _end(asset.expire_at),
                    asset.artifact,
                ),
            )
            return written.rowcount > 0

    def get(self, tenant: str, id: str) -> Asset | None:
        """See AssetStore.get."""
        with self._database.read() as connection:
            return _read(connection, tenant, id)

    def keep(self, tenant: str, id: str, *, until: datetime | None) -> None:
        """See AssetStore.keep."""
        with self._database.write() as connection:
            asset = _read(connection, tenant, id)
            if asset is None or asset.expire_at is None:
                return
            end = None if until is None else max(asset.expire_at, until)
            connection.execute(
                "UPDATE assets SET document = ?, expire_at = ? WHERE tenant = ? AND id = ?",
                (to_json(replace(asset, expire_at=end)), _end(end), tenant, id),
            )

    def find(self, tenant: str, *, limit: int, cursor: str | None = None) -> Page[Asset]:
        """See AssetStore.find."""
        of = f"assets {tenant}"
        last = decode_cursor(cursor, of=of) if cursor is not None else None
        place, values = ("AND (created_at, id) < (?, ?)", last) if last else ("", ())
        with self._database.read() as connection:
            rows = connection.execute(
                f"SELECT document FROM assets WHERE tenant = ? {place} "  # noqa: S608
                "ORDER BY created_at DESC, id DESC LIMIT ?",
                (tenant, *values, limit + 1),
            )
            found = [from_json(Asset, document) for (document,) in rows]
        assets, more = found[:limit], len(found) > limit
        end = encode_cursor(micros(assets[-1].created_at), assets[-1].id, of=of) if more else None
        return Page(items=tuple(assets), cursor=end)

    def delete(self, tenant: str, id: str) -> bool:
        """See AssetStore.delete. An asset that is not there leaves the bytes to their owners."""
        with self._database.write() as connection:
            asset = _read(connection, tenant, id)
            if asset is None:
                return True
            connection.execute("DELETE FROM assets WHERE tenant = ? AND id = ?", (tenant, id))
            select = "SELECT 1 FROM assets WHERE artifact = ? LIMIT 1"
            return connection.execute(select, (asset.artifact,)).fetchone() is not None

    def retired(self, limit: int) -> list[Asset]:
        """See AssetStore.retired."""
        select = "SELECT document FROM assets WHERE expire_at <= ? ORDER BY expire_at LIMIT ?"
        with self._database.read() as connection:
            now = micros(self._database.clock.now())
            rows = connection.execute(select, (now, limit))
            return [from_json(Asset, document) for (document,) in rows]


def _read(connection: sqlite3.Connection, tenant: str, id: str) -> Asset | None:
    row = connection.execute(
        "SELECT document FROM assets WHERE tenant = ? AND id = ?", (tenant, id)
    ).fetchone()
    return None if row is None else from_json(Asset, row[0])


def _end(expire_at: datetime | None) -> int | None:
    return None if expire_at is None else micros(expire_at)
