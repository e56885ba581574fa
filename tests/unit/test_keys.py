"""The rules of keys, and the file that a running service reads them from."""

import json
import logging
import os
import re
import secrets
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from api.key_file import LOOK_EVERY, KeyFile, load_keys
from shared.errors import BadSettings, Unauthenticated
from shared.keys import (
    LARGEST_FILE,
    Keys,
    KeyState,
    Scope,
    StoredKey,
    add_key,
    check_key,
    entry_of,
    is_key,
    is_tenant,
    new_key,
    read_keys,
    revoke_key,
    write_keys,
)
from tests.builders import NOW, FakeClock, seconds


def a_key(tenant: str = "ada", **what_matters: Any) -> tuple[str, StoredKey]:
    key, stored = new_key(tenant, [Scope.READ], NOW, expires_at=None, random=secrets.token_bytes)
    return key, replace(stored, **what_matters)


def keys_of(*stored: StoredKey) -> Keys:
    return {key.id: key for key in stored}


def text_of(*entries: Mapping[str, object]) -> str:
    return json.dumps({"keys": entries})


def faults_of(text: str) -> list[str]:
    with pytest.raises(BadSettings) as refused:
        read_keys(text, NOW)
    return str(refused.value).splitlines()


# --- making and checking ----------------------------------------------------------------------


def test_a_key_is_made_of_the_bytes_that_are_given() -> None:
    key, stored = new_key(
        "ada", [Scope.READ, Scope.WRITE], NOW, expires_at=None, random=lambda size: bytes(size)
    )
    assert key == f"illo_{'a' * 8}_{'a' * 32}"
    assert is_key(key)
    assert stored.id == "a" * 8
    assert stored.scopes == (Scope.READ, Scope.WRITE)


def test_nothing_that_is_kept_contains_the_secret() -> None:
    key, stored = a_key()
    assert key.rpartition("_")[2] not in write_keys([stored])
    assert key.rpartition("_")[2] not in repr(stored)


def test_a_key_is_found_by_the_whole_of_it() -> None:
    (key, stored), (_, other) = a_key(), a_key("bob")
    assert check_key(keys_of(other, stored), key, NOW) is stored


@pytest.mark.parametrize("place", [5, 12, 14, 30, 45])
def test_a_key_with_one_other_character_is_none(place: int) -> None:
    key, stored = a_key()
    changed = key[:place] + ("a" if key[place] != "a" else "b") + key[place + 1 :]
    with pytest.raises(Unauthenticated):
        check_key(keys_of(stored), changed, NOW)


@pytest.mark.parametrize(
    "form", [None, "", "{}x", " {}", "{}\n", "{} {}", "ILLO_{}", "illo__", "\0{}", "{},{}"]
)
def test_only_the_exact_text_is_a_key(form: str | None) -> None:
    key, stored = a_key()
    given = form.format(key, key) if form is not None else None
    with pytest.raises(Unauthenticated):
        check_key(keys_of(stored), given, NOW)


def test_the_hash_is_not_the_key() -> None:
    _, stored = a_key()
    for given in (stored.sha256, f"illo_{stored.id}_{stored.sha256[:32]}"):
        with pytest.raises(Unauthenticated):
            check_key(keys_of(stored), given, NOW)


@pytest.mark.parametrize(
    ("what_matters", "state"),
    [
        ({}, KeyState.ACTIVE),
        ({"expires_at": NOW + seconds(1)}, KeyState.ACTIVE),
        ({"expires_at": NOW}, KeyState.EXPIRED),
        ({"revoked_at": NOW + seconds(1)}, KeyState.REVOKED),
        ({"expires_at": NOW, "revoked_at": NOW}, KeyState.REVOKED),
    ],
)
def test_only_an_active_key_opens(what_matters: Any, state: KeyState) -> None:
    key, stored = a_key(**what_matters)
    assert stored.state(NOW) is state
    if state is KeyState.ACTIVE:
        assert check_key(keys_of(stored), key, NOW) is stored
    else:
        with pytest.raises(Unauthenticated, match=f"key {stored.id} is {state}"):
            check_key(keys_of(stored), key, NOW)


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("a", True),
        ("local", True),
        ("0-picture-books", True),
        ("a" * 63, True),
        ("a" * 64, False),
        ("", False),
        ("-a", False),
        ("Ada", False),
        ("a_b", False),
        ("a b", False),
        ("ä", False),
        ("a\n", False),
    ],
)
def test_tenants_have_plain_names(name: str, good: bool) -> None:
    assert is_tenant(name) is good
    entry = entry_of(a_key()[1]) | {"tenant": name}
    if good:
        assert [key.tenant for key in read_keys(text_of(entry), NOW).values()] == [name]
    else:
        assert [fault.partition(":")[0] for fault in faults_of(text_of(entry))] == [
            "/keys/0/tenant"
        ]


# --- two at a time ----------------------------------------------------------------------------


def test_a_tenant_has_two_active_keys_and_no_third() -> None:
    first, second, third = (a_key()[1] for _ in range(3))
    two = add_key(keys_of(first), second, NOW)
    assert list(two) == [first.id, second.id]
    with pytest.raises(BadSettings, match=f"{first.id}, {second.id}, {third.id}: 2 are the most"):
        add_key(two, third, NOW)
    assert add_key(two, a_key("bob")[1], NOW)


@pytest.mark.parametrize("ended", [{"revoked_at": NOW}, {"expires_at": NOW}])
def test_what_is_revoked_or_expired_does_not_count(ended: Any) -> None:
    keys = keys_of(a_key()[1], a_key(**ended)[1], a_key(**ended)[1])
    assert len(add_key(keys, a_key()[1], NOW)) == 4


def test_a_revocation_keeps_its_first_date_and_the_order() -> None:
    first, second = a_key()[1], a_key()[1]
    once = revoke_key(keys_of(first, second), first.id, NOW)
    again = revoke_key(once, first.id, NOW + seconds(9))
    assert list(again) == [first.id, second.id]
    assert again[first.id].revoked_at == NOW
    assert again[second.id] is second


def test_what_is_not_there_cannot_be_revoked() -> None:
    with pytest.raises(BadSettings, match="there is no key 'zzzz'"):
        revoke_key({}, "zzzz", NOW)


# --- the file's text --------------------------------------------------------------------------


def test_what_is_written_is_read_again() -> None:
    kept = [
        a_key()[1],
        a_key(expires_at=NOW + seconds(1), scopes=tuple(Scope))[1],
        a_key("bob", revoked_at=NOW)[1],
    ]
    assert list(read_keys(write_keys(kept), NOW).values()) == kept
    assert read_keys(write_keys([]), NOW) == {}


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"id": "short"}, "/keys/0/id"),
        ({"id": "ABCDEFGH"}, "/keys/0/id"),
        ({"sha256": "0" * 63}, "/keys/0/sha256"),
        ({"sha256": "G" * 64}, "/keys/0/sha256"),
        ({"scopes": []}, "/keys/0/scopes"),
        ({"scopes": "read"}, "/keys/0/scopes"),
        ({"scopes": ["read", "all"]}, "/keys/0/scopes/1"),
        ({"created_at": "yesterday"}, "/keys/0/created_at"),
        ({"created_at": "2026-01-01T00:00:00"}, "/keys/0/created_at"),
        ({"expires_at": 1_800_000_000}, "/keys/0/expires_at"),
        ({"revoked_at": True}, "/keys/0/revoked_at"),
        ({"tenant": None}, "/keys/0/tenant"),
        ({"note": "Mia's"}, "/keys/0/note"),
    ],
)
def test_a_wrong_entry_is_named_by_its_place(change: dict[str, Any], pointer: str) -> None:
    [fault] = faults_of(text_of(entry_of(a_key()[1]) | change))
    assert fault.startswith(f"{pointer}: ")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "keys",
        "[]",
        "{}",
        '{"keys": {}}',
        '{"keys": [], "more": 1}',
        '{"keys": [1]}',
        "[" * 99_999,
    ],
    ids=lambda text: text[:20],
)
def test_a_text_of_another_shape_is_refused(text: str) -> None:
    assert faults_of(text)


def test_every_fault_is_told_at_once() -> None:
    entry = entry_of(a_key()[1])
    del entry["sha256"]
    faults = faults_of(text_of(entry | {"tenant": "A"}, {"id": "x"}))
    places = {fault.partition(":")[0] for fault in faults}
    assert places >= {"/keys/0/sha256", "/keys/0/tenant", "/keys/1/id", "/keys/1/tenant"}


def test_keys_listed_twice_and_crowded_tenants_are_told_at_once() -> None:
    kept = [a_key()[1] for _ in range(3)]
    twice = a_key("bob")[1]
    faults = faults_of(write_keys([*kept, twice, twice]))
    assert faults[0] == f"key {twice.id} is listed 2 times"
    assert "tenant 'ada' would have 3 active keys" in faults[1]
    assert len(faults) == 2


def test_a_member_given_twice_is_refused_for_it_could_undo_a_revocation() -> None:
    text = write_keys([a_key(revoked_at=NOW)[1]])
    undone = re.sub(r'("revoked_at": "[^"]+")', r'\1, "revoked_at": null', text)
    assert undone != text
    assert "'revoked_at' twice" in faults_of(undone)[0]


@pytest.mark.parametrize("form", ['{{"{0}": 1, "{0}": 2}}', '{{"keys": [{{"{0}": 1}}]}}'])
def test_a_key_that_was_written_into_the_file_is_not_repeated(form: str) -> None:
    key, _ = a_key()
    assert key not in "\n".join(faults_of(form.format(key)))


# --- the file of a running service ------------------------------------------------------------


class Watched:
    """A key file, and the watch by which its service looks at it."""

    def __init__(self, path: Path, *stored: StoredKey) -> None:
        self.path, self.passed = path, 0.0
        path.write_text(write_keys(stored))
        self.file = KeyFile(str(path), clock=FakeClock(), monotonic=lambda: self.passed)

    def ids(self, after: float = LOOK_EVERY) -> list[str]:
        self.passed += after
        return list(self.file.current())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_change_shows_at_the_next_look_and_not_before(path: Path) -> None:
    first, second = a_key()[1], a_key()[1]
    watched = Watched(path, first)
    path.write_text(write_keys([first, second]))
    assert watched.ids(after=LOOK_EVERY / 2) == [first.id]
    assert watched.ids(after=LOOK_EVERY / 2) == [first.id, second.id]


def test_a_file_that_did_not_change_is_not_read_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = a_key()[1]
    watched = Watched(path, stored)
    monkeypatch.setattr("api.key_file.load_keys", pytest.fail)
    assert [watched.ids() for _ in range(3)] == [[stored.id]] * 3


def test_a_file_of_the_same_size_and_date_that_took_its_place_is_read(path: Path) -> None:
    first, second = a_key()[1], a_key()[1]
    watched = Watched(path, first)
    former = path.stat()
    new = path.with_suffix(".new")
    new.write_text(write_keys([second]))
    os.utime(new, ns=(former.st_atime_ns, former.st_mtime_ns))
    new.replace(path)
    assert path.stat().st_size == former.st_size
    assert watched.ids() == [second.id]


@pytest.mark.parametrize("fate", ["removed", "garbled", "a folder", "crowded", "no text", "huge"])
def test_a_file_that_became_unreadable_leaves_the_last_good_keys(
    path: Path, fate: str, caplog: pytest.LogCaptureFixture
) -> None:
    stored = a_key()[1]
    watched = Watched(path, stored)
    path.unlink()
    if fate == "garbled":
        path.write_text('{"keys": [')
    elif fate == "a folder":
        path.mkdir()
    elif fate == "crowded":
        path.write_text(write_keys([a_key()[1] for _ in range(3)]))
    elif fate == "no text":
        path.write_bytes(b'{"keys": ["\xff"]}')
    elif fate == "huge":
        path.write_text(write_keys([]) + " " * LARGEST_FILE)
    caplog.set_level(logging.INFO)
    assert [watched.ids() for _ in range(3)] == [[stored.id]] * 3
    [told] = caplog.records
    assert (told.levelname, told.message) == ("ERROR", "keys not read")
    assert str(path) in told.reason  # type: ignore[attr-defined]
    if fate == "a folder":
        path.rmdir()
    path.write_text(write_keys([]))
    assert watched.ids() == []
    assert caplog.records[-1].message == "keys read"


def test_a_file_that_may_be_read_again_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an error of the disk: the file itself has not changed."""
    first, second = a_key()[1], a_key()[1]
    watched = Watched(path, first)
    path.write_text(write_keys([second]))
    with monkeypatch.context() as broken:
        broken.setattr(Path, "open", lambda *_: (_ for _ in ()).throw(OSError(5, "I/O error")))
        assert watched.ids() == [first.id]
    assert watched.ids() == [second.id]


def test_while_one_thread_looks_the_others_use_what_there_is(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = a_key()[1], a_key()[1]
    watched = Watched(path, first)
    path.write_text(write_keys([second]))
    reading, go_on = threading.Event(), threading.Event()

    def slow(setting: str, clock: FakeClock) -> Keys:
        reading.set()
        assert go_on.wait(20)
        return load_keys(setting, clock)

    monkeypatch.setattr("api.key_file.load_keys", slow)
    watched.passed += LOOK_EVERY
    looking = threading.Thread(target=watched.file.current)
    looking.start()
    assert reading.wait(20)
    assert watched.ids() == [first.id]
    go_on.set()
    looking.join(20)
    assert watched.ids(after=0) == [second.id]


@pytest.mark.parametrize("name", ["keys.json", "folder", "pipe"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadSettings, match=f"ILLO_KEYS: {tmp_path / name}: not "):
        load_keys(str(tmp_path / name), FakeClock())


def test_the_setting_may_be_the_json_itself() -> None:
    stored = a_key()[1]
    file = KeyFile(write_keys([stored]), clock=FakeClock())
    assert list(file.current()) == [stored.id]
    with pytest.raises(BadSettings, match="ILLO_KEYS: /keys: "):
        load_keys('{"keys": 1}', FakeClock())
