"""`illo up` as a person meets it: it heals, drains, goes on where it was, and leaves nothing."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.programs import gone, until
from tests.service import Service, running

pytestmark = pytest.mark.slow

PROMISED = 5.0  # seconds in which nothing is left of a parent that was killed
SMALL = {"prompt": "Mia", "width": 64, "height": 64, "steps": 4}
LONG = {**SMALL, "steps": 100, "count": 2}


def flat(pids: dict[str, Any]) -> list[int]:
    return [pids["api"], *pids["worker"], pids["queue"]]


def submit(service: Service, wish: dict[str, Any]) -> str:
    return str(service.post("/v1/jobs", wish, key=os.urandom(8).hex())["id"])


def wait_until_drawn_on(service: Service, id: str) -> None:
    """Wait until a job has come past its first step."""
    service.until(
        lambda: service.get(f"/v1/jobs/{id}"),
        lambda job: bool(job["progress"] and job["progress"]["step"] > 0),
    )


def test_the_run_file_names_the_address_and_live_programs(service: Service) -> None:
    told = json.loads((service.data / "run.json").read_text())
    assert told.keys() == {"url", "key", "processes", "metrics"}
    assert (told["url"], told["key"]) == (service.url, None)
    pids = flat(told["processes"])
    assert len(set(pids)) == 3
    assert not any(gone(pid) for pid in [*pids, service.program.pid])
    [figures] = told["metrics"]
    service.ended(submit(service, SMALL))  # by then the worker listens
    assert b"illo_poison_total" in urllib3.request("GET", figures).data


def test_a_job_is_drawn(service: Service) -> None:
    job = service.ended(submit(service, SMALL))
    assert job["status"] == "succeeded"
    assert service.image(job).startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", ["api", "worker", "queue"])
def test_a_killed_program_is_started_again_and_jobs_are_drawn(service: Service, kind: str) -> None:
    before = service.pids()
    killed = service.kill(kind)
    after = service.until(service.pids, lambda pids: killed not in flat(pids))
    assert {k: v for k, v in after.items() if k != kind} == {
        k: v for k, v in before.items() if k != kind
    }
    job = service.ended(submit(service, SMALL))  # at the same address
    assert job["status"] == "succeeded"


def test_a_second_one_on_the_same_folder_is_refused(service: Service) -> None:
    before = service.pids()
    second = subprocess.run(
        [sys.executable, "-c", "from deploy.cli import main; main()",
         "up", "--port", "0", "--data", str(service.data)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert second.returncode == 2
    assert str(service.data) in second.stderr
    assert "Traceback" not in second.stderr
    assert service.pids() == before
    assert not any(gone(pid) for pid in flat(before))


def test_it_listens_on_this_machine_only(service: Service) -> None:
    port = int(service.url.rpartition(":")[2])
    others = {address[4][0] for address in socket.getaddrinfo(socket.gethostname(), None)}
    for address in {str(other) for other in others if not str(other).startswith(("127.", "::1"))}:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as caller:
            assert caller.connect_ex((address, port)) != 0


def test_nothing_outlives_a_killed_parent_and_the_next_one_goes_on(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(data, "--workers", "2") as illo:
        pids = flat(illo.pids())
        assert len(set(pids)) == 4
        waiting = submit(illo, LONG)
        wait_until_drawn_on(illo, waiting)
        illo.program.kill()
        illo.program.wait()
        until(lambda: all(map(gone, pids)), PROMISED)
    with running(data, "--workers", "2") as illo:
        job = illo.ended(waiting, within=240)
    assert job["status"] == "succeeded"


def test_one_that_is_started_at_once_waits_for_what_is_left_of_a_killed_one(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(data) as illo:
        pids = flat(illo.pids())
        illo.program.kill()
        illo.program.wait()
        with running(data) as next_one:
            assert all(map(gone, pids))
            assert next_one.ended(submit(next_one, SMALL))["status"] == "succeeded"


def test_ctrl_c_gives_jobs_back_and_the_next_one_goes_on_with_them(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(data) as illo:
        pids = flat(illo.pids())
        drawn, *queued = [submit(illo, LONG), submit(illo, SMALL), submit(illo, SMALL)]
        wait_until_drawn_on(illo, drawn)
        illo.program.send_signal(signal.SIGINT)
        assert illo.program.wait(40) == 0
        assert all(map(gone, pids))
        assert not (data / "run.json").exists()
    with running(data) as illo:
        jobs = [illo.ended(id, within=240) for id in (drawn, *queued)]
    assert [job["status"] for job in jobs] == ["succeeded"] * 3
    assert "released" in [moment["event"] for moment in jobs[0]["timeline"]]
    assert (jobs[0]["attempt"], jobs[1]["attempt"]) == (2, 1)


def test_a_second_ctrl_c_ends_everything_at_once(tmp_path: Path) -> None:
    with running(tmp_path / "data") as illo:
        pids = flat(illo.pids())
        os.kill(illo.pids()["worker"][0], signal.SIGSTOP)  # it cannot hear the first
        illo.program.send_signal(signal.SIGINT)
        time.sleep(0.2)  # two signals at once would be heard as one
        illo.program.send_signal(signal.SIGINT)
        assert illo.program.wait(40) == 130
        assert all(map(gone, pids))
