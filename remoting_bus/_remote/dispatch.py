"""Run what a peer calls, and answer: exactly once, whatever the function does.

A call is authorised by its name before its arguments are looked at. Async functions run
in the worker's task, which the call's cancel reaches; sync ones in threads, which see
`checkpoint`. This is the one place that catches everything: what a function raises is
its call's error, and never this program's. It must not know which program it serves.
Next: `running`.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import anyio

from remoting_bus.errors import (
    CallCancelled,
    CallTimeout,
    LimitExceeded,
    LocalProtocolError,
)
from remoting_bus.protocol.calls import IncomingCall, RefusalCode
from remoting_bus.protocol.codec import EncodeError, StreamMark
from remoting_bus.protocol.ends import Outlet, StreamEnd

from .context import CURRENT, CallContext
from .faults import encode_error, encode_unsendable
from .marshal import as_stream, encode_value, insert_streams
from .registry import Command, Kind, Registry
from .running import Unsendable, in_thread, items_of, items_of_thread
from .shapes import BadValue

if TYPE_CHECKING:
    from remoting_bus.channel.link import Link

__all__ = ["Dispatcher"]


class Dispatcher:
    """Serves the functions of a registry.

    Args:
        registry: What may be called; it may grow later.
        offers: Of which offers; see `Registry.add`.
    """

    def __init__(self, registry: Registry, offers: Collection[str]) -> None:
        self._registry = registry
        self._offers = frozenset(offers)

    async def serve(self, link: Link, call: IncomingCall) -> None:
        """Run one call and answer it. For the channel's workers: one task, one call."""
        command = self._registry.lookup(call.name)
        if command is None or command.offer not in self._offers or call.key is not None:
            self._refuse(link, call, command)
            return
        try:
            positional, named, items = _arguments(command, call)
        except (BadValue, TypeError, ValueError) as error:
            link.refused(call, RefusalCode.UNDECODABLE, _why_not(command, error))
            return
        context = CallContext(link, call)
        CURRENT.set(context)
        try:
            if command.kind is Kind.ASYNC:
                result = await command.function(*positional, **named)
            else:
                result = await _run(link, call, command, positional, named, items)
        except BaseException as error:
            _answer_failure(link, call, command, error)
            if isinstance(error, anyio.get_cancelled_exc_class()) and _is_over():
                raise
            return
        _answer_result(link, call, command, result)

    def _refuse(self, link: Link, call: IncomingCall, command: Command | None) -> None:
        name = call.name[:80]
        if command is None:
            message = f"{name!r} is not known here; {self._known()}"
            link.refused(call, RefusalCode.UNKNOWN, message)
        elif command.offer not in self._offers:
            offered = ", ".join(sorted(self._offers)) or "nothing"
            message = (
                f"{name!r} belongs to {command.offer!r}, which is not offered here; "
                f"offered: {offered}"
            )
            link.refused(call, RefusalCode.NOT_GRANTED, message)
        else:
            message = (
                f"{name!r} was called with a key, and this program keeps no journal "
                "of durable calls; call it without"
            )
            link.refused(call, RefusalCode.OTHER, message)

    def _known(self) -> str:
        if "commands" not in self._offers:
            return "commands are not offered"
        names = sorted(each for each in self._registry if not each.startswith("rb:"))
        if not names:
            return "no function was registered"
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return f"known: {', '.join(names[:_SHOWN])}{more}"


_SHOWN = 20
"""Names of functions that a refusal shows: enough to see a slip of the pen."""


def _why_not(command: Command, error: Exception) -> str:
    if isinstance(error, BadValue):
        return f"{command.name}: argument {error.path!r}: {error.reason}"
    return f"{command.name}: {error}"


def _arguments(
    command: Command, call: IncomingCall
) -> tuple[list[Any], dict[str, Any], Outlet | None]:
    """Return what the function is called with, and where its items go."""
    args = call.args
    if type(args) is not list or not 2 <= len(args) <= 3:
        raise ValueError("the arguments are not [by position, by name]")
    positional, named = args[0], args[1]
    if type(positional) is not list or type(named) is not dict:
        raise ValueError("the arguments are not [by position, by name]")
    for name in named:
        if type(name) is not str:
            raise ValueError("an argument's name is not text")
    items = _items_end(command, call)
    if call.references:
        raise ValueError("objects cannot be handed to it")
    if call.streams:
        streams = [as_stream(end) for end in call.streams]
        seen: set[int] = set()
        insert_streams(positional, streams, seen)
        insert_streams(named, streams, seen)
    shape = command.shape
    shape.check_count(positional, named)
    if shape.typed:
        shape.convert(positional, named)
    return positional, named, items


def _items_end(command: Command, call: IncomingCall) -> Outlet | None:
    yields = command.kind in (Kind.GENERATOR, Kind.ASYNC_GENERATOR)
    if len(call.args) == 2:
        if yields:
            raise ValueError("it is a generator function: call it with stream()")
        return None
    if not yields:
        raise ValueError("it is not a generator function: call it with call()")
    mark = call.args[2]
    index = mark.index if type(mark) is StreamMark else len(call.streams)
    end = call.streams[index] if index < len(call.streams) else None
    if not isinstance(end, Outlet):
        raise ValueError("no stream came for what it yields")
    return end


async def _run(
    link: Link,
    call: IncomingCall,
    command: Command,
    positional: list[Any],
    named: dict[str, Any],
    items: Outlet | None,
) -> Any:
    function = command.function
    match command.kind:
        case Kind.INLINE:
            result = function(*positional, **named)
        case Kind.THREAD:
            result = await in_thread(link, call, lambda: function(*positional, **named))
        case Kind.ASYNC_GENERATOR:
            assert items is not None
            return await items_of(function(*positional, **named), items)
        case Kind.GENERATOR:
            assert items is not None
            made = function(*positional, **named)
            return await items_of_thread(link, call, made, items)
        case _:
            raise AssertionError(command.kind)
    # A sync function may return what another, async one, gave it.
    return await result if hasattr(type(result), "__await__") else result


def _is_over() -> bool:
    """The task itself is being cancelled, by the call or because all ends."""
    return anyio.current_effective_deadline() == -math.inf


def _answer_failure(
    link: Link, call: IncomingCall, command: Command, error: BaseException
) -> None:
    cancelled = isinstance(error, anyio.get_cancelled_exc_class())
    if call.cancelled is not None:
        if cancelled or isinstance(error, CallCancelled | CallTimeout):
            message = "it was stopped"
        else:
            message = f"it was stopped, and raised {type(error).__name__} on its way"
        link.cancelled_done(call, ran=True, message=message)
    elif isinstance(error, CallTimeout) and _deadline_passed(error):
        link.cancelled_done(call, ran=True, message="it stopped at its deadline")
    elif cancelled and _is_over():
        link.cancelled_done(call, ran=True, message="its program is ending")
    elif isinstance(error, Unsendable):
        link.raised(call, encode_unsendable(f"{command.name}: {error}. The call ran"))
    else:
        link.raised(call, encode_error(error))


def _deadline_passed(error: CallTimeout) -> bool:
    """Say whether `checkpoint` raised it for this very call."""
    context = CURRENT.get()
    return context is not None and error is context.raised


def _answer_result(
    link: Link, call: IncomingCall, command: Command, result: Any
) -> None:
    ends: list[StreamEnd] = []
    try:
        value = encode_value(result, ends)
        if ends:
            link.returned(call, value, streams=ends)
        else:
            link.returned(call, value)
    except EncodeError as error:
        message = (
            f"the result of {command.name!r} cannot be sent: result{error.path}: "
            f"{error.reason}. The call ran"
        )
        link.raised(call, encode_unsendable(message))
    except (LimitExceeded, LocalProtocolError) as error:
        message = f"the result of {command.name!r} cannot be sent: {error}. It ran"
        link.raised(call, encode_unsendable(message))
