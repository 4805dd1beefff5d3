"""Reading a log: one task asks the partition's leader for what comes next, while there is room.

A reader holds a connection of its own, as a fetch waits at the broker for something to
come. It asks by an offset that is kept here, so the brokers know nothing of readers: no
group, no commits, and one that stands still costs them nothing. `log` has the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.memory_records import MemoryRecords

from remoting_bus.bus.ahead import AheadReader
from remoting_bus.bus.log import LogStart, Record
from remoting_bus.errors import ConnectionFailed
from remoting_bus_kafka.cluster import (
    EARLIEST,
    LATEST,
    NOT_ALLOWED,
    Cluster,
    code_words,
)
from remoting_bus_kafka.link import Link
from remoting_bus_kafka.settings import Settings
from remoting_bus_kafka.wire import Broken, Refused

if TYPE_CHECKING:
    from remoting_bus_kafka.log import Logs

__all__ = ["KafkaReader"]

AHEAD_BYTES = 1024 * 1024
"""Bytes of one answer, a larger record comes alone; the next is asked for when half of
them is read."""

AHEAD = 4096
"""Records ahead, of which half must be read before more is asked for: small ones."""

OUT_OF_RANGE = 1
"""The partition does not have our offset: it was dropped, or is yet to come."""

UNKNOWN = 3

BEGIN_LIMIT = 3.0
"""Seconds that a log may not be had, while the link is up, before reading it fails: a
broker that has just died is noticed by then."""

PAUSE = 0.1
"""Seconds before going on after something failed."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class KafkaReader(AheadReader):
    """One reader's place, and what it has ahead."""

    def __init__(
        self,
        topic: str,
        start: LogStart,
        settings: Settings,
        cluster: Cluster,
        link: Link,
        logs: Logs,
    ) -> None:
        super().__init__()
        self._topic = topic
        self._start = start
        self._settings = settings
        self._cluster = cluster
        self._link = link
        self._logs = logs
        self._gone = False
        self._task: asyncio.Task[None] | None = None
        self._room = asyncio.Event()
        self._begun = asyncio.Event()

    async def begin(self) -> None:
        """Find the place, and ask for what is there."""
        self._task = asyncio.create_task(self._keep(), name=f"log {self._topic}")
        await self._begun.wait()
        if self.ended is not None:
            raise self.ended

    def end(self, error: Exception) -> None:
        """Give out nothing more."""
        super().end(error)
        if self._task is not None:
            self._task.cancel()
        self._begun.set()

    def taken(self, record: Record) -> None:
        """Ask for more when half is read."""
        if self._has_room:
            self._room.set()

    @property
    def _has_room(self) -> bool:
        return self.ahead <= AHEAD // 2 and self.ahead_bytes <= AHEAD_BYTES // 2

    async def _keep(self) -> None:
        """Read on, whatever happens to brokers and leaders."""
        since = asyncio.get_running_loop().time()
        try:
            while True:
                self._link.check()
                try:
                    await self._logs.ready(self._topic)
                    await self._place()
                    self._begun.set()
                    await self._fetch()
                except Refused:
                    raise
                except ConnectionFailed as error:
                    if error.final or self._is_hopeless(error, since):
                        raise
                    self._link.look(None, error)
                    await asyncio.sleep(PAUSE)
                    await self._refresh()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - it is raised where records are awaited
            self.end(error)

    def _is_hopeless(self, error: ConnectionFailed, since: float) -> bool:
        """Whether the log cannot be had; once it was read, everything may pass."""
        if self._begun.is_set() or isinstance(error, Broken) or not self._link.is_up:
            return False
        return asyncio.get_running_loop().time() - since > BEGIN_LIMIT

    async def _refresh(self) -> None:
        """Ask where the partition is now, and whether it is at all."""
        with contextlib.suppress(ConnectionFailed):
            await self._cluster.refresh()
            if self._topic not in self._cluster.counts and self._begun.is_set():
                self._gone = True
                self._logs.topics.forget(self._topic)

    async def _place(self) -> None:
        """Find where to go on in the log that is there now."""
        partition = self._topic, 0
        first = await self._cluster.offset(partition, EARLIEST)
        end = await self._cluster.offset(partition, LATEST)
        if self._gone or (self.wanted is not None and self.wanted > end):
            self._gone = False
            self.anew(first)
            return
        if self.wanted is not None:
            return
        match self._start:
            case "first":
                self.wanted = first
            case "next":
                self.wanted = end
            case datetime():
                found = await self._cluster.offset(
                    partition, _milliseconds(self._start)
                )
                self.wanted = end if found < 0 else found
            case position:
                self.wanted = position
                if position > end:
                    self.wanted = first
                    self.restarted = 1
        self.position = self.wanted

    async def _fetch(self) -> None:
        """Ask the leader again and again, until something is wrong.

        Raises:
            ConnectionFailed: `Broken` where it will pass.
        """
        node = self._cluster.leader((self._topic, 0))
        wire = await self._cluster.connect(node, hold=self._settings.fetch_wait)
        try:
            while True:
                while not self._has_room:
                    self._room.clear()
                    await self._room.wait()
                answer = await wire.ask(self._request())
                entry = answer.topics[0][1][0]
                code = entry[1]
                if code == OUT_OF_RANGE:
                    await self._seek()
                elif code == NOT_ALLOWED:
                    raise ConnectionFailed(
                        f"the brokers do not let us read topic {self._topic} any more",
                        final=True,
                    )
                elif code:
                    raise Broken(f"{self._topic}/0: {code_words(code)}")
                else:
                    self._take(entry[-1])
        finally:
            wire.close()

    def _request(self) -> FetchRequest:
        partition = (0, self.wanted, AHEAD_BYTES)
        wait = round(1000 * self._settings.fetch_wait)
        return FetchRequest(wait, 1, AHEAD_BYTES, 0, [(self._topic, [partition])])

    def _take(self, data: bytes | None) -> None:
        """Put the records of one answer on."""
        if not data:
            return
        records = MemoryRecords(data)
        while records.has_next():
            batch = records.next_batch()
            assert batch is not None
            if batch.is_control_batch:
                continue
            for record in batch:
                time = EPOCH + timedelta(milliseconds=record.timestamp)
                key = (record.key or b"").decode("ascii", "replace")
                self.put(Record(record.offset, time, key, record.value or b""))
            assert self.wanted is not None
            self.wanted = max(self.wanted, batch.next_offset)

    async def _seek(self) -> None:
        """The partition does not have our place: go on where it begins."""
        partition = self._topic, 0
        first = await self._cluster.offset(partition, EARLIEST)
        assert self.wanted is not None
        if self.wanted < first:
            self.wanted = first  # what was missed is counted when the next one comes
            return
        end = await self._cluster.offset(partition, LATEST)
        if self.wanted > end:
            self.anew(first)


def _milliseconds(time: datetime) -> int:
    """The first millisecond that is not before a time."""
    return max(0, -((EPOCH - time) // timedelta(milliseconds=1)))
