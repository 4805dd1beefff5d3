"""Reading: one task for each broker asks for what is new, and hands it on where it came.

A task holds a connection of its own, as a broker answers the requests of one in turn and
a fetch waits there for something to come. When a partition is added or dropped the
connection is closed and a new one asks for what is wanted now: some milliseconds,
instead of up to `fetch_wait`.

Measured (two processes, 64 bytes, one call at a time): a broker answers a waiting fetch as
soon as there is one byte, so a `fetch_wait` of 50 ms or of 1 s is within noise.

It must not know whose the records are; `take` does. Next: `cluster`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.memory_records import MemoryRecords

from remoting_bus.errors import ConnectionFailed
from remoting_bus_kafka.cluster import (
    EARLIEST,
    LATEST,
    Cluster,
    Partition,
    code_words,
)
from remoting_bus_kafka.settings import Settings
from remoting_bus_kafka.wire import Wire

__all__ = ["Fetcher"]

FETCH_BYTES = 1024 * 1024
"""Bytes of one partition in one answer, and of the whole answer: four bulk envelopes.
More only lets what is smaller wait longer; a larger record comes alone."""

OUT_OF_RANGE = 1

Take = Callable[[str, bytes | None, bytes | None], None]
"""Takes a record: its topic, key and value. Plain, quick, and never raises."""


class Fetcher:
    """Reads partitions from an offset on, whoever leads them.

    Args:
        take: Gets each record.
        look: Called when partitions cannot be read: with their broker, and the cause.
        well: Called when all can be read again.
        lost: Called when records were dropped before we read them.

    Attributes:
        positions: What is read, and where it is read next.
        trouble: Why a partition cannot be read now.
    """

    def __init__(
        self,
        settings: Settings,
        cluster: Cluster,
        *,
        take: Take,
        look: Callable[[int | None, ConnectionFailed], None],
        well: Callable[[], None],
        lost: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._cluster = cluster
        self._take = take
        self._look = look
        self._well = well
        self._lost = lost
        self._tasks: dict[int, tuple[asyncio.Task[None], frozenset[Partition]]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False
        self.positions: dict[Partition, int] = {}
        self.trouble: dict[Partition, str] = {}

    def read(self, partition: Partition, offset: int) -> None:
        """Read a partition from an offset on, if it is not being read already."""
        if partition not in self.positions:
            self.positions[partition] = offset
            self.regroup()

    def leave(self, partition: Partition) -> None:
        """Read a partition no more."""
        self.positions.pop(partition, None)
        if self.trouble.pop(partition, None) is not None and not self.trouble:
            self._well()
        self.regroup()

    def regroup(self) -> None:
        """Let each partition be read at its leader, as the cluster is known now."""
        if self._closed:
            return
        wanted: dict[int, set[Partition]] = {}
        for partition in self.positions:
            node = self._cluster.leaders.get(partition, -1)
            if node in self._cluster.brokers:
                wanted.setdefault(node, set()).add(partition)
            else:
                self.trouble[partition] = f"{partition[0]} has no leader now"
        for node, (task, reads) in list(self._tasks.items()):
            if task.done() or reads != frozenset(wanted.get(node, ())):
                del self._tasks[node]
                if not task.done():
                    task.cancel()
                    self._ending.add(task)
                    task.add_done_callback(self._ending.discard)
        for node, partitions in wanted.items():
            if node not in self._tasks:
                reads = frozenset(partitions)
                task = asyncio.get_running_loop().create_task(self._poll(node, reads))
                self._tasks[node] = task, reads

    async def close(self) -> None:
        """Stop reading."""
        self._closed = True
        tasks = {task for task, _ in self._tasks.values()} | self._ending
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _poll(self, node: int, partitions: frozenset[Partition]) -> None:
        """Ask one broker again and again, until something is wrong."""
        wire: Wire | None = None
        try:
            wire = await self._cluster.connect(node, hold=self._settings.fetch_wait)
            hurried = any(partition in self.trouble for partition in partitions)
            while True:
                answer = await wire.ask(self._request(partitions, hurried=hurried))
                hurried = False
                bad: dict[Partition, int] = {}
                for topic, answers in answer.topics:
                    for entry in answers:
                        partition = topic, entry[0]
                        if entry[1]:
                            bad[partition] = entry[1]
                        else:
                            self._deliver(partition, entry[-1])
                if bad:
                    await self._mend(bad)
                self._is_well(partitions)
        except ConnectionFailed as error:
            for partition in partitions & self.positions.keys():
                self.trouble[partition] = str(error)
            self._look(node, error)
        finally:
            if wire is not None:
                wire.close()

    def _request(self, partitions: Iterable[Partition], *, hurried: bool) -> Any:
        topics: dict[str, list[tuple[int, int, int]]] = {}
        for topic, number in partitions:
            offset = self.positions.get((topic, number))
            if offset is not None:
                topics.setdefault(topic, []).append((number, offset, FETCH_BYTES))
        wait = 0 if hurried else round(1000 * self._settings.fetch_wait)
        return FetchRequest(wait, 1, FETCH_BYTES, 0, list(topics.items()))

    def _deliver(self, partition: Partition, data: bytes | None) -> None:
        """Hand on the records of one answer, each once, and move on past them."""
        position = self.positions.get(partition)
        if not data or position is None:
            return
        records = MemoryRecords(data)
        while records.has_next():
            batch = records.next_batch()
            assert batch is not None
            if not batch.is_control_batch:
                for record in batch:
                    # A batch begins before the offset that was asked for.
                    if record.offset >= position:
                        self._take(partition[0], record.key, record.value)
            position = max(position, batch.next_offset)
            if partition in self.positions:
                self.positions[partition] = position

    async def _mend(self, bad: dict[Partition, int]) -> None:
        """Seek where the log no longer has our place; give up on anything else.

        Raises:
            ConnectionFailed: Somebody else leads a partition, or it is gone.
        """
        for partition, code in bad.items():
            if code != OUT_OF_RANGE:
                words = f"{partition[0]}/{partition[1]}: {code_words(code)}"
                raise ConnectionFailed(words)
            first = await self._cluster.offset(partition, EARLIEST)
            end = await self._cluster.offset(partition, LATEST)
            here = self.positions.get(partition)
            if here is None:
                continue
            if here < first:
                self.positions[partition] = first
                self._lost(
                    f"{first - here} records of {partition[0]}/{partition[1]} were "
                    "dropped before we read them: its retention is too small for us"
                )
            else:
                self.positions[partition] = end
                self._lost(
                    f"{partition[0]}/{partition[1]} ends before what we read: it was "
                    "made anew, or a leader lost records"
                )

    def _is_well(self, partitions: Iterable[Partition]) -> None:
        if self.trouble:
            for partition in partitions:
                self.trouble.pop(partition, None)
            if not self.trouble:
                self._well()
