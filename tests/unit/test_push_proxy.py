"""The push proxy: what it adds to a push, where it goes, what is answered, and chance by seed."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import urllib3

from deploy.emulators import Hosts
from deploy.ground import free_ports
from deploy.push_fates import Fate, Fates, Odds
from deploy.push_identity import ISSUER, LocalIssuer
from deploy.push_intake import CERTIFICATES_PATH, MOST_BYTES, PUSH_PATH, serving
from deploy.push_proxy import arguments, require_emulator
from deploy.push_relay import PushRelay
from deploy.sweep_calls import call_for_sweeps
from shared.clock import SystemClock
from shared.embedded.push_keys import TokenSigner
from shared.errors import BadSettings, PublishFailed, WrongIdentity
from shared.gcp.certificates import Certificates
from shared.gcp.delivery import PubSubPublisher
from shared.identity import PushIdentity, verify
from shared.messages import Wake, encode_envelope, encode_wake
from shared.settings import Settings
from tests.builders import NOW, job_id
from tests.contract.push_server import DROP, HANG, Reply, push_server
from tests.programs import until

pytestmark = pytest.mark.slow

AUDIENCE, EMAIL = "https://worker.test/push", "push@illo.test"
SWEEP_AUDIENCE, SWEEP_EMAIL = "https://api.test/internal/sweep", "clock@illo.test"
DEADLINE = timedelta(seconds=20)


def an_envelope(number: int = 1) -> bytes:
    data, attributes = encode_wake(Wake(job=job_id(number)))
    return encode_envelope(
        data,
        attributes,
        message_id=str(number),
        published_at=NOW,
        subscription="projects/p/subscriptions/s",
        attempt=1,
    )


@pytest.fixture
def issuer(tmp_path: Path) -> LocalIssuer:
    return LocalIssuer(tmp_path / "push-key.pem", clock=SystemClock())


@pytest.fixture
def signer(issuer: LocalIssuer) -> TokenSigner:
    return issuer.signer(audience=AUDIENCE, email=EMAIL)


def identity(url: str, audience: str = AUDIENCE, email: str = EMAIL) -> PushIdentity:
    """Whom a worker trusts that reads the certificates where the proxy serves them."""
    keys = Certificates(url + CERTIFICATES_PATH)
    return PushIdentity(issuers=(ISSUER,), audience=audience, email=email, keys=keys)


def post(url: str, body: bytes = b"", path: str = PUSH_PATH) -> int:
    return urllib3.request("POST", url + path, body=body, retries=False, timeout=30).status


def status_of_a_push_that_announces(length: int, url: str) -> int:
    """Send no body: the answer must not wait for it."""
    connection = HTTPConnection(url.removeprefix("http://"), timeout=30)
    try:
        connection.putrequest("POST", PUSH_PATH)
        connection.putheader("Content-Length", str(length))
        connection.endheaders()
        return connection.getresponse().status
    finally:
        connection.close()


Proxy = Callable[..., str]


@pytest.fixture
def proxy(issuer: LocalIssuer, signer: TokenSigner) -> Iterator[Proxy]:
    """Start a proxy before some workers; what befalls the pushes can be said."""
    with ExitStack() as stack:

        def start(*workers: str, **others: Any) -> str:
            others = {"ack_deadline": DEADLINE} | others
            relay = PushRelay(workers, signer, **others)
            return stack.enter_context(serving(relay, issuer.certificates()))

        yield start


def test_a_push_comes_with_a_token_that_the_served_certificates_vouch_for(proxy: Proxy) -> None:
    with push_server(204) as worker:
        url = proxy(worker.url)
        assert post(url, an_envelope()) == 204
        push = worker.next_push()
        verify(push.authorization, identity(url))
        for stranger in (
            identity(url, audience=SWEEP_AUDIENCE),
            identity(url, email="somebody@illo.test"),
        ):
            with pytest.raises(WrongIdentity):
                verify(push.authorization, stranger)


def test_a_push_is_handed_on_as_it_came(proxy: Proxy) -> None:
    with push_server(204) as worker:
        post(proxy(worker.url), an_envelope())
        push = worker.next_push()
        assert push.body == an_envelope()
        assert push.content_type == "application/json"


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        *((status, 204) for status in (200, 201, 202, 204)),
        *((status, 503) for status in (203, 206, 302, 401, 404, 429, 500, 503, DROP)),
    ],
)
def test_the_emulator_hears_an_answer_that_it_understands(
    proxy: Proxy, reply: Reply, answer: int
) -> None:
    with push_server(reply) as worker:
        assert post(proxy(worker.url), an_envelope()) == answer
        assert worker.pushes.qsize() == 1  # no redirect was followed, nothing sent again


def test_an_answer_past_the_ack_deadline_is_none(proxy: Proxy) -> None:
    with push_server(HANG) as worker:
        url = proxy(worker.url, ack_deadline=timedelta(seconds=0.2))
        assert post(url, an_envelope()) == 503


def test_a_push_goes_to_the_worker_that_is_free(proxy: Proxy) -> None:
    drawn = threading.Event()
    with push_server(drawn) as first, push_server(drawn) as second:
        url = proxy(first.url, second.url)
        held = [threading.Thread(target=post, args=(url, an_envelope(n))) for n in range(2)]
        for thread in held:
            thread.start()
        jobs = {server.next_push().envelope.wake.job for server in (first, second)}
        drawn.set()
        for thread in held:
            thread.join()
    assert jobs == {job_id(0), job_id(1)}


def test_a_worker_that_is_not_there_is_passed_over(proxy: Proxy) -> None:
    (nobody,) = free_ports(1)
    with push_server(204) as worker:
        url = proxy(f"http://127.0.0.1:{nobody}/push", worker.url)
        assert sorted(post(url, an_envelope()) for _ in range(2)) == [204, 503]


def test_without_any_worker_a_push_is_refused(proxy: Proxy) -> None:
    (nobody,) = free_ports(1)
    url = proxy(f"http://127.0.0.1:{nobody}/push")
    assert [post(url, an_envelope()) for _ in range(2)] == [503, 503]


def test_a_lost_push_is_acknowledged_and_reaches_nobody(proxy: Proxy) -> None:
    with push_server(204) as worker:
        fates = iter([Fate(lost=True, doubled=True, delay=60), Fate()])
        url = proxy(worker.url, fate=fates.__next__)
        assert [post(url, an_envelope(n)) for n in (1, 2)] == [204, 204]
        assert worker.next_push().envelope.wake.job == job_id(2)
        assert worker.pushes.empty()


def test_a_doubled_push_reaches_two_workers_at_once(proxy: Proxy) -> None:
    drawn = threading.Event()
    with push_server(drawn) as first, push_server(drawn) as second:
        url = proxy(first.url, second.url, fate=lambda: Fate(doubled=True))
        pushing = threading.Thread(target=post, args=(url, an_envelope()))
        pushing.start()
        assert first.next_push() == second.next_push()  # both before either was answered
        drawn.set()
        pushing.join()


def test_a_delayed_push_waits_first(proxy: Proxy) -> None:
    waits: list[float] = []
    with push_server(204) as worker:
        fate = Fate(delay=12.5)
        assert post(proxy(worker.url, fate=lambda: fate, sleep=waits.append), an_envelope()) == 204
        assert waits == [12.5]
        assert worker.pushes.qsize() == 1


def test_what_is_no_push_reaches_nobody(proxy: Proxy) -> None:
    with push_server(204) as worker:
        url = proxy(worker.url)
        assert post(url, an_envelope(), path="/elsewhere") == 404
        assert status_of_a_push_that_announces(MOST_BYTES + 1, url) == 400
        assert urllib3.request("GET", url + "/elsewhere", retries=False).status == 404
        assert worker.pushes.empty()


def test_no_token_and_no_message_reaches_the_log(
    proxy: Proxy, signer: TokenSigner, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with push_server(503, DROP, 204) as worker:
        url = proxy(worker.url, fate=lambda: Fate(doubled=True), sleep=lambda seconds: None)
        for _ in range(2):
            post(url, an_envelope())
    told = "\n".join(str(record.__dict__) for record in caplog.records)
    assert "push_doubled" in told
    message = json.loads(an_envelope())["message"]["data"]
    for secret in (signer.token(), signer.token().rpartition(".")[2], message, job_id(1)):
        assert secret not in told


class TestFates:
    ODDS = Odds(lost=0.2, doubled=0.3, delayed=0.4, longest_delay=5.0)

    @staticmethod
    def drawn(odds: Odds, seed: int = 7, count: int = 300) -> list[Fate]:
        fates = Fates(odds, seed=seed)
        return [fates.draw() for _ in range(count)]

    def test_the_same_seed_brings_the_same_fates(self) -> None:
        assert self.drawn(self.ODDS) == self.drawn(self.ODDS)
        assert self.drawn(self.ODDS) != self.drawn(self.ODDS, seed=8)

    def test_they_come_about_as_often_as_asked_for(self) -> None:
        fates = self.drawn(self.ODDS, count=5000)
        assert sum(fate.lost for fate in fates) / 5000 == pytest.approx(0.2, abs=0.03)
        assert sum(fate.doubled for fate in fates) / 5000 == pytest.approx(0.3, abs=0.03)
        assert sum(fate.delay > 0 for fate in fates) / 5000 == pytest.approx(0.4, abs=0.03)
        assert 4.9 < max(fate.delay for fate in fates) <= 5.0

    def test_nothing_happens_that_was_not_asked_for(self) -> None:
        assert set(self.drawn(Odds())) == {Fate()}

    def test_what_is_certain_always_happens(self) -> None:
        fates = self.drawn(Odds(lost=1.0, doubled=1.0, delayed=1.0))
        assert all(fate.lost and fate.doubled and fate.delay > 0 for fate in fates)

    def test_one_chance_does_not_move_another(self) -> None:
        alone = self.drawn(Odds(doubled=0.3))
        among = self.drawn(self.ODDS)
        assert [fate.doubled for fate in alone] == [fate.doubled for fate in among]

    @pytest.mark.parametrize("wrong", [{"lost": 1.1}, {"doubled": -0.1}, {"longest_delay": -1.0}])
    def test_odds_that_are_none_are_refused(self, wrong: dict[str, float]) -> None:
        with pytest.raises(ValueError):
            Odds(**wrong)


def test_a_certificate_is_named_by_its_key(tmp_path: Path) -> None:
    def certificates(name: str) -> dict[str, str]:
        return LocalIssuer(tmp_path / name, clock=SystemClock()).certificates()

    first, again, other = certificates("a.pem"), certificates("a.pem"), certificates("b.pem")
    assert first.keys() == again.keys() != other.keys()
    assert all(pem.startswith("-----BEGIN CERTIFICATE-----") for pem in first.values())


@contextmanager
def an_api(*statuses: int) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """Answer POSTs in the API's place; yield the URL, and what came: authorization and body."""
    came: list[tuple[str, bytes]] = []

    class Requests(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            came.append((self.headers["Authorization"], body))
            self.send_response(statuses[min(len(came), len(statuses)) - 1])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Requests)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/internal/sweep", came
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def sweeping(url: str, signer: TokenSigner) -> Iterator[None]:
    stop = threading.Event()
    calls = {"every": 0.01, "stop": stop}
    thread = threading.Thread(target=call_for_sweeps, args=(url, signer), kwargs=calls)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_the_sweep_is_called_for_again_and_again(
    issuer: LocalIssuer, caplog: pytest.LogCaptureFixture
) -> None:
    signer = issuer.signer(audience=SWEEP_AUDIENCE, email=SWEEP_EMAIL)
    trusted = PushIdentity(
        issuers=(ISSUER,),
        audience=SWEEP_AUDIENCE,
        email=SWEEP_EMAIL,
        keys=issuer.certificates,
    )
    with an_api(204, 503, 204) as (url, came), sweeping(url, signer):
        until(lambda: len(came) >= 4)
    for authorization, body in came:
        verify(authorization, trusted)
        assert body == b""
    refused = [record for record in caplog.records if record.message == "sweep_refused"]
    assert [record.__dict__["status"] for record in refused] == [503]


def test_a_sweep_that_nobody_hears_is_not_the_last(signer: TokenSigner) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        nobody.settimeout(30)
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/"
        with sweeping(url, signer):
            for _ in range(3):  # each call is taken, and broken off
                nobody.accept()[0].close()


def settings(**others: str) -> Settings:
    given = {
        "ILLO_BACKEND": "gcp",
        "GOOGLE_CLOUD_PROJECT": "illo-test",
        "ILLO_TOPIC": "wake",
        "ILLO_PUSH_AUDIENCE": AUDIENCE,
        "ILLO_PUSH_EMAIL": EMAIL,
        "ILLO_SWEEP_AUDIENCE": SWEEP_AUDIENCE,
        "ILLO_SWEEP_EMAIL": SWEEP_EMAIL,
        "PUBSUB_EMULATOR_HOST": "127.0.0.1:1",
    }
    return Settings.read({name: value for name, value in (given | others).items() if value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ILLO_BACKEND", "embedded"),
        ("GOOGLE_CLOUD_PROJECT", ""),
        ("ILLO_TOPIC", ""),
        ("ILLO_PUSH_AUDIENCE", ""),
        ("ILLO_SWEEP_EMAIL", ""),
        ("PUBSUB_EMULATOR_HOST", ""),
    ],
)
def test_it_starts_only_before_an_emulator_and_says_what_is_missing(name: str, value: str) -> None:
    require_emulator(settings())
    with pytest.raises(BadSettings, match=name):
        require_emulator(settings(**{name: value}))


@pytest.mark.parametrize(
    "wrong", [[], ["--lose", "2", "http://w/push"], ["--los", "0", "http://w"]]
)
def test_wrong_arguments_end_it_with_status_2(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        arguments(wrong)
    assert ended.value.code == 2
    assert "push proxy" in capsys.readouterr().err


@contextmanager
def a_program(folder: Path, project: str, *arguments: str) -> Iterator[str]:
    """Run the program as `illo up` does; yield its URL, and end it in order."""
    (port,) = free_ports(1)
    given = {
        "ILLO_BACKEND": "gcp",
        "ILLO_DATA": str(folder),
        "GOOGLE_CLOUD_PROJECT": project,
        "ILLO_TOPIC": "wake",
        "ILLO_PUSH_AUDIENCE": AUDIENCE,
        "ILLO_PUSH_EMAIL": EMAIL,
        "ILLO_SWEEP_AUDIENCE": SWEEP_AUDIENCE,
        "ILLO_SWEEP_EMAIL": SWEEP_EMAIL,
        "ILLO_SWEEP_SECONDS": "0.1",
        "PORT": str(port),
    }
    program = subprocess.Popen(
        [sys.executable, "-c", "from deploy.push_proxy import main; main()", *arguments],
        env=os.environ | given,
        stderr=subprocess.PIPE,
        process_group=0,
    )
    try:
        yield f"http://127.0.0.1:{port}"
        program.send_signal(signal.SIGTERM)
        _, told = program.communicate(timeout=30)
        assert program.returncode == 0, told.decode()
        events = [json.loads(line)["message"] for line in told.decode().splitlines()]
        assert events[0] == "push_proxy_started"
    finally:
        program.kill()
        program.wait()


def test_the_program_is_all_that_is_between_a_topic_and_a_worker(
    emulators: Hosts, tmp_path: Path
) -> None:
    project = f"illo-{uuid.uuid4().hex[:16]}"
    publisher = PubSubPublisher(project, "wake")

    def comes() -> bool:
        with suppress(PublishFailed):  # there is no topic before the program makes it
            publisher.publish(Wake(job=job_id(1)))
        return not worker.pushes.empty()

    with (
        push_server(204) as worker,
        an_api(204) as (sweep, came),
        a_program(tmp_path, project, "--sweep", sweep, worker.url) as url,
    ):
        until(comes)
        until(lambda: len(came) >= 2)
        verify(worker.next_push().authorization, identity(url))
        verify(came[0][0], identity(url, SWEEP_AUDIENCE, SWEEP_EMAIL))
