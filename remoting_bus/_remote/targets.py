"""What a caller needs to know of a function: its name, and what its result becomes.

Worked out once per function object. It must not know how a call travels.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from .naming import name_of
from .shapes import Converter, converter, is_generator, item_annotation

__all__ = ["Target", "target_of"]


class Target:
    """A function of the far side.

    Attributes:
        name: What it is called on the wire.
        module: Where the function that was passed is defined; None in a call by name.
        result: Converts the result, or an item of a generator.
        names: What its positional parameters are called, as far as known.
    """

    __slots__ = ("module", "name", "names", "result")

    def __init__(
        self,
        name: str,
        module: str | None = None,
        result: Converter | None = None,
        names: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.module = module
        self.result = result
        self.names = names


_known: WeakKeyDictionary[Any, Target] = WeakKeyDictionary()
"""Bounded by the functions that the program has."""


def target_of(function: Any) -> Target:
    """Return what is known of a function, or of the name of one.

    Raises:
        TypeError: No peer can find it, or its result's annotation cannot be done; the
            message says what to do about it.
    """
    if type(function) is str:
        return Target(function)
    try:
        known = _known.get(function)
    except TypeError:  # unhashable, or takes no weak references
        return _work_out(function)
    if known is None:
        known = _work_out(function)
        with suppress(TypeError):
            _known[function] = known
    return known


def _work_out(function: Callable[..., Any]) -> Target:
    name = name_of(function)
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError):
        hints = {}  # then plain values come; the far side says what is wrong there
    annotation = hints.get("return", Any)
    if is_generator(function):
        annotation = item_annotation(annotation)
    try:
        result = converter(annotation)
    except TypeError as error:
        raise TypeError(f"{name}, the result: {error}") from None
    module = getattr(function, "__module__", None)
    return Target(name, module, result, _names(function))


def _names(function: Callable[..., Any]) -> tuple[str, ...]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        return ()
    by_position = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    return tuple(each.name for each in parameters if each.kind in by_position)
