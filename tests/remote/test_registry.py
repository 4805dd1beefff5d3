"""What may be called: decorators, names, and what is refused when it is added."""

from __future__ import annotations

import functools
import types
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from remoting_bus._remote.naming import mark_of, name_of
from remoting_bus._remote.registry import (
    Kind,
    Registry,
    command,
    inline,
    one_way,
)


def sync(a: int) -> int:
    return a


async def asynchronous() -> None: ...


@inline
def quick() -> None: ...


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


class Thing:
    async def method(self) -> None: ...

    async def __call__(self) -> None: ...


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (sync, Kind.THREAD),
        (asynchronous, Kind.ASYNC),
        (quick, Kind.INLINE),
        (generator, Kind.GENERATOR),
        (async_generator, Kind.ASYNC_GENERATOR),
        (functools.partial(asynchronous), Kind.ASYNC),
        (Thing().method, Kind.ASYNC),
        (Thing(), Kind.ASYNC),
        (len, Kind.THREAD),
    ],
)
def test_how_a_function_is_run_is_seen_from_it(
    function: Callable[..., Any], kind: Kind
) -> None:
    registry = Registry()
    registry.add(function, "it")
    found = registry.lookup("it")
    assert found is not None
    assert found.kind is kind


def test_decorators_return_the_function_itself() -> None:
    def function() -> None: ...

    assert command(function) is function
    assert command("name")(function) is function
    assert inline(function) is function
    assert one_way(function) is function
    said = mark_of(function)
    assert (said.name, said.inline, said.one_way) == ("name", True, True)


def test_an_async_function_cannot_be_inline() -> None:
    with pytest.raises(TypeError, match="runs in the loop anyway"):
        inline(asynchronous)


def test_what_takes_no_attributes_cannot_be_named_by_a_decorator() -> None:
    with pytest.raises(TypeError, match="Wrap it"):
        command("size")(len)


def test_names_are_what_callers_use() -> None:
    registry = Registry()
    registry.add(sync)
    registry.add(sync)  # again: nothing
    registry.add(sync, "other")
    assert list(registry) == [f"{__name__}:sync", "other"]
    assert registry.lookup("nobody") is None


def test_a_function_inside_another_is_found_by_those_that_hold_it() -> None:
    def local() -> None: ...

    registry = Registry()
    registry.add(local)
    assert registry.lookup(name_of(local)) is not None

    @command
    def decorated() -> None: ...

    registry.add(decorated)
    assert registry.lookup(name_of(decorated)) is not None


def test_two_functions_of_one_name_are_refused() -> None:
    registry = Registry()
    registry.add(sync, "it")
    with pytest.raises(ValueError, match="two functions are called 'it'"):
        registry.add(asynchronous, "it")


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 513])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a function"):
        Registry().add(sync, name)
    with pytest.raises(ValueError, match="cannot name a function"):
        command(name)


def test_a_lambda_needs_a_name() -> None:
    registry = Registry()
    with pytest.raises(TypeError, match="lambda"):
        registry.add(lambda: None)
    registry.add(lambda: None, "named")


def test_only_functions_are_called() -> None:
    with pytest.raises(TypeError, match="is not one"):
        Registry().add(3)  # type: ignore[arg-type]


def test_annotations_are_checked_when_it_is_added() -> None:
    def function(where: Path | str) -> None: ...

    with pytest.raises(TypeError, match="function, parameter 'where'"):
        Registry().add(function, "it")


def test_a_module_gives_all_that_it_marks() -> None:
    module = types.ModuleType("tools")

    def first() -> None: ...
    def second() -> None: ...

    module.first = command("first")(first)  # type: ignore[attr-defined]
    module.second = second  # type: ignore[attr-defined]
    registry = Registry()
    registry.add_all([module, sync])
    assert list(registry) == ["first", f"{__name__}:sync"]
    with pytest.raises(TypeError, match="without a name"):
        registry.add(module, "name")


def test_a_module_that_marks_nothing_is_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"put @rb\.command"):
        Registry().add(types.ModuleType("empty"))


def test_functions_by_name() -> None:
    registry = Registry()
    commands: dict[str, Callable[..., Any]] = {"a": sync, "b": asynchronous}
    registry.add_all(commands)
    assert set(registry) == {"a", "b"}
    assert len(registry) == 2
