"""What `illo doctor` looks at: settings, weights, backends and device."""

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from deploy.checkup_backends import backends_found
from deploy.findings import Finding, State, note, well, wrong
from shared.errors import BadSettings, IlloError
from shared.manifest import read_manifest
from shared.settings import PREFIX, WORLDS_OWN, Settings, process_environment

if TYPE_CHECKING:
    from worker.pipeline.device import Device

GIB = 2**30
WORKER = "install illo with its worker: pip install 'illo[worker]'"


def examine(
    *, on_part: Callable[[str, float], None] = lambda part, fraction: None
) -> Iterator[Finding]:
    """Look at everything; what cannot be judged by settings that are wrong is passed over.

    `on_part` hears what is looked at, and the fraction that was looked at before.
    """
    on_part("settings", 0.0)
    settings, sound = None, False
    try:
        settings = Settings.read(process_environment())
    except BadSettings as faults:
        yield from wrong("settings", faults)
    else:
        found = list(settings_found(settings))
        sound = all(each.state is not State.WRONG for each in found)
        yield from found
    on_part("weights", 0.1)
    yield from weights_found(settings) if settings else _passed_over("weights")
    on_part("backends", 0.5)
    # half a deployment's settings could lead to the real services instead of emulators
    yield from backends_found(settings) if settings and sound else _passed_over("backends")
    on_part("device", 0.8)
    yield from device_found()
    on_part("everything", 1.0)


# --- settings -------------------------------------------------------------------------------------


def settings_found(settings: Settings) -> Iterator[Finding]:
    """Say which settings are made, by their names alone, and which programs lack some.

    On Google each program has its own: only where none could run is something wrong.
    """
    from api.key_file import require_keys
    from shared.requirements import require_api, require_worker

    given = process_environment()
    made = sorted(name for name in given if name.startswith(PREFIX) or name in WORLDS_OWN)
    yield well("settings", f"{len(made)} are made: {', '.join(made)}" if made else "all by default")
    lacking = {
        program: _faults(partial(require, settings))
        for program, require in (("the API", require_api), ("a worker", require_worker))
    }
    state = State.WRONG if all(lacking.values()) else State.NOTE
    for fault in dict.fromkeys(chain.from_iterable(lacking.values())):
        who = " and ".join(program for program, faults in lacking.items() if fault in faults)
        yield Finding(what="settings", state=state, said=f"{who} could not run: {fault}")
    if settings.keys is not None:
        for fault in _faults(partial(require_keys, settings)):
            yield Finding(what="keys", state=State.WRONG, said=fault)


# --- weights --------------------------------------------------------------------------------------


def weights_found(settings: Settings) -> Iterator[Finding]:
    """Hold the weights against their manifest by names, sizes and headers; no digest is made."""
    if settings.weights_bucket is not None:
        yield from _bucket_found(settings)
        return
    directory = settings.weights_directory
    from worker.pipeline.weights.inspect import inspect_weights

    try:
        read_manifest(directory)  # inspecting is content with a single file, a worker is not
        found = inspect_weights(directory)
    except IlloError as error:
        yield from wrong("weights", error)
        return
    if found.problem:
        yield Finding(what="weights", state=State.WRONG, said=found.problem)
        return
    yield well("weights", f"{found.label}, {found.bytes:,} bytes in {directory}")
    for file in found.gguf:
        counts = ", ".join(f"{count} {kind}" for kind, count in file.quantizations.items())
        yield well("weights", f"{file.path}: {file.verdict}; {counts}")


def _bucket_found(settings: Settings) -> Iterator[Finding]:
    folder = settings.weights_bucket
    assert folder is not None
    try:
        from worker.pipeline.weights.verify_bucket import verify_bucket
    except ModuleNotFoundError as missing:
        yield from wrong(
            "weights", f"{folder} needs {missing.name}; install it: pip install 'illo[gcp]'"
        )
        return
    try:
        found = verify_bucket(folder, emulator=settings.storage_emulator)
    except IlloError as error:
        yield from wrong("weights", error)
        return
    for problem in found.problems:
        yield from wrong("weights", problem)
    if not found.problems:
        yield well("weights", f"{found.label}, {found.bytes:,} bytes in {folder}")
    for said in found.notes[:1]:
        yield note("weights", f"{said} (one of {len(found.notes)} files)")


# --- device ---------------------------------------------------------------------------------------


def device_found() -> Iterator[Finding]:
    """Ask torch what it computes on, where torch is installed."""
    if importlib.util.find_spec("torch") is None:
        yield note("device", f"torch is not installed, so no worker runs here; {WORKER}")
        return
    from worker.pipeline.device import look_at_device

    yield judged(look_at_device())


def judged(device: "Device") -> Finding:
    """Say what a device is good for."""
    build = f"for CUDA {device.built_for}" if device.built_for else "for the CPU alone"
    memory = f"{device.memory / GIB:.1f} GiB"
    driver = f", driver {device.card.driver}" if device.card else ""
    if device.kind == "cuda":
        return well(
            "device",
            f"{device.name}, {device.free / GIB:.1f} of {memory} free{driver}; torch "
            f"{device.torch} {build}",
        )
    if device.card is not None:
        return Finding(
            what="device",
            state=State.WRONG,
            said=f"torch {device.torch} {build} cannot use the {device.card.name}{driver}; "
            "install a build of torch for a CUDA that this driver has, or a newer driver",
        )
    return well(
        "device",
        f"{device.name}, {device.cores} cores, {memory}, no GPU; torch {device.torch} {build}",
    )


def _faults(require: Callable[[], object]) -> list[str]:
    try:
        require()
    except BadSettings as faults:
        return str(faults).splitlines()
    return []


def _passed_over(what: str) -> Iterator[Finding]:
    yield note(what, "not looked at: correct the settings first")
