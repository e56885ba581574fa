"""Copy a weights directory, every byte of it held against its manifest on the way."""

from pathlib import Path

from shared.errors import WeightsDamaged, WeightsMissing, WrongWeights
from shared.manifest import NAME, Manifest, read_manifest, write_manifest
from worker.pipeline.weights.placing import copy_digested, require_room
from worker.pipeline.weights.whole_folder import whole_folder


def copy_weights(source: Path, directory: Path) -> Manifest:
    """Copy the files that the manifest names, or leave the directory as it is if they are there.

    Raises WrongWeights if something else lies there, WeightsMissing, WeightsDamaged or NoRoom; it
    appears whole or not at all.
    """
    manifest = read_manifest(source)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        if (directory / NAME).is_file() and read_manifest(directory) == manifest:
            return manifest
        raise WrongWeights(f"{directory}: holds something else; choose a new directory")
    with whole_folder(directory) as made:
        require_room(made, sum(file.bytes for file in manifest.files))
        for file in manifest.files:
            target = made / file.path
            if not (source / file.path).is_file():
                raise WeightsMissing(f"{source / file.path}: not there")
            target.parent.mkdir(parents=True, exist_ok=True)
            digests = copy_digested(source / file.path, target, lambda count: None)
            if digests.sha256 != file.sha256:
                raise WeightsDamaged(f"{source / file.path}: is not what the manifest says")
        write_manifest(made, manifest)
        (made / NAME).chmod(0o644)
    return manifest
