"""The first bytes of a file that may be far away, read window by window as a header asks for them.

They are kept: what was judged is then checked together with the rest of the file, instead of being
read a second time, when it could be different.
"""

import numpy as np

from worker.pipeline.weights.fetch import fetch
from worker.pipeline.weights.ranges import Span
from worker.pipeline.weights.sources import Source
from worker.pipeline.weights.turns import Patience

WINDOW_BYTES = 256 * 1024  # holds FLUX's header; T5's with its tokenizer takes three or four


class Prefix:
    """See Readable; asks the source for no more than the header wants, and a window."""

    def __init__(self, source: Source, *, patience: Patience | None = None) -> None:
        self._source, self._patience = source, patience
        self._octets = bytearray()
        self._at = 0

    def read(self, count: int) -> bytes:
        """Give the next bytes; fewer only at the end of the file."""
        start, self._at = self._at, min(self._at + count, self._source.size)
        self._read_to(self._at)
        return bytes(self._octets[start : self._at])

    def seek(self, place: int) -> int:
        """Go on from another place; what is passed over is read all the same."""
        self._at = place
        return place

    def tell(self) -> int:
        """Say where the next byte comes from."""
        return self._at

    def before(self, place: int) -> bytes:
        """Give all bytes before a place that was passed."""
        self._read_to(place)
        return bytes(self._octets[:place])

    def _read_to(self, end: int) -> None:
        start = len(self._octets)
        if end <= start:
            return
        stop = min(max(end, start + WINDOW_BYTES), self._source.size)
        window = np.empty(stop - start, np.uint8)
        wanted = [Span(start, stop, 0)]
        fetch(self._source, window, wanted, crc32c=None, connections=1, patience=self._patience)
        self._octets += window.data
