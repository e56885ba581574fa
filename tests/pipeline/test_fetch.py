"""What a fetch promises, over a link that is slow and wrong in every way it can be."""

import itertools
import os
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.auth.exceptions import RefreshError

from shared.errors import FetchCanceled, WeightsDamaged, WeightsMissing, WeightsUnreachable
from tests.ranged_server import (
    BUCKET,
    BUSY,
    FLIPPED,
    FORBIDDEN,
    MOVED,
    OBJECT,
    REPLACED,
    RESET,
    SHORT,
    STALL,
    UNPINNED,
    Fault,
    RangedServer,
    ranged_server,
)
from tests.tls import trusting, write_certificate
from worker.pipeline.weights.cloud_source import CloudObject, GoogleToken
from worker.pipeline.weights.crc import Octets, extend, to_text
from worker.pipeline.weights.fetch import Fetched, fetch
from worker.pipeline.weights.ranges import Span
from worker.pipeline.weights.sources import Connection, Interrupted, LocalFile, Source
from worker.pipeline.weights.turns import Patience

SIZE = 3_000_017
RANGE = 100_000
QUICK = Patience(first_pause=0.001, longest_pause=0.01, slow_at_least=0.05, known=1)
NEVER_SLOW = Patience(first_pause=0.001, longest_pause=0.01, slow_at_least=1000)

pytestmark = [pytest.mark.timeout(60), pytest.mark.slow]


@pytest.fixture(scope="module")
def octets() -> Octets:
    made = np.random.default_rng(7).integers(0, 256, SIZE, dtype=np.uint8)
    made.flags.writeable = False
    return made


@pytest.fixture
def target() -> Octets:
    return np.zeros(SIZE, np.uint8)


def served(server: RangedServer, **how: Any) -> CloudObject:
    return CloudObject(BUCKET, OBJECT, token=lambda: "sesame", endpoint=server.url, **how)


def fetched(server: RangedServer, target: Octets, **how: Any) -> Fetched:
    """Fetch with many small ranges, and little patience unless more is asked for."""
    source = how.pop("source", None) or served(server)
    own: dict[str, Any] = {
        "crc32c": server.crc32c,
        "connections": 4,
        "range_bytes": RANGE,
        "patience": QUICK,
    }
    return fetch(source, target, **(own | how))


@pytest.fixture(params=["bucket", "file"])
def source(request: pytest.FixtureRequest, octets: Octets, tmp_path: Path) -> Iterator[Source]:
    if request.param == "file":
        path = tmp_path / "model.gguf"
        octets.tofile(path)
        local = LocalFile(path)
        yield local
        local.close()
        return
    with ranged_server(octets) as server:
        yield served(server)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_certificate(tmp_path_factory.mktemp("tls") / "certificate.pem")


def crc_of(octets: Octets) -> str:
    return to_text(extend(0, octets))


@pytest.mark.parametrize("connections", [1, 5])
def test_a_whole_file_comes(source: Source, octets: Octets, connections: int) -> None:
    target = bytearray(SIZE)
    done = fetch(source, target, crc32c=crc_of(octets), connections=connections, range_bytes=RANGE)
    assert target == octets.tobytes()
    assert (done.bytes, done.crc32c, done.connections) == (SIZE, crc_of(octets), connections)
    assert (done.retries, done.hedges) == (0, 0)
    assert done.bytes_per_second > 0


def test_spans_go_to_their_places_and_the_rest_is_checked_too(
    source: Source, octets: Octets
) -> None:
    wanted = [Span(2_000_000, 2_700_001, 64), Span(32, 500_000, 800_000), Span(7, 7, 0)]
    target = np.zeros(1_400_000, np.uint8)
    done = fetch(source, target.data, wanted, crc32c=crc_of(octets), range_bytes=RANGE)
    expected = np.zeros_like(target)
    expected[64:700_065] = octets[2_000_000:2_700_001]
    expected[800_000:1_299_968] = octets[32:500_000]
    assert np.array_equal(target, expected)
    assert done.bytes == SIZE


def test_without_a_checksum_only_what_is_wanted_is_read(octets: Octets, target: Octets) -> None:
    with ranged_server(octets) as server:
        done = fetched(server, target, spans=[Span(5, 150_000, 0)], crc32c=None)
        assert sorted(server.asked) == [(5, 100_005), (100_005, 150_000)]
    assert (done.bytes, done.crc32c) == (149_995, None)
    assert np.array_equal(target[:149_995], octets[5:150_000])


def test_an_empty_file_is_whole() -> None:
    with ranged_server(np.empty(0, np.uint8)) as server:
        assert fetched(server, np.empty(0, np.uint8)).bytes == 0
        assert server.asked == []


def test_what_is_wanted_first_is_asked_for_first(octets: Octets, target: Octets) -> None:
    wanted = [Span(2_000_000, SIZE, 0), Span(0, 2_000_000, SIZE - 2_000_000)]
    with ranged_server(octets) as server:
        fetched(server, target, spans=wanted, connections=1)
        assert server.asked == [
            *((at, min(at + RANGE, SIZE)) for at in range(2_000_000, SIZE, RANGE)),
            *((at, at + RANGE) for at in range(0, 2_000_000, RANGE)),
        ]


def test_ready_spans_can_be_used_while_others_still_come(octets: Octets, target: Octets) -> None:
    step = 250_000
    wanted = [Span(at, min(at + step, SIZE), at) for at in range(0, SIZE, step)]
    told: list[int] = []

    def check(ready: int) -> None:
        for span in wanted[:ready]:
            assert np.array_equal(target[span.start : span.stop], octets[span.start : span.stop])
        told.append(ready)

    # the first range comes last but one: nothing before it may be told
    faults = (Fault(BUSY, at=0, times=3), Fault(RESET, at=1_300_000))
    with ranged_server(octets, faults=faults, per_connection=5e6) as server:
        fetched(server, target, spans=wanted, on_ready=check, patience=NEVER_SLOW)
    assert told == sorted(told)
    assert told[-1] == len(wanted)
    assert len(set(told)) > 2


def test_progress_counts_every_byte_once(octets: Octets, target: Octets) -> None:
    told: list[int] = []
    faults = (Fault(RESET, at=1_250_000), Fault(STALL, at=2_050_000), Fault(SHORT, at=55_555))
    with ranged_server(octets, faults=faults) as server:
        fetched(server, target, on_bytes=told.append)
    assert told == sorted(told)
    assert told[-1] == SIZE


@pytest.mark.parametrize("kind", [BUSY, RESET, SHORT, MOVED])
@pytest.mark.parametrize("at", [0, 1_234_567, SIZE - 1])
def test_a_request_that_fails_is_made_again(
    octets: Octets, target: Octets, kind: str, at: int
) -> None:
    with ranged_server(octets, faults=(Fault(kind, at=at, times=2),)) as server:
        done = fetched(server, target, patience=NEVER_SLOW)
        assert server.happened == [kind, kind]
    assert np.array_equal(target, octets)
    assert (done.retries, done.hedges) == (2, 0)


def test_what_has_come_of_a_range_is_not_asked_for_again(octets: Octets, target: Octets) -> None:
    with ranged_server(octets, faults=(Fault(SHORT, at=250_000),)) as server:
        fetched(server, target)
        assert (250_000, 300_000) in server.asked


def test_a_range_is_not_asked_for_for_ever(octets: Octets, target: Octets) -> None:
    with ranged_server(octets, faults=(Fault(BUSY, at=1_010_000, times=1000),)) as server:
        with pytest.raises(WeightsUnreachable, match=r"1000000 to 1100000 .* try again") as caught:
            fetched(server, target, patience=NEVER_SLOW)
        assert server.asked.count((1_000_000, 1_100_000)) == NEVER_SLOW.tries
    assert OBJECT in str(caught.value)


def test_a_silent_request_is_given_up(octets: Octets, target: Octets) -> None:
    with ranged_server(octets, faults=(Fault(STALL, at=1_010_000),)) as server:
        source = served(server, silence=0.2)
        done = fetched(server, target, source=source, connections=1, patience=NEVER_SLOW)
    assert np.array_equal(target, octets)
    assert (done.retries, done.hedges) == (1, 0)


def test_a_request_that_takes_too_long_is_given_up(octets: Octets, target: Octets) -> None:
    patience = Patience(first_pause=0.001, slow_at_least=1000, longest=0.3)
    with ranged_server(octets, faults=(Fault(STALL, at=1_010_000),)) as server:
        source = served(server, silence=1000)
        done = fetched(server, target, source=source, connections=1, patience=patience)
    assert np.array_equal(target, octets)
    assert done.retries == 1


@pytest.mark.parametrize("at", [1_000_000, 1_010_000, SIZE - 1])
def test_a_slow_range_is_overtaken(octets: Octets, target: Octets, at: int) -> None:
    with ranged_server(octets, faults=(Fault(STALL, at=at),)) as server:
        done = fetched(server, target, source=served(server, silence=1000))
        assert server.happened == [STALL]
    assert np.array_equal(target, octets)
    assert (done.retries, done.hedges) == (0, 1)


def test_a_slow_range_wins_where_the_request_beside_it_fails(
    octets: Octets, target: Octets
) -> None:
    # the first is given up after a while, the hedges stall as well until they are
    faults = (Fault(STALL, at=1_010_000, times=3),)
    with ranged_server(octets, faults=faults) as server:
        done = fetched(server, target, source=served(server, silence=0.3))
    assert np.array_equal(target, octets)
    assert done.hedges >= 1


@pytest.mark.parametrize("kind", [BUSY, SHORT, STALL, RESET])
def test_faults_pass_over_tls_too(
    octets: Octets, target: Octets, certificate: Path, kind: str
) -> None:
    faults = (Fault(kind, at=1_010_000),)
    with ranged_server(octets, certificate=certificate, faults=faults) as server:
        source = served(server, silence=1000, trust=trusting(certificate))
        done = fetched(server, target, source=source)
        assert server.happened == [kind]
    assert np.array_equal(target, octets)
    assert done.retries + done.hedges >= 1


def test_a_server_of_another_certificate_is_not_asked(octets: Octets, certificate: Path) -> None:
    with ranged_server(octets, certificate=certificate) as server:
        with pytest.raises(WeightsUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
            served(server)
        assert server.tokens == set()


class Late:
    """A source whose first reader of the second range writes rubbish when it is broken off."""

    name, crc32c = "late", None

    def __init__(self, octets: Octets) -> None:
        self.octets, self.size = octets, int(octets.size)
        self.first = threading.Lock()

    def connect(self) -> Connection:
        return LateReader(self)

    def check_unchanged(self) -> None:
        pass

    def close(self) -> None:
        pass


class LateReader:
    def __init__(self, source: Late) -> None:
        self._source, self._broken = source, threading.Event()
        self._next, self._late = 0, False

    def begin(self, start: int, stop: int) -> None:
        self._broken.clear()
        self._next = start
        self._late = start == RANGE and self._source.first.acquire(blocking=False)

    def read_into(self, place: memoryview) -> int:
        if self._late:
            self._broken.wait()
            time.sleep(0.3)  # long enough for anybody to copy who should have waited
            place[:] = b"?" * len(place)
            return len(place)
        place[:] = self._source.octets[self._next : self._next + len(place)].data
        self._next += len(place)
        return len(place)

    def break_off(self) -> None:
        self._broken.set()

    def close(self) -> None:
        pass


def test_two_requests_never_write_to_one_place(octets: Octets, target: Octets) -> None:
    source = Late(octets)
    done = fetch(
        source, target, crc32c=crc_of(octets), connections=3, range_bytes=RANGE, patience=QUICK
    )
    assert done.hedges == 1
    assert np.array_equal(target, octets)


class Outlasting(Late):
    """A source whose second range comes slowly, until a request beside it has failed halfway."""

    def __init__(self, octets: Octets) -> None:
        super().__init__(octets)
        self.turns, self.failed = itertools.count(1), threading.Event()

    def connect(self) -> Connection:
        return OutlastingReader(self)


class OutlastingReader(LateReader):
    def __init__(self, source: Outlasting) -> None:
        super().__init__(source)
        self._outlasting, self._turn, self._given = source, 0, 0

    def begin(self, start: int, stop: int) -> None:
        super().begin(start, stop)
        self._late, self._given = False, 0
        self._turn = next(self._outlasting.turns) if RANGE <= start < 2 * RANGE else 0

    def read_into(self, place: memoryview) -> int:
        if self._turn == 1 and self._given:
            self._outlasting.failed.wait(20)
        if self._turn == 2 and self._given:
            self._outlasting.failed.set()
            raise Interrupted("failed halfway")
        count = len(place) if self._turn not in (1, 2) else min(len(place), 10_000 * self._turn)
        self._given += 1
        return super().read_into(place[:count])


def test_a_request_that_failed_beside_another_leaves_no_trace(
    octets: Octets, target: Octets
) -> None:
    told: list[int] = []
    done = fetch(Outlasting(octets), target, crc32c=crc_of(octets), connections=3,
                 range_bytes=RANGE, patience=QUICK, on_bytes=told.append)  # fmt: skip
    assert done.hedges >= 1
    assert np.array_equal(target, octets)
    assert (told[-1], done.bytes) == (SIZE, SIZE)


def test_after_the_end_nobody_writes(octets: Octets, target: Octets) -> None:
    def stop(received: int) -> None:
        if received >= 2 * RANGE:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(Late(octets), target, crc32c=None, connections=3, range_bytes=RANGE,
              patience=NEVER_SLOW, on_bytes=stop)  # fmt: skip
    left = target.copy()
    time.sleep(0.4)
    assert np.array_equal(target, left)


@pytest.mark.parametrize("at", [0, 1_234_567, SIZE - 1])
def test_a_wrong_bit_is_noticed(octets: Octets, target: Octets, at: int) -> None:
    with (
        ranged_server(octets, faults=(Fault(FLIPPED, at=at),)) as server,
        pytest.raises(WeightsDamaged, match=r"model\.gguf: what came .* start again"),
    ):
        fetched(server, target)


def test_a_wrong_bit_is_noticed_in_what_is_between_the_spans(
    octets: Octets, target: Octets
) -> None:
    with (
        ranged_server(octets, faults=(Fault(FLIPPED, at=20),)) as server,
        pytest.raises(WeightsDamaged, match="what came"),
    ):
        fetched(server, target, spans=[Span(32, 1000, 0)])


def test_a_wrong_bit_is_noticed_in_a_request_that_overtook(octets: Octets, target: Octets) -> None:
    faults = (Fault(STALL, at=1_010_000), Fault(FLIPPED, at=1_020_000))
    with (
        ranged_server(octets, faults=faults) as server,
        pytest.raises(WeightsDamaged, match="what came"),
    ):
        fetched(server, target, source=served(server, silence=1000))


def test_another_file_is_told_before_it_is_read(octets: Octets, target: Octets) -> None:
    with ranged_server(octets) as server:
        with pytest.raises(WeightsDamaged, match="upload the file again"):
            fetched(server, target, crc32c=crc_of(octets[1:]))
        assert server.asked == []


def test_a_checksum_that_is_none_is_told(octets: Octets, target: Octets) -> None:
    with ranged_server(octets) as server:
        with pytest.raises(WeightsDamaged, match="prepare the weights again"):
            fetched(server, target, crc32c="checksum")
        assert server.asked == []


@pytest.mark.parametrize("kind", [REPLACED, UNPINNED])
def test_an_object_that_is_replaced_meanwhile_is_refused(
    octets: Octets, target: Octets, kind: str
) -> None:
    with (
        ranged_server(octets, faults=(Fault(kind, at=1_234_567),)) as server,
        pytest.raises(WeightsDamaged, match=r"model\.gguf: .* replaced .* start again"),
    ):
        fetched(server, target, crc32c=None)


def test_an_object_that_is_not_there_is_missing(octets: Octets) -> None:
    with (
        ranged_server(octets) as server,
        pytest.raises(WeightsMissing, match=f"gs://{BUCKET}/other.gguf: not there"),
    ):
        CloudObject(BUCKET, "other.gguf", token=lambda: None, endpoint=server.url)


def test_a_server_that_is_not_there_is_unreachable(octets: Octets) -> None:
    with ranged_server(octets) as server:
        url = server.url
    with pytest.raises(WeightsUnreachable, match="can be reached"):
        CloudObject(BUCKET, OBJECT, token=lambda: None, endpoint=url)


def test_who_may_not_read_is_told_what_is_missing(octets: Octets, target: Octets) -> None:
    with (
        ranged_server(octets, faults=(Fault(FORBIDDEN, at=1_234_567),)) as server,
        pytest.raises(WeightsMissing, match=r"roles/storage\.objectViewer"),
    ):
        fetched(server, target)


def test_every_request_says_who_asks(octets: Octets, target: Octets) -> None:
    with ranged_server(octets) as server:
        fetched(server, target)
        assert server.tokens == {"Bearer sesame"}


class Identity:
    """Credentials whose tokens are valid once they were renewed."""

    def __init__(self) -> None:
        self.valid, self.token, self.renewed = False, "", 0

    def refresh(self, _: object) -> None:
        time.sleep(0.05)  # so that others come meanwhile
        self.renewed += 1
        self.token, self.valid = f"token {self.renewed}", True


def test_a_token_is_renewed_once_for_all_who_wait() -> None:
    identity = Identity()
    token = GoogleToken(identity)
    with ThreadPoolExecutor(8) as pool:
        tokens = set(pool.map(lambda _: token(), range(8)))
    assert (tokens, identity.renewed) == ({"token 1"}, 1)
    identity.valid = False
    assert token() == "token 2"


def test_without_credentials_the_weights_are_unreachable() -> None:
    class Nobody(Identity):
        def refresh(self, _: object) -> None:
            raise RefreshError("nobody is signed in")  # type: ignore[no-untyped-call]

    with pytest.raises(WeightsUnreachable, match="nobody is signed in"):
        GoogleToken(Nobody())()


def change(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"x")
    os.utime(path, ns=(1, 1))


def shrink(path: Path) -> None:
    os.truncate(path, 5)


@pytest.mark.parametrize("spoil", [change, shrink])
def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, octets: Octets, target: Octets, spoil: Callable[[Path], None]
) -> None:
    path = tmp_path / "model.gguf"
    octets.tofile(path)
    source = LocalFile(path)
    spoil(path)
    with pytest.raises(WeightsDamaged, match=r"model\.gguf: .* while it was read"):
        fetch(source, target, crc32c=None)
    source.close()


def test_a_file_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"docs/weights\.md"):
        LocalFile(tmp_path / "model.gguf")


@pytest.mark.parametrize("connections", [1, 4])
def test_a_wish_to_cancel_ends_requests_that_wait(
    octets: Octets, target: Octets, connections: int
) -> None:
    # every connection waits for ever; only breaking it off ends that
    faults = tuple(Fault(STALL, at=at) for at in range(1_050_000, SIZE, RANGE))
    wished = threading.Event()

    def wish(received: int) -> None:
        if received >= 1_000_000:
            wished.set()

    with ranged_server(octets, faults=faults) as server, pytest.raises(FetchCanceled):
        fetched(server, target, source=served(server, silence=1000), patience=NEVER_SLOW,
                connections=connections, on_bytes=wish, canceled=wished.is_set)  # fmt: skip
    left = {thread for thread in threading.enumerate() if thread.name.startswith("fetch")}
    for thread in left:
        thread.join(timeout=10)
    assert not any(thread.is_alive() for thread in left)


def test_a_callers_error_ends_the_fetch(octets: Octets, target: Octets) -> None:
    def fail(_: int) -> None:
        raise ZeroDivisionError

    with ranged_server(octets) as server, pytest.raises(ZeroDivisionError):
        fetched(server, target, on_ready=fail)


def test_an_unknown_error_of_a_connection_comes_through(octets: Octets, target: Octets) -> None:
    class Broken(Late):
        def connect(self) -> Connection:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fetch(Broken(octets), target, crc32c=None)


def test_a_server_that_asks_for_a_pause_is_given_one(octets: Octets, target: Octets) -> None:
    class Pausing(Late):
        def connect(self) -> Connection:
            return PausingReader(self)

    began: list[float] = []

    class PausingReader(LateReader):
        def begin(self, start: int, stop: int) -> None:
            began.append(time.monotonic())
            if len(began) == 1:
                raise Interrupted("busy", pause=0.5)
            super().begin(start, stop)
            self._late = False

    fetch(Pausing(octets), target, crc32c=crc_of(octets), connections=1, range_bytes=SIZE,
          patience=NEVER_SLOW)  # fmt: skip
    assert began[1] - began[0] >= 0.5


def test_memory_beside_the_buffer_is_bounded() -> None:
    size, range_bytes = 64 * 2**20, 4 * 2**20
    octets = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)
    target = np.zeros(size, np.uint8)
    patience = Patience(slow_at_least=0.2, known=1, hedges=2)
    faults = tuple(Fault(STALL, at=at) for at in range(size // 2, size, size // 16))
    with ranged_server(octets, faults=faults) as server:
        source = served(server, silence=1000)
        tracemalloc.start()
        try:
            done = fetched(server, target, source=source, connections=12,
                           range_bytes=range_bytes, patience=patience)  # fmt: skip
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert done.hedges >= 2
    assert np.array_equal(target, octets)
    # two hedges hold a range each; a range per connection would be 48 MiB
    assert peak < 2 * range_bytes + 4 * 2**20


@pytest.mark.parametrize(
    "spans",
    [[Span(0, 10, 0), Span(10, 20, 9)], [Span(0, 10, SIZE - 9)], [Span(0, 10, -1)]],
    ids=["overlap", "behind the end", "before the start"],
)
def test_places_that_the_buffer_does_not_have_are_refused(
    octets: Octets, target: Octets, spans: list[Span]
) -> None:
    with ranged_server(octets) as server, pytest.raises(ValueError, match="no place of their own"):
        fetched(server, target, spans=spans)
