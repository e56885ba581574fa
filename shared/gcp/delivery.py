"""The publisher of wake-ups to a Pub/Sub topic."""

from google.api_core import exceptions, retry
from google.auth.exceptions import GoogleAuthError
from google.pubsub_v1.types import PubsubMessage

from shared.errors import PublishFailed
from shared.gcp.topics import connect, topic_path
from shared.messages import Wake, encode_wake

# A request for a job waits for this, and the sweep sends again whatever is not confirmed by then.
PATIENCE = 5.0  # seconds of trying, all in all
CALL_SECONDS = 2.5  # what one call may take
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0  # seconds between two tries, times a random 0 to 1

_PASSING = (
    exceptions.Aborted,
    exceptions.Cancelled,
    exceptions.DeadlineExceeded,
    exceptions.InternalServerError,
    exceptions.ResourceExhausted,
    exceptions.RetryError,
    exceptions.ServiceUnavailable,
    exceptions.Unknown,
)


class PubSubPublisher:
    """See Publisher; safe for threads. The topic is an id, or a full name in any project."""

    def __init__(self, project: str, topic: str, *, patience: float = PATIENCE) -> None:
        self._topic = topic_path(project, topic)
        self._client = connect()
        self._call_seconds = min(CALL_SECONDS, patience)
        self._retry = retry.Retry(
            predicate=retry.if_exception_type(*_PASSING),
            initial=FIRST_PAUSE,
            maximum=LONGEST_PAUSE,
            timeout=patience,
        )

    def publish(self, wake: Wake) -> None:
        """See Publisher.publish."""
        data, attributes = encode_wake(wake)
        try:
            self._client.publish(
                topic=self._topic,
                messages=[PubsubMessage(data=data, attributes=attributes)],
                timeout=self._call_seconds,
                retry=self._retry,
            )
        except (exceptions.GoogleAPICallError, exceptions.RetryError, GoogleAuthError) as fault:
            raise PublishFailed(f"{wake.job}: {self._topic}: {_reason(fault)}") from None


def _reason(fault: Exception) -> str:
    last = fault.cause if isinstance(fault, exceptions.RetryError) else fault
    said = getattr(last, "message", None) or str(last)
    if isinstance(fault, exceptions.NotFound):
        return f"there is no such topic ({said}); create it, or see ILLO_TOPIC"
    if isinstance(fault, exceptions.Forbidden):
        return f"this account may not publish to it ({said}); it needs the role Pub/Sub Publisher"
    if isinstance(fault, exceptions.Unauthorized | GoogleAuthError):
        return f"no token that Pub/Sub takes could be had ({said}); see the service's account"
    if isinstance(fault, exceptions.InvalidArgument):
        return f"Pub/Sub refuses the name or the message ({said}); see ILLO_TOPIC"
    if isinstance(fault, _PASSING):
        return f"not confirmed in time ({said}); the sweep sends another wake-up"
    return f"not published ({said})"
