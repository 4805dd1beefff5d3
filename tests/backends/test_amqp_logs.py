"""Durable logs on RabbitMQ: outages, rights, alarms, queues that are otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import aiormq
import pytest

from remoting_bus.bus import Bus, LinkEvent, LogReader
from remoting_bus.errors import ChannelBroken, ConnectionFailed, SecurityError
from remoting_bus.names import LogName
from remoting_bus.testing.brokers import LocalRabbitMQ
from remoting_bus.testing.brokers.base import wait_until
from remoting_bus_amqp import AmqpBackend
from remoting_bus_amqp.backend import AmqpBus
from remoting_bus_amqp.connection import Connection
from remoting_bus_amqp.log import INTERNAL_ERROR, LogPublisher
from remoting_bus_amqp.log_reader import AHEAD, AmqpReader
from remoting_bus_amqp.topology import log_stream

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.broker("amqp"),
    pytest.mark.usefixtures("no_blocking"),
]

LIMIT = 90.0

AGENT = {
    "users": [LocalRabbitMQ.user_definition("a", "p")],
    "permissions": [
        {"user": "a", "vhost": "/", "configure": "^$", "write": "^rb", "read": "^$"}
    ],
    "topic_permissions": [
        {
            "user": "a",
            "vhost": "/",
            "exchange": "rb.rights",
            "write": r"^rbl\.[^.]+\.[^.]+\.a$",
            "read": "^$",
        }
    ],
}
"""A peer that may append as itself, and do nothing else with logs."""


@pytest.fixture(scope="module")
def own() -> Iterator[LocalRabbitMQ]:
    """A node that is harmed; each test leaves it whole.

    A node that is killed in the first seconds of its first stream forgets that it has
    any: it writes down some time later who coordinates them (3.10).
    """
    with LocalRabbitMQ(definitions=AGENT) as running:
        asyncio.run(_touch(running.urls[0]))
        kept = running.folder / "n0/mnesia/n0@localhost/coordination/n0@localhost"
        wait_until(
            lambda: b"rabbit_stream_coordinator" in (kept / "names.dets").read_bytes(),
            LIMIT,
            lambda: "the coordinator of streams is not written down",
        )
        yield running


async def _touch(url: str) -> None:
    async with AmqpBackend().open(url) as bus:
        await bus.append(LogName("first", "log"), "key", b"")


@pytest.fixture
def log() -> LogName:
    """A log of its own."""
    return LogName(f"ns-{uuid4().hex[:8]}", "log")


async def bodies(reader: LogReader, count: int) -> list[bytes]:
    async with asyncio.timeout(LIMIT):
        return [(await anext(reader)).body for _ in range(count)]


async def append_surely(bus: Bus, log: LogName, body: bytes) -> None:
    """As a program would: again, until it is stored."""
    async with asyncio.timeout(LIMIT):
        while True:
            try:
                return await bus.append(log, "key", body)
            except (ChannelBroken, ConnectionFailed):
                await asyncio.sleep(0.05)


async def event(events: AsyncIterator[LinkEvent], state: str) -> str:
    async with asyncio.timeout(LIMIT):
        async for event in events:
            if event.state == state:
                return event.cause
    raise AssertionError("events ended")


async def declare(broker: LocalRabbitMQ, name: str, **arguments: object) -> None:
    connection = await aiormq.connect(broker.urls[0])
    channel = await connection.channel()
    await channel.queue_declare(name, durable=True, arguments=arguments)  # type: ignore[arg-type]
    await connection.close()


async def test_a_reader_outlives_a_killed_node(
    own: LocalRabbitMQ, log: LogName
) -> None:
    """What was stored before is there after; reading goes on where it was."""
    async with (
        AmqpBackend().open(own.urls[0]) as bus,
        bus.read(log, "first") as reader,
        bus.read(log, "next") as later,
    ):
        for number in range(20):
            await bus.append(log, "key", b"%d" % number)
        assert await bodies(reader, 10) == [b"%d" % number for number in range(10)]
        assert await bodies(later, 20) == [b"%d" % number for number in range(20)]
        await asyncio.to_thread(own.kill)
        with pytest.raises(ChannelBroken):
            await bus.append(log, "key", b"lost")
        await asyncio.to_thread(own.start)
        for number in range(20, 40):
            await append_surely(bus, log, b"%d" % number)
        for one, first in ((reader, 10), (later, 20)):
            came: list[bytes] = []
            while b"39" not in came:
                came += await bodies(one, 1)
            # An append whose answer was lost may stand there twice.
            wanted = [b"%d" % number for number in range(first, 40)]
            assert [body for body in dict.fromkeys(came) if body != b"lost"] == wanted
            assert (one.lost, one.restarted) == (0, 0)


async def test_a_reader_that_waits_for_the_next_outlives_a_killed_node(
    own: LocalRabbitMQ, log: LogName
) -> None:
    """Though no record has told it yet where it is."""
    async with (
        AmqpBackend().open(own.urls[0]) as bus,
        bus.read(log, "next") as reader,
    ):
        await asyncio.to_thread(own.kill)
        await asyncio.to_thread(own.start)
        await append_surely(bus, log, b"next")
        assert await bodies(reader, 1) == [b"next"]
        assert reader.restarted == 0


async def test_a_slow_reader_has_a_bounded_number_ahead(
    own: LocalRabbitMQ, log: LogName
) -> None:
    """And what retention takes from under it meanwhile, it counts."""
    url = own.urls[0] + "?log_bytes=1048576"
    async with AmqpBackend().open(url) as bus, bus.read(log, "first") as reader:
        assert isinstance(reader, AmqpReader)
        await bus.append(log, "key", b"0 ")
        assert (await anext(reader)).position == 0
        for number in range(1, 401):
            await bus.append(log, "key", b"%d " % number + bytes(16 * 1024))
            assert reader.ahead <= AHEAD
        came = []
        while b"400" not in came:
            came += [(await bodies(reader, 1))[0].split(b" ")[0]]
        numbers = [int(body) for body in came]
        assert numbers == sorted(numbers)
        missed = 400 - len(numbers)
        # Each segment that is gone held one entry of the broker's own.
        assert 100 < missed <= reader.lost < missed + 30


async def test_a_log_that_was_made_otherwise_is_told_of_once(
    own: LocalRabbitMQ, log: LogName
) -> None:
    """It is used as it is."""
    async with (
        AmqpBackend().open(own.urls[0] + "?log_age=60") as one,
        AmqpBackend().open(own.urls[0]) as other,
        other.link_events() as events,
    ):
        await one.append(log, "key", b"1")
        for _ in range(3):
            await other.append(log, "key", b"2")
        async with other.read(log, "first") as reader:
            assert await bodies(reader, 4) == [b"1", b"2", b"2", b"2"]
        assert "current is '60s'" in await event(events, "note")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await event(events, "note")


async def test_a_queue_that_is_no_log_is_refused(
    own: LocalRabbitMQ, log: LogName
) -> None:
    await declare(own, log_stream(log))
    async with AmqpBackend().open(own.urls[0]) as bus:
        with pytest.raises(ConnectionFailed, match="x-queue-type"):
            await bus.append(log, "key", b"1")
        with pytest.raises(ConnectionFailed, match="or name the log otherwise"):
            async with bus.read(log, "first"):
                pass


async def test_a_log_that_was_deleted_by_others_is_made_again(
    own: LocalRabbitMQ, log: LogName
) -> None:
    """By whoever appends next, who is told that nobody takes it up."""
    async with (
        AmqpBackend().open(own.urls[0]) as one,
        AmqpBackend().open(own.urls[0]) as other,
    ):
        await one.append(log, "key", b"1")
        await one.append(log, "key", b"2")
        async with other.read(log, "first") as reader:
            assert await bodies(reader, 2) == [b"1", b"2"]
        await other.delete_log(log)
        await one.append(log, "key", b"3")
        async with other.read(log, "first") as reader:
            assert await bodies(reader, 1) == [b"3"]


async def test_a_peer_may_be_allowed_to_append_as_itself_only(
    own: LocalRabbitMQ,
) -> None:
    """By the permissions that `topology` tells; each refusal is an error."""
    log = LogName("rights", "log")
    url = own.urls[0].replace("guest:guest@", "a:p@")
    async with AmqpBackend().open(own.urls[0]) as bus, AmqpBackend().open(url) as a:
        with pytest.raises(SecurityError, match="Let whoever may"):
            await a.append(log, "a", b"there is none yet")
        async with bus.read(log, "first") as reader:
            await a.append(log, "a", b"1")
            with pytest.raises(SecurityError, match="as other"):
                await a.append(log, "other", b"forged")
            with pytest.raises(SecurityError, match="delete the log"):
                await a.delete_log(log)
            with pytest.raises(SecurityError, match="read the log"):
                async with a.read(log, "first"):
                    pass
            await a.append(log, "a", b"2")
            assert await bodies(reader, 2) == [b"1", b"2"]


async def test_an_append_waits_while_an_alarm_lasts(
    own: LocalRabbitMQ, log: LogName
) -> None:
    """Readers go on; when it is over the record is stored."""
    async with (
        AmqpBackend().open(own.urls[0]) as bus,
        bus.read(log, "first") as reader,
        bus.link_events() as events,
    ):
        await bus.append(log, "key", b"1")
        await asyncio.to_thread(own.alarm)
        try:
            appending = asyncio.create_task(bus.append(log, "key", b"2"))
            assert "alarm" in await event(events, "blocked")
            assert not appending.done()
        finally:
            await asyncio.to_thread(own.end_alarm)
        await event(events, "up")
        try:
            await appending
        except ChannelBroken:  # sent before the alarm was told
            await append_surely(bus, log, b"2")
        assert (await bodies(reader, 2))[-1] == b"2"


async def test_a_broker_that_breaks_down_is_asked_again(
    own: LocalRabbitMQ, log: LogName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RabbitMQ's internal error, which three nodes have at times, lasts a moment."""
    store = LogPublisher.store
    broken: list[Connection] = []

    async with AmqpBackend().open(own.urls[0]) as bus:
        assert isinstance(bus, AmqpBus)

        async def breaks_down_once(
            self: LogPublisher, exchange: str, key: str, body: bytes
        ) -> bool:
            if not broken:
                connection = bus._link.connection()
                broken.append(connection)
                connection.wire.closed_by = (INTERNAL_ERROR, "INTERNAL_ERROR")
                connection.wire.abort()
            return await store(self, exchange, key, body)

        monkeypatch.setattr(LogPublisher, "store", breaks_down_once)
        await bus.append(log, "key", b"one")
        async with bus.read(log, "first") as reader, asyncio.timeout(LIMIT):
            assert (await anext(reader)).body == b"one"
        assert broken[0].lost.done()
