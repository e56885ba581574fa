"""A load of requests from several threads, and what each of them waited."""

import threading
import time
from dataclasses import dataclass
from statistics import quantiles

import urllib3

JOB = {"prompt": "Mia hides under the bed, thunder outside", "width": 64, "height": 64, "steps": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What came of a load: answers a second, and the seconds each answer took."""

    per_second: float
    seconds: tuple[float, ...]

    def percentile(self, percent: int) -> float:
        """Milliseconds that so many of a hundred answers stayed below."""
        return quantiles(self.seconds, n=100)[percent - 1] * 1000


def post_jobs(url: str, *, threads: int, seconds: float) -> Load:
    """POST jobs as fast as they are accepted; every answer must be a 202."""
    return _load("POST", f"{url}/v1/jobs", {"json": JOB}, 202, threads=threads, seconds=seconds)


def get(url: str, *, threads: int, seconds: float) -> Load:
    """GET one address again and again; every answer must be a 200."""
    return _load("GET", url, {}, 200, threads=threads, seconds=seconds)


def _load(
    method: str, url: str, given: dict[str, object], expected: int, *, threads: int, seconds: float
) -> Load:
    pool = urllib3.PoolManager(maxsize=threads)
    waits: list[list[float]] = [[] for _ in range(threads)]
    start = threading.Barrier(threads + 1)

    def work(mine: list[float]) -> None:
        start.wait()
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            answer = pool.request(method, url, retries=False, **given)  # type: ignore[arg-type]
            assert answer.status == expected, answer.data
            mine.append(time.perf_counter() - began)

    workers = [threading.Thread(target=work, args=(mine,)) for mine in waits]
    for worker in workers:
        worker.start()
    start.wait()
    began = time.perf_counter()
    for worker in workers:
        worker.join()
    took = time.perf_counter() - began
    every = tuple(wait for mine in waits for wait in mine)
    return Load(per_second=len(every) / took, seconds=every)
