"""What every way from a publisher to a worker promises."""

import json

import pytest

from shared.errors import Unauthenticated
from shared.identity import verify
from shared.messages import Wake
from tests.builders import job_id
from tests.contract.conftest import Backend
from tests.contract.push_server import DROP, HANG, PushServer, Reply, push_server

pytestmark = pytest.mark.slow

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def comes_once(backend: Backend, server: PushServer, wake: Wake) -> None:
    """Assert that a wake-up which was just acknowledged is not among what comes next."""
    backend.publisher.publish(Wake(job=job_id("afterwards")))
    assert server.next_push().envelope.wake.job == job_id("afterwards")
    assert server.pushes.empty()


def test_a_wake_up_arrives_as_an_envelope(backend: Backend) -> None:
    wake = Wake(job=job_id(1), traceparent=TRACE)
    with push_server(204) as server, backend.pushing(server.url):
        backend.publisher.publish(wake)
        push = server.next_push()
        assert push.envelope.wake == wake
        assert push.envelope.message_id
        assert push.envelope.subscription
        assert push.content_type == "application/json"
        message = json.loads(push.body)["message"]
        assert message["publishTime"].endswith("Z")
        comes_once(backend, server, wake)


def test_a_push_carries_the_identity_that_the_worker_trusts(backend: Backend) -> None:
    with push_server(204) as server, backend.pushing(server.url):
        backend.publisher.publish(Wake(job=job_id(1)))
        push = server.next_push()
    verify(push.authorization, backend.identity)
    assert push.authorization
    with pytest.raises(Unauthenticated):
        verify(push.authorization[:-6] + "AAAAAA", backend.identity)


def test_what_was_published_before_anyone_listened_is_delivered(backend: Backend) -> None:
    backend.publisher.publish(Wake(job=job_id(1)))
    with push_server(204) as server, backend.pushing(server.url):
        assert server.next_push().envelope.wake.job == job_id(1)


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_an_acknowledged_message_does_not_come_again(backend: Backend, status: int) -> None:
    with push_server(status) as server, backend.pushing(server.url):
        backend.publisher.publish(Wake(job=job_id(1)))
        assert server.next_push().envelope.wake.job == job_id(1)
        comes_once(backend, server, Wake(job=job_id(1)))


@pytest.mark.parametrize("refusal", [503, 500, 429, 404, 401, 302, 203, DROP, HANG])
def test_what_is_not_acknowledged_comes_again(backend: Backend, refusal: Reply) -> None:
    with push_server(refusal, refusal, 204) as server, backend.pushing(server.url):
        backend.publisher.publish(Wake(job=job_id(1)))
        pushes = [server.next_push() for _ in range(3)]
        comes_once(backend, server, Wake(job=job_id(1)))
    assert {push.envelope.wake.job for push in pushes} == {job_id(1)}
    assert len({push.envelope.message_id for push in pushes}) == 1
    attempts = [push.envelope.attempt for push in pushes]
    assert attempts in ([1, 2, 3], [None] * 3)


def test_many_messages_all_arrive(backend: Backend) -> None:
    wakes = [Wake(job=job_id(n)) for n in range(50)]
    with push_server(204) as server, backend.pushing(server.url):
        for wake in wakes:
            backend.publisher.publish(wake)
        arrived = {server.next_push().envelope.wake for _ in wakes}
    assert arrived == set(wakes)
