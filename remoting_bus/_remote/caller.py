"""Calling functions of a peer: what agents' handles and channels have in common.

Owns the path of a call from its arguments to its end on this side. Cancelling never
awaits: the far side is told, and the caller is free at once. It must not know how a
session comes to be: `_link` is its subclasses' to say. Next: `call` and `stream` for the
two kinds that are held open, `ending` for how each ends.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from remoting_bus._loop import clock
from remoting_bus.errors import CallRefused, RemotingError
from remoting_bus.names import Priority, check_timeout
from remoting_bus.protocol.calls import OutcomeKind, OutgoingCall
from remoting_bus.protocol.codec import EncodeError
from remoting_bus.protocol.ends import StreamEnd

from .call import Call, Starting
from .context import current_or_none
from .ending import error_of, value_of
from .marshal import encode_arguments
from .naming import unwrap
from .outcome import Outcome, failed, returned
from .stream import Streaming
from .targets import Target, target_of

if TYPE_CHECKING:
    from remoting_bus.channel.link import Link

__all__ = ["Caller", "Handle", "Options"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Options:
    """How calls are made.

    Attributes:
        timeout: Seconds from the call's start to its deadline; None: no deadline.
        priority: Among the calls to the same peer.
        key: Makes a call durable: run at most once for each key.
    """

    timeout: float | None = None
    priority: Priority = Priority.NORMAL
    key: str | None = None


_DEFAULT = Options()


class Caller(ABC):
    """Who can be called: the methods shared by `RemoteAgent` and `Channel`."""

    __slots__ = ()  # a master holds a handle for each of its agents

    _options: Options = _DEFAULT

    @abstractmethod
    async def _link(self, deadline: float | None) -> Link:
        """Return the session to the peer, waiting for it where there is none.

        Args:
            deadline: On the library's clock; then `CallTimeout` is raised.
        """

    def using(
        self,
        *,
        timeout: float | None = None,
        priority: Priority | None = None,
        key: str | None = None,
    ) -> Handle:
        """Return a handle whose calls have these options.

        Args:
            timeout: Seconds until a call's deadline, which travels with it; infinity
                undoes one that was set.
            priority: URGENT calls overtake others, BACKGROUND ones wait for them.
            key: Makes a call durable: the same key is run at most once, and calling
                again gives the recorded outcome.
        """
        return Handle(self, _merged(self._options, timeout, priority, key))

    # The function is positional-only, so that it may have parameters of any name.
    @overload
    async def call(
        self,
        function: Callable[P, Awaitable[R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R: ...
    @overload
    async def call(
        self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    async def call(self, function: str, /, *args: Any, **kwargs: Any) -> Any: ...
    async def call(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function of the peer and return its result.

        Args:
            function: A function, or the name of one. With a function, the result is
                converted to its annotation, and exceptions of its module arrive as
                themselves.
            args: Its arguments.
            kwargs: Its arguments by name.

        Raises:
            CallRefused: It did not run: unknown, not granted, bad arguments, overload.
            CallTimeout: The deadline passed.
            PeerLost: The peer is gone; `executed` says whether the call may have run.
            RemoteError: It raised something that has no class here. Other exceptions
                that it raised are raised as they are, with the remote traceback as a
                note.

        Cancelling ends the far side's work, too, and does not wait for that.
        """
        if type(function) is not str:
            function, args, kwargs = unwrap(function, args, kwargs)
        target = target_of(function)
        ends: list[StreamEnd] = []
        call = self._outgoing(target, args, kwargs, ends)
        link = await self._link(call.deadline)
        _begin(link, call)
        try:
            outcome = await link.wait(call)
        except BaseException:
            link.forget(call)
            raise
        if outcome.kind is OutcomeKind.RETURNED:
            if target.result is None and not outcome.streams:
                return outcome.value
            return value_of(outcome, target)
        raise error_of(outcome, target, link.peer)

    @overload
    def start(
        self,
        function: Callable[P, Awaitable[R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> AbstractAsyncContextManager[Call[R]]: ...
    @overload
    def start(
        self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> AbstractAsyncContextManager[Call[R]]: ...
    @overload
    def start(
        self, function: str, /, *args: Any, **kwargs: Any
    ) -> AbstractAsyncContextManager[Call[Any]]: ...
    def start(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Start a call and hold it: its progress, its result, its cancel.

        Leaving the block while the call runs cancels it. A failure that nobody asked
        for is raised on leaving.
        """
        if type(function) is not str:
            function, args, kwargs = unwrap(function, args, kwargs)
        target = target_of(function)

        async def begin() -> tuple[Link, OutgoingCall]:
            call = self._outgoing(target, args, kwargs, [])
            link = await self._link(call.deadline)
            _begin(link, call)
            return link, call

        return Starting(target, begin)

    @overload
    def stream(
        self,
        function: Callable[P, AsyncIterable[T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> AbstractAsyncContextManager[AsyncIterator[T]]: ...
    @overload
    def stream(
        self, function: Callable[P, Iterable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AbstractAsyncContextManager[AsyncIterator[T]]: ...
    @overload
    def stream(
        self, function: str, /, *args: Any, **kwargs: Any
    ) -> AbstractAsyncContextManager[AsyncIterator[Any]]: ...
    def stream(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a generator function, async or sync, and iterate over what it yields.

        A slow reader holds the generator up; nothing is dropped. Leaving the block ends
        the generator. What it raises is raised by the iteration, after its items.
        """
        if type(function) is not str:
            function, args, kwargs = unwrap(function, args, kwargs)
        target = target_of(function)

        async def begin(items: StreamEnd) -> tuple[Link, OutgoingCall]:
            call = self._outgoing(target, args, kwargs, [], items)
            link = await self._link(call.deadline)
            _begin(link, call)
            return link, call

        return Streaming(target, begin)

    async def attempt(
        self, function: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Outcome[Any]:
        """Call, and return how that ended instead of raising it.

        Raises:
            TypeError: No peer could find the function.
        """
        if type(function) is not str:
            function, args, kwargs = unwrap(function, args, kwargs or {})
        target = target_of(function)
        try:
            call = self._outgoing(target, args, kwargs or {}, [])
            link = await self._link(call.deadline)
            _begin(link, call)
        except RemotingError as error:
            return failed(error)
        try:
            outcome = await link.wait(call)
        except BaseException:
            link.forget(call)
            raise
        if outcome.kind is not OutcomeKind.RETURNED:
            return failed(error_of(outcome, target, link.peer))
        try:
            return returned(value_of(outcome, target))
        except CallRefused as error:
            return failed(error)

    def _outgoing(
        self,
        target: Target,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        ends: list[StreamEnd],
        items: StreamEnd | None = None,
    ) -> OutgoingCall:
        options = self._options
        try:
            data = encode_arguments(args, kwargs, ends, names=target.names, items=items)
        except EncodeError as error:
            raise CallRefused(
                f"{target.name}: argument {error.path!r}: {error.reason}"
            ) from None
        timeout = options.timeout
        return OutgoingCall(
            target.name,
            data,
            streams=ends,
            priority=options.priority,
            deadline=None if timeout is None else clock() + timeout,
            key=options.key,
        )


def _begin(link: Link, call: OutgoingCall) -> None:
    context = current_or_none()
    if context is not None and context.peer == link.peer:
        call.on_behalf = True  # law 20: a call-back has room of its own
    link.start(call)


def _merged(
    options: Options,
    timeout: float | None,
    priority: Priority | None,
    key: str | None,
) -> Options:
    return Options(
        options.timeout if timeout is None else check_timeout(timeout),
        options.priority if priority is None else Priority(priority),
        options.key if key is None else key,
    )


class Handle(Caller):
    """A caller with options of its own; made by `using`."""

    def __init__(self, origin: Caller, options: Options) -> None:
        self._origin = origin
        self._options = options

    async def _link(self, deadline: float | None) -> Link:
        return await self._origin._link(deadline)

    def using(
        self,
        *,
        timeout: float | None = None,
        priority: Priority | None = None,
        key: str | None = None,
    ) -> Handle:
        """Return a handle with these options in place of its own."""
        return Handle(self._origin, _merged(self._options, timeout, priority, key))
