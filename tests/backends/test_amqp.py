"""The RabbitMQ driver on real nodes: promises, outages, credentials, limits."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiormq
import pytest
import trustme

from remoting_bus.bus import Bus, LinkEvent
from remoting_bus.errors import (
    ChannelBroken,
    ConnectionFailed,
    LimitExceeded,
    SecurityError,
)
from remoting_bus.names import Address, Lane
from remoting_bus.testing import check_backend
from remoting_bus.testing.brokers import LocalRabbitMQ
from remoting_bus_amqp import AmqpBackend
from remoting_bus_amqp.backend import AmqpBus

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.broker("amqp"),
    pytest.mark.usefixtures("no_blocking"),
]

LIMIT = 20.0
TO_READER = Address("ns", "reader", "writer")
QUICK = "?heartbeat=1&connect_timeout=1"


@pytest.fixture(scope="module")
def own() -> Iterator[LocalRabbitMQ]:
    """A node for the tests of this file, each of which leaves it running and well."""
    with LocalRabbitMQ() as running:
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
async def reading(bus: Bus, at: Address = TO_READER) -> AsyncIterator[Reader]:
    reader = Reader()
    async with bus.consume(at, [Lane.CALL], prefetch=100, deliver=reader.deliver):
        yield reader


async def wait_state(events: AsyncIterator[LinkEvent], *states: str) -> LinkEvent:
    async with asyncio.timeout(LIMIT):
        async for event in events:
            if event.state in states:
                return event
    raise AssertionError("events ended")


@asynccontextmanager
async def raw(url: str) -> AsyncIterator[aiormq.abc.AbstractChannel]:
    """A channel of somebody else's."""
    connection = await aiormq.connect(url)
    try:
        yield await connection.channel()
    finally:
        await connection.close()


async def queue_names(own: LocalRabbitMQ, namespace: str) -> list[str]:
    listed = await asyncio.to_thread(own.ctl, "list_queues", "name", "--silent")
    return [name for name in listed.split() if name.startswith(f"rb.{namespace}.")]


async def queues_become(own: LocalRabbitMQ, namespace: str, count: int) -> None:
    """Wait until a namespace has that many queues; each look takes a second."""
    async with asyncio.timeout(LIMIT):
        for _ in iter(int, 1):
            if len(await queue_names(own, namespace)) == count:
                return


@pytest.mark.parametrize("topology", ["classic", "quorum", "priority"])
async def test_it_keeps_every_promise(own: LocalRabbitMQ, topology: str) -> None:
    """All topologies are buses as the contract says."""
    url = f"{own.urls[0]}?topology={topology}&mailbox_age=30"
    await check_backend(AmqpBackend(), url)


# -- outages --


async def test_it_comes_back_after_the_node_was_killed(own: LocalRabbitMQ) -> None:
    """Killed and started: down, up, and consumers are back before up is told."""
    to = Address("killed", "reader", "writer")
    async with (
        AmqpBackend().open(own.urls[0]) as bus,
        reading(bus, to) as reader,
        bus.link_events() as events,
    ):
        assert (await anext(events)).state == "up"
        own.kill()
        down = await wait_state(events, "down")
        assert "127.0.0.1" in down.cause
        assert not bus.try_publish(to, Lane.CALL, b"while down")
        with pytest.raises(ChannelBroken, match="down"):
            await bus.publish(to, Lane.CALL, b"while down")
        await asyncio.to_thread(own.start)
        await wait_state(events, "up")
        await bus.publish(to, Lane.CALL, b"after")
        await reader.wait_for(b"after")
        assert reader.bodies == [b"after"]


@pytest.mark.parametrize("fault", ["pause", "cut"])
async def test_a_silent_node_is_noticed_by_its_heartbeats(
    own: LocalRabbitMQ, fault: str
) -> None:
    """Stopped or unreachable without a closed connection: down, in 1.25 heartbeats."""
    async with (
        AmqpBackend().open(own.urls[0] + QUICK) as bus,
        reading(bus) as reader,
        bus.link_events() as events,
    ):
        assert (await anext(events)).state == "up"
        began = time.monotonic()
        getattr(own, fault)()
        try:
            under_way = asyncio.create_task(bus.publish(TO_READER, Lane.CALL, b"x"))
            down = await wait_state(events, "down")
            assert time.monotonic() - began < 4.0
            assert "said nothing" in down.cause
            with pytest.raises(ChannelBroken, match="said nothing"):
                await under_way
        finally:
            (own.resume if fault == "pause" else own.heal)()
        await wait_state(events, "up")
        await bus.publish(TO_READER, Lane.CALL, b"after")
        await reader.wait_for(b"after")


async def test_a_loop_that_stood_still_does_not_blame_the_node(
    own: LocalRabbitMQ,
) -> None:
    """Blocked for longer than the silence we bear, shorter than the node bears."""
    async with (
        AmqpBackend().open(f"{own.urls[0]}?heartbeat=2") as bus,
        bus.link_events() as events,
    ):
        assert (await anext(events)).state == "up"
        time.sleep(3.0)  # noqa: ASYNC251 - that is the fault
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await anext(events)
        await bus.publish(TO_READER, Lane.CALL, b"x")


async def test_publishing_to_a_paused_node_neither_hangs_nor_piles_up(
    own: LocalRabbitMQ,
) -> None:
    """It waits, "blocked" is told, and it raises when the link is given up."""
    body = bytes(512 * 1024)
    url = own.urls[0] + "?heartbeat=2&connect_timeout=1"
    async with AmqpBackend().open(url) as bus, bus.link_events() as events:
        await bus.publish(TO_READER, Lane.BULK, b"first")  # makes the exchange
        own.pause()
        try:
            async with asyncio.timeout(LIMIT):
                sending = [
                    asyncio.create_task(bus.publish(TO_READER, Lane.BULK, body))
                    for _ in range(100)
                ]
                ended = await asyncio.gather(*sending, return_exceptions=True)
            assert {type(error) for error in ended} == {ChannelBroken}
            assert not bus.try_publish(TO_READER, Lane.BULK, body)
            await wait_state(events, "blocked")
            await wait_state(events, "down")
        finally:
            own.resume()
        await wait_state(events, "up")


# -- what the broker does to our queues and channels --


@pytest.mark.parametrize("topology", ["classic", "quorum", "priority"])
async def test_a_queue_deleted_under_us_is_made_again(
    own: LocalRabbitMQ, topology: str
) -> None:
    """Told as lost, and read again, on the same connection."""
    namespace = f"deleted-{topology}"
    to = Address(namespace, "reader", "writer")
    url = f"{own.urls[0]}?topology={topology}&mailbox_age=30"
    async with (
        AmqpBackend().open(url) as bus,
        reading(bus, to) as reader,
        bus.link_events() as events,
    ):
        assert (await anext(events)).state == "up"
        names = await queue_names(own, namespace)
        (queue,) = [name for name in names if not name.endswith(".hold")]
        await asyncio.to_thread(own.ctl, "delete_queue", queue)
        lost = await wait_state(events, "lost", "down")
        assert (lost.state, queue in lost.cause) == ("lost", True)
        async with asyncio.timeout(LIMIT):
            while b"after" not in reader.bodies:
                await bus.publish(to, Lane.CALL, b"after")
                await asyncio.sleep(0.02)


async def test_an_exchange_deleted_under_us_is_made_again(own: LocalRabbitMQ) -> None:
    """Found by the next message, which is lost; the one after arrives."""
    to = Address("gone", "reader", "writer")
    async with (
        AmqpBackend().open(own.urls[0]) as bus,
        reading(bus, to) as reader,
        bus.link_events() as events,
    ):
        assert (await anext(events)).state == "up"
        async with raw(own.urls[0]) as channel:
            await channel.exchange_delete("rb.gone")
        with pytest.raises(ChannelBroken, match="NOT_FOUND"):
            await bus.publish(to, Lane.CALL, b"lost")
        lost = await wait_state(events, "lost", "down")
        assert "NOT_FOUND" in lost.cause
        async with asyncio.timeout(LIMIT):
            while b"after" not in reader.bodies:
                with contextlib.suppress(ChannelBroken):
                    await bus.publish(to, Lane.CALL, b"after")
                await asyncio.sleep(0.02)


async def test_messages_of_others_are_counted_and_dropped(own: LocalRabbitMQ) -> None:
    """Garbage in our queue, by any way into it, harms nothing and is told."""
    to = Address("garbage", "reader", "writer")
    queue = "rb.garbage.q.reader.call"
    async with (
        AmqpBackend().open(own.urls[0] + "?topology=quorum&mailbox_age=30") as bus,
        reading(bus, to) as reader,
        bus.link_events() as events,
    ):
        assert isinstance(bus, AmqpBus)
        assert (await anext(events)).state == "up"
        async with raw(own.urls[0]) as channel:
            await channel.queue_bind(queue, "rb.garbage", "#")
            await channel.basic_publish(b"x", routing_key=queue)
            for key in ("", "rb", "rb.garbage.reader.x", "rb.\xff.reader.call.writer"):
                await channel.basic_publish(
                    b"y", exchange="rb.garbage", routing_key=key
                )
        lost = await wait_state(events, "lost", "down")
        assert (lost.state, "not of this library" in lost.cause) == ("lost", True)
        await bus.publish(to, Lane.CALL, b"ours")
        await reader.wait_for(b"ours")
        assert (reader.bodies, bus.foreign) == ([b"ours"], 5)


async def test_a_message_larger_than_anybody_here_sends_is_dropped(
    own: LocalRabbitMQ,
) -> None:
    """It is never put together, and the next one arrives."""
    to = Address("huge", "reader", "writer")
    async with AmqpBackend().open(own.urls[0]) as bus, reading(bus, to) as reader:
        assert isinstance(bus, AmqpBus)
        async with raw(own.urls[0]) as channel:
            key = "rb.huge.reader.call.x"
            huge = bytes(16 * 1024 * 1024 + 1)
            await channel.basic_publish(huge, exchange="rb.huge", routing_key=key)
        await bus.publish(to, Lane.CALL, b"ours")
        await reader.wait_for(b"ours")
        assert (reader.bodies, bus.foreign) == ([b"ours"], 1)


async def test_a_flood_without_a_reader_is_bounded(own: LocalRabbitMQ) -> None:
    """A queue keeps what the URL says, and gives up the oldest."""
    to = Address("flood", "reader", "writer")
    url = f"{own.urls[0]}?mailbox_bytes=1000000&topology=quorum&mailbox_age=30"
    async with AmqpBackend().open(url) as bus:
        async with reading(bus, to):
            pass
        await settled(own, "rb.flood.q.reader.call")
        for number in range(30):
            await bus.publish(to, Lane.CALL, b"%d " % number + bytes(100_000))
        async with reading(bus, to) as reader:
            await bus.publish(to, Lane.CALL, b"end")
            await reader.wait_for(b"end")
    assert 5 <= len(reader.bodies) <= 12
    assert reader.bodies[-2].startswith(b"29 ")


async def settled(own: LocalRabbitMQ, queue: str) -> None:
    """Wait until nobody reads a queue."""
    async with asyncio.timeout(LIMIT), raw(own.urls[0]) as channel:
        while True:
            found = await channel.queue_declare(queue, passive=True)
            if not found.consumer_count:
                return
            await asyncio.sleep(0.01)


# -- mailboxes --


async def test_a_mailbox_keeps_what_comes_while_nobody_reads(
    own: LocalRabbitMQ,
) -> None:
    """In order, over a gap, and on another connection."""
    to = Address("kept", "reader", "writer")
    url = f"{own.urls[0]}?topology=quorum&mailbox_age=30"
    async with AmqpBackend().open(url) as writer:
        assert writer.limits.keeps_while_away
        async with AmqpBackend().open(url) as bus, reading(bus, to) as reader:
            await writer.publish(to, Lane.CALL, b"before")
            await reader.wait_for(b"before")
        for number in range(20):
            await writer.publish(to, Lane.CALL, b"%d" % number)
        async with AmqpBackend().open(url) as bus, reading(bus, to) as reader:
            await writer.publish(to, Lane.CALL, b"after")
            await reader.wait_for(b"after")
            expected = [*(b"%d" % number for number in range(20)), b"after"]
            assert reader.bodies == expected


async def test_a_second_reader_takes_the_mailbox_over(own: LocalRabbitMQ) -> None:
    """Both get all while both are there; when the first has gone, nothing is missed."""
    to = Address("two", "reader", "writer")
    url = f"{own.urls[0]}?topology=quorum&mailbox_age=30"
    async with AmqpBackend().open(url) as writer, AmqpBackend().open(url) as second:
        async with AmqpBackend().open(url) as first, reading(first, to) as one:
            context = reading(second, to)
            two = await context.__aenter__()
            await writer.publish(to, Lane.CALL, b"both")
            await one.wait_for(b"both")
            await two.wait_for(b"both")
        for number in range(100):
            await writer.publish(to, Lane.CALL, b"%d" % number)
            await asyncio.sleep(0.02)
        await two.wait_for(b"99")
        assert set(two.bodies) >= {b"%d" % number for number in range(100)}
        await queues_become(own, "two", 2)  # the mailbox and its hold
        await context.__aexit__(None, None, None)


# -- limits, alarms --


async def test_an_alarm_blocks_and_its_end_lets_all_go_on(own: LocalRabbitMQ) -> None:
    """The cause is told; a publish waits; nothing is lost."""
    async with (
        AmqpBackend().open(own.urls[0] + "?heartbeat=1") as bus,
        reading(bus) as reader,
        bus.link_events() as events,
    ):
        assert (await anext(events)).state == "up"
        await asyncio.to_thread(own.alarm)
        try:
            waiting = asyncio.create_task(bus.publish(TO_READER, Lane.CALL, b"waits"))
            blocked = await wait_state(events, "blocked", "down")
            assert (blocked.state, "alarm" in blocked.cause) == ("blocked", True)
            assert "memory" in blocked.cause
            assert not bus.try_publish(TO_READER, Lane.CALL, b"no")
            await asyncio.sleep(2.5)  # heartbeats go on: it is not taken for dead
            assert not waiting.done()
        finally:
            await asyncio.to_thread(own.end_alarm)
        up = await wait_state(events, "up", "down")
        assert (up.state, "takes messages again" in up.cause) == ("up", True)
        await asyncio.wait_for(waiting, LIMIT)
        await reader.wait_for(b"waits")


async def test_the_brokers_limit_is_learned(no_blocking: None) -> None:
    """A broker that takes 64 KiB: said by the limits, refused here, used to the byte."""
    with LocalRabbitMQ(max_message_size=65536) as small:
        async with AmqpBackend().open(small.urls[0]) as bus, reading(bus) as reader:
            assert bus.limits.max_bytes == 65536
            await bus.publish(TO_READER, Lane.CALL, bytes(65536))
            await reader.wait_for(bytes(65536))
            with pytest.raises(LimitExceeded):
                await bus.publish(TO_READER, Lane.CALL, bytes(65537))
        url = (
            small.urls[0] + "?max_bytes=100000"
        )  # the URL knows it better, and does not
        async with (
            AmqpBackend().open(url) as bus,
            reading(bus) as reader,
            bus.link_events() as events,
        ):
            with pytest.raises(ChannelBroken, match="max size 65536"):
                await bus.publish(TO_READER, Lane.CALL, bytes(100000))
            lost = await wait_state(events, "lost", "down")
            assert "65536" in lost.cause
            async with asyncio.timeout(LIMIT):
                while b"after" not in reader.bodies:
                    with contextlib.suppress(ChannelBroken):
                        await bus.publish(TO_READER, Lane.CALL, b"after")
                    await asyncio.sleep(0.02)


async def test_a_message_over_the_limit_is_refused_here(own: LocalRabbitMQ) -> None:
    """The limit is named, by both ways to publish."""
    async with AmqpBackend().open(own.urls[0]) as bus:
        largest = bus.limits.max_bytes
        assert largest == 512 * 1024
        with pytest.raises(LimitExceeded):
            bus.try_publish(TO_READER, Lane.CALL, bytes(largest + 1))
        with pytest.raises(LimitExceeded) as caught:
            await bus.publish(TO_READER, Lane.CALL, bytes(largest + 1))
        assert caught.value.limit == "max_bytes"
        assert (caught.value.value, caught.value.asked) == (largest, largest + 1)


async def test_a_message_expires_at_the_broker(own: LocalRabbitMQ) -> None:
    """What waited for longer than it may is not delivered."""
    to = Address("expiry", "reader", "writer")
    url = f"{own.urls[0]}?topology=quorum&mailbox_age=30"
    async with AmqpBackend().open(url) as bus:
        assert bus.limits.native_expiry
        async with reading(bus, to):
            pass
        await settled(own, "rb.expiry.q.reader.call")
        await bus.publish(to, Lane.CALL, b"short", expires_in=0.05)
        await bus.publish(to, Lane.CALL, b"long", expires_in=60)
        await asyncio.sleep(0.5)
        async with reading(bus, to) as reader:
            await reader.wait_for(b"long")
        assert reader.bodies == [b"long"]


# -- who may do what --


@pytest.mark.parametrize(
    ("login", "path", "words"),
    [
        ("guest:wrong@", "", "refuses the credentials"),
        ("nobody:guest@", "", "refuses the credentials"),
        ("", "/nowhere", "refuses the virtual host.*nowhere"),
    ],
)
async def test_who_is_not_let_in_is_told_at_once(
    own: LocalRabbitMQ, login: str, path: str, words: str
) -> None:
    """An error that is final, and no second try."""
    host = own.urls[0].rpartition("@")[2]
    async with asyncio.timeout(LIMIT):
        with pytest.raises(ConnectionFailed, match=words) as caught:
            async with AmqpBackend().open(f"amqp://{login}{host}{path}"):
                pass
    assert caught.value.final


async def test_credentials_refused_later_end_the_link(own: LocalRabbitMQ) -> None:
    """Changed while connected: "failed" after the next loss, and everything says so."""
    await asyncio.to_thread(own.ctl, "add_user", "me", "old")
    await asyncio.to_thread(own.ctl, "set_permissions", "me", ".*", ".*", ".*")
    url = own.urls[0].replace("guest:guest@", "me:old@")
    async with AmqpBackend().open(url) as bus, bus.link_events() as events:
        await asyncio.to_thread(own.ctl, "change_password", "me", "new")
        await asyncio.to_thread(own.ctl, "close_all_connections", "moved")
        down = await wait_state(events, "down")
        assert "moved" in down.cause
        failed = await wait_state(events, "failed")
        assert "refuses the credentials" in failed.cause
        with pytest.raises(ChannelBroken, match="over"):
            await bus.publish(TO_READER, Lane.CALL, b"x")
        with pytest.raises(ChannelBroken, match="over"):
            async with reading(bus):
                pass


async def test_least_rights_are_enough_and_nothing_more_is_allowed(
    no_blocking: None,
) -> None:
    """As the documentation says; what is not ours raises or is told, the link stands."""
    own_queues = r"^rb\.ns\.q\.reader\."
    rights = {
        "users": [LocalRabbitMQ.user_definition("reader", "pw")],
        "permissions": [
            {
                "user": "reader",
                "vhost": "/",
                "configure": own_queues,
                "write": rf"{own_queues}|^rb\.ns$",
                "read": rf"{own_queues}|^rb\.ns$",
            }
        ],
        "topic_permissions": [
            {
                "user": "reader",
                "vhost": "/",
                "exchange": "rb.ns",
                "write": r"^rb\.ns\.[^.]+\.[^.]+\.reader$",
                "read": r"^rb\.ns\.reader\.",
            }
        ],
    }
    to = Address("ns", "reader", "reader")
    with LocalRabbitMQ(definitions=rights) as guarded:
        url = guarded.urls[0].replace("guest:guest@", "reader:pw@")
        async with AmqpBackend().open(url) as bus:
            with pytest.raises(SecurityError, match=r"no exchange rb\.ns"):
                async with reading(bus, to):
                    pass
        for topology in ("classic", "quorum", "priority"):
            options = f"?topology={topology}&mailbox_age=30"
            async with (
                AmqpBackend().open(guarded.urls[0] + options) as master,
                AmqpBackend().open(url + options) as bus,
                reading(master, Address("ns", "master")),
                reading(bus, to) as reader,
                bus.link_events() as events,
            ):
                assert bus.limits.max_bytes == 512 * 1024
                assert (await anext(events)).state == "up"
                with pytest.raises(SecurityError, match="other"):
                    async with reading(bus, Address("ns", "other")):
                        pass
                forged = Address("ns", "reader", "somebody")
                with pytest.raises(ChannelBroken, match="ACCESS_REFUSED"):
                    await bus.publish(forged, Lane.CALL, b"forged")
                lost = await wait_state(events, "lost", "down")
                assert (lost.state, "somebody" in lost.cause) == ("lost", True)
                async with asyncio.timeout(LIMIT):
                    while b"allowed" not in reader.bodies:
                        with contextlib.suppress(ChannelBroken):
                            await bus.publish(to, Lane.CALL, b"allowed")
                        await asyncio.sleep(0.02)
                assert set(reader.bodies) == {b"allowed"}


async def test_what_exists_otherwise_is_named(own: LocalRabbitMQ) -> None:
    """An exchange of another kind, a mailbox of another size: what to do is said."""
    async with raw(own.urls[0]) as channel:
        await channel.exchange_declare("rb.fanout", exchange_type="fanout")
    async with AmqpBackend().open(own.urls[0]) as bus:
        with pytest.raises(ConnectionFailed, match=r"rb\.fanout exists.*type") as found:
            async with reading(bus, Address("fanout", "reader")):
                pass
        assert found.value.final
        with pytest.raises(ChannelBroken, match=r"rb\.fanout exists"):
            await bus.publish(Address("fanout", "a", "b"), Lane.CALL, b"x")
        async with reading(bus) as reader:  # others are not harmed
            await bus.publish(TO_READER, Lane.CALL, b"x")
            await reader.wait_for(b"x")
    at = Address("sizes", "reader")
    url = own.urls[0] + "?topology=quorum&mailbox_age=30"
    async with AmqpBackend().open(url) as bus, reading(bus, at):
        pass
    async with AmqpBackend().open(url + "&mailbox_bytes=1000") as bus:
        with pytest.raises(ConnectionFailed, match=r"exists.*x-max-length-bytes"):
            async with reading(bus, at):
                pass


# -- TLS, URLs --


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    own = ca.issue_cert("localhost", "127.0.0.1")
    own.private_key_pem.write_to_path(tmp_path / "key.pem")
    for number, pem in enumerate(own.cert_chain_pems):
        pem.write_to_path(tmp_path / "cert.pem", append=number > 0)
    return tmp_path


async def test_tls_with_our_own_authority(certificates: Path) -> None:
    """amqps:// with tls_ca reads and writes; without it, or without TLS, it is refused."""
    with LocalRabbitMQ(tls=certificates, user="me", password="p@ss/w:rd") as secure:
        async with AmqpBackend().open(secure.urls[0]) as bus, reading(bus) as reader:
            body = bytes(512 * 1024)
            await bus.publish(TO_READER, Lane.CALL, body)
            await reader.wait_for(body)
        bare = secure.urls[0].partition("?")[0]
        with pytest.raises(ConnectionFailed, match="certificate"):
            async with AmqpBackend().open(bare):
                pass
        with pytest.raises(ConnectionFailed):
            async with AmqpBackend().open(bare.replace("amqps:", "amqp:")):
                pass


async def test_tls_asked_for_is_never_given_up(own: LocalRabbitMQ) -> None:
    """amqps:// to a node without TLS sends nothing, credentials least of all."""
    with pytest.raises(ConnectionFailed):
        async with AmqpBackend().open(own.urls[0].replace("amqp:", "amqps:")):
            pass


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("amqp://h?nope=1", "nope"),
        ("amqp://h?topology=star", "classic, quorum or priority"),
        ("amqp://h?heartbeat=0", "whole seconds"),
        ("amqp://me:secret@h?tls_ca=x", "amqps://"),
        ("amqps://h?tls_key=k", "tls_cert"),
        ("amqp://h?mailbox_age=9999999", "25 days"),
    ],
)
async def test_a_url_that_is_wrong_is_told(url: str, words: str) -> None:
    """The message says what is wrong, and shows no secret."""
    with pytest.raises(ValueError, match=words) as caught:
        AmqpBackend().open(url)
    assert "secret" not in str(caught.value)


async def test_nobody_there_is_an_error_that_names_each_host() -> None:
    """Every host is tried once; the message says what each of them said."""
    with pytest.raises(ConnectionFailed) as caught:
        async with AmqpBackend().open("amqp://127.0.0.1:1,127.0.0.1:2"):
            pass
    assert "127.0.0.1:1:" in str(caught.value)
    assert "127.0.0.1:2:" in str(caught.value)
    assert not caught.value.final


# -- cancelling, faults of a consumer --


async def test_a_cancelled_consume_leaves_the_connection_whole(
    own: LocalRabbitMQ,
) -> None:
    """Cancelled while it waits for the node; the next consume works, and is alone."""
    async with AmqpBackend().open(own.urls[0]) as bus:
        own.cut()

        async def enter() -> None:
            async with reading(bus):
                raise AssertionError("the node cannot have answered")

        task = asyncio.create_task(enter())
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        own.heal()
        async with reading(bus) as reader:
            await bus.publish(TO_READER, Lane.CALL, b"x")
            await reader.wait_for(b"x")
            assert reader.bodies == [b"x"]


async def test_a_consumer_that_raises_does_not_end_the_reader(
    own: LocalRabbitMQ,
) -> None:
    """It is a bug, told to the loop; messages go on."""
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _loop, context: told.append(context["exception"])
    )
    reader = Reader()

    def deliver(body: bytes, lane: Lane) -> None:
        reader.deliver(body, lane)
        if body == b"bad":
            raise ZeroDivisionError

    async with (
        AmqpBackend().open(own.urls[0]) as bus,
        bus.consume(TO_READER, [Lane.CALL], prefetch=1, deliver=deliver),
    ):
        await bus.publish(TO_READER, Lane.CALL, b"bad")
        await bus.publish(TO_READER, Lane.CALL, b"good")
        await reader.wait_for(b"good")
    assert [type(error) for error in told] == [ZeroDivisionError]


async def test_nothing_of_a_reader_stays_when_it_has_left(own: LocalRabbitMQ) -> None:
    """Its queue goes with its reader, or with the connection."""
    at = Address("left", "reader")
    async with AmqpBackend().open(own.urls[0]) as bus:
        async with reading(bus, at):
            assert len(await queue_names(own, "left")) == 1
        await queues_become(own, "left", 0)
        context = reading(bus, at)
        await context.__aenter__()
    assert await queue_names(own, "left") == []
    await context.__aexit__(None, None, None)
