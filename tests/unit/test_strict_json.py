"""How JSON is read, and how much of it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.problems import Refusal
from api.strict_json import read_json

texts = st.text(st.sampled_from('a",[]{}:\\é'), max_size=12)
documents = st.recursive(
    st.none() | st.integers(-9, 9) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def starts(document: object) -> int:
    """How many objects and arrays open, and how many commas part what is in them."""
    if not isinstance(document, dict | list):
        return 0
    inside = list(document.values()) if isinstance(document, dict) else document
    return 1 + max(0, len(inside) - 1) + sum(map(starts, inside))


@given(documents)
def test_values_are_counted_outside_of_texts_only(document: object) -> None:
    body, values = json.dumps(document).encode(), starts(document)
    assert read_json(body, most_values=values) == document
    if values:
        with pytest.raises(Refusal) as refused:
            read_json(body, most_values=values - 1)
        assert refused.value.code == "malformed_json"


@pytest.mark.parametrize(
    "body",
    [b'""' * 2_000_000, b'"\\' * 2_000_000, b'"' + b"," * 4_000_000, b"[" * 4_000_000],
    ids=["strings", "half a string", "an endless string", "brackets"],
)
def test_what_is_no_json_is_refused_in_one_pass(body: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        read_json(body + b"," * 2000, most_values=1000)
    assert refused.value.code == "malformed_json"
