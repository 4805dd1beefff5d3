"""`Channel`: two peers on a bus that call each other, without masters or agents.

Symmetric: either side may call, hand over streams, and open streams by name. It must
not know how a session comes to be; its node does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.abc
from anyio.streams.stapled import StapledByteStream

from remoting_bus._loop import clock
from remoting_bus.channel.node import Node
from remoting_bus.channel.streams import ReceiveStream, SendStream
from remoting_bus.errors import ChannelClosed
from remoting_bus.names import check_name
from remoting_bus.protocol import ends
from remoting_bus.protocol.terms import Phase

from .caller import Caller
from .context import current
from .dispatch import Dispatcher
from .registry import Registry

if TYPE_CHECKING:
    from remoting_bus.channel.link import Link
    from remoting_bus.channel.pair import Pair

__all__ = ["Channel"]

_OPEN_STREAM = "rb:stream"

_Named = tuple[str, anyio.abc.ByteStream]

_USABLE = (Phase.OPEN, Phase.SUSPENDED)

_MAX_WAITING = 100
"""Streams that a peer opened and nobody has taken; its next `open_stream` waits."""


class _Incoming:
    """Streams that the peer opened, until the program takes them."""

    def __init__(self) -> None:
        self._send, self._receive = anyio.create_memory_object_stream[_Named](
            _MAX_WAITING
        )

    async def put(self, stream: _Named) -> None:
        """Add a stream, waiting for room."""
        await self._send.send(stream)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _Named:
        try:
            return await self._receive.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            raise StopAsyncIteration from None

    def close(self) -> None:
        """End the iterations."""
        self._send.close()
        self._receive.close()


class Channel(Caller):
    """A conversation with one peer over an open bus; an async context manager.

    It may be entered before the peer is there: calls wait for it, until their timeout.

    Args:
        bus: An open bus (`remoting_bus.open_bus`); it stays open.
        local: The name of this side.
        peer: The name of the other.
        commands: What the peer may call: functions by name; or functions and modules.
        namespace: Names are unique in it.
    """

    def __init__(
        self,
        bus: Pair,
        *,
        local: str,
        peer: str,
        commands: Mapping[str, Callable[..., Any]]
        | Iterable[Callable[..., Any] | ModuleType] = (),
        namespace: str = "default",
    ) -> None:
        self.local = check_name(local, "local name")
        self.peer = check_name(peer, "peer name")
        registry = Registry()
        registry.add_all(commands)
        self._incoming: _Incoming | None = None
        registry.add(self._take_stream, _OPEN_STREAM, offer="streams")
        self._node = Node(
            bus,
            self.local,
            namespace=check_name(namespace, "namespace"),
            info={"role": "channel"},
            serve=Dispatcher(registry, {"commands", "streams"}).serve,
        )

    def __repr__(self) -> str:
        return f"<Channel {self.local} to {self.peer}>"

    async def __aenter__(self) -> Self:
        """Begin to listen at `local`."""
        await self._node.__aenter__()
        self._incoming = _Incoming()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Say goodbye. Calls under way end with CallCancelled at both sides."""
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            incoming.close()
        await self._node.__aexit__(exc_type, exc, traceback)

    async def _link(self, deadline: float | None) -> Link:
        link = self._node.links.get(self.peer)
        if link is not None and link.phase in _USABLE:
            return link
        self._entered()
        return await self._node.connect(self.peer, timeout=_left(deadline))

    def _entered(self) -> _Incoming:
        if self._incoming is None:
            raise ChannelClosed(f"{self!r} is not open: use it inside `async with`")
        return self._incoming

    async def _take_stream(
        self, name: str, reader: ReceiveStream, writer: SendStream
    ) -> None:
        """Answer the peer's `open_stream` once there is room for its stream."""
        await self._entered().put((name, StapledByteStream(writer, reader)))
        current().keep_streams()

    async def open_stream(self, name: str) -> anyio.abc.ByteStream:
        """Open a stream of bytes in both directions; the peer gets it by name.

        It is there once the peer has room for it: see `incoming_streams`.
        """
        inlet, outlet = ends.pipe()
        their_inlet, their_outlet = ends.pipe()
        await self.call(_OPEN_STREAM, name, their_inlet, outlet)
        return StapledByteStream(SendStream(their_outlet), ReceiveStream(inlet))

    def incoming_streams(self) -> AsyncIterator[_Named]:
        """Iterate over the streams that the peer opens, with their names.

        Each is given once, also where several tasks iterate.
        """
        return self._entered()

    def statistics(self) -> dict[str, Any]:
        """Return counts and sizes of the session: frames, bytes, repeats, round trip."""
        link = self._node.links.get(self.peer)
        return {} if link is None else link.statistics()


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - clock())
