"""What there is to draw with: the GPU or CPU, its memory, and the torch that computes on it."""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

ANSWERS_WITHIN = 10.0  # seconds; a driver that has just been loaded takes three


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A GPU as its driver tells of it, whether or not torch can use it."""

    name: str
    driver: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What torch would compute on; `built_for` is the CUDA version of this torch, if any."""

    kind: str
    name: str
    memory: int
    free: int
    cores: int
    torch: str
    built_for: str | None
    card: Card | None


def look_at_device() -> Device:
    """Ask torch and the driver; nothing is put on the device but its context."""
    found = _gpu() if torch.cuda.is_available() else _cpu()
    kind, name, free, memory = found
    return Device(
        kind=kind,
        name=name,
        memory=memory,
        free=free,
        cores=os.cpu_count() or 1,
        torch=torch.__version__,
        built_for=torch.version.cuda,
        card=first_card(),
    )


def first_card() -> Card | None:
    """Ask NVIDIA's driver for the first GPU, where its tool is installed."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    asked = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(  # noqa: S603 - found by its name, with words of our own
            asked, capture_output=True, text=True, timeout=ANSWERS_WITHIN, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    name, comma, driver = answer.stdout.partition("\n")[0].rpartition(", ")
    return Card(name=name, driver=driver) if comma else None


def _gpu() -> tuple[str, str, int, int]:
    free, memory = torch.cuda.mem_get_info()
    return "cuda", torch.cuda.get_device_name(), free, memory


def _cpu() -> tuple[str, str, int, int]:
    page = os.sysconf("SC_PAGE_SIZE")
    memory = page * os.sysconf("SC_PHYS_PAGES")
    # macOS does not tell what is free
    free = page * os.sysconf("SC_AVPHYS_PAGES") if "SC_AVPHYS_PAGES" in os.sysconf_names else 0
    return "cpu", _processor(), free, memory


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
