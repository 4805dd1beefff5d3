"""Reading a log: a consumer on the server that hands on what it is asked for.

A reader asks for records when it has room for them, so one that stands still costs the
server nothing and holds a bounded number here. Where an answer, the consumer or the
connection is lost it makes another consumer and goes on where it was. `log` has the
rest.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from nats.protocol.command import pub_cmd

from remoting_bus.bus.ahead import AheadReader
from remoting_bus.bus.log import LogStart, Record
from remoting_bus.errors import ChannelBroken
from remoting_bus.names import LogName
from remoting_bus_nats import topology
from remoting_bus_nats.answers import Headers
from remoting_bus_nats.link import Connection, Link

if TYPE_CHECKING:
    from remoting_bus_nats.log import Logs

__all__ = ["NatsReader", "Source"]

AHEAD = 256
"""Records that are asked for ahead at most: a round trip's worth and more."""

AHEAD_BYTES = 4 * 1024 * 1024
"""Bytes of them, besides one of the largest: some readers at once fit any program."""

OVERHEAD = 4096
"""Bytes of a subject, headers and reply that the server counts beside a body."""

BEAT = 2.0
"""Seconds between the server's signs of life while it has nothing for us."""

SILENCE = 2.5 * BEAT
"""Seconds without any after which the consumer is given up: its server is gone, while
our connection, which is to another one, stands."""

EXPIRES = 60.0
"""Seconds after which the server forgets what was asked for, and we ask again."""

PAUSE = 0.25
"""Seconds before going on after something failed."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

FIRST = 1
"""The sequence of a stream's first record."""


class Source:
    """One consumer's life: what it hands on goes to a reader."""

    def __init__(self, reader: NatsReader) -> None:
        self._reader = reader
        self._asked = 0
        self.over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.heard = asyncio.get_running_loop().time()

    @property
    def asked(self) -> int:
        """How many records are on their way."""
        return self._asked

    def ask(self, count: int) -> None:
        """Note what is asked for."""
        self._asked = count
        self.heard = asyncio.get_running_loop().time()

    def take(self, position: int, time: int, key: str, body: bytes) -> None:
        """Take a record; `time` is in nanoseconds."""
        self.heard = asyncio.get_running_loop().time()
        self._asked = max(0, self._asked - 1)
        stored = EPOCH + timedelta(microseconds=time // 1000)
        self._reader.put(Record(position, stored, key, body))

    def told(self, data: bytes, headers: Headers) -> None:
        """Take a sign of life, or the end of what was asked for."""
        self.heard = asyncio.get_running_loop().time()
        status = headers.get("Status", "")
        words = headers.get("Description", "")
        if status == "100":
            return
        self._asked = 0
        ended = status == "408" or "Batch Completed" in words or "MaxBytes" in words
        if not ended and not self.over.done():
            self.over.set_result(words or f"status {status}")
        self._reader.look()


class NatsReader(AheadReader):
    """One reader's place, and what it has ahead."""

    def __init__(self, log: LogName, start: LogStart, link: Link, logs: Logs) -> None:
        super().__init__()
        self._log = log
        self._start = start
        self._link = link
        self._logs = logs
        self._created = ""
        self._task: asyncio.Task[None] | None = None
        self._look = asyncio.Event()
        self._begun = asyncio.Event()

    async def begin(self) -> None:
        """Find the place on the server, and ask for what is there."""
        while True:
            connection = await self._link.wait_up()
            try:
                self._place(await self._logs.info(connection, self._log))
            except ChannelBroken:
                if not connection.lost.done():
                    raise
            else:
                break
        self._task = asyncio.create_task(self._keep(), name=f"log {self._log}")
        await self._begun.wait()
        if self.ended is not None:
            raise self.ended

    def end(self, error: Exception) -> None:
        """Give out nothing more."""
        super().end(error)
        if self._task is not None:
            self._task.cancel()
        self._begun.set()

    def put(self, record: Record) -> bool:
        """Take a record from a source."""
        taken = super().put(record)
        self.look()
        return taken

    def taken(self, record: Record) -> None:
        """Ask for more when half is read."""
        self.look()

    def look(self) -> None:
        """Something has changed: there may be more to ask for."""
        if self._has_room:
            self._look.set()

    @property
    def _has_room(self) -> bool:
        return self.ahead <= AHEAD // 2 and self.ahead_bytes <= AHEAD_BYTES // 2

    def _place(self, info: dict[str, Any]) -> None:
        """Find where to go on in the log that is there now."""
        state = info["state"]
        first = max(state["first_seq"], FIRST)
        end = state["last_seq"] + 1
        another = self._created not in ("", info["created"])
        self._created = info["created"]
        if another or (self.wanted is not None and self.wanted > end):
            self.anew(first)
            return
        if self.wanted is not None or isinstance(self._start, datetime):
            return
        match self._start:
            case "first":
                self.wanted = first
            case "next":
                self.wanted = end
            case position:
                self.wanted = max(position, FIRST)
                if self.wanted > end:
                    self.wanted = first
                    self.restarted = 1
        self.position = self.wanted

    async def _keep(self) -> None:
        """Read on, whatever happens to connections and consumers."""
        try:
            while True:
                connection = await self._link.wait_up()
                try:
                    await self._read_on(connection)
                except ChannelBroken:
                    await asyncio.sleep(PAUSE)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - it is raised where records are waited for
            self.end(error)

    async def _read_on(self, connection: Connection) -> None:
        """Read by one consumer, until it or the connection is gone."""
        self._place(await self._logs.info(connection, self._log))
        source = Source(self)
        name, inbox = self._logs.listen(source)
        try:
            await self._logs.consumer(connection, self._log, name, self._policy())
            self._begun.set()
            await self._pull(connection, source, name, inbox)
        finally:
            self._logs.ignore(name, inbox)
            if not connection.lost.done():
                # Nobody waits for the answer, and without a word it would go in a minute.
                stream = topology.log_stream(self._log)
                subject = f"$JS.API.CONSUMER.DELETE.{stream}.{name}"
                connection.wire.send(pub_cmd(subject, "", b""))

    def _policy(self) -> dict[str, Any]:
        if self.wanted is not None:
            return {
                "deliver_policy": "by_start_sequence",
                "opt_start_seq": self.wanted,
            }
        assert isinstance(self._start, datetime)
        time = self._start.astimezone(UTC).isoformat().replace("+00:00", "Z")
        return {"deliver_policy": "by_start_time", "opt_start_time": time}

    async def _pull(
        self, connection: Connection, source: Source, name: str, inbox: str
    ) -> None:
        """Ask for records while there is room for them."""
        loop = asyncio.get_running_loop()
        stream = topology.log_stream(self._log)
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}"
        largest = connection.client.max_payload + OVERHEAD
        while not (connection.lost.done() or source.over.done()):
            if not source.asked and self._has_room:
                count = AHEAD - self.ahead
                request = {
                    "batch": count,
                    "max_bytes": max(AHEAD_BYTES - self.ahead_bytes, largest),
                    "expires": int(EXPIRES * 1e9),
                    "idle_heartbeat": int(BEAT * 1e9),
                }
                source.ask(count)
                connection.wire.send(
                    pub_cmd(subject, inbox, json.dumps(request).encode())
                )
            self._look.clear()
            looking = loop.create_task(self._look.wait())
            either: set[asyncio.Future[Any]] = {looking, connection.lost, source.over}
            try:
                await asyncio.wait(
                    either,
                    timeout=SILENCE if source.asked else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                looking.cancel()
            if source.asked and loop.time() - source.heard >= SILENCE:
                return
