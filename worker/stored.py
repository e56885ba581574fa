"""What a drawing reads from the artifact store, and the images that it puts there."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from shared.artifact_names import image_name
from shared.checkpoints import why_refused
from shared.errors import (
    ArtifactDamaged,
    ArtifactNotFound,
    ArtifactStoreUnavailable,
    CheckpointRefused,
    ReferenceDamaged,
)
from shared.jobs import Job
from shared.ports import ArtifactStore
from shared.scenes import Reference
from shared.vocabulary import Checkpoint, DrawnImage
from worker.images import ImageRecipe, decode_reference, encode_image

if TYPE_CHECKING:
    from PIL.Image import Image

Result = TypeVar("Result")

STORE_RETRIES = (0.2, 1.0, 3.0)  # seconds between tries


def read_reference(reference: Reference, artifacts: ArtifactStore) -> "Image":
    """Read and decode a reference; raises ReferenceDamaged or InvalidReference."""
    try:
        content = _patiently(lambda: artifacts.get(reference.artifact, reference.generation))
    except ArtifactNotFound:
        raise ReferenceDamaged(f"{reference.asset} was deleted; upload it again") from None
    except ArtifactDamaged:
        damaged = f"{reference.asset}: its stored bytes are damaged; upload it again"
        raise ReferenceDamaged(damaged) from None
    return decode_reference(content)


def read_latents(job: Job, checkpoint: Checkpoint, artifacts: ArtifactStore) -> bytes:
    """Read what a drawing goes on from; raises CheckpointRefused, never to be tried again.

    Raises ArtifactStoreUnavailable if another attempt may be able to read it.
    """
    refused = why_refused(
        checkpoint, present=None, recipe=job.recipe, attempt=job.attempt, steps=job.scene.all_steps
    )
    if refused:
        raise CheckpointRefused(refused)
    try:
        return _patiently(lambda: artifacts.get(checkpoint.artifact, checkpoint.generation))
    except ArtifactNotFound:
        raise CheckpointRefused("its latents are gone") from None
    except ArtifactDamaged:
        raise CheckpointRefused("its latents are damaged") from None


def encode_drawn(job: Job, index: int, image: "Image", *, illo_version: str) -> bytes:
    """Encode an image of a job with its recipe inside."""
    scene = job.scene
    recipe = ImageRecipe(
        scene=scene, seed=scene.seeds[index], recipe=job.recipe, illo_version=illo_version
    )
    return encode_image(image, format=scene.format, recipe=recipe)


def store_image(
    job: Job, index: int, content: bytes, *, size: tuple[int, int], artifacts: ArtifactStore
) -> DrawnImage:
    """Store an encoded image under the name of the job's present attempt."""
    scene = job.scene
    name = image_name(job.id, job.attempt, index, scene.format)
    stored = _patiently(
        lambda: artifacts.put(name, content, content_type=scene.format.content_type)
    )
    return DrawnImage(
        artifact=stored.name,
        generation=stored.generation,
        sha256=stored.sha256,
        bytes=stored.bytes,
        width=size[0],
        height=size[1],
        seed=scene.seeds[index],
    )


def _patiently(ask: Callable[[], Result]) -> Result:
    for pause in STORE_RETRIES:
        try:
            return ask()
        except ArtifactStoreUnavailable:
            time.sleep(pause)
    return ask()
