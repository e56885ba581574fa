"""Make the small artist: teach its VAE, draw and encode the stories, teach the rest, write it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from shared.errors import NoSuchDevice
from shared.manifest import Manifest
from worker.pipeline.artist.album import fill_album, is_begun, open_album
from worker.pipeline.artist.curve import curve_of
from worker.pipeline.artist.export import export, refuse_others
from worker.pipeline.artist.flow_training import BATCH, make_tokenizers, taught_reader, train_flow
from worker.pipeline.artist.shapes import Reader, models_digest
from worker.pipeline.artist.sketch import assembled, draw_sheet
from worker.pipeline.artist.vae_training import OnStep, quality, taught_vae, train_vae
from worker.pipeline.artist.workbench import LOSSES, Beginning, Workbench

VAE_SHARE = 0.4  # of the minutes; what drawing and encoding take comes on top
STORIES = 8100  # of five pictures each: a CPU sees few of them often
OnSheet = Callable[[Path], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What came out of a training."""

    manifest: Manifest
    decibels: float  # of the VAE's way there and back


def workbench_of(directory: Path) -> Path:
    """Where the training of a weights directory keeps what it has so far: beside it."""
    return directory.with_name(f"{directory.name}-training")


def train(
    directory: Path,
    *,
    minutes: float,
    seed: int = 0,
    device: str | None = None,
    resume: bool = False,
    stories: int | None = None,
    on_step: OnStep = lambda what, fraction, detail: None,
    on_sheet: OnSheet = lambda path: None,
) -> Made:
    """Train for so many minutes in all, then write the weights directory.

    Ended at any moment, `resume` goes on with what was saved, at most a minute before; with more
    minutes than at first it goes on with what was taught. Raises WrongWeights if something else
    lies there, a training that was not to be resumed or is going on, or none that could be, and
    NoSuchDevice if there is no such device or none that it is taught on.
    """
    refuse_others(directory)
    where = _device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    bench = Workbench(workbench_of(directory))
    beginning = Beginning(seed=seed, stories=stories or STORIES, models=models_digest())
    began = bench.begin(beginning, resume=resume)
    with bench.alone():
        seconds = 60 * minutes
        for_vae = VAE_SHARE * seconds
        if not is_begun(bench):
            train_vae(bench, seed=seed, seconds=for_vae, device=where, on_step=on_step)
        vae = taught_vae(bench, where)
        fill_album(bench, vae, seed=seed, stories=began.stories, device=where, on_step=on_step)
        album = open_album(bench, seed=seed, stories=began.stories)
        tokenizers = make_tokenizers(bench.folder)

        def show(reader: Reader, step: int) -> None:
            path = bench.folder / f"sheet-{step}.png"
            draw_sheet(assembled(vae, reader, tokenizers), path)
            bench.write("losses.svg", curve_of(bench.folder / LOSSES))
            on_sheet(path)

        train_flow(
            bench,
            album,
            seed=seed,
            seconds=seconds - for_vae,
            device=where,
            on_step=on_step,
            on_taught=show,
        )
        reader = taught_reader(bench, where)
        manifest = export(directory, vae, reader)
        show(reader, bench.stand_of("flow").step)
        return Made(manifest=manifest, decibels=quality(vae, where))


def _device(name: str) -> torch.device:
    if name.partition(":")[0] not in BATCH:
        raise NoSuchDevice(f"--device {name}: only {' and '.join(BATCH)} are taught on")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # the latter where torch was built without it
        reason = str(error).splitlines()[0]  # the rest is torch's advice to its developers
        raise NoSuchDevice(f"--device {name}: {reason}") from None
