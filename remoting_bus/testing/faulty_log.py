"""Logs of a bus that is made to fail on purpose: what `FaultyBus` does with them.

A message may be lost, a record may not: so a fault of an append is an error after which
the record is there or not, as with a real broker. It must not know how the switches are
turned: `faulty`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from remoting_bus.bus import Bus, LogReader, LogStart, Record
from remoting_bus.errors import ChannelClosed
from remoting_bus.names import LogName

__all__ = ["FaultyReader", "faulty_read"]


@asynccontextmanager
async def faulty_read(
    inner: Bus,
    log: LogName,
    start: LogStart,
    link_up: Callable[[], Awaitable[None]],
    look_again: Callable[[], None],
) -> AsyncGenerator[LogReader, None]:
    """Read a log of the inner bus; nothing arrives while the link is cut.

    Args:
        inner: The bus that does the work.
        log: As `Bus.read` gets it.
        start: As `Bus.read` gets it.
        link_up: Waits until the link is not cut; raises when the bus is closed.
        look_again: Wakes all who wait in `link_up`.
    """
    await link_up()
    async with inner.read(log, start) as reader:
        faulty = FaultyReader(reader, log, link_up)
        try:
            yield faulty
        finally:
            faulty.left = True
            look_again()


class FaultyReader(LogReader):
    """The inner reader, with pauses."""

    def __init__(
        self, inner: LogReader, log: LogName, link_up: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__()
        self.left = False
        self._inner = inner
        self._log = log
        self._link_up = link_up
        self._held: Record | None = None
        self._account()

    async def __anext__(self) -> Record:
        await self._wait_up()
        if self._held is None:
            self._held = await self._inner.__anext__()
        await self._wait_up()  # it may have been cut meanwhile
        record, self._held = self._held, None
        self._account()
        return record

    async def _wait_up(self) -> None:
        self._check()
        await self._link_up()
        self._check()

    def _check(self) -> None:
        if self.left:
            raise ChannelClosed(f"reading the log {self._log} was left")

    def _account(self) -> None:
        self.position = self._inner.position
        self.lost = self._inner.lost
        self.restarted = self._inner.restarted
