"""What a generator of a peer yields, iterated here.

Owns the order of its ending: first all items, then what the generator raised. It must
not know how items look as bytes (`items` does).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import anyio

from remoting_bus._loop import current_loop
from remoting_bus.errors import CallRefused, LocalProtocolError, RemotingError
from remoting_bus.protocol import ends
from remoting_bus.protocol.calls import OutcomeKind, OutgoingCall
from remoting_bus.protocol.ends import StreamEnd

from .ending import error_of
from .items import ItemReader
from .shapes import BadValue
from .targets import Target

if TYPE_CHECKING:
    from remoting_bus.channel.link import Link

__all__ = ["Streaming"]

T = TypeVar("T")

_WITHOUT_ITEMS = frozenset(
    {
        OutcomeKind.CANCELLED,
        OutcomeKind.TIMED_OUT,
        OutcomeKind.REFUSED,
        OutcomeKind.LOST,
    }
)
"""Ends after which what is still on its way is not waited for."""


class Streaming(Generic[T]):
    """What `stream` returns: entered once, it is the iterator."""

    def __init__(
        self,
        target: Target,
        begin: Callable[[StreamEnd], Awaitable[tuple[Link, OutgoingCall]]],
    ) -> None:
        self._target = target
        self._begin = begin
        self._reader = ItemReader()
        self._items = self._reader.items
        self._ended = False
        self._entered = False
        self._told = False  # its holder knows how it ended

    async def __aenter__(self) -> Self:
        if self._entered:
            raise LocalProtocolError("a stream is entered once; call stream() again")
        self._entered = True
        self._loop = current_loop()
        self._signal = self._loop.signal()
        self._inlet, outlet = ends.pipe()
        self._inlet.wake = self._signal.set
        self._link, self._call = await self._begin(outlet)
        self._call.wake = self._signal.set
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while not self._items:
            if self._ended:
                raise StopAsyncIteration
            await self._fill()
        item: Any = self._items.popleft()
        convert = self._target.result
        if convert is None:
            return item  # type: ignore[no-any-return]
        try:
            return convert(item)  # type: ignore[no-any-return]
        except BadValue as bad:
            self._told = True
            raise CallRefused(
                f"{self._target.name}: an item{bad.path}: {bad.reason}. The call ran"
            ) from None

    async def _fill(self) -> None:
        """Wait for items, or for the end: then raise what the generator raised."""
        if self._signal.waiting:
            raise anyio.BusyResourceError("iterating over")
        await self._loop.turn()
        while not self._items:
            outcome = self._call.outcome
            if outcome is not None and outcome.kind in _WITHOUT_ITEMS:
                await self._end(None)
                return
            try:
                piece = self._inlet.read_nowait()
            except RemotingError as error:
                await self._end(error)
                return
            if piece is None:
                await self._signal.wait()
            elif piece:
                self._reader.feed(piece)
            else:
                await self._end(None)
                return

    async def _end(self, broken: RemotingError | None) -> None:
        """No more items will come; see how the call ended.

        Raises:
            Exception: What the generator raised, or what became of the call.
        """
        while self._call.outcome is None:
            await self._signal.wait()
        self._ended = self._told = True
        outcome = self._call.outcome
        if outcome.kind is not OutcomeKind.RETURNED:
            raise error_of(outcome, self._target, self._link.peer)
        if broken is not None or not self._reader.complete:
            raise anyio.BrokenResourceError(str(broken or "an item is incomplete"))

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        outcome = self._call.outcome
        if outcome is None:
            self._link.forget(self._call)
            return
        self._inlet.reset("its reader has left")
        failed = outcome.kind is not OutcomeKind.RETURNED
        if failed and exc is None and not self._told:
            raise error_of(outcome, self._target, self._link.peer)
