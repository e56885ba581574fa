"""What `illo up` is made of: restarts, locks, ports and logs."""

import fcntl
import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from deploy import folder, ground
from deploy.children import LONGEST_PAUSE, STEADY_AFTER, Child, Nursery, Role, pause_after
from deploy.commands.up import welcome
from deploy.folder import occupied, write_run_file
from deploy.ground import api_port, free_ports
from deploy.lifeline import Lifeline
from deploy.local import Running, embedded, roles, url_of
from deploy.program_logs import KEPT_LOG_BYTES, last_complaint, rotate_logs
from shared.errors import BadSettings, DataInUse
from shared.requirements import require_loopback
from shared.settings import Settings
from shared.signals import EndWishes

SETTINGS = Settings.read({})


def with_settings(**given: str) -> Settings:
    return Settings.read({f"ILLO_{name.upper()}": value for name, value in given.items()})


# --- restarts ---------------------------------------------------------------------------------


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    rotate_logs(tmp_path / "logs")
    with closing(Lifeline()) as lifeline, (tmp_path / "lock").open("ab") as lock:
        yield Nursery(lifeline=lifeline, lock=lock.fileno(), logs=tmp_path / "logs")


def a_child(nursery: Nursery, code: str, *, now: float = 0.0) -> Child:
    role = Role(kind="api", name="api", code=code, settings=SETTINGS)
    return Child(role, nursery, now=now)


@pytest.mark.parametrize(
    ("deaths", "seconds"),
    [(1, 0.2), (2, 0.4), (3, 0.8), (8, 25.6), (9, LONGEST_PAUSE), (10_000, LONGEST_PAUSE)],
)
def test_the_pause_before_a_restart_doubles_up_to_a_limit(deaths: int, seconds: float) -> None:
    assert pause_after(deaths) == pytest.approx(seconds)


def test_a_dead_child_is_started_again_when_its_pause_is_over(nursery: Nursery) -> None:
    child, said = a_child(nursery, "import sys; sys.exit(3)"), []
    first = child.pid
    assert child.wait(30)
    assert not child.tend(1.0, said.append)
    assert not child.tend(1.19, said.append)
    assert child.tend(1.2, said.append)
    assert child.pid != first
    assert said == ["api ended with status 3; it is started again"]
    child.wait(30)


def test_a_child_that_lives_is_left_alone(nursery: Nursery) -> None:
    child = a_child(nursery, "import time; time.sleep(600)")
    assert not child.tend(1000.0, pytest.fail)
    child.signal(signal.SIGKILL)
    assert child.wait(30)


def test_deaths_in_a_row_count_and_a_steady_life_forgives_them(nursery: Nursery) -> None:
    child, now, counted = a_child(nursery, "pass"), 0.0, []
    for lived in (1.0, 1.0, STEADY_AFTER, STEADY_AFTER + 0.1):
        assert child.wait(30)
        now += lived
        child.tend(now, lambda _: None)
        counted.append(child.deaths)
        now += LONGEST_PAUSE
        assert child.tend(now, lambda _: None)
    child.wait(30)
    assert counted == [1, 2, 3, 1]


def test_what_a_child_says_goes_to_its_log(nursery: Nursery) -> None:
    child = a_child(nursery, "import sys; print('no such folder', file=sys.stderr); sys.exit(1)")
    child.wait(30)
    assert last_complaint(nursery.logs / "api.log") == "no such folder"


def what_is_said_of_deaths(nursery: Nursery, lives: list[float], code: str) -> list[str]:
    child, now, said = a_child(nursery, code), 0.0, []
    for lived in lives:
        assert child.wait(30)
        now += lived
        child.tend(now, said.append)
        now += LONGEST_PAUSE
        child.tend(now, said.append)
    child.wait(30)
    return said


REFUSING = (
    "import json, sys; event = {'severity': 'ERROR', 'message': 'm', 'reason': 'a.gguf: damaged'}; "
    "print(json.dumps(event), file=sys.stderr); sys.exit(3)"
)


@pytest.mark.parametrize("lived", [0.5, STEADY_AFTER + 1], ids=["soon", "after a long load"])
def test_why_a_program_ends_is_told_once_and_then_ever_less_often(
    nursery: Nursery, lived: float
) -> None:
    said = what_is_said_of_deaths(nursery, [lived] * 5, REFUSING)
    assert len(said) == 3  # of the first, the second and the fourth
    assert said[0].startswith("api ended with status 3; it is started again")
    assert all("a.gguf: damaged" in line for line in said)
    assert all(str(nursery.logs / "api.log") in line for line in said)
    assert "4 times" in said[2]


def test_what_a_killed_program_said_is_not_why_it_ended(nursery: Nursery) -> None:
    code = (
        "import os, sys; print('a warning', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)"
    )
    said = what_is_said_of_deaths(nursery, [0.5], code)
    assert said == ["api was ended by SIGKILL; it is started again"]


def test_a_death_without_a_word_after_a_steady_life_is_always_told(nursery: Nursery) -> None:
    lives = [STEADY_AFTER + 1] * 3
    assert len(what_is_said_of_deaths(nursery, lives, "import sys; sys.exit(3)")) == 3


def test_a_death_of_another_kind_is_told_at_once(nursery: Nursery, tmp_path: Path) -> None:
    count = tmp_path / "count"
    code = (
        f"import sys; from pathlib import Path; p = Path({str(count)!r}); "
        "n = p.stat().st_size if p.exists() else 0; p.write_bytes(b'x' * (n + 1)); "
        "sys.exit(3 if n < 2 else 4)"
    )
    said = what_is_said_of_deaths(nursery, [0.5] * 3, code)
    assert [line.split(";")[0].split(" (")[0] for line in said] == [
        "api ended with status 3", "api ended with status 3", "api ended with status 4",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("log", "complaint"),
    [
        ("", ""),
        ('{"severity": "INFO", "message": "listening"}\n', ""),
        ('{"severity": "ERROR", "message": "refused", "reason": "no file"}\n{"severity": "INFO"}\n',
         "no file"),
        ('{"severity": "ERROR", "message": "it broke", "exception": "Trace\\nKeyError: 1"}\n',
         "KeyError: 1"),
        ('{"severity": "CRITICAL", "message": "hung"}\n', "hung"),
        ('Warning: old\n{"severity": "INFO"}\n', ""),
        ('{"severity": "INFO"}\nTraceback\nValueError: 3\n\n', "ValueError: 3"),
    ],
)  # fmt: skip
def test_what_a_log_complains_of_is_found(tmp_path: Path, log: str, complaint: str) -> None:
    former = '{"severity": "ERROR", "reason": "an earlier life"}\n'
    (tmp_path / "api.log").write_text(former + log)
    assert last_complaint(tmp_path / "api.log", since=len(former)) == complaint


def test_the_end_of_the_former_logs_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    log.write_bytes(b"old" + b"x" * KEPT_LOG_BYTES)
    rotate_logs(tmp_path)
    assert not log.exists()
    assert (tmp_path / "api.log.1").read_bytes() == b"x" * KEPT_LOG_BYTES


# --- the folder -------------------------------------------------------------------------------


def test_a_folder_is_occupied_by_one_and_then_free_again(tmp_path: Path) -> None:
    with (
        occupied(tmp_path),
        pytest.raises(DataInUse, match="another `illo up`"),
        occupied(tmp_path),
    ):
        pytest.fail("two had it")
    with occupied(tmp_path):
        pass


def test_leftover_children_are_waited_for_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "LEFTOVERS_END_WITHIN", 0.1)
    with (tmp_path / "children.lock").open("ab") as leftover:
        fcntl.flock(leftover, fcntl.LOCK_EX)
        with pytest.raises(DataInUse, match="have not ended"), occupied(tmp_path):
            pytest.fail("the leftover is still there")
    with occupied(tmp_path):
        pass


def test_a_child_keeps_the_folder_while_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "LEFTOVERS_END_WITHIN", 0.1)
    with closing(Lifeline()) as lifeline:
        with occupied(tmp_path) as lock:
            child = lifeline.start("import time; time.sleep(600)", inherited=(lock,))
        with pytest.raises(DataInUse), occupied(tmp_path):
            pytest.fail("the child is still there")
        child.kill()
        child.wait()
        with occupied(tmp_path):
            pass


def test_the_run_file_of_a_killed_run_is_not_left_lying(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with occupied(tmp_path):
        assert not (tmp_path / "run.json").exists()
        write_run_file(tmp_path, {"url": "here"})
        assert json.loads((tmp_path / "run.json").read_text()) == {"url": "here"}
    assert not (tmp_path / "run.json").exists()


# --- address and port -------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_may_be_listened_on(host: str) -> None:
    require_loopback(with_settings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "::", "illo.example"])
def test_others_would_need_keys(host: str) -> None:
    with pytest.raises(BadSettings, match="needs API keys"):
        require_loopback(with_settings(host=host))


def test_a_port_that_stays_taken_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ground, "PORT_FREE_WITHIN", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadSettings, match=f"PORT: {port} cannot be listened on"):
            api_port(Settings.read({"PORT": str(port)}), lambda _: None)
    assert api_port(Settings.read({"PORT": str(port)}), pytest.fail) == port


def test_a_port_that_is_taken_for_a_moment_is_said_once_to_be_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    looks = iter(range(3))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        def sleep(_: float) -> None:
            assert said
            if next(looks) == 2:
                taken.close()

        monkeypatch.setattr(ground.time, "sleep", sleep)
        assert api_port(Settings.read({"PORT": str(port)}), said.append) == port
    assert len(said) == 1
    assert f"port {port}" in said[0]


def test_port_0_is_any_free_one() -> None:
    with socket.create_server(("127.0.0.1", api_port(Settings.read({"PORT": "0"}), print))):
        pass


def test_free_ports_are_all_different() -> None:
    assert len(set(free_ports(20))) == 20


def test_the_queue_is_told_where_each_worker_listens() -> None:
    api, first, second, queue = roles(embedded(with_settings(workers="2", host="::1")))
    assert (api.kind, first.name, second.name, queue.kind) == (
        "api", "worker-1", "worker-2", "queue",
    )  # fmt: skip
    ports = [worker.settings.port for worker in (first, second)]
    assert list(queue.arguments) == [f"http://127.0.0.1:{port}/push" for port in ports]
    assert {worker.settings.host for worker in (first, second)} == {"127.0.0.1"}


def test_the_url_is_one_that_a_browser_reads() -> None:
    assert url_of(SETTINGS) == "http://127.0.0.1:8080"
    assert url_of(with_settings(host="::1")) == "http://[::1]:8080"


# --- signals ----------------------------------------------------------------------------------


def test_the_first_signal_asks_for_an_end_and_the_second_for_one_at_once() -> None:
    former = signal.getsignal(signal.SIGTERM)
    with EndWishes() as wishes:
        told = [(wishes.heard, wishes.impatient)]
        for sign in (signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), sign)
            told.append((wishes.heard, wishes.impatient))
    assert told == [(False, False), (True, False), (True, True)]
    assert signal.getsignal(signal.SIGTERM) == former


def test_who_starts_it_is_told_where_each_worker_tells_its_figures() -> None:
    figures = [f"http://127.0.0.1:{port}/metrics" for port in (9001, 9002)]
    here = Running(url=url_of(SETTINGS), api=1, workers=[2, 3], queue=4, metrics=figures)
    told = welcome(here, SETTINGS, kept="in data").splitlines()
    assert [line.strip() for line in told if "/metrics" in line] == figures
    assert here.document()["metrics"] == figures
