"""How every program of illo begins: with settings, or with every mistake in them and status 2."""

import sys
from collections.abc import Callable

from shared.errors import BadSettings
from shared.logs import start_logging
from shared.settings import Settings, process_environment

WRONG_USE = 2


def begin(require: Callable[[Settings], None] = lambda settings: None) -> Settings:
    """Read the settings, hold them against `require`, start the log; exits if they are wrong."""
    try:
        settings = Settings.read(process_environment())
        require(settings)
    except BadSettings as error:
        print(error, file=sys.stderr)  # noqa: T201 - logging needs settings
        sys.exit(WRONG_USE)
    start_logging(settings.log_level)
    return settings
