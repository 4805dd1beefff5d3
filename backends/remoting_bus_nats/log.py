"""Durable logs: one JetStream stream for each, made by whoever touches it first.

A record is a message on the log's own subject, its position is the stream's sequence.
`Logs` makes streams, appends and deletes; `log_reader` reads. Both speak JetStream's
interface themselves, as `answers` says why. What the topology is makes no difference.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from remoting_bus.bus.backend import LinkEvent
from remoting_bus.bus.log import (
    LogReader,
    LogStart,
    Retention,
    check_start,
    differs,
)
from remoting_bus.errors import (
    ChannelBroken,
    ChannelClosed,
    ConnectionFailed,
    Unsupported,
)
from remoting_bus.names import LogName, check_name
from remoting_bus_nats import topology
from remoting_bus_nats.answers import Answers
from remoting_bus_nats.link import Connection, Link
from remoting_bus_nats.log_reader import NatsReader, Source
from remoting_bus_nats.settings import Settings

__all__ = ["Logs"]

MAKE_LIMIT = 10.0
"""Seconds in which a log must come to be; a cluster elects a leader in 4 to 9."""

MAKE_PAUSE = 0.25
"""Seconds between attempts to make it."""

SECOND = 1_000_000_000
"""JetStream counts nanoseconds."""

NOT_FOUND = 404
UNAVAILABLE = 503
"""JetStream's codes: there is none; no leader now, or JetStream is not on."""

NAME_IN_USE = 10058
NOT_ENABLED = (10039, 10076)
"""JetStream's error codes: exists with another configuration; not for this account, not
on this server."""


class _Refused(Exception):
    """JetStream's answer is an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(str(error.get("description", "no reason given")))
        self.code = int(error.get("code", 0))
        self.err_code = int(error.get("err_code", 0))
        self.passing = self.code == UNAVAILABLE and self.err_code not in NOT_ENABLED


class Logs:
    """What a bus does with logs."""

    def __init__(self, settings: Settings, link: Link, answers: Answers) -> None:
        self._settings = settings
        self._link = link
        self._answers = answers
        # All of these are bounded by the logs that this bus has touched, and its readers.
        self._locks: dict[LogName, asyncio.Lock] = {}
        self._there: dict[LogName, Connection] = {}
        self._noted: set[LogName] = set()
        self._readers: set[NatsReader] = set()
        self.sources: dict[str, Source] = {}

    async def append(self, log: LogName, key: str, body: bytes) -> None:
        """See `Bus.append`. While the link is down it raises at once."""
        check_name(key, "key of a record")
        subject = topology.log_subject(log, key)
        for _ in range(2):
            connection = self._link.connection()
            check_jetstream(connection)
            async with self._locks.setdefault(log, asyncio.Lock()):
                # In the order in which they began, up to here; then all at once.
                if self._there.get(log) is not connection:
                    await self.info(connection, log)
                if not connection.wire.room:
                    await connection.wire.wait_room()
                if connection.lost.done():
                    raise _lost(connection)
                asked = self._answers.send(connection, subject, body)
            answer = await self._answers.answer(connection, asked)
            if answer:
                _check_stored(log, answer)
                return
            self._there.pop(log, None)  # it was deleted: make it again, once
        raise ChannelBroken(f"nobody stores the log {log}")

    @asynccontextmanager
    async def read(self, log: LogName, start: LogStart) -> AsyncIterator[LogReader]:
        """See `Bus.read`."""
        check_start(start)
        reader = NatsReader(log, start, self._link, self)
        self._readers.add(reader)
        try:
            await reader.begin()
            yield reader
        finally:
            self._readers.discard(reader)
            reader.end(ChannelClosed(f"reading the log {log} was left"))

    async def delete(self, log: LogName) -> None:
        """See `Bus.delete_log`."""
        connection = self._link.connection()
        check_jetstream(connection)
        try:
            await self.ask(connection, f"STREAM.DELETE.{topology.log_stream(log)}")
        except _Refused as error:
            if error.passing:
                words = f"the log {log} cannot be deleted: {error}"
                raise ChannelBroken(words) from error
            if error.code != NOT_FOUND:
                raise _failure(log, error) from error

    def take(self, subject: str, reply: str, data: bytes) -> None:
        """Give a record to the reader that has asked for it."""
        fields = reply.split(".")
        # $JS.ACK.[domain.account.]stream.consumer.delivered.sequence.….time.pending
        at = 2 if len(fields) <= 9 else 4
        source = self.sources.get(fields[at + 1])
        if source is not None:
            key = subject.rpartition(".")[2]
            source.take(int(fields[at + 3]), int(fields[at + 5]), key, data)

    def close(self) -> None:
        """End all readers."""
        for reader in tuple(self._readers):
            reader.end(ChannelClosed("the bus was closed"))

    async def info(self, connection: Connection, log: LogName) -> dict[str, Any]:
        """Return what the server says of a log's stream; it is made if need be.

        Raises:
            ConnectionFailed: It cannot be had; the message says why.
            ChannelBroken: The connection was lost, or there is no leader for long.
            Unsupported: The server, or the account, has no JetStream.
            SecurityError: The server does not let us.
        """
        check_jetstream(connection)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + MAKE_LIMIT
        while True:
            try:
                info = await self._made(connection, log)
            except (_Refused, ChannelBroken) as error:
                if connection.lost.done():
                    raise _lost(connection) from error
                if isinstance(error, _Refused) and not error.passing:
                    raise _failure(log, error) from error
                if loop.time() > deadline:
                    words = f"the log {log} has no leader: {error}"
                    raise ChannelBroken(words) from error
                await asyncio.sleep(MAKE_PAUSE)
            else:
                self._compare(log, info)
                self._there[log] = connection
                return info

    async def ask(
        self, connection: Connection, what: str, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Ask JetStream's interface.

        Raises:
            _Refused: It answers with an error.
            ChannelBroken: It does not answer.
            SecurityError: The server does not let us ask.
        """
        await self._answers.use(connection)
        if connection.lost.done():
            raise _lost(connection)
        text = b"" if body is None else json.dumps(body).encode()
        answer = await self._answers.ask(connection, f"$JS.API.{what}", text)
        if not answer:
            raise _Refused({"code": UNAVAILABLE, "description": "nobody answers"})
        found: dict[str, Any] = json.loads(answer)
        if "error" in found:
            raise _Refused(found["error"])
        return found

    def listen(self, source: Source) -> tuple[str, str]:
        """Return a consumer's name, and where its states are told, for a source."""
        name = secrets.token_hex(8)
        self.sources[name] = source
        return name, self._answers.listen(source.told)

    def ignore(self, name: str, inbox: str) -> None:
        """Take nothing more from a consumer."""
        self.sources.pop(name, None)
        self._answers.ignore(inbox)

    async def consumer(
        self, connection: Connection, log: LogName, name: str, start: dict[str, Any]
    ) -> None:
        """Make a reader's consumer: in memory, on one server, gone if not used.

        Raises:
            ChannelBroken: Not now: no leader, or the log was deleted meanwhile.
            ConnectionFailed: Not at all; the message says why.
            SecurityError: The server does not let us.
        """
        stream = topology.log_stream(log)
        config = {
            "name": name,
            "ack_policy": "none",
            "replay_policy": "instant",
            "inactive_threshold": 60 * SECOND,
            "mem_storage": True,
            "num_replicas": 1,
            "max_waiting": 8,
            **start,
        }
        body = {"stream_name": stream, "config": config, "action": "create"}
        try:
            await self.ask(connection, f"CONSUMER.CREATE.{stream}.{name}", body)
        except _Refused as error:
            if error.passing or error.code == NOT_FOUND:
                raise ChannelBroken(f"the log {log} is not read: {error}") from error
            raise _failure(log, error) from error

    async def _made(self, connection: Connection, log: LogName) -> dict[str, Any]:
        stream = topology.log_stream(log)
        try:
            return await self.ask(connection, f"STREAM.INFO.{stream}")
        except _Refused as error:
            if error.code != NOT_FOUND:
                raise
        retention = self._settings.retention
        config = {
            "name": stream,
            "subjects": [topology.log_subject(log, "*")],
            "retention": "limits",
            "discard": "old",
            "max_bytes": retention.max_bytes,
            "max_age": retention.max_age * SECOND,
            "max_msgs": -1,
            "max_consumers": -1,
            "storage": self._settings.storage,
            "num_replicas": self._settings.replicas,
            # Records have no ids that the server would have to remember.
            "duplicate_window": SECOND,
        }
        try:
            return await self.ask(connection, f"STREAM.CREATE.{stream}", config)
        except _Refused as error:
            if error.err_code != NAME_IN_USE:
                raise
            # Somebody else was quicker, and wants it otherwise.
            return await self.ask(connection, f"STREAM.INFO.{stream}")

    def _compare(self, log: LogName, info: dict[str, Any]) -> None:
        config = info["config"]
        kept = Retention(config["max_bytes"], config["max_age"] // SECOND)
        if kept != self._settings.retention and log not in self._noted:
            self._noted.add(log)
            self._link.board.tell(LinkEvent("note", differs(log, kept)))


def check_jetstream(connection: Connection) -> None:
    """Raise Unsupported where the server has none."""
    if not connection.has_jetstream:
        raise Unsupported(
            f"the NATS server {connection.host} keeps no logs, as JetStream is off: "
            "start it with -js, or with a line `jetstream {}` in its configuration",
            limit="durable_log",
        )


def _lost(connection: Connection) -> ChannelBroken:
    words, error = connection.cause()
    broken = ChannelBroken(f"the NATS link was lost: {words}")
    broken.__cause__ = error
    return broken


def _check_stored(log: LogName, answer: bytes) -> None:
    """Raise unless a stream says that it has the record."""
    try:
        found: dict[str, Any] = json.loads(answer)
    except ValueError:
        raise ChannelBroken(
            f"what answers for the log {log} is not understood: another program reads "
            "its subject and replies"
        ) from None
    if "error" not in found:
        return
    error = _Refused(found["error"])
    if error.passing:
        raise ChannelBroken(f"the log {log} did not store a record: {error}") from error
    raise _failure(log, error) from error


def _failure(log: LogName, error: _Refused) -> Exception:
    if error.err_code in NOT_ENABLED:
        return Unsupported(
            f"the NATS account keeps no logs: {error} (give it JetStream limits)",
            limit="durable_log",
        )
    return ConnectionFailed(
        f"the log {log} cannot be had: {error} (it needs JetStream, and room in it for "
        "what `log_bytes` says)"
    )
