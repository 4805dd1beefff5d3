"""The state of one connection, told to whoever reads: `link_events` for every driver.

Owns the present state and the readers' short queues. It must not know why a state
changes; the driver tells it. All of it is used on the driver's loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import anyio

from .backend import LinkEvent

__all__ = ["MAX_EVENTS_HELD", "LinkBoard"]

MAX_EVENTS_HELD = 64
"""Events kept for a slow reader; past it the oldest goes. States change by the second
at most, so a reader that is 64 behind has no use for the first of them."""


class LinkBoard:
    """Tells each reader the present state first, then each change.

    "lost" and "note" are told, but are no states: the connection stands, and a later
    reader does not begin with them.
    """

    def __init__(self, present: LinkEvent) -> None:
        self.present = present
        self._readers: list[_Reader] = []

    def tell(self, event: LinkEvent) -> None:
        """Say that something happened; never waits."""
        if event.state not in ("lost", "note"):
            self.present = event
        for reader in self._readers:
            reader.put(event)

    @asynccontextmanager
    async def events(self) -> AsyncGenerator[AsyncIterator[LinkEvent], None]:
        """Return what `Bus.link_events` promises."""
        reader = _Reader(self.present)
        self._readers.append(reader)
        try:
            yield reader
        finally:
            self._readers.remove(reader)


class _Reader(AsyncIterator[LinkEvent]):
    """One reader's queue; `__anext__` takes nothing if it is cancelled."""

    def __init__(self, first: LinkEvent) -> None:
        self._events = deque([first], maxlen=MAX_EVENTS_HELD)
        self._arrival: anyio.Event | None = None

    def put(self, event: LinkEvent) -> None:
        self._events.append(event)
        if self._arrival is not None:
            self._arrival.set()
            self._arrival = None

    async def __anext__(self) -> LinkEvent:
        while not self._events:
            if self._arrival is None:
                self._arrival = anyio.Event()
            await self._arrival.wait()
        return self._events.popleft()
