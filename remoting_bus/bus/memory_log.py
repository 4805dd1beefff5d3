"""The durable logs of a memory broker: records in a dictionary, and who waits for more.

Owns the logs' records, what retention leaves of them, the readers' places, and what one
connection does with all that. Logs last as long as the broker; which brokers there are,
and what becomes of a link, is `memory`'s.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import anyio
import anyio.lowlevel

from remoting_bus.errors import ChannelBroken, ChannelClosed
from remoting_bus.names import LogName, check_name

from .backend import LinkEvent
from .links import LinkBoard
from .log import LogReader, LogStart, Record, Retention, check_start, differs

__all__ = ["RECORD_COST", "LinkLogs", "MemoryLog", "MemoryLogs", "MemoryReader"]

RECORD_COST = 64
"""Bytes that a record counts beyond its key and body, so that empty ones are bounded."""

FIRST = 1
"""The position of a log's first record, as in JetStream."""


def _now() -> datetime:
    return datetime.now(UTC)


class MemoryLog:
    """The records of one log.

    Args:
        retention: What it keeps. The newest record stays, however large it is.
        clock: The time of a record; one that goes back is not believed, as finding a
            record by its time needs times that rise.
    """

    def __init__(
        self, retention: Retention, clock: Callable[[], datetime] = _now
    ) -> None:
        self.retention = retention
        self.end = FIRST
        self._clock = clock
        self._age = timedelta(seconds=retention.max_age)
        self._records: dict[int, Record] = {}
        self._bytes = 0
        self._latest = datetime.min.replace(tzinfo=UTC)
        # Bounded by the readers of this log.
        self._waiting: list[anyio.Event] = []

    @property
    def first(self) -> int:
        """The position of the oldest record; that of the next one where there is none."""
        self._forget_old()
        return self.end - len(self._records)

    def append(self, key: str, body: bytes) -> None:
        """Store a record, and let go of the oldest past the retention."""
        self._latest = max(self._latest, self._clock())
        self._records[self.end] = Record(self.end, self._latest, key, body)
        self.end += 1
        self._bytes += _size(key, body)
        while self._bytes > self.retention.max_bytes and len(self._records) > 1:
            self._forget_oldest()
        self._forget_old()
        self.wake()

    def at(self, position: int) -> Record | None:
        """Return the record there, or the oldest after it; None where there is none."""
        return self._records.get(max(position, self.first))

    def place_of(self, start: LogStart) -> int:
        """Return the position that a start means now."""
        first = self.first
        match start:
            case "first":
                return first
            case "next":
                return self.end
            case datetime():
                kept = range(first, self.end)
                return first + bisect_left(
                    kept, start, key=lambda position: self._records[position].time
                )
            case _:
                return max(start, FIRST)

    def wake(self) -> None:
        """Let all readers that wait look again."""
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            event.set()

    async def wait(self) -> None:
        """Wait until `wake`."""
        event = anyio.Event()
        self._waiting.append(event)
        try:
            await event.wait()
        finally:
            if event in self._waiting:
                self._waiting.remove(event)

    def _forget_old(self) -> None:
        oldest = self._clock() - self._age
        while self._records:
            record = next(iter(self._records.values()))
            if record.time >= oldest:
                return
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        position = next(iter(self._records))
        record = self._records.pop(position)
        self._bytes -= _size(record.key, record.body)


class MemoryLogs:
    """All logs of a broker, by name."""

    def __init__(self) -> None:
        self._logs: dict[LogName, MemoryLog] = {}

    def get(self, name: LogName, retention: Retention) -> MemoryLog:
        """Return a log, made with this retention if there is none."""
        log = self._logs.get(name)
        if log is None:
            log = self._logs[name] = MemoryLog(retention)
        return log

    def delete(self, name: LogName) -> None:
        """Forget a log; its readers look for the next one of the name."""
        log = self._logs.pop(name, None)
        if log is not None:
            log.wake()


class MemoryReader(LogReader):
    """One reader's place.

    Args:
        log: Returns the log of its name now: another one after it was deleted.
        may_read: Whether the link is up; raises where there will be no more.
    """

    def __init__(
        self,
        log: Callable[[], MemoryLog],
        start: LogStart,
        may_read: Callable[[], bool],
    ) -> None:
        super().__init__()
        self._find = log
        self._may_read = may_read
        self._log = log()
        self.position = self._log.place_of(start)
        if self.position > self._log.end:
            self.begin_again(self._log.first)

    async def __anext__(self) -> Record:
        await anyio.lowlevel.checkpoint()
        while True:
            if self._may_read():
                record = self._next()
                if record is not None:
                    return record
            await self._log.wait()

    def wake(self) -> None:
        """The link has changed: look again."""
        self._log.wake()

    def _next(self) -> Record | None:
        log = self._find()
        if log is not self._log:
            self._log = log
            self.begin_again(log.first)
        assert self.position is not None
        record = log.at(self.position)
        if record is not None:
            self.passed(record.position)
        return record


class LinkLogs:
    """What one connection does with logs.

    Args:
        logs: The broker's.
        retention: Of those that this connection makes.
        up: Whether the link takes appends now; raises ChannelBroken while it is down,
            and ChannelClosed when the connection is closed.
        board: Where a note is told.
    """

    def __init__(
        self,
        logs: MemoryLogs,
        retention: Retention,
        up: Callable[[], bool],
        board: LinkBoard,
    ) -> None:
        self._logs = logs
        self._retention = retention
        self._up = up
        self._board = board
        self._changed = anyio.Event()
        self._readers: list[MemoryReader] = []
        # Bounded by the logs that this connection has touched.
        self._noted: set[LogName] = set()

    async def append(self, name: LogName, key: str, body: bytes) -> None:
        """See `Bus.append`; the body's size was checked."""
        check_name(key, "key of a record")
        while not self._up():
            await self._changed.wait()
        self._get(name).append(key, body)
        await anyio.lowlevel.checkpoint()

    @asynccontextmanager
    async def read(
        self, name: LogName, start: LogStart
    ) -> AsyncGenerator[MemoryReader, None]:
        """See `Bus.read`."""
        check_start(start)
        left = False

        def may_read() -> bool:
            if left:
                raise ChannelClosed(f"reading the log {name} was left")
            try:
                self._up()
            except ChannelBroken:
                return False
            return True

        while not may_read():
            await self._changed.wait()
        reader = MemoryReader(lambda: self._get(name), start, may_read)
        self._readers.append(reader)
        try:
            yield reader
        finally:
            left = True
            self._readers.remove(reader)
            reader.wake()

    async def delete(self, name: LogName) -> None:
        """See `Bus.delete_log`."""
        self._up()
        self._logs.delete(name)
        await anyio.lowlevel.checkpoint()

    def look_again(self) -> None:
        """The link has changed: let all that wait look again."""
        self._changed.set()
        self._changed = anyio.Event()
        for reader in self._readers:
            reader.wake()

    def _get(self, name: LogName) -> MemoryLog:
        """Return a log; says once if it keeps other than this connection's URL says."""
        log = self._logs.get(name, self._retention)
        if log.retention != self._retention and name not in self._noted:
            self._noted.add(name)
            self._board.tell(LinkEvent("note", differs(name, log.retention)))
        return log


def _size(key: str, body: bytes) -> int:
    return len(key) + len(body) + RECORD_COST
