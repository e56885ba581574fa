"""Where an artifact's files lie."""

import re
from dataclasses import dataclass
from pathlib import Path

from shared.artifact_names import parts_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactPaths:
    """The folder of an artifact's files and the two halves of its own name."""

    folder: Path
    stem: str
    suffix: str

    @property
    def record(self) -> Path:
        """The file that says which generation there is, and what it must contain."""
        return self.folder / f"{self.stem}{self.suffix}.meta"

    def payload(self, generation: int) -> Path:
        """The file that holds a generation's bytes."""
        return self.folder / f"{self.stem}.g{generation}{self.suffix}"

    def temporary(self, generation: int) -> Path:
        """The file that becomes the record."""
        return self.folder / f".{self.stem}.g{generation}{self.suffix}.meta"

    def every_file(self) -> list[Path]:
        """List the artifact's files, those of killed writers too; the record comes first."""
        own = re.compile(
            rf"\.{re.escape(self.stem)}\.g\d+{re.escape(self.suffix)}\.meta"
            rf"|{re.escape(self.stem)}\.g\d+{re.escape(self.suffix)}"
        )
        others = [path for path in self.folder.iterdir() if own.fullmatch(path.name)]
        return [self.record, *others]


def artifact_paths(root: Path, name: str) -> ArtifactPaths:
    """Find an artifact's place; raises ArtifactError if the name could lead anywhere else."""
    parts = parts_of(name)
    last = Path(parts[-1])
    return ArtifactPaths(folder=root.joinpath(*parts[:-1]), stem=last.stem, suffix=last.suffix)
