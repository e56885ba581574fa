"""What every AssetStore promises."""

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest

from shared.assets import Asset
from shared.errors import BadCursor
from tests.builders import an_asset
from tests.contract.conftest import Backend

DAY = timedelta(days=1)
ROUNDS = 5


def saved(backend: Backend, *assets: Asset) -> tuple[Asset, ...]:
    for asset in assets:
        assert backend.assets.save(asset)
    return assets


def test_an_asset_reads_as_it_was_written(backend: Backend) -> None:
    (asset,) = saved(backend, an_asset())
    assert backend.assets.get("ada", asset.id) == asset


def test_assets_are_read_together_without_the_deleted_and_anothers(backend: Backend) -> None:
    here, deleted = saved(backend, an_asset("here"), an_asset("deleted"))
    (hers,) = saved(backend, an_asset("hers", tenant="eve"))
    backend.assets.delete("ada", deleted.id)
    ids = [here.id, deleted.id, hers.id, here.id, "ast_none", "", "ast_%"]
    assert backend.assets.get_all("ada", ids) == {here.id: here}
    assert backend.assets.get_all("eve", ids) == {hers.id: hers}
    assert backend.assets.get_all("ada", []) == {}


def test_more_assets_are_read_together_than_one_read_takes(backend: Backend) -> None:
    first, last = saved(backend, an_asset("first"), an_asset("last"))
    ids = [first.id, *(f"ast_{n}" for n in range(400)), last.id]
    assert backend.assets.get_all("ada", ids) == {first.id: first, last.id: last}


def test_an_asset_that_is_known_stays_as_it_is(backend: Backend) -> None:
    (asset,) = saved(backend, an_asset())
    assert backend.assets.save(replace(asset, generation=99)) is False
    assert backend.assets.get("ada", asset.id) == asset


def test_one_tenants_asset_is_not_another_tenants(backend: Backend) -> None:
    (asset,) = saved(backend, an_asset())
    assert backend.assets.get("eve", asset.id) is None
    assert backend.assets.find("eve", limit=9).items == ()
    backend.assets.keep("eve", asset.id, until=None)
    backend.assets.delete("eve", asset.id)
    assert backend.assets.get("ada", asset.id) == asset


def test_the_end_is_put_off_but_never_brought_forward(backend: Backend) -> None:
    now = backend.now
    (asset,) = saved(backend, an_asset(expire_at=now + DAY))

    def end_after_keeping(days: int | None) -> object:
        until = None if days is None else now + days * DAY
        backend.assets.keep("ada", asset.id, until=until)
        found = backend.assets.get("ada", asset.id)
        assert found
        return found.expire_at

    assert end_after_keeping(0) == now + DAY
    assert end_after_keeping(3) == now + 3 * DAY
    assert end_after_keeping(None) is None
    assert end_after_keeping(9) is None


def test_retired_assets_are_those_whose_time_is_over(backend: Backend) -> None:
    over, later, forever = saved(
        backend,
        an_asset("over", expire_at=backend.now - DAY),
        an_asset("later", expire_at=backend.now + DAY),
        an_asset("forever", expire_at=None),
    )
    assert backend.assets.retired(9) == [over]
    assert backend.assets.retired(0) == []
    backend.assets.keep("ada", over.id, until=None)
    assert backend.assets.retired(9) == []
    assert {later, forever} < set(backend.assets.find("ada", limit=9).items)


def test_assets_are_listed_newest_first_in_pages(backend: Backend) -> None:
    assets = saved(backend, *(an_asset(n, created_at=backend.now - n * DAY) for n in range(5)))
    first = backend.assets.find("ada", limit=3)
    rest = backend.assets.find("ada", limit=3, cursor=first.cursor)
    assert (*first.items, *rest.items) == assets
    assert rest.cursor is None
    for bad in (f"{first.cursor}x", "", "nonsense"):
        with pytest.raises(BadCursor):
            backend.assets.find("ada", limit=3, cursor=bad)
    with pytest.raises(BadCursor):
        backend.assets.find("eve", limit=3, cursor=first.cursor)


def test_a_deleted_asset_is_hidden_at_once_and_known_until_it_is_removed(backend: Backend) -> None:
    (asset,) = saved(backend, an_asset(expire_at=backend.now + DAY))
    backend.assets.delete("ada", asset.id)
    assert backend.assets.get("ada", asset.id) is None
    assert backend.assets.find("ada", limit=9).items == ()
    assert backend.assets.retired(9) == []  # a grace later
    assert backend.assets.keep("ada", asset.id, until=backend.now + DAY)
    assert backend.assets.get("ada", asset.id) is None
    assert not backend.assets.save(asset)


def test_a_deletion_is_taken_back(backend: Backend) -> None:
    now = backend.now
    (asset,) = saved(backend, an_asset(expire_at=now + DAY))
    backend.assets.delete("ada", asset.id)
    before = backend.assets.recall("ada", asset.id, until=now + 9 * DAY)
    assert before
    assert before.deleted_at
    assert backend.assets.get("ada", asset.id) == replace(asset, expire_at=now + 9 * DAY)
    assert backend.assets.recall("eve", asset.id, until=backend.now) is None


def test_what_a_batch_needs_is_kept_for_ever_even_if_it_was_deleted(backend: Backend) -> None:
    (asset,) = saved(backend, an_asset(expire_at=None))
    backend.assets.delete("ada", asset.id)
    known = backend.assets.recall("ada", asset.id, until=backend.now)
    assert known
    assert known.expire_at is None


def test_only_the_very_asset_that_was_read_is_replaced(backend: Backend) -> None:
    (first,) = saved(backend, an_asset())
    second, third = replace(first, generation=2), replace(first, generation=3)
    assert backend.assets.save(second, instead_of=first)
    assert not backend.assets.save(third, instead_of=first)
    assert backend.assets.get("ada", first.id) == second


def test_an_asset_that_changed_since_it_was_listed_is_not_removed(backend: Backend) -> None:
    (asset,) = saved(backend, an_asset(expire_at=backend.now - DAY))
    [over] = backend.assets.retired(9)
    backend.assets.keep("ada", asset.id, until=backend.now + DAY)
    assert not backend.assets.remove(over)
    assert backend.assets.get("ada", asset.id)


def test_keeping_what_is_removed_says_so(backend: Backend) -> None:
    (asset,) = saved(backend, an_asset())
    assert backend.assets.keep("ada", asset.id, until=None)
    assert backend.assets.remove(replace(asset, expire_at=None))
    assert not backend.assets.keep("ada", asset.id, until=None)


@pytest.mark.parametrize("deleted", [False, True])
def test_bytes_are_shared_until_their_last_owner_lets_go(backend: Backend, deleted: bool) -> None:
    hers, his = saved(backend, an_asset("mia"), an_asset("mia", tenant="eve", expire_at=None))
    saved(backend, an_asset("leo"))
    assert hers.artifact == his.artifact
    if deleted:
        backend.assets.delete("eve", his.id)
        known = backend.assets.recall("eve", his.id, until=backend.now)
        assert known
        his = replace(known, deleted_at=None)
    assert not backend.assets.remove(hers)
    assert not backend.assets.remove(hers)
    assert backend.assets.get("ada", hers.id) is None
    assert backend.assets.remove(his)


def at_once(*calls: Callable[[], bool]) -> list[bool]:
    """Make calls at the same moment; list what they answer."""
    barrier, answers = threading.Barrier(len(calls)), list[bool]()

    def make(call: Callable[[], bool]) -> None:
        barrier.wait()
        answers.append(call())

    threads = [threading.Thread(target=make, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == len(calls)
    return answers


def test_of_uploads_of_one_picture_at_once_one_is_written(backend: Backend) -> None:
    for round in range(ROUNDS):
        uploads = [an_asset(round, generation=n) for n in range(1, 5)]
        answers = at_once(*(partial(backend.assets.save, upload) for upload in uploads))
        assert sorted(answers) == [False, False, False, True]
        assert backend.assets.get("ada", uploads[0].id) in uploads


def test_of_the_last_owners_who_let_go_at_once_one_frees_the_bytes(backend: Backend) -> None:
    for round in range(2):
        owners = saved(backend, *(an_asset(round, tenant=name) for name in ("ada", "eve")))
        assert sorted(at_once(*(partial(backend.assets.remove, one) for one in owners))) == [
            False,
            True,
        ]
