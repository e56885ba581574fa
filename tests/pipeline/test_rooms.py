"""The ring: slots are taken, handed over, and used again; nothing is lost or written twice."""

import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np
import pytest
import torch

from shared.errors import WeightsDamaged
from shared.manifest import Role
from tests.pipeline.test_fetch import QUICK, served
from tests.ranged_server import BUCKET, FLIPPED, OBJECT, RESET, STALL, Fault, ranged_server
from worker.pipeline.weights.cloud_source import CloudObject
from worker.pipeline.weights.crc import Octets
from worker.pipeline.weights.fetch import Wanted, fetch_files
from worker.pipeline.weights.landing import HostMover, RingLanding
from worker.pipeline.weights.ranges import Range, Span
from worker.pipeline.weights.rooms import Copy, Direct, Ring
from worker.pipeline.weights.telling import Filled

SIZE, SLOT, SLOTS = 1_000_003, 50_000, 3
ROLE = Role.TRANSFORMER

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def octets() -> Octets:
    return np.random.default_rng(3).integers(0, 256, SIZE, dtype=np.uint8)


class SlowMover(HostMover):
    """Copies as a device does: later, one after the other, from whatever the slot holds then."""

    def __init__(self) -> None:
        self._begun: deque[tuple[torch.Tensor, torch.Tensor]] = deque()
        self._ended = self._number = 0

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        self._begun.append((target, source))
        self._number += 1

    def mark(self) -> Callable[[], bool]:
        number = self._number

        def ended() -> bool:
            self._copy_one()
            return self._ended >= number

        return ended

    def finish(self) -> None:
        while self._begun:
            self._copy_one()

    def _copy_one(self) -> None:
        if self._begun:
            target, source = self._begun.popleft()
            target.copy_(source)
            self._ended += 1


class Courier:
    """Hands slots over to a landing in a thread of its own, as the other process would."""

    def __init__(self, mover: HostMover, *, arena_bytes: int = SIZE) -> None:
        memory = np.zeros(SLOTS * SLOT, np.uint8)
        self.ring = Ring(memory, slot_bytes=SLOT, hand_over=self._hand_over)
        self.landing = RingLanding(
            torch.from_numpy(memory),
            slot_bytes=SLOT,
            arena_bytes={ROLE: arena_bytes},
            movers={ROLE: mover},
        )
        self.most_taken = self._taken = 0
        self._waiting: deque[Filled] = deque()
        self._lock, self._done = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    @property
    def arena(self) -> Octets:
        found: Octets = self.landing.arenas[ROLE].numpy()
        return found

    def finish(self) -> None:
        self._done.set()
        self._thread.join()

    def _hand_over(self, slot: int, _: int, copies: tuple[Copy, ...]) -> None:
        with self._lock:
            self._taken += 1
            self.most_taken = max(self.most_taken, self._taken)
            self._waiting.append(Filled(slot, ROLE, copies))

    def _carry(self) -> None:
        while not self._done.is_set() or self._waiting or self.landing.busy:
            with self._lock:
                next_ = self._waiting.popleft() if self._waiting else None
            if next_:
                self.landing.copy(next_)
            for slot in self.landing.copied():
                with self._lock:
                    self._taken -= 1
                self.ring.free(slot)
            time.sleep(0.0005)


@pytest.mark.parametrize("mover", [HostMover, SlowMover])
@pytest.mark.parametrize("faults", [(), (Fault(RESET, at=510_000), Fault(STALL, at=777_777))],
                         ids=["sound", "faults"])  # fmt: skip
def test_a_file_of_many_slots_comes_whole_through_few(
    octets: Octets, mover: type[HostMover], faults: tuple[Fault, ...]
) -> None:
    courier = Courier(mover())
    wanted = [Span(400_000, SIZE, 0), Span(17, 400_000, SIZE - 400_000)]
    with ranged_server(octets, faults=faults) as server:
        file = Wanted(source=served(server, silence=1000), spans=wanted, crc32c=server.crc32c)
        fetch_files([file], courier.ring, connections=6, range_bytes=SLOT, patience=QUICK)
    courier.finish()
    assert np.array_equal(courier.arena[: SIZE - 400_000], octets[400_000:])
    assert np.array_equal(courier.arena[SIZE - 400_000 : SIZE - 17], octets[17:400_000])
    assert 0 < courier.most_taken <= SLOTS


@pytest.mark.slow
def test_nothing_is_asked_for_while_all_slots_are_taken(octets: Octets) -> None:
    handed: list[int] = []
    memory = np.zeros(SLOTS * SLOT, np.uint8)
    ring = Ring(memory, slot_bytes=SLOT, hand_over=lambda slot, *_: handed.append(slot))
    with ranged_server(octets) as server:
        asked_before_the_first_was_freed: list[int] = []

        def free(_: int) -> None:
            if len(handed) == SLOTS:
                time.sleep(0.2)  # as long as others would need to ask for more
                asked_before_the_first_was_freed.append(len(server.asked))
            if len(handed) >= SLOTS:
                ring.free(handed.pop(0))

        file = Wanted(source=served(server), crc32c=server.crc32c)
        fetch_files([file], ring, connections=6, range_bytes=SLOT, on_bytes=free)
    assert asked_before_the_first_was_freed[0] == SLOTS


def test_a_slot_is_not_given_again_before_it_is_free() -> None:
    ring = Ring(np.zeros(2 * 10, np.uint8), slot_bytes=10, hand_over=lambda *_: None)
    first, second, third = (Range((Span(at, at + 10, at),)) for at in (0, 10, 20))
    assert ring.admit(0, first)
    assert ring.admit(0, second)
    assert not ring.admit(0, third)
    ring.filled(0, first)
    assert not ring.admit(0, third)


def test_what_nobody_wants_is_not_handed_over() -> None:
    handed: list[object] = []
    ring = Ring(np.zeros(10, np.uint8), slot_bytes=10, hand_over=lambda *what: handed.append(what))
    unwanted = Range((Span(0, 10, None),))
    assert ring.admit(0, unwanted)
    ring.filled(0, unwanted)
    assert not handed
    assert ring.admit(0, unwanted)


def test_places_of_a_slot_begin_where_a_failed_request_ended() -> None:
    ring = Ring(np.zeros(10, np.uint8), slot_bytes=10, hand_over=lambda *_: None)
    range_ = Range((Span(100, 104, None), Span(104, 110, 3)))
    ring.admit(5, range_)
    [place] = ring.places(5, range_, 106)
    place[:] = 7
    [all_of_it] = ring.places(5, range_, 100)
    assert all_of_it.tolist() == [0] * 6 + [7] * 4


def test_a_damaged_byte_is_noticed_through_the_ring(octets: Octets) -> None:
    courier = Courier(HostMover())
    whole: list[int] = []
    with ranged_server(octets, faults=(Fault(FLIPPED, at=555_555),)) as server:
        file = Wanted(source=served(server), crc32c=server.crc32c)
        with pytest.raises(WeightsDamaged, match="what came"):
            fetch_files(
                [file], courier.ring, range_bytes=SLOT, patience=QUICK, on_whole=whole.append
            )
    courier.finish()
    assert whole == []


def test_slots_are_freed_in_the_order_of_their_copies() -> None:
    mover = SlowMover()
    ring = torch.arange(30, dtype=torch.uint8)
    landing = RingLanding(ring, slot_bytes=10, arena_bytes={ROLE: 30}, movers={ROLE: mover})
    for slot in (2, 0, 1):
        landing.copy(Filled(slot, ROLE, (Copy(0, slot * 10, 5), Copy(5, slot * 10 + 5, 5))))
    freed = []
    while landing.busy:
        freed += landing.copied()
    assert freed == [2, 0, 1]
    assert torch.equal(landing.arenas[ROLE], ring)


def test_at_the_end_all_copies_are_waited_for() -> None:
    mover = SlowMover()
    ring = torch.arange(20, dtype=torch.uint8)
    landing = RingLanding(ring, slot_bytes=10, arena_bytes={ROLE: 20}, movers={ROLE: mover})
    for slot in (0, 1):
        landing.copy(Filled(slot, ROLE, (Copy(0, slot * 10, 10),)))
    assert landing.finish() == [0, 1]
    assert not landing.busy
    assert torch.equal(landing.arenas[ROLE], ring)


def test_several_files_come_in_their_order_and_are_vouched_for_one_by_one(octets: Octets) -> None:
    names = [OBJECT, "kontext/vae/first.safetensors", "kontext/empty"]
    held = {names[0]: octets, names[1]: octets[:123_457], names[2]: octets[:0]}
    buffers = [np.zeros(held[name].size, np.uint8) for name in names]
    whole: list[int] = []
    with ranged_server(held) as server:
        files = [
            Wanted(
                source=CloudObject(BUCKET, name, token=lambda: None, endpoint=server.url),
                crc32c=server.crc32cs[name],
            )
            for name in names
        ]
        order = [1, 0, 2]
        fetch_files(
            [files[n] for n in order],
            Direct([buffers[n] for n in order]),
            connections=1,
            range_bytes=SLOT,
            on_whole=whole.append,
        )
        asked = [name for name, *_ in server.asked_of]
    assert whole == [0, 1, 2]
    assert asked == sorted(asked, key=lambda name: name != names[1])
    for name, buffer in zip(names, buffers, strict=True):
        assert np.array_equal(buffer, held[name])


@pytest.mark.parametrize("spoil", [0, 99])
def test_bytes_that_were_read_before_are_checked_with_the_rest(octets: Octets, spoil: int) -> None:
    known = bytearray(octets[:100].tobytes())
    buffer = np.zeros(SIZE, np.uint8)
    with ranged_server(octets) as server:

        def fetched(known: bytes) -> None:
            file = Wanted(
                source=served(server),
                spans=[Span(100, SIZE, 100)],
                crc32c=server.crc32c,
                known=known,
            )
            fetch_files([file], Direct([buffer]), connections=2, range_bytes=SLOT)

        fetched(bytes(known))
        assert min(start for start, _ in server.asked) == 100
        assert np.array_equal(buffer[100:], octets[100:])
        known[spoil] ^= 1
        with pytest.raises(WeightsDamaged, match="what came"):
            fetched(bytes(known))
