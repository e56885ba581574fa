"""What the routes are given to act with."""

from collections.abc import Callable
from dataclasses import dataclass

from api.long_poll import LongPolls
from api.meters import Meters
from shared.scenes import Weights
from shared.settings import Settings
from shared.wiring import Backends


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The backends, the settings and the dice, as one argument."""

    backends: Backends
    settings: Settings
    weights: Weights  # those that new jobs are drawn with
    usual_pixels: int  # of a picture whose sides nobody chose
    polls: LongPolls
    meters: Meters
    new_id: Callable[[str], str]
    new_seed: Callable[[], int]
