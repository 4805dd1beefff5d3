"""Values go over and come back as they were, and nothing else gets in or out."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import re
import uuid
from typing import Any

import cbor2
import pytest
from hypothesis import given, strategies as st

from remoting_bus.protocol.codec import (
    MAX_DEPTH,
    DecodeError,
    EncodeError,
    ReferenceMark,
    StreamMark,
    array,
    decode,
    encode,
)


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -1,
        2**200,
        1.5,
        "text, ünïcode",
        b"\x00\xff",
        [1, [2, [3]]],
        {"a": {1: [None]}},
        {1, 2, 3},
        decimal.Decimal("1.10"),
        uuid.UUID(int=5),
        datetime.date(2024, 2, 29),
        datetime.datetime(2024, 2, 29, 12, 0, 1, tzinfo=datetime.UTC),
    ],
)
def test_values_come_back_as_they_were(value: object) -> None:
    """Each type on the list survives the way there."""
    back = decode(encode(value))
    assert back == value
    assert type(back) is type(value)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.dates()
    | st.datetimes(timezones=st.just(datetime.UTC)),
    lambda inside: st.lists(inside) | st.dictionaries(st.text(), inside),
    max_leaves=20,
)


@given(values)
def test_what_is_encoded_can_be_decoded(value: object) -> None:
    """Nothing leaves that the far side would refuse."""
    assert decode(encode(value)) == value


def test_tuples_arrive_as_lists() -> None:
    """CBOR has one kind of array; annotations bring tuples back, later."""
    assert decode(encode((1, (2,)))) == [1, [2]]


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ([1, {"a": object()}], "[1]['a']"),
        ({"when": datetime.datetime(2024, 1, 1)}, "['when']"),  # noqa: DTZ001
        ([[], [len]], "[1][0]"),
        (re.compile("x"), ""),
        ({(1, object()): 1}, ".keys()[1]"),
    ],
)
def test_what_cannot_go_is_named_by_its_path(value: object, path: str) -> None:
    """The error says where in the value the bad part is."""
    with pytest.raises(EncodeError) as caught:
        encode(value)
    assert caught.value.path == path
    assert caught.value.reason


def test_text_that_is_no_unicode_is_refused() -> None:
    """A lone surrogate has no bytes."""
    with pytest.raises(EncodeError):
        encode(["\ud800"])


def test_depth_is_limited_where_it_is_made() -> None:
    """A hundred levels go; one more is refused by the limit's name."""
    assert decode(encode(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    with pytest.raises(EncodeError, match="max_depth"):
        encode(nested(MAX_DEPTH + 2))


@pytest.mark.parametrize("levels", [1000, 10_000, 200_000])
def test_ten_thousand_levels_harm_nobody(levels: int) -> None:
    """Deep nesting is an error on both sides, never a crash."""
    with pytest.raises(EncodeError, match="max_depth"):
        encode(nested(levels))
    with pytest.raises(DecodeError):
        decode(b"\x81" * levels + b"\x00")


def test_a_list_that_holds_itself_is_refused() -> None:
    """A cycle is endless depth; twice in itself it must not double for ever."""
    ring: list[Any] = []
    ring += [ring, ring]
    with pytest.raises(EncodeError, match="max_depth"):
        encode(ring)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x82\x01",  # an item is missing
        b"\x01\x02",  # bytes behind the value
        b"\x9f\x01\xff",  # of indefinite length
        b"\x5f\x41a\xff",
        b"\xa2\x01\x01\x01\x02",  # a key twice
        b"\xa1\x81\x80\x01\xff",
        b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",  # more items than there are atoms
        b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff",
        b"\x62\xff\xff",  # no UTF-8
        cbor2.dumps(cbor2.CBORTag(35, "(a+)+$")),  # a regular expression
        cbor2.dumps(cbor2.CBORTag(260, b"\x7f\x00\x00\x01")),  # an address
        cbor2.dumps(cbor2.CBORTag(28, [1])),  # shared values
        cbor2.dumps(cbor2.CBORTag(30, [1, 0])),  # a rational
        cbor2.dumps(cbor2.CBORTag(40500, 256)),  # a mark out of range
        cbor2.dumps(cbor2.CBORTag(40501, "1")),
    ],
)
def test_other_bytes_are_refused(data: bytes) -> None:
    """Truncated, trailing, indefinite, doubled, huge, or tagged off the list."""
    with pytest.raises(DecodeError):
        decode(data)


@given(st.binary(max_size=60))
def test_garbage_is_a_value_or_an_error(data: bytes) -> None:
    """Whatever comes, only DecodeError is raised."""
    with contextlib.suppress(DecodeError):
        decode(data)


def test_marks_stand_in_for_streams_and_references() -> None:
    """They arrive with their index."""
    first, second = decode(encode([StreamMark(3), {"x": ReferenceMark(255)}]))
    assert (type(first), first.index) == (StreamMark, 3)
    assert (type(second["x"]), second["x"].index) == (ReferenceMark, 255)


@pytest.mark.parametrize("count", [0, 1, 23, 24, 255, 256, 70_000])
def test_encoded_parts_join_into_an_array(count: int) -> None:
    """Parts encoded before are not encoded again."""
    assert decode(array([encode(7)] * count)) == [7] * count
