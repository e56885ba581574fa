"""Look into built images, and run what is in them: on a root that nobody can write to."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

FOLDER = "ILLO_IMAGES"  # where `deploy/images/build` put them
NEEDED = ("chroot", "mount", "setpriv", "unshare")
USER = 10001

# In namespaces of its own: what is mounted here is seen by nobody else and goes with the program.
_ENTER = """
set -eu
mount --bind "$ROOT" "$ROOT"
mount -o remount,bind,ro "$ROOT"
mount --rbind /dev "$ROOT/dev"
mount -t proc proc "$ROOT/proc"
mount -t tmpfs -o mode=1777 tmpfs "$ROOT/tmp"
mount --bind "$DATA" "$ROOT/data"
exec setpriv --no-new-privs chroot --userspec="$WHO" --groups= "$ROOT" /usr/bin/env -i -C "$@"
"""


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image that was built: its files, and its configuration as an engine has it."""

    root: Path
    config: Mapping[str, Any]

    @property
    def environment(self) -> dict[str, str]:
        """What its programs find in their environment."""
        return dict(entry.split("=", 1) for entry in self.config["Env"])

    def files(self, *folders: str) -> Iterator[Path]:
        """List the files under some of its folders; all of them if none is named."""
        for folder in folders or (".",):
            for place, _, names in os.walk(self.root / folder):
                yield from (Path(place, name) for name in names)

    def megabytes(self, *folders: str) -> float:
        """Say how much the files under some folders hold."""
        return sum(file.lstat().st_size for file in self.files(*folders)) / 1e6

    @contextmanager
    def running(
        self, data: Path, *command: str, **environment: str
    ) -> Iterator["subprocess.Popen[str]"]:
        """Run its program, or another one, as its user beside a folder that is mounted at /data."""
        given = {**self.environment, **environment}
        os.chown(data, USER, USER)
        inside = [*(f"{name}={value}" for name, value in given.items())]
        program = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER, "sh",
             self.config["WorkingDir"], *inside, *(command or self.config["Cmd"])],
            env={"ROOT": str(self.root), "DATA": str(data), "WHO": self.config["User"],
                 "PATH": os.environ["PATH"]},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            yield program
        finally:
            if program.poll() is None:
                os.killpg(program.pid, 9)
            program.communicate()

    def told(self, data: Path, *command: str, **environment: str) -> tuple[int, str]:
        """Run a program to its end; return its status and all that it wrote."""
        with self.running(data, *command, **environment) as program:
            out, complaints = program.communicate(timeout=300)
            return program.returncode, out + complaints


def built(name: str) -> Image:
    """Find an image that was built; skips the test where there is none, or none can be run."""
    folder = os.environ.get(FOLDER)
    if not folder:
        pytest.skip(f"no images: build them with `make images`, and name their folder in {FOLDER}")
    missing = [program for program in NEEDED if not shutil.which(program)]
    if os.geteuid() != 0 or missing:
        pytest.skip(f"the images' roots can be mounted by root alone, with {', '.join(NEEDED)}")
    config = Path(folder, f"{name}.json")
    if not config.exists():
        pytest.fail(f"{FOLDER} has no image of the {name}: {config} is missing")
    return Image(root=Path(folder, name).resolve(), config=json.loads(config.read_text()))
