"""What peers may call: names to functions, checked when they are registered.

Owns the decorators and the table. A function whose annotations cannot be done is refused
here, by name, and not when it is first called. It must not know how a function is run.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from enum import Enum
from typing import Any, TypeVar, overload

from .naming import mark, mark_of, name_of
from .shapes import Shape, shape_of

__all__ = ["Command", "Kind", "Registry", "command", "inline", "one_way"]

F = TypeVar("F", bound=Callable[..., Any])

_MAX_NAME = 512
"""Characters of a name: what the protocol takes."""


@overload
def command(function: F, /) -> F: ...
@overload
def command(name: str, /) -> Callable[[F], F]: ...
def command(function: Any, /) -> Any:
    """Mark a function that peers may call; it is returned unchanged.

    `@command` gives it the name `module:qualname`, `@command("disk.usage")` that one. It
    can be called once it, or its module, is given to an agent or a channel.
    """
    if isinstance(function, str):
        _check_name(function)
        return lambda real: _marked(real, function)
    return _marked(function, None)


def _marked(function: F, name: str | None) -> F:
    mark(function, replace(mark_of(function), command=True, name=name))
    if name is None and "<locals>" in getattr(function, "__qualname__", ""):
        _keep_name(function)
    return function


def _keep_name(function: Callable[..., Any]) -> str:
    """Name a function defined inside another, so that its callers find the name."""
    name = name_of(function, local=True)
    mark(function, replace(mark_of(function), name=name))
    return name


def inline(function: F, /) -> F:
    """Mark a short sync function that never blocks: it runs in the event loop.

    That is some ten times cheaper than a thread. Nothing else runs meanwhile.
    """
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{function!r} is async: it runs in the loop anyway")
    mark(function, replace(mark_of(function), inline=True))
    return function


def one_way(function: F, /) -> F:
    """Mark a method of an interface: whoever calls it does not wait for its end."""
    mark(function, replace(mark_of(function), one_way=True))
    return function


class Kind(Enum):
    """How a function is run."""

    ASYNC = "async"
    THREAD = "thread"
    INLINE = "inline"
    ASYNC_GENERATOR = "async generator"
    GENERATOR = "generator"


class Command:
    """A function that peers may call.

    Attributes:
        name: Its name on the wire.
        function: What is called.
        offer: The offer that it belongs to.
        kind: How it is run.
        shape: What it takes and returns.
    """

    __slots__ = ("function", "kind", "name", "offer", "shape")

    def __init__(
        self, name: str, function: Callable[..., Any], offer: str, shape: Shape
    ) -> None:
        self.name = name
        self.function = function
        self.offer = offer
        self.shape = shape
        self.kind = _kind(function)

    def __repr__(self) -> str:
        return f"<Command {self.name!r}: {self.kind.value}, of {self.offer!r}>"


def _kind(function: Callable[..., Any]) -> Kind:
    inner = function
    while hasattr(inner, "func"):  # a partial
        inner = inner.func
    if not inspect.isroutine(inner):
        inner = type(inner).__call__
    if inspect.isasyncgenfunction(inner):
        return Kind.ASYNC_GENERATOR
    if inspect.isgeneratorfunction(inner):
        return Kind.GENERATOR
    if inspect.iscoroutinefunction(inner):
        return Kind.ASYNC
    return Kind.INLINE if mark_of(function).inline else Kind.THREAD


class Registry:
    """The table of functions that peers may call."""

    def __init__(self) -> None:
        self._commands: dict[str, Command] = {}

    def __len__(self) -> int:
        return len(self._commands)

    def __iter__(self) -> Iterator[str]:
        return iter(self._commands)

    def add(
        self,
        what: Callable[..., Any] | types.ModuleType,
        name: str | None = None,
        offer: str = "commands",
    ) -> None:
        """Let peers call a function, or all functions that a module marks.

        Args:
            what: A function; or a module with functions marked by `command`.
            name: Instead of the function's own name.
            offer: What has to be offered for it to be called.

        Raises:
            TypeError: It cannot be called by peers: an annotation that cannot be done
                (the message names function and parameter), or a lambda without a name.
            ValueError: The name is taken by another function, or is no name, or the
                module marks nothing.
        """
        if isinstance(what, types.ModuleType):
            if name is not None:
                raise TypeError("a module is added without a name")
            self._add_module(what, offer)
            return
        if not callable(what):
            raise TypeError(f"peers call functions; {what!r} is not one")
        if name is None:
            local = "<locals>" in getattr(what, "__qualname__", "")
            name = _keep_name(what) if local else name_of(what)
        _check_name(name)
        known = self._commands.get(name)
        if known is not None:
            if known.function is what or known.function == what:
                return
            raise ValueError(
                f"two functions are called {name!r}; give one another name"
            )
        self._commands[name] = Command(name, what, offer, shape_of(what))

    def _add_module(self, module: types.ModuleType, offer: str) -> None:
        found = [each for each in vars(module).values() if mark_of(each).command]
        if not found:
            raise ValueError(
                f"{module.__name__} marks no function; put @rb.command over those that "
                "may be called"
            )
        for each in found:
            self.add(each, offer=offer)

    def add_all(
        self,
        commands: Mapping[str, Callable[..., Any]]
        | Iterable[Callable[..., Any] | types.ModuleType],
    ) -> None:
        """Add functions and modules, or functions by their names."""
        if isinstance(commands, Mapping):
            for name, function in commands.items():
                self.add(function, name)
        else:
            for each in commands:
                self.add(each)

    def lookup(self, name: str) -> Command | None:
        """Return the function of that name, or None."""
        return self._commands.get(name)


def _check_name(name: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"a function's name is a str, not {type(name).__name__}")
    if not 0 < len(name) <= _MAX_NAME or not name.isprintable():
        raise ValueError(
            f"{name[:80]!r} cannot name a function: use 1 to {_MAX_NAME} printable "
            "characters"
        )
