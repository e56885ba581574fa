"""How every program of illo begins: with settings, or with every mistake in them and status 2."""

import sys
from collections.abc import Callable, Mapping

from shared.errors import BadSettings
from shared.logs import start_logging
from shared.settings import Settings, process_environment

WRONG_USE = 2


def begin(require: Callable[[Settings], None] = lambda settings: None) -> Settings:
    """Read the settings, hold them against `require`, start the log; exits if they are wrong."""
    environment = process_environment()
    try:
        settings = Settings.read(environment)
        require(settings)
    except BadSettings as error:
        faults = [*str(error).splitlines(), *_also_missing(environment, str(error), require)]
        print("\n".join(faults), file=sys.stderr)  # noqa: T201 - logging needs settings
        sys.exit(WRONG_USE)
    start_logging(settings.log_level)
    return settings


def _also_missing(
    environment: Mapping[str, str], told: str, require: Callable[[Settings], None]
) -> list[str]:
    """Say what else is wrong when the settings that were told of are left out."""
    wrong = {line.partition(":")[0] for line in told.splitlines()}
    sound = {name: value for name, value in environment.items() if name not in wrong}
    try:
        require(Settings.read(sound))
    except BadSettings as error:
        lines = str(error).splitlines()
        return [line for line in lines if not wrong & set(line.partition(":")[0].split(", "))]
    return []
