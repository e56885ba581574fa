"""Jobs accepted a second, durably, against a bare Flask route and bare SQLite commits."""

import sqlite3
import time
from pathlib import Path
from statistics import median

from benchmarks.load import post_jobs
from benchmarks.report import Figure
from benchmarks.servers import bare_flask, the_api
from shared.settings import Settings

ROUNDS, SECONDS, THREADS = 3, 4.0, 8
DOCUMENT = "x" * 1500  # bytes; about what a job's document takes


def measure(folder: Path) -> list[Figure]:
    """Take turns between the three, so that a noisy machine disturbs all alike."""
    settings = Settings(data=folder / "data")
    illo, flask, commits = [], [], []
    with bare_flask(settings) as bare, the_api(settings) as api:
        for url in (bare, api):
            post_jobs(url, threads=THREADS, seconds=0.5)
        for _ in range(ROUNDS):
            flask.append(post_jobs(bare, threads=THREADS, seconds=SECONDS).per_second)
            illo.append(post_jobs(api, threads=THREADS, seconds=SECONDS).per_second)
            commits.append(_commits_per_second(folder / "bare.sqlite"))
    ours = median(illo)
    return [
        Figure(what="jobs accepted by illo, each durable", value=ours, unit="/s"),
        Figure(
            what="the same requests, bare Flask route, nothing stored", value=median(flask),
            unit="/s", ratio=ours / median(flask), against="illo ÷ bare route",
        ),
        Figure(
            what="bare SQLite commits (WAL, synchronous=FULL)", value=median(commits), unit="/s",
            ratio=ours / median(commits), against="illo ÷ bare commits, one thread",
        ),
    ]  # fmt: skip


def _commits_per_second(file: Path) -> float:
    database = sqlite3.connect(file, isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE IF NOT EXISTS jobs (id INTEGER PRIMARY KEY, document TEXT)")
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS / 2:
        database.execute("BEGIN IMMEDIATE")
        database.execute("INSERT INTO jobs (document) VALUES (?)", (DOCUMENT,))
        database.execute("COMMIT")
        count += 1
    database.close()
    return count / (time.perf_counter() - began)
