"""Topics of Pub/Sub: their names, the connection, and what an emulator needs made beforehand."""

from contextlib import suppress
from datetime import timedelta
from typing import Any

import grpc  # type: ignore[import-untyped]
from google.api_core.exceptions import AlreadyExists, GoogleAPICallError
from google.auth.exceptions import DefaultCredentialsError
from google.pubsub_v1.services.publisher import PublisherClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber import SubscriberClient
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from google.pubsub_v1.types import PushConfig

from shared.errors import PublishFailed, ServiceUnreachable
from shared.settings import process_environment

EMULATOR = "PUBSUB_EMULATOR_HOST"  # as all of Google's SDKs read it
LONGEST_ACK_DEADLINE = timedelta(seconds=600)
ONCE: dict[str, Any] = {"timeout": 10.0, "retry": None}  # an emulator on this machine is there


def topic_path(project: str, topic: str) -> str:
    """Name a topic in full; it may be given so, and then lie in another project."""
    return topic if topic.startswith("projects/") else f"projects/{project}/topics/{topic}"


def subscription_path(project: str, subscription: str) -> str:
    """Name a subscription in full."""
    return f"projects/{project}/subscriptions/{subscription}"


def connect() -> PublisherClient:
    """Connect to Pub/Sub, or to the emulator that the environment names.

    It is the plain client: the batching one of `google.cloud.pubsub` keeps a lone message waiting
    for others, and its threads do not survive a fork.
    """
    if emulator := process_environment().get(EMULATOR):
        return _emulated_publisher(emulator)
    try:
        return PublisherClient()
    except DefaultCredentialsError as error:
        raise PublishFailed(
            f"Pub/Sub: no Google credentials were found ({error}); run "
            "`gcloud auth application-default login`, or give the service an account"
        ) from None


def make_subscription(emulator: str, *, topic: str, subscription: str) -> None:
    """Make a topic and its subscription, which holds what comes, where they are missing.

    Both are full names. Google's own come from Terraform; this is for an emulator at host:port,
    which begins empty. Raises ServiceUnreachable.
    """
    try:
        _unless_there(_emulated_publisher(emulator).create_topic, name=topic)
        _unless_there(
            _subscriber(emulator).create_subscription,
            name=subscription,
            topic=topic,
            # The push proxy keeps a shorter one; this must not run out before.
            ack_deadline_seconds=int(LONGEST_ACK_DEADLINE.total_seconds()),
        )
    except GoogleAPICallError as error:
        raise _unreachable(emulator, error) from None


def push_to(emulator: str, *, subscription: str, url: str | None) -> None:
    """Let an emulator push a subscription's messages to this URL, or hold them if it is None."""
    config = PushConfig(push_endpoint=url) if url else PushConfig()
    try:
        _subscriber(emulator).modify_push_config(
            subscription=subscription, push_config=config, **ONCE
        )
    except GoogleAPICallError as error:
        raise _unreachable(emulator, error) from None


def _unless_there(create: Any, **request: object) -> None:
    with suppress(AlreadyExists):
        create(request=request, **ONCE)


def _emulated_publisher(emulator: str) -> PublisherClient:
    channel = grpc.insecure_channel(emulator)
    return PublisherClient(transport=PublisherGrpcTransport(channel=channel))


def _subscriber(emulator: str) -> SubscriberClient:
    channel = grpc.insecure_channel(emulator)
    return SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))


def _unreachable(emulator: str, error: Exception) -> ServiceUnreachable:
    return ServiceUnreachable(f"the Pub/Sub emulator at {emulator}: {error}; see {EMULATOR}")
