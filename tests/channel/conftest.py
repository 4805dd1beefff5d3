"""Three shells for the channel's tests, over a broker in this process that knows threads.

asyncio with one loop, asyncio with two, trio with one. `hall` is a broker of two
connections for each opening, with links that can be cut; the memory bus has one loop.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from remoting_bus._loop import Loop, current_loop
from remoting_bus.bus.backend import Backend, Bus, BusLimits, Deliver, LinkEvent
from remoting_bus.bus.links import LinkBoard
from remoting_bus.channel.link import Link
from remoting_bus.channel.node import Node
from remoting_bus.channel.pair import Pair, open_bus
from remoting_bus.errors import ChannelBroken, ConnectionFailed
from remoting_bus.names import Address, Lane
from remoting_bus.protocol.calls import IncomingCall, OutgoingCall
from remoting_bus.protocol.codec import encode

TIME_LIMIT = 20.0
"""Seconds after which a test that hangs fails."""


@pytest.fixture(params=["asyncio-1", "asyncio-2", "trio-1"])
def shell(request: pytest.FixtureRequest) -> str:
    """The library and how many loops."""
    name: str = request.param
    return name


@pytest.fixture
def anyio_backend(shell: str) -> str:
    """What anyio's plugin runs the test with."""
    return shell.partition("-")[0]


class Reader:
    """One `consume` of one connection."""

    def __init__(self, bus: HallBus, lanes: Collection[Lane], deliver: Deliver) -> None:
        self.bus = bus
        self.lanes = frozenset(lanes)
        self._deliver = deliver
        self._waiting: deque[tuple[bytes, Lane]] = deque()

    def put(self, body: bytes, lane: Lane) -> None:
        """Hand over from any thread."""
        self._waiting.append((body, lane))
        self.bus.loop.post(self._take)

    def _take(self) -> None:
        while self._waiting:
            body, lane = self._waiting.popleft()
            if self.bus.up:
                self._deliver(body, lane)


class Hall(Backend):
    """The broker: any thread may publish, each reader is served on its own loop."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.readers: dict[tuple[str, str], list[Reader]] = {}
        self.buses: list[HallBus] = []
        self.refuse: list[ConnectionFailed] = []
        self.closed = 0

    @asynccontextmanager
    async def _opened(self) -> AsyncGenerator[Bus, None]:
        await anyio.lowlevel.checkpoint()
        if self.refuse:
            raise self.refuse.pop(0)
        bus = HallBus(self, current_loop())
        self.buses.append(bus)
        try:
            yield bus
        finally:
            self.closed += 1

    def open(self, url: str) -> AbstractAsyncContextManager[Bus]:
        return self._opened()


class HallBus(Bus):
    """One connection. The first of an opening is for calls, the second for bulk."""

    def __init__(self, hall: Hall, loop: Loop) -> None:
        self.limits = BusLimits(max_bytes=1024 * 1024, publishes_under_way=4)
        self.hall = hall
        self.loop = loop
        self.up = True
        self.slow = False
        self.published: list[tuple[Address, Lane, int]] = []
        self.board = LinkBoard(LinkEvent("up", "the hall is open"))

    def tell(self, event: LinkEvent) -> None:
        """Say something of the link, from any thread."""

        def change() -> None:
            self.up = event.state not in ("down", "failed")
            self.board.tell(event)

        self.loop.post(change)

    async def publish(
        self, to: Address, lane: Lane, body: bytes, *, expires_in: float | None = None
    ) -> None:
        await anyio.lowlevel.checkpoint()
        if not self.up:
            raise ChannelBroken("the link is down")
        self._put(to, lane, body)

    def try_publish(
        self, to: Address, lane: Lane, body: bytes, *, expires_in: float | None = None
    ) -> bool:
        if not self.up or self.slow:
            return False
        self._put(to, lane, body)
        return True

    def _put(self, to: Address, lane: Lane, body: bytes) -> None:
        self.published.append((to, lane, len(body)))
        with self.hall.lock:
            for reader in self.hall.readers.get((to.namespace, to.name), ()):
                if lane in reader.lanes:
                    reader.put(body, lane)

    @asynccontextmanager
    async def consume(
        self, at: Address, lanes: Collection[Lane], *, prefetch: int, deliver: Deliver
    ) -> AsyncGenerator[None, None]:
        reader = Reader(self, lanes, deliver)
        with self.hall.lock:
            self.hall.readers.setdefault((at.namespace, at.name), []).append(reader)
        try:
            yield
        finally:
            with self.hall.lock:
                self.hall.readers[at.namespace, at.name].remove(reader)

    def link_events(self) -> AbstractAsyncContextManager[AsyncIterator[LinkEvent]]:
        return self.board.events()


@pytest.fixture
def hall(monkeypatch: pytest.MonkeyPatch) -> Hall:
    """The broker behind every URL that is opened in the test."""
    made = Hall()
    monkeypatch.setattr("remoting_bus.channel.pair.backend_for", lambda url: made)
    return made


Serve = Callable[[Link, IncomingCall], Awaitable[None]]


async def echo(link: Link, call: IncomingCall) -> None:
    """Return the first argument."""
    link.returned(call, encode(call.args[0][0]))


def a_call(*args: Any, **options: Any) -> OutgoingCall:
    """Make a call with these arguments."""
    return OutgoingCall(options.pop("name", "f"), encode([list(args), {}]), **options)


@dataclass
class Two:
    """Two nodes on buses of their own, and the link between them, seen from `a`."""

    hall: Hall
    pairs: tuple[Pair, Pair]
    a: Node
    b: Node
    link: Link


Opener = Callable[..., AbstractAsyncContextManager[Two]]


@pytest.fixture
def two(hall: Hall, shell: str) -> Opener:
    """Open two nodes with a link; everything ends within the time limit."""
    url = f"hall://here?loops={shell[-1]}"

    @asynccontextmanager
    async def opened(serve: Serve = echo, **options: Any) -> AsyncGenerator[Two, None]:
        with anyio.fail_after(TIME_LIMIT):
            async with (
                open_bus(url) as first,
                open_bus(url) as second,
                Node(first, "a", serve=echo, **options) as a,
                Node(second, "b", serve=serve, **options) as b,
            ):
                link = await a.connect("b", timeout=5)
                yield Two(hall, (first, second), a, b, link)

    return opened
