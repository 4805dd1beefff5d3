"""Mailboxes: what was sent while a peer was away waits for it, within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from remoting_bus.bus import Bus
from remoting_bus.errors import ConnectionFailed
from remoting_bus.names import Address, Lane
from remoting_bus.testing.brokers import LocalNats
from remoting_bus_nats import NatsBackend
from remoting_bus_nats.mailbox import ACK_WAIT

pytestmark = [pytest.mark.asyncio, pytest.mark.broker("nats")]

LIMIT = 20.0
OPTIONS = "?topology=jetstream&mailbox_bytes=8000000"


@pytest.fixture
def own() -> Iterator[LocalNats]:
    with LocalNats() as running:
        yield running


class Reader:
    """What was delivered, and a way to wait for it."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self._arrival = asyncio.Event()

    def deliver(self, body: bytes, lane: Lane) -> None:
        self.bodies.append(body)
        self._arrival.set()

    async def wait_for(self, body: bytes) -> None:
        async with asyncio.timeout(LIMIT):
            while body not in self.bodies:
                self._arrival.clear()
                await self._arrival.wait()


@asynccontextmanager
async def reading(bus: Bus, name: str = "reader") -> AsyncIterator[Reader]:
    reader = Reader()
    async with bus.consume(
        Address("ns", name),
        [Lane.CALL, Lane.CONTROL],
        prefetch=10,
        deliver=reader.deliver,
    ):
        yield reader


def numbered(count: int) -> list[bytes]:
    return [str(number).encode() for number in range(count)]


async def test_what_was_sent_while_away_waits_in_order(own: LocalNats) -> None:
    """Also over another connection and a restart of the server; and only once."""
    to = Address("ns", "reader", "writer")
    url = own.urls[0] + OPTIONS
    async with NatsBackend().open(url) as bus, reading(bus) as reader:
        assert bus.limits.keeps_while_away
        await bus.publish(to, Lane.CALL, b"there")
        await reader.wait_for(b"there")
    async with NatsBackend().open(url) as bus:
        for body in numbered(50):
            await bus.publish(to, Lane.CALL, body)
    own.kill()
    await asyncio.to_thread(own.start)
    async with NatsBackend().open(url) as bus, reading(bus) as reader:
        await reader.wait_for(b"49")
        assert reader.bodies == numbered(50)
        await bus.publish(to, Lane.CALL, b"end")
        await reader.wait_for(b"end")
    async with NatsBackend().open(url) as bus, reading(bus) as reader:
        await bus.publish(to, Lane.CALL, b"new")
        await reader.wait_for(b"new")
        assert reader.bodies == [b"new"]


async def test_two_readers_are_two_copies(own: LocalNats) -> None:
    """Two connections that read one address each get what comes."""
    to = Address("ns", "reader", "writer")
    url = own.urls[0] + OPTIONS
    async with (
        NatsBackend().open(url) as one,
        NatsBackend().open(url) as two,
        reading(one) as first,
        reading(two) as second,
    ):
        for body in numbered(30):
            await one.publish(to, Lane.CALL, body)
        await first.wait_for(b"29")
        await second.wait_for(b"29")
        assert first.bodies == second.bodies == numbered(30)


async def test_a_full_mailbox_gives_up_the_oldest(own: LocalNats) -> None:
    """Bounded by size: what is newest is kept, and publishing goes on."""
    to = Address("ns", "reader", "writer")
    url = own.urls[0] + "?topology=jetstream&mailbox_bytes=1000000"
    async with NatsBackend().open(url) as bus:
        async with reading(bus):
            pass
        for number in range(20):
            await bus.publish(to, Lane.CALL, bytes([number]) * 100_000)
        async with reading(bus) as reader:
            await reader.wait_for(bytes([19]) * 100_000)
            kept = [body[0] for body in reader.bodies]
    assert kept == list(range(20 - len(kept), 20))
    assert 5 <= len(kept) <= 10


async def test_a_message_too_old_is_given_up(own: LocalNats) -> None:
    """Bounded by age."""
    to = Address("ns", "reader", "writer")
    url = own.urls[0] + OPTIONS + "&mailbox_age=1"
    async with NatsBackend().open(url) as bus:
        async with reading(bus):
            pass
        await bus.publish(to, Lane.CALL, b"old")
        await asyncio.sleep(2.0)  # the server's clock: no event tells of an expiry
        async with reading(bus) as reader:
            await bus.publish(to, Lane.CALL, b"new")
            await reader.wait_for(b"new")
            assert reader.bodies == [b"new"]


async def test_it_goes_on_after_an_outage(own: LocalNats) -> None:
    """A reader and a writer that stay connected lose nothing that was acknowledged."""
    to = Address("ns", "reader", "writer")
    url = own.urls[0] + OPTIONS
    async with (
        NatsBackend().open(url) as bus,
        reading(bus) as reader,
        bus.link_events() as events,
    ):
        await bus.publish(to, Lane.CALL, b"before")
        await reader.wait_for(b"before")
        own.kill()
        await asyncio.to_thread(own.start)
        async with asyncio.timeout(LIMIT):
            states = []
            async for event in events:
                states.append(event.state)
                if states[-2:] == ["down", "up"]:
                    break
        await bus.publish(to, Lane.CALL, b"after")
        await reader.wait_for(b"after")


async def test_many_publishes_under_way_keep_their_order(own: LocalNats) -> None:
    """They begin in the order of the calls."""
    to = Address("ns", "reader", "writer")
    async with (
        NatsBackend().open(own.urls[0] + OPTIONS) as bus,
        reading(bus) as reader,
        asyncio.timeout(LIMIT),
    ):
        assert bus.limits.publishes_under_way > 1
        async with asyncio.TaskGroup() as group:
            for body in numbered(500):
                group.create_task(bus.publish(to, Lane.CALL, body))
        await reader.wait_for(b"499")
        assert reader.bodies == numbered(500)


async def test_no_room_for_mailboxes_is_an_error(own: LocalNats) -> None:
    """A server that cannot keep that much says so at consume, at once."""
    url = own.urls[0] + "?topology=jetstream&mailbox_bytes=900000000000"
    async with NatsBackend().open(url) as bus:
        with pytest.raises(ConnectionFailed, match="no mailbox can be had"):
            async with reading(bus):
                pass


async def test_what_comes_while_its_reader_leaves_is_kept(own: LocalNats) -> None:
    """Sent in the turn of leaving: the next reader has it, in ACK_WAIT at the latest.

    As a rule we give it back at once; if the server hands it on in the very moment in
    which the reader leaves, it notices only by the missing acknowledgement.
    """
    to = Address("ns", "reader", "writer")
    async with NatsBackend().open(own.urls[0] + OPTIONS) as bus:
        for body in numbered(5):
            async with reading(bus) as reader:
                pass
            await bus.publish(to, Lane.CALL, body)
            async with reading(bus) as reader, asyncio.timeout(ACK_WAIT * 2):
                await reader.wait_for(body)
