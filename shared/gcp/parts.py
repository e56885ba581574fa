"""How much one commit may hold, and how more than that is divided."""

from collections.abc import Iterable, Iterator

from shared.gcp.firestore import Fields

# Firestore takes 10 MiB at once, its emulator 4; a hundred scenes can be more, if they are wordy.
LARGEST_COMMIT = 3 * 1024 * 1024

Documents = dict[tuple[str, str], Fields]  # by collection and id


def parts(documents: Iterable[Documents]) -> Iterator[Documents]:
    """Divide what is written into commits that are not too large; what comes together stays so."""
    part, size = Documents(), 0
    for together in documents:
        weight = sum(largest_size(fields) for fields in together.values())
        if part and size + weight > LARGEST_COMMIT:
            yield part
            part, size = Documents(), 0
        part = together | part  # the first of an id stands
        size += weight
    if part:
        yield part


def largest_size(fields: Fields) -> int:
    """Say how large a document is at most, when it is written."""
    # the fields beside the document say some of it again, never more than all of it
    return 2 * len(fields["document"].encode())
