"""What a status poll waits under load, against a bare route under the same load."""

import threading
from pathlib import Path

import urllib3

from benchmarks.load import JOB, Load, get, post_jobs
from benchmarks.report import Figure
from benchmarks.servers import all_of_illo, bare_flask
from shared.settings import Settings

SECONDS, POLLERS, POSTERS = 6.0, 2, 4


def measure(folder: Path) -> list[Figure]:
    """Poll one job while four clients submit and the worker draws."""
    with bare_flask(Settings(data=folder)) as bare, all_of_illo(folder / "data") as url:
        job = urllib3.request("POST", f"{url}/v1/jobs", json=JOB).json()["id"]
        idle = get(f"{url}/v1/jobs/{job}", threads=1, seconds=1.0)
        loaded = _under_load(url, job)
        peer = _under_load(bare, job)
    return [
        Figure(what="poll, nothing else happening, median", value=idle.percentile(50), unit="ms"),
        *(
            Figure(
                what=f"poll under load, {percent} of 100 are below",
                value=loaded.percentile(percent), unit="ms",
                ratio=loaded.percentile(percent) / peer.percentile(percent),
                against=f"÷ a bare route under that load ({peer.percentile(percent):.2f} ms)",
            )
            for percent in (50, 95, 99)
        ),
    ]  # fmt: skip


def _under_load(url: str, job: str) -> Load:
    posting = threading.Thread(
        target=post_jobs, args=(url,), kwargs={"threads": POSTERS, "seconds": SECONDS}
    )
    posting.start()
    polled = get(f"{url}/v1/jobs/{job}", threads=POLLERS, seconds=SECONDS - 1)
    posting.join()
    return polled
