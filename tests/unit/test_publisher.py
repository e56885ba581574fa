"""The Pub/Sub publisher beyond the contract: what it says when a wake-up is not confirmed."""

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import google.auth
import grpc  # type: ignore[import-untyped]
import pytest
from google.auth.exceptions import DefaultCredentialsError
from google.pubsub_v1 import PublishRequest, PublishResponse

from deploy.emulators import Hosts
from deploy.ground import free_ports
from shared.errors import PublishFailed, ServiceUnreachable
from shared.gcp.delivery import PubSubPublisher
from shared.gcp.topics import make_subscription, subscription_path, topic_path
from shared.messages import Wake
from tests.builders import job_id

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
WAKE = Wake(job=job_id(1), traceparent=TRACE)
TOPIC = "projects/illo-test/topics/wake"
SHORT = 0.5  # seconds of patience; never measured
Code: TypeAlias = grpc.StatusCode


class Topic:
    """A Pub/Sub of our own: it answers as it is told, and remembers what it was sent."""

    def __init__(self) -> None:
        self.answers: list[Code | None] = [None]  # in turn, the last one for ever; None confirms
        self.closing = threading.Event()
        self.silent = False
        self.requests: list[PublishRequest] = []

    def publish(self, request: PublishRequest, context: grpc.ServicerContext) -> PublishResponse:
        self.requests.append(request)
        if self.silent:
            self.closing.wait()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is not None:
            context.abort(answer, "as it was told")
        return PublishResponse(message_ids=["1"])


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> Iterator[Topic]:
    topic = Topic()
    method = grpc.unary_unary_rpc_method_handler(
        topic.publish,
        request_deserializer=PublishRequest.deserialize,
        response_serializer=PublishResponse.serialize,
    )
    service = grpc.method_handlers_generic_handler(
        "google.pubsub.v1.Publisher", {"Publish": method}
    )
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", f"127.0.0.1:{port}")
    yield topic
    topic.closing.set()
    server.stop(None).wait()


def a_publisher(topic: str = "wake", patience: float = 20.0) -> PubSubPublisher:
    return PubSubPublisher("illo-test", topic, patience=patience)


def refusal(publish: Callable[[Wake], None], wake: Wake = WAKE) -> str:
    with pytest.raises(PublishFailed) as refused:
        publish(wake)
    return str(refused.value)


def test_a_message_names_the_job_and_its_trace_and_nothing_else(topic: Topic) -> None:
    a_publisher().publish(WAKE)
    (request,) = topic.requests
    assert request.topic == TOPIC
    (message,) = request.messages
    assert message.data == f'{{"v":1,"job":"{WAKE.job}"}}'.encode()
    assert dict(message.attributes) == {"traceparent": TRACE}


def test_a_wake_up_without_a_trace_has_no_attributes(topic: Topic) -> None:
    a_publisher().publish(Wake(job=job_id(2)))
    assert not topic.requests[0].messages[0].attributes


@pytest.mark.parametrize("name", ["wake", TOPIC])
def test_a_topic_is_named_by_its_id_or_in_full(topic: Topic, name: str) -> None:
    PubSubPublisher("illo-test" if name == "wake" else "another", name).publish(WAKE)
    assert topic.requests[0].topic == TOPIC


@pytest.mark.parametrize(
    "passing",
    [
        Code.ABORTED,
        Code.CANCELLED,
        Code.DEADLINE_EXCEEDED,
        Code.INTERNAL,
        Code.RESOURCE_EXHAUSTED,
        Code.UNAVAILABLE,
        Code.UNKNOWN,
    ],
)
def test_what_may_pass_is_tried_again(topic: Topic, passing: Code) -> None:
    topic.answers = [passing, passing, None]
    a_publisher().publish(WAKE)
    assert len(topic.requests) == 3


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        (Code.NOT_FOUND, "create it, or see ILLO_TOPIC"),
        (Code.PERMISSION_DENIED, "role Pub/Sub Publisher"),
        (Code.UNAUTHENTICATED, "see the service's account"),
        (Code.INVALID_ARGUMENT, "see ILLO_TOPIC"),
        (Code.FAILED_PRECONDITION, "not published"),
    ],
)
def test_a_refusal_names_the_topic_and_the_remedy_at_once(
    topic: Topic, answer: Code, remedy: str
) -> None:
    topic.answers = [answer]
    told = refusal(a_publisher().publish)
    assert len(topic.requests) == 1
    for part in (WAKE.job, TOPIC, remedy, "as it was told"):
        assert part in told


def test_what_does_not_pass_is_given_up(topic: Topic) -> None:
    topic.answers = [Code.UNAVAILABLE]
    told = refusal(a_publisher(patience=SHORT).publish)
    assert TOPIC in told
    assert "as it was told" in told
    assert "the sweep sends another" in told
    assert len(topic.requests) > 1


@pytest.mark.timeout(30)  # half of what one call takes that nobody bounds
def test_a_topic_that_never_answers_is_given_up(topic: Topic) -> None:
    topic.silent = True
    assert "not confirmed in time" in refusal(a_publisher(patience=SHORT).publish)


def test_a_topic_that_is_not_there_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    (nobody,) = free_ports(1)
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", f"127.0.0.1:{nobody}")
    assert "Connection refused" in refusal(a_publisher(patience=SHORT).publish)


def test_without_credentials_it_says_how_to_get_some(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: object, **__: object) -> None:
        raise DefaultCredentialsError("nobody is signed in")  # type: ignore[no-untyped-call]

    monkeypatch.delenv("PUBSUB_EMULATOR_HOST", raising=False)
    monkeypatch.setattr(google.auth, "default", nobody)
    with pytest.raises(PublishFailed, match="gcloud auth application-default login"):
        a_publisher()


def test_a_topic_that_nobody_made_is_named(emulators: Hosts) -> None:
    project = f"illo-{uuid.uuid4().hex[:16]}"
    publisher = PubSubPublisher(project, "wake")
    assert f"projects/{project}/topics/wake: there is no such topic" in refusal(publisher.publish)
    for _ in range(2):  # making what is there changes nothing
        make_subscription(
            emulators.pubsub,
            topic=topic_path(project, "wake"),
            subscription=subscription_path(project, "wake-push"),
        )
    publisher.publish(WAKE)


def test_an_emulator_that_is_not_there_is_named() -> None:
    (nobody,) = free_ports(1)
    with pytest.raises(ServiceUnreachable, match=f"127.0.0.1:{nobody}.*PUBSUB_EMULATOR_HOST"):
        make_subscription(
            f"127.0.0.1:{nobody}",
            topic=TOPIC,
            subscription=subscription_path("illo-test", "wake-push"),
        )
