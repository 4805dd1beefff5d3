"""Annotations as converters: what a function takes and returns, built once.

Plain values of the wire become what the annotations say, by msgspec (strict), which is
imported when the first typed function is met. What msgspec cannot do is refused when a
function is registered, by name. Streams pass as they are. It must not know where values
come from.
"""

from __future__ import annotations

import functools
import inspect
import pathlib
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio.abc

from remoting_bus.channel.streams import ReceiveStream, SendStream
from remoting_bus.protocol.ends import Carried

from .locating import locate

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["BadValue", "Converter", "Shape", "converter", "item_annotation", "shape_of"]

Converter = Callable[[Any], Any]
"""Takes a plain value, returns a converted one, or raises `BadValue`."""

_STREAMS: tuple[type, ...] = (
    ReceiveStream,
    SendStream,
    anyio.abc.ByteReceiveStream,
    anyio.abc.ByteSendStream,
    anyio.abc.ByteStream,
    Carried,
)
_PATHS: tuple[type, ...] = (
    pathlib.Path,
    pathlib.PurePath,
    pathlib.PurePosixPath,
    pathlib.PosixPath,
    pathlib.PureWindowsPath,
    pathlib.WindowsPath,
)
_TRIVIAL: tuple[type, ...] = (bytes, str, int, bool, float)


class BadValue(ValueError):
    """A value is not what an annotation says.

    Attributes:
        path: Where in the value, as Python would index it.
        reason: What was expected and what is there.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.path = path
        self.reason = reason


class Shape:
    """What a function takes and returns.

    Attributes:
        least: How many positional arguments it needs, where no name is given.
        most: How many it takes.
        positional: Converters by position; None where the value passes as it is.
        rest: Converter of `*args`.
        by_name: Converters by name.
        named_rest: Converter of `**kwargs`.
        result: Converter of the result; of an item, for a generator.
        names: Names of the positional parameters, for messages.
        typed: Any converter of an argument is there.
    """

    __slots__ = (
        "by_name",
        "least",
        "most",
        "named_rest",
        "names",
        "positional",
        "rest",
        "result",
        "signature",
        "typed",
    )

    def __init__(self) -> None:
        self.least = 0
        self.most: float = 0
        self.positional: list[Converter | None] = []
        self.rest: Converter | None = None
        self.by_name: dict[str, Converter | None] = {}
        self.named_rest: Converter | None = None
        self.result: Converter | None = None
        self.names: list[str] = []
        self.typed = False
        self.signature: inspect.Signature | None = None

    def check_count(self, positional: list[Any], named: dict[str, Any]) -> None:
        """Raise TypeError, in Python's words, unless the arguments fit."""
        if not named and self.least <= len(positional) <= self.most:
            return
        if self.signature is not None:
            self.signature.bind(*positional, **named)

    def convert(self, positional: list[Any], named: dict[str, Any]) -> None:
        """Convert arguments in place.

        Raises:
            BadValue: Its path begins with the name of the parameter.
        """
        converters = self.positional
        for index, value in enumerate(positional):
            each = converters[index] if index < len(converters) else self.rest
            if each is not None:
                try:
                    positional[index] = each(value)
                except BadValue as bad:
                    raise BadValue(self.name_at(index) + bad.path, bad.reason) from None
        for name, value in named.items():
            each = self.by_name.get(name, self.named_rest)
            if each is not None:
                try:
                    named[name] = each(value)
                except BadValue as bad:
                    raise BadValue(name + bad.path, bad.reason) from None

    def name_at(self, index: int) -> str:
        """Return what the positional argument at `index` is called."""
        if index < len(self.names):
            return self.names[index]
        return f"args[{index - len(self.names)}]"


def shape_of(function: Callable[..., Any], *, skip_first: bool = False) -> Shape:
    """Build the shape of a function from its signature and annotations.

    Args:
        function: What is to be called.
        skip_first: Its first parameter is not the caller's to give.

    Raises:
        TypeError: An annotation that cannot be done; it names function and parameter.
        NameError: An annotation that cannot be resolved.
    """
    shape = Shape()
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # some builtins have none
        shape.most = float("inf")
        return shape
    parameters = list(signature.parameters.values())[skip_first:]
    shape.signature = signature.replace(parameters=parameters)
    hints = _hints(function)
    for each in parameters:
        _add(shape, function, each, hints.get(each.name, Any))
    shape.typed = bool(
        shape.rest
        or shape.named_rest
        or any(shape.positional)
        or any(shape.by_name.values())
    )
    result = hints.get("return", Any)
    if is_generator(function):
        result = item_annotation(result)
    shape.result = _named(function, "the result", result)
    return shape


def _add(
    shape: Shape, function: Callable[..., Any], each: inspect.Parameter, hint: Any
) -> None:
    built = _named(function, f"parameter {each.name!r}", hint)
    match each.kind:
        case inspect.Parameter.VAR_POSITIONAL:
            shape.rest, shape.most = built, float("inf")
        case inspect.Parameter.VAR_KEYWORD:
            shape.named_rest = built
        case inspect.Parameter.KEYWORD_ONLY:
            shape.by_name[each.name] = built
            if each.default is each.empty:
                shape.least = 1 << 30  # never by position alone: bind() will say
        case _:
            shape.positional.append(built)
            shape.names.append(each.name)
            shape.most += 1
            if each.default is each.empty:
                shape.least += 1
            if each.kind is not inspect.Parameter.POSITIONAL_ONLY:
                shape.by_name[each.name] = built


def is_generator(function: object) -> bool:
    """Say whether calling it makes a generator, async or not."""
    return inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function)


def item_annotation(annotation: Any) -> Any:
    """Return the T of AsyncIterator[T] and its kin."""
    arguments = typing.get_args(annotation)
    return arguments[0] if arguments else Any


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    target = function
    if not hasattr(target, "__annotations__") and not isinstance(target, type):
        target = type(target).__call__
    try:
        return typing.get_type_hints(target, include_extras=True)
    except NameError as error:
        raise NameError(
            f"{_called(function)}: an annotation names {error.name!r}, which is not "
            "there at run time. Import it outside `if TYPE_CHECKING`",
            name=error.name,
        ) from None
    except TypeError:
        return {}


def _named(function: Callable[..., Any], what: str, annotation: Any) -> Any:
    try:
        return converter(annotation)
    except TypeError as error:
        raise TypeError(
            f"{_called(function)}, {what}: {error}. Change the annotation, or leave it "
            "out to get plain values"
        ) from None


def _called(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", None) or repr(function)


# -- one annotation --


def converter(annotation: Any) -> Converter | None:
    """Return the converter for an annotation; None where every value passes.

    Raises:
        TypeError: Nothing can be converted to it.
    """
    if (
        annotation is Any
        or annotation is object
        or annotation is inspect.Parameter.empty
    ):
        return None
    if annotation is None:
        annotation = type(None)
    try:
        return _cached(annotation)
    except TypeError as error:
        if "unhashable" not in str(error):
            raise
        return _build(annotation)


@functools.lru_cache(maxsize=2048)
def _cached(annotation: Any) -> Converter | None:
    return _build(annotation)


def _build(annotation: Any) -> Converter | None:
    if isinstance(annotation, typing.TypeVar):
        bound = annotation.__bound__
        return None if bound is None else converter(bound)
    if annotation in _STREAMS:
        return _streams_only(annotation)
    msgspec = _msgspec()
    _check(msgspec, annotation)
    if annotation in _TRIVIAL:
        return _trivial(msgspec, annotation)
    if annotation is type(None):
        return _nothing
    return _general(msgspec, annotation)


def _msgspec() -> ModuleType:
    import msgspec
    import msgspec.inspect

    return msgspec


def _nothing(value: Any) -> None:
    if value is not None:
        raise BadValue("", f"Expected null, got {_kind(value)}")


def _kind(value: object) -> str:
    return type(value).__name__


def _streams_only(kind: type) -> Converter:
    def convert(value: Any) -> Any:
        if isinstance(value, kind | Carried):
            return value
        raise BadValue("", f"Expected a stream ({kind.__name__}), got {_kind(value)}")

    return convert


def _trivial(msgspec: ModuleType, kind: type) -> Converter:
    general = _general(msgspec, kind)

    def convert(value: Any) -> Any:
        return value if type(value) is kind else general(value)

    return convert


def _general(msgspec: ModuleType, annotation: Any) -> Converter:
    convert_to, failure = msgspec.convert, msgspec.ValidationError
    if isinstance(annotation, type) and not typing.get_args(annotation):
        target, boxed = annotation, False
    else:
        # msgspec keeps what it worked out of an annotation with a class only.
        target, boxed = _box(msgspec, annotation), True

    def fails(value: Any, kind: Any) -> str | None:
        try:
            convert_to(value, kind, builtin_types=_BUILTIN, dec_hook=_hook)
        except (failure, RecursionError, TypeError) as error:
            return _words(error)
        return None

    def convert(value: Any) -> Any:
        try:
            if boxed:
                return convert_to(
                    (value,), target, builtin_types=_BUILTIN, dec_hook=_hook
                ).value
            return convert_to(value, target, builtin_types=_BUILTIN, dec_hook=_hook)
        except failure as error:
            path, reason = locate(fails, value, annotation) or ("", _words(error))
            raise BadValue(path, reason) from None
        except RecursionError:
            raise BadValue("", "nested too deeply") from None

    return convert


def _box(msgspec: ModuleType, annotation: Any) -> type:
    made: type = msgspec.defstruct("Box", [("value", annotation)], array_like=True)
    return made


def _hook(kind: type, value: Any) -> Any:
    """Make what msgspec does not know."""
    if issubclass(kind, pathlib.PurePath):
        if isinstance(value, str):
            return kind(value)
        raise ValueError(f"Expected a path (str), got {_kind(value)}")
    if kind in _STREAMS and isinstance(value, kind):
        return value
    raise ValueError(f"Expected {kind.__name__}, got {_kind(value)}")


def _words(error: Exception) -> str:
    return str(error).split(" - at `")[0].replace("`", "")


def _builtin_types() -> tuple[type, ...]:
    import datetime
    import decimal
    import uuid

    return (
        bytes,
        bytearray,
        datetime.datetime,
        datetime.date,
        uuid.UUID,
        decimal.Decimal,
    )


_BUILTIN = _builtin_types()


def _check(msgspec: ModuleType, annotation: Any) -> None:
    """Raise TypeError for what msgspec takes and can then not convert."""
    seen: set[int] = set()
    try:
        waiting = [msgspec.inspect.type_info(annotation)]
    except TypeError as error:
        raise TypeError(str(error)) from None
    while waiting:
        info = waiting.pop()
        if isinstance(info, list | tuple):
            waiting += info
            continue
        if id(info) in seen or not isinstance(
            info, msgspec.inspect.Type | msgspec.inspect.Field
        ):
            continue
        seen.add(id(info))
        if isinstance(info, msgspec.inspect.CustomType):
            kind = info.cls
            if kind not in _STREAMS and kind not in _PATHS:
                raise TypeError(f"values of type {_shown(kind)} do not travel")
        waiting += [getattr(info, name) for name in info.__struct_fields__]


def _shown(kind: Any) -> str:
    if isinstance(kind, type):
        return f"{kind.__module__}.{kind.__qualname__}"
    return repr(kind)
