"""Where in a value it is not what an annotation says: asked after a failure only.

A walk over value and annotation together, to name the path as Python would index it; a
converter names the kind of thing, not which of a mapping's values it is. It must not
know how values are converted.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["locate"]

_DEEPEST = 110
"""Nothing that was decoded is nested deeper (the codec's limit, and some)."""


def locate(
    fails: Callable[[Any, Any], str | None],
    value: Any,
    annotation: Any,
    path: str = "",
    depth: int = 0,
) -> tuple[str, str] | None:
    """Return the path and the reason of what is wrong deepest inside `value`.

    Args:
        fails: Says why a value is not what an annotation says; None if it is.
        value: The value that failed.
        annotation: What it should be.
        path: Where it stands in a larger one.
        depth: How deep.
    """
    reason = fails(value, annotation)
    if reason is None:
        return None
    if depth < _DEEPEST:
        for part, kind, where in _parts(value, annotation):
            found = locate(fails, part, kind, path + where, depth + 1)
            if found is not None:
                return found
    return path, reason


def _parts(value: Any, annotation: Any) -> list[tuple[Any, Any, str]]:
    """Return the parts of `value` with their annotations and paths."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _parts(value, arguments[0])
    if origin is typing.Union or origin is types.UnionType:
        return _parts_of_union(value, arguments)
    kind = origin or annotation
    if isinstance(value, dict):
        if isinstance(kind, type) and issubclass(kind, Mapping) and arguments:
            return [
                *((key, arguments[0], f".keys({key!r})") for key in value),
                *((item, arguments[1], f"[{key!r}]") for key, item in value.items()),
            ]
        return _parts_of_fields(value, kind)
    if isinstance(value, list | tuple) and arguments:
        if kind is tuple and arguments[-1] is not Ellipsis:
            each: tuple[Any, ...] = arguments
        else:
            each = (arguments[0],) * len(value)
        return [
            (item, one, f"[{index}]")
            for index, (item, one) in enumerate(zip(value, each, strict=False))
        ]
    return []


def _parts_of_union(
    value: Any, arguments: tuple[Any, ...]
) -> list[tuple[Any, Any, str]]:
    """Look into the one member that such a value can mean."""
    for one in arguments:
        parts = _parts(value, one)
        if parts:
            return parts
    return []


def _parts_of_fields(value: dict[Any, Any], kind: Any) -> list[tuple[Any, Any, str]]:
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except (TypeError, NameError):
        return []
    return [
        (value[name], hint, f".{name}") for name, hint in hints.items() if name in value
    ]
