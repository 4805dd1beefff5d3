"""Durable logs of an open bus: used where bulk lives, read and written from the caller's loop.

Owns the way of records from one loop to the other: a bounded number stands between, and
goes on when half of it is read. With one loop there is none of this. It must not know
what is in a record. Next: `pair`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple, TypeVar

from remoting_bus._loop import Errand, Loop, Tasks
from remoting_bus.bus.backend import Bus
from remoting_bus.bus.log import LogReader, LogStart, Record
from remoting_bus.errors import ChannelBroken, ChannelClosed
from remoting_bus.names import LogName

__all__ = ["AcrossLoops"]

AHEAD = 256
"""Records that may stand between the loops: what a driver has ahead, once more."""

AHEAD_BYTES = 4 * 1024 * 1024
"""Bytes of them, besides one record."""

T = TypeVar("T")


class _Account(NamedTuple):
    """What a reader says of itself."""

    position: int | None
    lost: int
    restarted: int


class AcrossLoops:
    """Logs of a bus whose connection lives on another loop than the caller.

    Args:
        home: The caller's loop.
        there: The tasks of the other loop.
        bus: The connection on it.
        watch: Calls back when the bus is over; returns what undoes this.
    """

    def __init__(
        self,
        home: Loop,
        there: Tasks,
        bus: Bus,
        watch: Callable[
            [Callable[[BaseException], None]],
            Callable[[], None],
        ],
    ) -> None:
        self._home = home
        self._there = there
        self._bus = bus
        self._watch = watch

    async def append(self, log: LogName, key: str, body: bytes) -> None:
        """See `Bus.append`."""

        @asynccontextmanager
        async def appended(tasks: Tasks) -> AsyncGenerator[None, None]:
            await self._bus.append(log, key, body)
            yield

        async with Errand(self._there, appended, f"append to {log}"):
            pass

    async def delete_log(self, log: LogName) -> None:
        """See `Bus.delete_log`."""

        @asynccontextmanager
        async def deleted(tasks: Tasks) -> AsyncGenerator[None, None]:
            await self._bus.delete_log(log)
            yield

        async with Errand(self._there, deleted, f"delete {log}"):
            pass

    @asynccontextmanager
    async def read(
        self, log: LogName, start: LogStart
    ) -> AsyncGenerator[LogReader, None]:
        """See `Bus.read`."""
        belt = _Belt(self._home, self._there.loop)

        @asynccontextmanager
        async def reading(tasks: Tasks) -> AsyncGenerator[_Account, None]:
            async with self._bus.read(log, start) as reader:
                account = _account(reader)
                tasks.start_soon(belt.carry, reader, name=f"log {log}")
                yield account

        reader = _CarriedReader(belt)
        undo = self._watch(lambda cause: belt.end(_as_error(cause)))
        errand: Errand[_Account]
        errand = Errand(self._there, reading, f"read {log}")
        try:
            reader.adopt(await errand.__aenter__())
            try:
                yield reader
            finally:
                belt.end(ChannelClosed(f"reading the log {log} was left"))
                with suppress(ChannelBroken):  # the reader has told of that
                    await errand.__aexit__(None, None, None)
        finally:
            undo()


class _Belt:
    """Records on their way from one loop to the other."""

    def __init__(self, home: Loop, there: Loop) -> None:
        self._home = home
        self._there = there
        # Put there, taken at home: a deque bears that.
        self._items: deque[tuple[Record, _Account] | Exception] = deque()
        self._put_bytes = 0
        self._taken_bytes = 0
        self._arrival = home.signal()
        self._room = there.signal()
        self._starved = False
        self._end: Exception | None = None

    async def carry(self, reader: LogReader) -> None:
        """Put records on, while there is room; there, until that loop's task ends."""
        try:
            while True:
                record = await anext(reader)
                self._items.append((record, _account(reader)))
                self._put_bytes += len(record.body)
                self._home.post(self._arrival.set)
                await self._wait_room()
        except Exception as error:  # noqa: BLE001 - it is raised where records are awaited
            self._items.append(error)
            self._home.post(self._arrival.set)

    async def take(self) -> tuple[Record, _Account]:
        """Take the next one off; at home. A cancelled wait takes nothing."""
        while True:
            if self._end is not None:
                raise self._end
            if self._items:
                item = self._items.popleft()
                if isinstance(item, Exception):
                    self._end = item
                    continue
                self._taken_bytes += len(item[0].body)
                if self._starved and self._fill <= 0.5:
                    self._starved = False
                    self._there.post(self._room.set)
                return item
            await self._arrival.wait()

    def end(self, error: Exception) -> None:
        """Give nothing out any more; at home."""
        self._end = self._end or error
        self._arrival.set()

    async def _wait_room(self) -> None:
        """Wait where it is full until half of it was taken; there."""
        # Said before looking, and taken back after: the other side cannot miss it.
        self._starved = True
        while self._fill >= 1:
            await self._room.wait()
            self._starved = True
        self._starved = False

    @property
    def _fill(self) -> float:
        waiting = self._put_bytes - self._taken_bytes
        return max(len(self._items) / AHEAD, waiting / AHEAD_BYTES)


class _CarriedReader(LogReader):
    """What the caller has."""

    def __init__(self, belt: _Belt) -> None:
        super().__init__()
        self._belt = belt

    async def __anext__(self) -> Record:
        record, account = await self._belt.take()
        self.adopt(account)
        return record

    def adopt(self, account: _Account) -> None:
        """Say of oneself what the reader said when it had the record."""
        self.position, self.lost, self.restarted = account


def _account(reader: LogReader) -> _Account:
    return _Account(reader.position, reader.lost, reader.restarted)


def _as_error(cause: BaseException) -> Exception:
    if isinstance(cause, ChannelClosed):
        return ChannelClosed("the bus was closed")
    broken = ChannelBroken(f"the bus broke: {cause}")
    broken.__cause__ = cause
    return broken
