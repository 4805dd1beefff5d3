"""Annotations as converters, and the path of what does not fit."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import pathlib
import socket
import subprocess
import sys
import typing
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, NamedTuple

import anyio.abc
import msgspec
import pytest

from remoting_bus._remote.shapes import BadValue, converter, shape_of


@dataclasses.dataclass
class Host:
    name: str
    port: int


@dataclasses.dataclass
class Config:
    hosts: list[Host]
    owner: str | None = None


class Colour(enum.Enum):
    RED = "red"


class Point(NamedTuple):
    x: int
    y: int


class Options(typing.TypedDict):
    depth: int


class Shape(msgspec.Struct):
    sides: int


NOON = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
ID = uuid.uuid4()


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (Config, {"hosts": [{"name": "a", "port": 1}]}, Config([Host("a", 1)])),
        (Colour, "red", Colour.RED),
        (datetime.datetime, NOON, NOON),
        (datetime.timedelta, "P1DT3S", datetime.timedelta(days=1, seconds=3)),
        (datetime.time, "10:00:00", datetime.time(10)),
        (uuid.UUID, ID, ID),
        (decimal.Decimal, decimal.Decimal("1.5"), decimal.Decimal("1.5")),
        (pathlib.Path, "/tmp/x", pathlib.Path("/tmp/x")),
        (pathlib.Path | None, None, None),
        (list[pathlib.Path], ["a"], [pathlib.Path("a")]),
        (set[int], {1, 2}, {1, 2}),
        (frozenset[Colour], ["red"], frozenset({Colour.RED})),
        (tuple[int, ...], [1, 2], (1, 2)),
        (tuple[int, str], [1, "a"], (1, "a")),
        (Point, [1, 2], Point(1, 2)),
        (Options, {"depth": 1}, {"depth": 1}),
        (Shape, {"sides": 3}, Shape(3)),
        (dict[tuple[int, int], str], {(1, 2): "a"}, {(1, 2): "a"}),
        (int | str, "a", "a"),
        (Host | int, 3, 3),
        (float, 3, 3.0),
        (bytes, b"x", b"x"),
        (bytearray, b"x", bytearray(b"x")),
        (Mapping[str, int], {"a": 1}, {"a": 1}),
        (None, None, None),
        (list[Any], [object], [object]),
        (typing.Annotated[int, msgspec.Meta(ge=0)], 1, 1),
    ],
)
def test_values_become_what_annotations_say(
    annotation: Any, value: Any, expected: Any
) -> None:
    convert = converter(annotation)
    assert convert is not None
    made = convert(value)
    assert made == expected
    assert type(made) is type(expected)


def test_without_an_annotation_nothing_is_converted() -> None:
    assert converter(Any) is None
    assert converter(object) is None


@pytest.mark.parametrize(
    ("annotation", "value", "path", "reason"),
    [
        (int, "a", "", "Expected int, got str"),
        (int, True, "", "Expected int, got bool"),
        (Host, {"name": "a", "port": "x"}, ".port", "Expected int, got str"),
        (
            Config,
            {"hosts": [{"name": "a", "port": 1}] * 3 + [{"name": "a", "port": "x"}]},
            ".hosts[3].port",
            "Expected int, got str",
        ),
        (
            dict[str, dict[str, int]],
            {"a": {"b": 1, "c": "x"}},
            "['a']['c']",
            "Expected int, got str",
        ),
        (dict[str, int], {1: 2}, ".keys(1)", "Expected str, got int"),
        (list[tuple[int, str]], [[1, 2]], "[0][1]", "Expected str, got int"),
        (Config | None, {"hosts": [3]}, ".hosts[0]", "Expected object, got int"),
        (pathlib.Path, 3, "", "Expected a path (str), got int"),
        (None, 3, "", "Expected null, got int"),
        (Host, {"name": "a"}, "", "Object missing required field port"),
        (anyio.abc.ByteReceiveStream, 3, "", "Expected a stream"),
    ],
)
def test_a_bad_value_is_named_by_its_path(
    annotation: Any, value: Any, path: str, reason: str
) -> None:
    convert = converter(annotation)
    assert convert is not None
    with pytest.raises(BadValue) as caught:
        convert(value)
    assert caught.value.path == path
    assert caught.value.reason.startswith(reason)


@pytest.mark.parametrize(
    "annotation",
    [
        Host | Config,
        pathlib.Path | str,
        socket.socket,
        list[socket.socket],
        typing.Callable[[], int],
        complex,
    ],
)
def test_an_annotation_that_cannot_be_done_names_function_and_parameter(
    annotation: Any,
) -> None:
    def function(first: int, second: Any) -> None: ...

    function.__annotations__["second"] = annotation
    with pytest.raises(TypeError, match=r"function, parameter 'second'"):
        shape_of(function)


def test_a_result_that_cannot_be_done_is_named() -> None:
    def function() -> socket.socket:
        raise AssertionError

    with pytest.raises(TypeError, match="the result"):
        shape_of(function)


def test_an_annotation_of_type_checkers_only_says_what_to_do() -> None:
    def function(x: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(NameError, match="'Nowhere', which is not there at run time"):
        shape_of(function)


def test_arguments_are_converted_in_place_by_position_and_by_name() -> None:
    def function(
        a: pathlib.Path, /, b: int, *rest: Colour, c: Host, **more: float
    ) -> None: ...

    shape = shape_of(function)
    positional: list[Any] = ["/a", 1, "red"]
    named: dict[str, Any] = {"c": {"name": "x", "port": 1}, "d": 2}
    shape.check_count(positional, named)
    shape.convert(positional, named)
    assert positional == [pathlib.Path("/a"), 1, Colour.RED]
    assert named == {"c": Host("x", 1), "d": 2.0}


def test_the_path_of_an_argument_begins_with_its_name() -> None:
    def function(config: Config, *rest: int, **more: int) -> None: ...

    shape = shape_of(function)
    with pytest.raises(BadValue) as caught:
        shape.convert([{"hosts": [{"name": "a", "port": "x"}]}], {})
    assert caught.value.path == "config.hosts[0].port"
    with pytest.raises(BadValue) as caught:
        shape.convert([{"hosts": []}, 1, "x"], {})
    assert caught.value.path == "args[1]"
    with pytest.raises(BadValue) as caught:
        shape.convert([], {"more": "x"})
    assert caught.value.path == "more"


@pytest.mark.parametrize(
    ("positional", "named", "words"),
    [
        ([], {}, "missing a required argument: 'a'"),
        ([1, 2, 3], {}, "too many positional arguments"),
        ([1], {"a": 2}, "multiple values for argument 'a'"),
        ([1], {"z": 2}, "unexpected keyword argument 'z'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_in_pythons_words(
    positional: list[Any], named: dict[str, Any], words: str
) -> None:
    def function(a: int, b: int = 2) -> None: ...

    with pytest.raises(TypeError, match=words):
        shape_of(function).check_count(positional, named)


def test_a_required_name_is_never_given_by_position() -> None:
    def function(a: int, *, b: int) -> None: ...

    with pytest.raises(TypeError, match="missing a required argument: 'b'"):
        shape_of(function).check_count([1], {})
    shape_of(function).check_count([1], {"b": 2})


def test_a_builtin_without_signature_takes_anything() -> None:
    shape_of(max).check_count([1, 2], {})


@pytest.mark.parametrize("annotation", [AsyncIterator[Host], Iterable[Host]])
def test_a_generators_items_are_converted(annotation: Any) -> None:
    async def agen() -> Any:
        yield 1

    def gen() -> Any:
        yield 1

    for function in (agen, gen):
        function.__annotations__["return"] = annotation
        convert = shape_of(function).result
        assert convert is not None
        assert convert({"name": "a", "port": 1}) == Host("a", 1)


def test_types_made_by_collections_are_converted() -> None:
    pair = collections.namedtuple("pair", "a b")
    convert = converter(pair)
    assert convert is not None
    assert convert([1, 2]) == pair(1, 2)


def test_msgspec_is_not_imported_before_a_typed_function_is_met() -> None:
    code = (
        "import sys; import remoting_bus._remote.registry as r; reg = r.Registry();"
        "reg.add(print, 'p'); assert 'msgspec' not in sys.modules;"
        "from remoting_bus._remote.shapes import converter; converter(int);"
        "assert 'msgspec' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
