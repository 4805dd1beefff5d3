"""Exceptions on the wire: what a function raised, as its caller gets it.

Builtins, and what the function's module defines, arrive as themselves, made without
running their `__init__`; all others, and all but builtins in a call by name, as
`RemoteError`. The remote traceback is a note, so that it prints below the local one.
Nothing that arrives makes a class be imported. It must not know how calls end otherwise.
"""

from __future__ import annotations

import builtins
import sys
import traceback
import types
from typing import Any

from remoting_bus.errors import CallRefused, RemoteError
from remoting_bus.protocol.codec import EncodeError, encode

from .naming import module_name, type_name

__all__ = ["encode_error", "encode_unsendable", "rebuild"]

MAX_TRACEBACK = 32 * 1024
"""Characters of a traceback's text; of longer ones the middle is left out."""

MAX_MESSAGE = 8 * 1024
"""Characters of a message, and of each note."""

MAX_ARGUMENTS = 64 * 1024
"""Bytes of `args` and attributes; an error with more arrives as RemoteError."""

MAX_NOTES = 32
MAX_GROUP = 64
"""Errors in a group, over all its levels; the others are in its traceback."""

_MAX_LEVELS = 8
"""Levels of groups in groups."""

_UNSENDABLE = "rb:result"
"""Stands for a type where the function returned what cannot be sent."""

_EXTRA = ("name", "path", "errno", "strerror", "filename", "filename2", "value")
"""Attributes that builtin exceptions keep outside `args` and `__dict__`."""


# -- out --


def encode_error(error: BaseException) -> bytes:
    """Encode an exception; that never fails, whatever the exception is."""
    budget = [MAX_GROUP]
    try:
        return encode(_describe(error, budget, 0))
    except (EncodeError, RecursionError):
        return encode(
            {
                "type": _safe(lambda: type_name(type(error))),
                "message": _safe(lambda: str(error)),
                "traceback": _safe(lambda: _text(error)),
            }
        )


def encode_unsendable(message: str) -> bytes:
    """Encode that a function ran, and that its result cannot be sent."""
    return encode({"type": _UNSENDABLE, "message": _clip(message, MAX_MESSAGE)})


def _describe(error: BaseException, budget: list[int], level: int) -> dict[str, Any]:
    budget[0] -= 1
    made: dict[str, Any] = {
        "type": _safe(lambda: type_name(type(error))),
        "message": _safe(lambda: str(error)),
    }
    notes = getattr(error, "__notes__", None)
    if isinstance(notes, list) and notes:
        made["notes"] = [_clip(_safe(lambda n=n: str(n))) for n in notes[:MAX_NOTES]]
    if level == 0:
        made["traceback"] = _safe(lambda: _text(error))
    if isinstance(error, BaseExceptionGroup):
        made["message"] = _safe(lambda: error.message)
        if level < _MAX_LEVELS:
            made["errors"] = [
                _describe(each, budget, level + 1)
                for each in error.exceptions
                if budget[0] > 0
            ]
        return made
    if isinstance(error, Exception):
        _add_arguments(made, error)
    return made


def _add_arguments(made: dict[str, Any], error: Exception) -> None:
    """Add what the exception is rebuilt from, if all of it can be sent."""
    state = {
        key: value
        for key, value in vars(error).items()
        if key != "__notes__" and isinstance(key, str)
    }
    extra = {}
    if type(error).__module__ == "builtins" or isinstance(error, OSError | ImportError):
        for key in _EXTRA:
            value = getattr(error, key, None)
            if value is not None:
                extra[key] = value
    try:
        parts = {"args": list(error.args), "dict": state, "extra": extra}
        if len(encode(parts)) <= MAX_ARGUMENTS:
            made.update(parts)
    except EncodeError:
        made["message"] = _safe(lambda: str(error)) or _safe(lambda: repr(error))


def _safe(make: Any) -> str:
    """Ask user code for text; whatever it raises is said instead."""
    try:
        text = make()
    except Exception as error:  # noqa: BLE001 - a __str__ of anybody's
        return f"<{type(error).__name__} while making text of it>"
    return _clip(text if isinstance(text, str) else repr(text), MAX_TRACEBACK)


def _clip(text: str, limit: int = MAX_MESSAGE) -> str:
    # What is no Unicode (surrogates of file names) cannot be sent as text.
    text = text.encode("utf-8", "backslashreplace").decode()
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters left out …]\n{text[-half:]}"


def _text(error: BaseException) -> str:
    """Return the traceback with causes and contexts, from the function on."""
    shown = traceback.TracebackException(
        type(error), error, _from_function(error.__traceback__), limit=-64, compact=True
    )
    return "".join(shown.format())


def _from_function(frame: types.TracebackType | None) -> types.TracebackType | None:
    """Leave out the frames that are ours: they say nothing to users."""
    first = frame
    while frame is not None and _is_ours(frame):
        frame = frame.tb_next
    return frame or first


_OURS = __name__.rpartition(".")[0]
_LOOP = f"{_OURS.partition('.')[0]}._loop"


def _is_ours(frame: types.TracebackType) -> bool:
    module = frame.tb_frame.f_globals.get("__name__", "")
    return isinstance(module, str) and module.startswith((_OURS, _LOOP))


# -- in --


def rebuild(described: Any, *, peer: str, module: str | None = None) -> Exception:
    """Make the exception that a peer described.

    Args:
        described: What `encode_error` made there, decoded.
        peer: Who raised it, for the note.
        module: Where the function that was called is defined; exceptions defined there
            arrive as themselves. None in a call by name.
    """
    if not isinstance(described, dict):
        described = {"message": "the peer described no error"}
    if described.get("type") == _UNSENDABLE:
        return CallRefused(_string(described, "message"))
    error = _make(described, sys.modules.get(module or ""), 0)
    notes = described.get("notes")
    if isinstance(notes, list):
        for note in notes[:MAX_NOTES]:
            error.add_note(str(note))
    text = _string(described, "traceback").rstrip()
    if text:
        error.add_note(f"\nOn {peer!r}:\n{text}")
    return error


def _string(described: dict[str, Any], key: str) -> str:
    value = described.get(key, "")
    return value if isinstance(value, str) else repr(value)


def _make(
    described: dict[str, Any], module: types.ModuleType | None, level: int
) -> Exception:
    name = _string(described, "type")
    kind = _find(name, module)
    if kind is not None:
        made = (
            _make_group(kind, described, module, level)
            if issubclass(kind, ExceptionGroup)
            else _make_one(kind, described)
        )
        if made is not None:
            return made
    shown = name.replace(":", ".") or "an error"
    message = _string(described, "message")
    return RemoteError(
        f"{shown}: {message}" if message else shown,
        type_name=shown,
        traceback=_string(described, "traceback"),
    )


def _find(name: str, module: types.ModuleType | None) -> type[Exception] | None:
    """Return the class of that name if it may arrive as itself."""
    where, colon, qualname = name.rpartition(":")
    found: Any
    if not colon:
        found = vars(builtins).get(name)
    elif module is not None and _named(module) == where:
        found = module
        for part in qualname.split("."):
            found = getattr(found, "__dict__", {}).get(part)
    else:
        return None
    if not isinstance(found, type) or not issubclass(found, Exception):
        return None
    if colon and (module is None or found.__module__ != module.__name__):
        return None  # defined elsewhere, and only imported there
    if found in (StopIteration, StopAsyncIteration):
        return None  # raised in a coroutine they mean something else
    return found


def _named(module: types.ModuleType) -> str:
    try:
        return module_name(module.__name__)
    except TypeError:
        return module.__name__


def _make_one(kind: type[Exception], described: dict[str, Any]) -> Exception | None:
    args, state = described.get("args"), described.get("dict")
    extra = described.get("extra")
    if not isinstance(args, list) or not isinstance(state, dict):
        return None
    if not isinstance(extra, dict):
        extra = {}
    try:
        made = _new(kind, args, extra)
        if type(made) is not kind and not isinstance(made, OSError):
            return None
        vars(made).update(
            {k: v for k, v in state.items() if isinstance(k, str) and k != "__notes__"}
        )
        for key in _EXTRA:
            if key in extra and getattr(made, key, None) != extra[key]:
                setattr(made, key, extra[key])
    except Exception:  # noqa: BLE001 - a __new__ of anybody's
        return None
    return made


def _new(kind: type[Exception], args: list[Any], extra: dict[str, Any]) -> Exception:
    if issubclass(kind, OSError):
        five = [extra.get("errno"), extra.get("strerror"), extra.get("filename"), None]
        given = [*five, extra.get("filename2")] if "errno" in extra else args
        os_error = kind.__new__(kind, *given)
        os_error.args = tuple(args)
        return os_error
    made = kind.__new__(kind, *args)
    if isinstance(kind.__init__, types.WrapperDescriptorType):
        # The interpreter's own: without it a UnicodeDecodeError has no text.
        kind.__init__(made, *args)
    made.args = tuple(args)
    return made


def _make_group(
    kind: type[Exception],
    described: dict[str, Any],
    module: types.ModuleType | None,
    level: int,
) -> Exception | None:
    inside = described.get("errors")
    if not isinstance(inside, list) or not inside or level > _MAX_LEVELS:
        return None
    errors: list[Exception] = []
    for each in inside[:MAX_GROUP]:
        if not isinstance(each, dict):
            return None
        error = _make(each, module, level + 1)
        for note in each.get("notes", [])[:MAX_NOTES]:
            error.add_note(str(note))
        errors.append(error)
    try:
        made = kind.__new__(kind, _string(described, "message"), errors)
    except Exception:  # noqa: BLE001 - a __new__ of anybody's
        return None
    return made
