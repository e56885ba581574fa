"""How long one call may go on claiming."""

import pytest

from shared.settings import Backend, Settings
from worker.main import claiming_window


@pytest.mark.parametrize(
    ("backend", "deadline", "window"),
    [(Backend.EMBEDDED, 600, None), (Backend.GCP, 600, 540), (Backend.GCP, 60, 54)],
)
def test_a_push_is_answered_before_its_queue_sends_it_again(
    backend: Backend, deadline: float, window: float | None
) -> None:
    settings = Settings(backend=backend, ack_deadline_seconds=deadline)
    assert claiming_window(settings) == window
