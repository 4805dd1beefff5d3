"""What a function is called on the wire: one rule, used by both sides.

A function's name is the one that its decorator gave, else `module:qualname`. In a script
the module is the file's stem (with `-m` the dotted name), never `__main__`, so that the
program and those that import it mean the same. It must not know registries or calls.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["MARK", "Mark", "mark", "mark_of", "module_name", "name_of", "type_name"]

MARK = "__remoting_bus__"
"""The attribute in which a function keeps what its decorators said."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What decorators said of a function.

    Attributes:
        name: The name on the wire; None for `module:qualname`.
        command: It may be registered with its module.
        inline: It runs in the loop.
        one_way: Nobody waits for it.
    """

    name: str | None = None
    command: bool = False
    inline: bool = False
    one_way: bool = False


_NO_MARK = Mark()


def mark_of(function: object) -> Mark:
    """Return what the decorators of `function` said."""
    found = getattr(function, MARK, None)
    return found if isinstance(found, Mark) else _NO_MARK


def mark(function: object, said: Mark) -> None:
    """Note it on the function; what cannot have attributes stays as it is."""
    try:
        setattr(function, MARK, said)
    except (AttributeError, TypeError):
        if said.name is not None or said.inline or said.one_way:
            raise TypeError(
                f"{function!r} cannot be marked: it takes no attributes. Wrap it in a "
                "function of your own"
            ) from None


def module_name(module: str) -> str:
    """Return the name of a module as others import it.

    Raises:
        TypeError: It is `__main__` without a file, as at an interactive prompt.
    """
    if module != "__main__":
        return module
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    if file is None:
        raise TypeError(
            "functions typed at a prompt have no module that others know. Give the "
            'function a name, @rb.command("name"), or put it into a file'
        )
    return Path(file).stem


def type_name(kind: type) -> str:
    """Return a class's name on the wire; builtins without their module."""
    if kind.__module__ == "builtins":
        return kind.__qualname__
    try:
        return f"{module_name(kind.__module__)}:{kind.__qualname__}"
    except TypeError:
        return f"{kind.__module__}:{kind.__qualname__}"


def name_of(function: Callable[..., Any], *, local: bool = False) -> str:
    """Return the name under which a peer finds `function`.

    Args:
        function: A function; partials are for `unwrap` to take apart first.
        local: Functions defined inside others are allowed, as where one is registered.

    Raises:
        TypeError: It has no name that means anything to a peer; the message says what
            to do about it.
    """
    given = mark_of(function).name
    if given is not None:
        return given
    qualname = getattr(function, "__qualname__", None)
    module = getattr(function, "__module__", None)
    bound = getattr(function, "__self__", None)
    if not isinstance(qualname, str) or not isinstance(module, str):
        module = _module_of_builtin(function, qualname)
    if bound is not None and not isinstance(bound, type(sys)):
        raise TypeError(
            f"{qualname} is a method of an object that stays here. Name a function of "
            "a module, or register the method under a name and call that"
        )
    assert isinstance(qualname, str)
    if "<lambda>" in qualname:
        raise TypeError(
            "a lambda cannot be found by a peer. Write it as a function of a module "
            "(functools.partial binds arguments)"
        )
    if "<locals>" in qualname and not local:
        raise TypeError(
            f"{qualname} is defined inside another function, where a peer cannot find "
            "it. Move it to the module's level (functools.partial binds what it took "
            'from around it), or give it a name that the peer knows: @rb.command("…")'
        )
    return f"{module_name(module)}:{qualname}"


def _module_of_builtin(function: object, qualname: object) -> str:
    if not callable(function) or not isinstance(qualname, str):
        kind = type(function).__qualname__
        raise TypeError(
            f"a function or the name of one is called, not an object of type {kind}"
        )
    return "builtins"


def unwrap(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Take partials apart: return the function with all its arguments."""
    while isinstance(function, functools.partial):
        args = (*function.args, *args)
        kwargs = {**function.keywords, **kwargs}
        function = function.func
    return function, args, kwargs
