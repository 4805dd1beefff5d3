"""What the promises of a bus are tried with: connections, addresses, and an inbox.

Owns waiting for what should arrive, and for what should not. It must not know which
promise is tried. Duplicates are never held against a driver: a bus may repeat.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import anyio

from remoting_bus.bus import Backend, Bus
from remoting_bus.names import Address, Lane

__all__ = ["PREFETCH", "QUIET", "Inbox", "Probe", "expect"]

QUIET = 0.25
"""Seconds in which a message that must not come would have come: some round trips of
the slowest broker. Longer makes no driver worse, shorter only lets a breach pass."""

PREFETCH = 100
"""Messages sent ahead, where a promise is not about it."""


def expect(truth: object, message: str) -> None:
    """Raise AssertionError unless it is so, under `python -O`, too."""
    if not truth:
        raise AssertionError(message)


class Inbox:
    """Collects what is delivered; `deliver` is passed to `consume`."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.lanes: list[Lane] = []
        self._arrival = anyio.Event()

    def deliver(self, body: bytes, lane: Lane) -> None:
        """Keep a message."""
        self.bodies.append(body)
        self.lanes.append(lane)
        self._arrival.set()

    @property
    def once(self) -> list[bytes]:
        """What came, in the order of first arrival."""
        return list(dict.fromkeys(self.bodies))

    async def wait_for(self, bodies: Iterable[bytes]) -> None:
        """Wait until all of these came; the promise's deadline ends the wait."""
        missing = set(bodies)
        seen = 0
        while True:
            missing.difference_update(self.bodies[seen:])
            seen = len(self.bodies)
            if not missing:
                return
            self._arrival = anyio.Event()
            await self._arrival.wait()


class Probe:
    """One promise's connections and names; made anew for each.

    Attributes:
        backend: The driver.
        url: Of the first connection.
        namespace: Nobody else's.
        progress: What is waited for, told if the deadline passes.
    """

    def __init__(
        self, backend: Backend, url: str, other_url: str, namespace: str
    ) -> None:
        self.backend = backend
        self.url = url
        self.other_url = other_url
        self.namespace = namespace
        self.progress = "opening a connection"

    @asynccontextmanager
    async def two(self) -> AsyncGenerator[tuple[Bus, Bus], None]:
        """Open two connections: the writer's and the reader's."""
        async with self.backend.open(self.url) as writer:
            async with self.backend.open(self.other_url) as reader:
                self.progress = "trying"
                yield writer, reader
                self.progress = "closing"

    def at(self, name: str = "reader", sender: str = "writer") -> Address:
        """Return an address in this probe's namespace."""
        return Address(self.namespace, name, sender)

    def read(
        self,
        bus: Bus,
        inbox: Inbox,
        name: str = "reader",
        lanes: Collection[Lane] = (Lane.CALL,),
    ) -> AbstractAsyncContextManager[None]:
        """Consume into an inbox."""
        at = Address(self.namespace, name)
        return bus.consume(at, lanes, prefetch=PREFETCH, deliver=inbox.deliver)

    @asynccontextmanager
    async def inboxes(
        self, bus: Bus, places: Sequence[tuple[str, Collection[Lane]]]
    ) -> AsyncGenerator[list[Inbox], None]:
        """Consume at several places, an inbox each."""
        inboxes = [Inbox() for _ in places]
        async with AsyncExitStack() as stack:
            for inbox, (name, lanes) in zip(inboxes, places, strict=True):
                await stack.enter_async_context(self.read(bus, inbox, name, lanes))
            yield inboxes

    async def arrival(self, inbox: Inbox, bodies: Collection[bytes]) -> None:
        """Wait until these came, saying what is missing if they do not."""
        self.progress = _waiting(inbox, bodies)
        try:
            await inbox.wait_for(bodies)
        except BaseException:
            self.progress = _waiting(inbox, bodies)
            raise
        self.progress = "trying"

    async def quiet(self) -> None:
        """Wait as long as a message that must not come would need."""
        await anyio.sleep(QUIET)

    async def send_all(
        self, bus: Bus, to: Address, lane: Lane, bodies: Iterable[bytes]
    ) -> None:
        """Publish as the core does: at once where that is possible, else waiting."""
        self.progress = "publishing"
        for body in bodies:
            if not bus.try_publish(to, lane, body):
                await bus.publish(to, lane, body)
        self.progress = "trying"


def _waiting(inbox: Inbox, bodies: Collection[bytes]) -> str:
    missing = len(set(bodies) - set(inbox.bodies))
    return f"waiting for {missing} of {len(set(bodies))} messages that did not arrive"
