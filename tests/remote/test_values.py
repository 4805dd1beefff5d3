"""Python values as plain ones, and the bytes of arguments and results."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import pathlib
import socket
import uuid
from typing import Any, NamedTuple

import msgspec
import pytest

from remoting_bus._remote.marshal import (
    encode_arguments,
    encode_value,
    insert_streams,
)
from remoting_bus._remote.shapes import converter
from remoting_bus._remote.values import plain
from remoting_bus.protocol import ends
from remoting_bus.protocol.codec import EncodeError, StreamMark, decode, encode
from remoting_bus.protocol.ends import StreamEnd


class Colour(enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    BIG = 2


@dataclasses.dataclass(frozen=True)
class Host:
    name: str
    tags: frozenset[str] = frozenset()
    where: pathlib.Path = pathlib.Path("/")


class Point(NamedTuple):
    x: int
    colour: Colour


class Tagged(msgspec.Struct, tag="t", rename="camel"):
    one_two: int


class Array(msgspec.Struct, array_like=True):
    a: int
    b: Host


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    "value",
    [
        Host("a", frozenset({"x"}), pathlib.Path("/b")),
        [Host("a")],
        {"k": Host("a")},
        Colour.RED,
        Size.BIG,
        Point(1, Colour.RED),
        Tagged(1),
        Array(1, Host("a")),
        pathlib.PurePosixPath("/x"),
        datetime.timedelta(days=-3, seconds=5, microseconds=7),
        datetime.timedelta(0),
        datetime.timedelta(days=400, microseconds=1),
        datetime.time(10, 30, 0, 5),
        datetime.date(2026, 1, 1),
        decimal.Decimal("1.50"),
        uuid.uuid4(),
        2**80,
        -1.5,
    ],
    ids=repr,
)
def test_typed_values_come_back_as_they_were(value: Any) -> None:
    there = decode(encode_value(value, None))
    annotation = type(value)
    if type(value) is list:
        annotation = list[Host]
    if type(value) is dict:
        annotation = dict[str, Host]
    convert = converter(annotation)
    assert convert is not None
    assert convert(there) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((1, 2), [1, 2]),
        ({1, 2}, {1, 2}),
        (frozenset({1}), {1}),
        ({Host("a")}, [{"name": "a", "tags": set(), "where": "/"}]),
        ({(1, 2): 3}, {(1, 2): 3}),
        ({Colour.RED: 1}, {"red": 1}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.deque([1]), [1]),
        (Text("x"), "x"),
        (memoryview(b"x"), b"x"),
        ([memoryview(b"x"), Colour.RED], [b"x", "red"]),
        (bytearray(b"x"), b"x"),
        (None, None),
    ],
    ids=repr,
)
def test_without_annotations_plain_values_arrive(value: Any, expected: Any) -> None:
    assert decode(encode_value(value, None)) == expected


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        (socket.socket, "", "a builtins.type cannot go over the bus"),
        ([1, {"a": [object()]}], "[1]['a'][0]", "a builtins.object cannot"),
        (Point(1, object()), "[1]", "a builtins.object cannot"),  # type: ignore[arg-type]
        (Host(object()), ".name", "a builtins.object cannot"),  # type: ignore[arg-type]
        ([Array(1, object())], "[0].b", "a builtins.object"),  # type: ignore[arg-type]
        ({"a": 1j}, "['a']", "a builtins.complex cannot"),
        (["\ud800"], "[0]", ""),
    ],
    ids=repr,
)
def test_what_cannot_go_is_named_by_its_path(
    value: Any, path: str, reason: str
) -> None:
    with pytest.raises(EncodeError) as caught:
        encode_value(value, None)
    assert caught.value.path == path
    assert reason in caught.value.reason


def test_ten_thousand_levels_are_a_clear_error() -> None:
    deep: Any = []
    for _ in range(10_000):
        deep = [deep]
    with pytest.raises(EncodeError, match="max_depth"):
        encode_value(deep, None)
    wrapped: Any = Host("a")
    for _ in range(10_000):
        wrapped = {"k": wrapped}
    with pytest.raises(EncodeError, match="max_depth"):
        encode_value(wrapped, None)


def test_a_value_that_holds_itself_is_a_clear_error() -> None:
    loop: list[Any] = [Host("a")]
    loop.append(loop)
    with pytest.raises(EncodeError, match="max_depth"):
        encode_value(loop, None)


def test_arguments_are_an_array_of_both_kinds() -> None:
    found: list[StreamEnd] = []
    data = encode_arguments((1, [Colour.RED]), {"k": Host("a")}, found)
    assert decode(data) == [
        [1, ["red"]],
        {"k": {"name": "a", "tags": set(), "where": "/"}},
    ]
    assert decode(encode_arguments((), {}, found)) == [[], {}]
    assert not found


def test_a_bad_argument_is_named_by_its_parameter() -> None:
    with pytest.raises(EncodeError) as caught:
        encode_arguments((1, [object()]), {}, [], names=("first", "second"))
    assert caught.value.path == "second[0]"
    with pytest.raises(EncodeError) as caught:
        encode_arguments((object(),), {}, [])
    assert caught.value.path == "args[0]"
    with pytest.raises(EncodeError) as caught:
        encode_arguments((), {"key": {1: object()}}, [])
    assert caught.value.path == "key[1]"


@dataclasses.dataclass
class Job:
    name: str
    log: Any


def test_streams_travel_at_any_depth() -> None:
    inlet, outlet = ends.pipe()
    second, _ = ends.pipe()
    found: list[StreamEnd] = []
    data = encode_arguments(
        ([{"deep": Job("a", outlet)}], second), {"log": inlet}, found
    )
    assert found == [outlet, second, inlet]
    seen: set[int] = set()
    made = insert_streams(decode(data), ["A", "B", "C"], seen)
    assert made == [[[{"deep": {"name": "a", "log": "A"}}], "B"], {"log": "C"}]
    assert seen == {0, 1, 2}


def test_a_stream_travels_once() -> None:
    inlet, _ = ends.pipe()
    with pytest.raises(EncodeError, match="stands here twice"):
        encode_arguments((inlet, inlet), {}, [])


def test_a_stream_where_none_may_be_is_refused() -> None:
    inlet, _ = ends.pipe()
    with pytest.raises(EncodeError, match="cannot travel here"):
        plain([inlet])


def test_a_mark_that_stands_for_nothing_is_refused() -> None:
    forged = decode(encode([StreamMark(1)]))
    with pytest.raises(ValueError, match="did not come with it"):
        insert_streams(forged, ["A"], set())
    twice = decode(encode([StreamMark(0), StreamMark(0)]))
    with pytest.raises(ValueError, match="did not come with it"):
        insert_streams(twice, ["A"], set())
