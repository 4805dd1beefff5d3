"""What the tests of `check_backend` break drivers with: a wrapper, and who is caught."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from remoting_bus.bus import Backend, Bus, Deliver, LinkEvent, LogReader, LogStart
from remoting_bus.bus.memory import MemoryBackend
from remoting_bus.names import Address, Lane, LogName
from remoting_bus.testing import BrokenPromise, check_backend

_numbers = itertools.count()

PATIENCE = 1.0
"""Seconds until what never comes is given up."""


class Inner(Bus):
    """A bus that hands all to the one it wraps; each broken one changes a thing."""

    def __init__(self, inner: Bus) -> None:
        self.inner = inner
        self.limits = inner.limits

    async def publish(
        self,
        to: Address,
        lane: Lane,
        body: bytes,
        *,
        expires_in: float | None = None,
    ) -> None:
        await self.inner.publish(to, lane, body, expires_in=expires_in)

    def try_publish(
        self,
        to: Address,
        lane: Lane,
        body: bytes,
        *,
        expires_in: float | None = None,
    ) -> bool:
        return False

    def consume(
        self,
        at: Address,
        lanes: Collection[Lane],
        *,
        prefetch: int,
        deliver: Deliver,
    ) -> AbstractAsyncContextManager[None]:
        return self.inner.consume(at, lanes, prefetch=prefetch, deliver=deliver)

    def link_events(self) -> AbstractAsyncContextManager[AsyncIterator[LinkEvent]]:
        return self.inner.link_events()

    async def append(self, log: LogName, key: str, body: bytes) -> None:
        await self.inner.append(log, key, body)

    def read(
        self, log: LogName, start: LogStart
    ) -> AbstractAsyncContextManager[LogReader]:
        return self.inner.read(log, start)

    async def delete_log(self, log: LogName) -> None:
        await self.inner.delete_log(log)

    async def closing(self) -> None:
        pass


class Fake(Backend):
    """Opens a memory bus, and breaks it."""

    def __init__(self, broken: Callable[[Bus], Inner]) -> None:
        self.broken = broken

    @asynccontextmanager
    async def open(self, url: str) -> AsyncGenerator[Bus, None]:
        async with MemoryBackend().open(url) as inner:
            bus = self.broken(inner)
            yield bus
            await bus.closing()


async def broken_by(
    backend: Backend, promises: Collection[str], deadline: float = PATIENCE
) -> list[str]:
    """Return the names of the promises that a driver breaks."""
    url = f"memory://fake-{next(_numbers)}"
    try:
        await check_backend(backend, url, deadline=deadline, promises=promises)
    except ExceptionGroup as group:
        return [
            error.promise
            for error in group.exceptions
            if isinstance(error, BrokenPromise)
        ]
    return []
