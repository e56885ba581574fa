"""Whether the services of a deployment answer, asked without changing anything in them."""

from google.api_core import exceptions
from google.auth.exceptions import GoogleAuthError

from shared.errors import PublishFailed
from shared.gcp.topics import connect, topic_path

CALL_SECONDS = 10.0


def find_topic(project: str, topic: str) -> bool:
    """Look for a topic; False if this account may publish to it at most, and not look.

    Raises PublishFailed if there is no such topic, or nobody answers.
    """
    path = topic_path(project, topic)
    try:
        connect().get_topic(topic=path, timeout=CALL_SECONDS, retry=None)
    except exceptions.Forbidden:
        return False
    except exceptions.NotFound:
        raise PublishFailed(
            f"{path}: there is no such topic; create it, or see ILLO_TOPIC"
        ) from None
    except (exceptions.GoogleAPICallError, exceptions.RetryError, GoogleAuthError) as fault:
        said = getattr(fault, "message", None) or str(fault)
        raise PublishFailed(
            f"{path}: Pub/Sub does not answer ({said}); see the network and this account"
        ) from None
    return True
