"""`illo keys`, and what the other commands make of keys."""

import json
import os
import stat
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from api.key_file import load_keys
from deploy import client
from deploy.cli import run
from deploy.client import Client
from deploy.commands import keys as commands
from deploy.local import Running, run_here, url_of
from shared.clock import SystemClock
from shared.errors import BadSettings
from shared.keys import Keys, Scope, check_key, is_key, write_keys
from shared.settings import Settings
from tests.fake_service import FakeService, problem


@pytest.fixture(autouse=True)
def _nobodys_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "STRANGER_PATIENCE", 0.0)
    for name in ("ILLO_URL", "ILLO_KEY", "ILLO_KEYS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def service() -> Iterator[FakeService]:
    with FakeService() as running:
        yield running


def known(file: Path) -> Keys:
    return load_keys(str(file), SystemClock())


def made(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Make a key; return all that is on standard output."""
    assert run(["keys", "new", "--tenant", "ada", *arguments]) == 0
    return capsys.readouterr().out.removesuffix("\n")


# --- new --------------------------------------------------------------------------------------


def test_a_new_key_is_printed_once_and_its_hash_written(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["keys", "new", "--tenant", "ada", "--file", str(file)]) == 0
    said = capsys.readouterr()
    key = said.out.removesuffix("\n")
    assert is_key(key)
    assert key not in said.err
    assert str(file) in said.err
    assert key.rpartition("_")[2] not in file.read_text()
    stored = check_key(known(file), key, SystemClock().now())
    assert (stored.tenant, stored.scopes) == ("ada", (Scope.READ, Scope.WRITE))
    assert (stored.expires_at, stored.revoked_at) == (None, None)


def test_the_file_is_for_its_owners_eyes_and_stays_so(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(write_keys([]))
    file.chmod(0o644)
    made(capsys, "--file", str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_scopes_and_an_end_may_be_chosen(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wished = ("--scope", "admin", "--scope", "read", "--scope", "admin", "--expires", "3")
    told = json.loads(made(capsys, *wished, "--file", str(file), "--json"))
    stored = check_key(known(file), told["key"], SystemClock().now())
    assert stored.scopes == (Scope.ADMIN, Scope.READ)
    assert stored.expires_at == stored.created_at + timedelta(days=3)
    assert told["file"] == str(file)
    assert datetime.fromisoformat(told["entry"]["expires_at"]) == stored.expires_at


@pytest.mark.parametrize("inline", [False, True])
def test_without_a_file_the_entry_to_paste_is_told(
    inline: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if inline:
        monkeypatch.setenv("ILLO_KEYS", write_keys([]))
    assert run(["keys", "new", "--tenant", "ada"]) == 0
    said = capsys.readouterr()
    entry = json.loads(said.err[said.err.index("{") : said.err.rindex("}") + 1])
    keys = load_keys(json.dumps({"keys": [entry]}), SystemClock())
    assert check_key(keys, said.out.strip(), SystemClock().now()).tenant == "ada"
    assert "nothing was written" in said.err


def test_the_file_comes_from_the_setting_too(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ILLO_KEYS", str(file))
    key = made(capsys)
    assert check_key(known(file), key, SystemClock().now())


def test_a_third_active_key_is_refused_and_nothing_written(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = made(capsys, "--file", str(file))
    made(capsys, "--file", str(file))
    before = file.read_text()
    for place in (str(file), before):  # a file of them, or they themselves
        monkeypatch.setenv("ILLO_KEYS", place)
        assert run(["keys", "new", "--tenant", "ada"]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert "2 are the most" in said.err
    assert file.read_text() == before
    assert run(["keys", "revoke", first.split("_")[1], "--file", str(file)]) == 0
    assert is_key(made(capsys, "--file", str(file)).strip())


def test_of_keys_made_at_once_none_is_lost_and_the_third_is_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Barrier(6)
    endings: list[int] = []
    read = commands._read

    def slowly(place: str) -> Keys:
        found = read(place)
        threading.Event().wait(0.02)  # long enough for others to read the same, if they could
        return found

    def make(tenant: str) -> None:
        start.wait(20)
        endings.append(run(["keys", "new", "--tenant", tenant, "--file", str(file)]))

    monkeypatch.setattr(commands, "_read", slowly)
    file.write_text(write_keys([]))
    makers = [threading.Thread(target=make, args=(t,)) for t in ("ada", "bob") for _ in range(3)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(60)
    assert sorted(endings) == [0, 0, 0, 0, 2, 2]
    assert sorted(key.tenant for key in known(file).values()) == ["ada", "ada", "bob", "bob"]


def test_a_file_that_cannot_be_written_whole_is_left_as_it_was(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made(capsys, "--file", str(file))
    before = file.read_text()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert run(["keys", "new", "--tenant", "ada", "--file", str(file)]) == 1
    assert "No space left" in capsys.readouterr().err
    assert file.read_text() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_link_to_the_file_stays_a_link(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file.parent / "store").mkdir()
    real = file.parent / "store" / "keys.json"
    file.symlink_to(real)
    made(capsys, "--file", str(file))
    assert file.is_symlink()
    assert len(known(real)) == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["new"], "--tenant"),
        (["new", "--tenant", "Ada"], "'Ada' is no name of a tenant"),
        (["new", "--tenant", ""], "is no name of a tenant"),
        (["new", "--tenant", "a" * 64], "is no name of a tenant"),
        (["new", "--tenant", "ada", "--scope", "all"], "--scope"),
        (["new", "--tenant", "ada", "--expires", "0"], "--expires"),
        (["new", "--tenant", "ada", "--expires", "99999"], "--expires"),
        (["new", "--tenant", "ada", "--file", "no/such/folder/keys.json"], "there is no folder"),
        (["new", "--tenant", "ada", "--file", "bad.json"], "bad.json: /keys: "),
        (["new", "--tenant", "ada", "--file", f"illo_{'a' * 8}_{'b' * 32}"], "a key itself"),
        (["list"], "--file or ILLO_KEYS"),
        (["list", "--file", "none.json"], "none.json: not there"),
        (["list", "--file", "bad.json"], "bad.json: /keys: "),
        (["revoke", "--file", "none.json"], "ID"),
        (["revoke", "aaaaaaaa"], "--file or ILLO_KEYS"),
        (["revoke", "aaaaaaaa", "--file", "none.json"], "none.json: not there"),
        (["revoke", "aaaaaaaa", "--file", "empty.json"], "there is no key 'aaaaaaaa'"),
    ],
)
def test_wrong_use_ends_with_2_says_why_and_changes_nothing(
    arguments: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.json").write_text('{"keys": 1}')
    (tmp_path / "empty.json").write_text(write_keys([]))
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    for as_json in ([], ["--json"]):
        assert run(["keys", *arguments, *as_json]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert complaint in said.err
        assert "b" * 32 not in said.err
        if as_json:
            assert json.loads(said.err)["error"]["code"] == "wrong_use"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


# --- list and revoke --------------------------------------------------------------------------


def test_keys_are_listed_with_their_states_and_without_their_hashes(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (made(capsys, "--file", str(file)).split("_")[1] for _ in range(2))
    assert run(["keys", "revoke", first, "--file", str(file)]) == 0
    assert capsys.readouterr().out == ""
    assert run(["keys", "list", "--file", str(file), "--json"]) == 0
    text = capsys.readouterr().out
    listed = json.loads(text)["keys"]
    assert [(key["id"], key["state"]) for key in listed] == [(first, "revoked"), (second, "active")]
    assert run(["keys", "list", "--file", str(file)]) == 0
    table = capsys.readouterr().out
    for id in (first, second):
        assert id in table
    assert "revoked" in table
    for key in known(file).values():
        assert key.sha256 not in table + text


def test_a_revoked_key_opens_nothing_and_stays_listed(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = made(capsys, "--file", str(file))
    id = key.split("_")[1]
    assert run(["keys", "revoke", id, "--file", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "revoked"
    with pytest.raises(Exception, match="is revoked"):
        check_key(known(file), key, SystemClock().now())
    before = file.read_text()
    assert run(["keys", "revoke", id, "--file", str(file)]) == 0  # once more changes nothing
    assert file.read_text() == before


def test_of_keys_in_the_setting_the_changed_entry_is_told(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    id = made(capsys, "--file", str(file)).split("_")[1]
    monkeypatch.setenv("ILLO_KEYS", file.read_text())
    assert run(["keys", "revoke", id]) == 0
    said = capsys.readouterr().err
    entry = json.loads(said[said.index("{") : said.rindex("}") + 1])
    assert entry["id"] == id
    assert entry["revoked_at"]


def test_no_keys_are_said_to_be_none(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(write_keys([]))
    assert run(["keys", "list", "--file", str(file)]) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "no keys\n")


# --- commands that send a key -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "told"),
    [(None, "asks for a key; set ILLO_KEY"), ("illo_a_b", "does not accept the key in ILLO_KEY")],
)
def test_who_is_not_let_in_is_told_what_to_set(
    service: FakeService,
    key: str | None,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    service.answer("GET", "/v1/queue", problem(401, "unauthenticated"), status=401)
    if key:
        monkeypatch.setenv("ILLO_KEY", key)
    assert run(["queue", "--url", service.url]) == 2
    said = capsys.readouterr().err
    assert f"{service.url} {told}" in said
    assert "illo keys new" in said
    assert "illo_a_b" not in said
    assert len(service.requests) == 1
    assert run(["queue", "--url", service.url, "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "unauthenticated"


def test_a_scope_that_is_missing_is_told_as_the_service_says_it(
    service: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = problem(403, "insufficient_scope") | {"detail": "this needs a key with admin"}
    service.answer("POST", "/v1/queue/pause", refused, status=403)
    assert run(["queue", "pause", "--url", service.url, "--key", "illo_a_b"]) == 2
    assert "this needs a key with admin" in capsys.readouterr().err
    [asked] = service.requests
    assert asked.headers["Authorization"] == "Bearer illo_a_b"


@pytest.mark.parametrize("key", ["illo_a\nX-Evil: 1", "illo_ä", "illo_\x00", "illo_a\r\n"])
def test_a_key_that_fits_into_no_header_is_refused_and_not_repeated(
    service: FakeService, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["queue", "--url", service.url, "--key", key]) == 2
    said = capsys.readouterr().err
    assert "ILLO_KEY: " in said
    assert key not in said
    assert service.requests == []


def test_a_key_does_not_follow_a_link_to_another_host(service: FakeService) -> None:
    """Images may be elsewhere, behind links that need no key."""
    with FakeService() as bucket:
        bucket.answer("GET", "/image", b"png")
        headers = {"Location": f"{bucket.url}/image"}
        service.answer("GET", "/v1/jobs/job_a/images/0", b"", status=302, headers=headers)
        image = Client(service.url, key="illo_a_b").get("/v1/jobs/job_a/images/0")
        assert image.body == b"png"
        assert service.requests[0].headers["Authorization"] == "Bearer illo_a_b"
        assert "Authorization" not in bucket.requests[0].headers


# --- `illo up` --------------------------------------------------------------------------------


def test_up_with_bad_keys_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ILLO_KEYS", '{"keys": [{"id": 1}]}')
    assert run(["up", "--data", str(tmp_path / "data")]) == 2
    said = capsys.readouterr().err
    assert "ILLO_KEYS: /keys/0/id: " in said
    assert "ILLO_KEYS: /keys/0/tenant: " in said
    assert list(tmp_path.iterdir()) == []


def test_with_keys_up_may_listen_for_others(tmp_path: Path) -> None:
    """It comes as far as its folder, which is none."""
    taken = tmp_path / "taken"
    taken.write_text("")
    given: dict[str, Any] = {"data": taken, "host": "0.0.0.0", "keys": write_keys([])}
    nothing = lambda *_: None  # noqa: E731
    for keys, refused in ((given["keys"], OSError), (None, BadSettings)):
        settings = Settings.model_validate(given | {"keys": keys})
        with pytest.raises(refused):
            run_here(settings, announce=nothing, draining=nothing, say=nothing)


def test_what_listens_everywhere_is_told_by_an_address_of_this_machine() -> None:
    for host, url in (("0.0.0.0", "http://127.0.0.1:8080"), ("::", "http://[::1]:8080")):
        assert url_of(Settings.model_validate({"host": host})) == url


def test_what_up_tells_of_itself_holds_no_key() -> None:
    running = Running(url="http://127.0.0.1:8080", api=1, workers=[os.getpid()], queue=2)
    assert running.document()["key"] is None
