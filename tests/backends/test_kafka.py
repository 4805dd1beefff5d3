"""The Kafka driver on real brokers: outages, topics that are otherwise, garbage."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import (
    AIOKafkaAdminClient,
    NewPartitions,
    NewTopic,
    RecordsToDelete,
)
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from remoting_bus.bus import Bus, LinkEvent
from remoting_bus.errors import ChannelBroken, ConnectionFailed, LimitExceeded
from remoting_bus.names import Address, Lane
from remoting_bus.testing.brokers import LocalKafka
from remoting_bus_kafka import KafkaBackend, topics
from remoting_bus_kafka.backend import KafkaBus
from remoting_bus_kafka.topology import partition_of, topic_of

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.broker("kafka"),
    pytest.mark.usefixtures("no_blocking"),
]

LIMIT = 30.0
QUICK = "?partitions=4&answer_timeout=0.7&connect_timeout=1&fetch_wait=0.5"


@pytest.fixture(scope="module")
def own() -> Iterator[LocalKafka]:
    """A broker that is harmed; each test leaves it whole."""
    with LocalKafka() as running:
        yield running


@pytest.fixture
def to() -> Address:
    """A reader's address in a namespace of its own."""
    return Address(f"ns-{uuid4().hex[:8]}", "reader", "writer")


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
async def opened(url: str) -> AsyncIterator[KafkaBus]:
    async with KafkaBackend().open(url) as bus:
        assert isinstance(bus, KafkaBus)
        yield bus


@asynccontextmanager
async def reading(
    bus: Bus, at: Address, lane: Lane = Lane.CALL
) -> AsyncIterator[Reader]:
    reader = Reader()
    async with bus.consume(at, [lane], prefetch=100, deliver=reader.deliver):
        yield reader


async def wait_state(events: AsyncIterator[LinkEvent], *states: str) -> LinkEvent:
    async with asyncio.timeout(LIMIT):
        async for event in events:
            if event.state in states:
                return event
    raise AssertionError("events ended")


@asynccontextmanager
async def admin(broker: LocalKafka) -> AsyncIterator[AIOKafkaAdminClient]:
    place = broker.inner_url().removeprefix("kafka://")
    client = AIOKafkaAdminClient(bootstrap_servers=place)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def make(broker: LocalKafka, topic: str, partitions: int, **configs: Any) -> None:
    async with admin(broker) as client:
        configs = {name.replace("_", "."): value for name, value in configs.items()}
        new = NewTopic(topic, partitions, 1, topic_configs=configs)
        answer = await client.create_topics([new])
        assert [entry[1] for entry in answer.topic_errors] == [0]


async def test_it_comes_back_after_the_broker_was_killed(
    own: LocalKafka, to: Address
) -> None:
    """Down, up, and consumers are back before up is told; what was read is not again."""
    async with (
        opened(own.urls[0] + QUICK) as bus,
        reading(bus, to) as reader,
        bus.link_events() as events,
    ):
        await bus.publish(to, Lane.CALL, b"before")
        await reader.wait_for(b"before")
        assert (await anext(events)).state == "up"
        own.kill()
        down = await wait_state(events, "down")
        assert "127.0.0.1" in down.cause
        assert not bus.try_publish(to, Lane.CALL, b"while down")
        with pytest.raises(ChannelBroken, match="took no message"):
            await bus.publish(to, Lane.CALL, b"while down")
        await asyncio.to_thread(own.start)
        await wait_state(events, "up")
        await bus.publish(to, Lane.CALL, b"after")
        await reader.wait_for(b"after")
        assert reader.bodies == [b"before", b"after"]


@pytest.mark.parametrize("fault", ["pause", "cut"])
async def test_a_silent_broker_is_noticed(
    own: LocalKafka, to: Address, fault: str
) -> None:
    """Stopped or unreachable without a closed connection: down in the time it says."""
    async with (
        opened(own.urls[0] + QUICK) as bus,
        reading(bus, to) as reader,
        bus.link_events() as events,
    ):
        assert (await anext(events)).state == "up"
        began = time.monotonic()
        getattr(own, fault)()
        down = await wait_state(events, "down")
        assert time.monotonic() - began < 3.0  # 0.5 + 0.7, and a busy machine
        assert "did not answer" in down.cause
        (own.resume if fault == "pause" else own.heal)()
        await wait_state(events, "up")
        await bus.publish(to, Lane.CALL, b"after")
        await reader.wait_for(b"after")


async def test_publishing_to_a_paused_broker_ends(own: LocalKafka, to: Address) -> None:
    """Every publish raises within the time to notice, and the bus closes quickly."""
    async with opened(own.urls[0] + QUICK) as bus:
        await bus.publish(to, Lane.BULK, b"first")
        own.pause()
        began = time.monotonic()
        body = bytes(256 * 1024)
        works = [bus.publish(to, Lane.BULK, body) for _ in range(8)]
        errors = await asyncio.gather(*works, return_exceptions=True)
        assert time.monotonic() - began < 4.0  # 0.7 + 1, and a busy machine
        assert {type(error) for error in errors} == {ChannelBroken}
        assert not bus.try_publish(to, Lane.BULK, body)
        began = time.monotonic()
    own.resume()
    assert time.monotonic() - began < 2.0


async def test_nothing_is_left_when_it_is_closed(own: LocalKafka, to: Address) -> None:
    """No task, and within a second, with a reader and publishes under way."""
    before = asyncio.all_tasks()
    async with opened(own.urls[0] + QUICK) as bus:
        async with reading(bus, to):
            works = [bus.publish(to, Lane.CALL, b"%d" % n) for n in range(50)]
            await asyncio.gather(*works)
            began = time.monotonic()
    assert time.monotonic() - began < 1.0
    assert asyncio.all_tasks() == before
    with pytest.raises(ChannelBroken, match="closed"):
        await bus.publish(to, Lane.CALL, b"x")


async def test_what_retention_has_dropped_is_told(own: LocalKafka, to: Address) -> None:
    """We are away, our place in the log goes, and we go on at what is left of it."""
    async with (
        opened(own.urls[0] + QUICK) as bus,
        opened(own.inner_url() + QUICK) as inside,
        reading(bus, to) as reader,
        bus.link_events() as events,
    ):
        await bus.publish(to, Lane.CALL, b"before")
        await reader.wait_for(b"before")
        own.cut()
        await wait_state(events, "down")
        for number in range(10):
            await inside.publish(to, Lane.CALL, b"%d" % number)
        place = TopicPartition(
            topic_of("partitions", to, Lane.CALL), partition_of(to.name, 4)
        )
        async with admin(own) as client:
            await client.delete_records({place: RecordsToDelete(before_offset=8)})
        own.heal()
        lost = await wait_state(events, "lost")
        assert "7 records" in lost.cause
        await reader.wait_for(b"9")
        assert reader.bodies == [b"before", b"7", b"8", b"9"]


async def test_a_topic_that_is_deleted_is_made_again(
    own: LocalKafka, to: Address
) -> None:
    """ "lost" is told, and what is published from then on arrives."""
    async with (
        opened(f"{own.urls[0]}{QUICK}&ping_interval=0.3") as bus,
        reading(bus, to) as reader,
        bus.link_events() as events,
    ):
        await bus.publish(to, Lane.CALL, b"before")
        await reader.wait_for(b"before")
        async with admin(own) as client:
            await client.delete_topics([topic_of("partitions", to, Lane.CALL)])
        lost = await wait_state(events, "lost")
        assert "deleted" in lost.cause
        async with asyncio.timeout(LIMIT):
            while b"after" not in reader.bodies:
                await bus.publish(to, Lane.CALL, b"after")
                await asyncio.sleep(0.05)


async def test_partitions_that_are_added_are_followed(
    own: LocalKafka, to: Address
) -> None:
    """Names are hashed to other partitions then: readers and writers go there."""
    async with (
        opened(
            f"{own.urls[0]}{QUICK}&partitions=1&ping_interval=0.3".replace(
                "partitions=4&", ""
            )
        ) as bus,
        reading(bus, to) as reader,
        bus.link_events() as events,
    ):
        assert partition_of(to.name, 3) != 0
        async with admin(own) as client:
            topic = topic_of("partitions", to, Lane.CALL)
            await client.create_partitions({topic: NewPartitions(3)})
        async with asyncio.timeout(LIMIT):
            while "3 partitions now" not in (await anext(events)).cause:
                pass
        await bus.publish(to, Lane.CALL, b"after")
        await reader.wait_for(b"after")


async def test_foreign_and_garbage_records_are_counted_and_dropped(
    shared_kafka: LocalKafka, to: Address
) -> None:
    """Of another peer in our partition, without a key, with one of another make."""
    neighbour = next(
        Address(to.namespace, f"n{n}", "writer")
        for n in range(100)
        if partition_of(f"n{n}", 4) == partition_of(to.name, 4)
    )
    topic = topic_of("partitions", to, Lane.CALL)
    async with opened(f"{shared_kafka.urls[0]}?partitions=4") as bus:
        async with reading(bus, to) as reader:
            await bus.publish(neighbour, Lane.CALL, b"foreign")
            await bus.publish(to, Lane.CONTROL, b"a lane that is not read here")
            raw = AIOKafkaProducer(
                bootstrap_servers=shared_kafka.inner_url().removeprefix("kafka://")
            )
            await raw.start()
            try:
                for key, value in [
                    (None, b"x"), (b"", b"x"), (b"9/reader/writer", b"x"),
                    (b"\xff\x00", b"x" * 10_000), (b"1/reader", b"x"),
                    (b"1/reader/writer", None),
                ]:  # fmt: skip
                    await raw.send_and_wait(topic, value, key, partition_of(to.name, 4))
            finally:
                await raw.stop()
            await bus.publish(to, Lane.CALL, b"ours")
            await reader.wait_for(b"ours")
            assert reader.bodies == [b"ours"]
            assert (bus.counts.foreign, bus.counts.garbage) == (2, 6)


async def test_a_topic_with_other_settings(
    shared_kafka: LocalKafka, to: Address
) -> None:
    """Its partitions are taken as they are, short retention is told of."""
    topic = topic_of("partitions", to, Lane.CALL)
    await make(shared_kafka, topic, 3, retention_ms="5000")
    async with (
        opened(f"{shared_kafka.urls[0]}?partitions=4") as bus,
        bus.link_events() as events,
        reading(bus, to) as reader,
    ):
        told = [(await anext(events)).cause for _ in range(3)]
        assert any("keeps messages for 5 s only" in cause for cause in told)
        assert any("has 3 partitions, not 4" in cause for cause in told)
        await bus.publish(to, Lane.CALL, b"x")
        await reader.wait_for(b"x")


@pytest.mark.parametrize(
    ("configs", "words"),
    [
        ({"cleanup_policy": "compact"}, "cleanup.policy=compact"),
        ({"max_message_bytes": "50000"}, "max_bytes=49744"),
    ],
)
async def test_a_topic_that_is_not_fit_is_refused(
    shared_kafka: LocalKafka, to: Address, configs: dict[str, str], words: str
) -> None:
    """By readers and writers; the message says what to do."""
    await make(shared_kafka, topic_of("partitions", to, Lane.CALL), 1, **configs)
    async with opened(shared_kafka.urls[0]) as bus:
        with pytest.raises(ConnectionFailed, match=words):
            async with reading(bus, to):
                pass
        with pytest.raises(ChannelBroken, match=words):
            await bus.publish(to, Lane.CALL, b"x")


async def test_max_bytes_of_the_url_makes_a_small_topic_fit(
    shared_kafka: LocalKafka, to: Address
) -> None:
    """What the refusal proposes works, with messages of that size."""
    topic = topic_of("partitions", to, Lane.CALL)
    await make(shared_kafka, topic, 1, max_message_bytes="50000")
    async with opened(f"{shared_kafka.urls[0]}?max_bytes=49744") as bus:
        async with reading(bus, to) as reader:
            body = bytes(bus.limits.max_bytes)
            assert len(body) == 49744
            await asyncio.gather(*(bus.publish(to, Lane.CALL, body) for _ in range(5)))
            await reader.wait_for(body)


async def test_a_topic_that_becomes_too_small_is_told(
    shared_kafka: LocalKafka, to: Address
) -> None:
    """What fits goes, also where several that fit were sent together."""
    async with opened(shared_kafka.urls[0]) as bus, reading(bus, to) as reader:
        await bus.publish(to, Lane.CALL, b"before")
        topic = topic_of("partitions", to, Lane.CALL)
        configs = {"max.message.bytes": "50000"}
        async with admin(shared_kafka) as client:
            await client.alter_configs(
                [ConfigResource(ConfigResourceType.TOPIC, topic, configs)]
            )
        bodies = [bytes([n]) * 30_000 for n in range(6)]
        async with asyncio.timeout(LIMIT):
            while True:
                try:
                    await bus.publish(to, Lane.CALL, bytes(60_000))
                except LimitExceeded as error:
                    assert error.asked == 60_000  # noqa: PT017 - of a loop
                    break
        await asyncio.gather(*(bus.publish(to, Lane.CALL, body) for body in bodies))
        for body in bodies:
            await reader.wait_for(body)
        assert [body for body in reader.bodies if body in bodies] == bodies


async def test_topics_of_many_peers_are_not_all_remembered(
    shared_kafka: LocalKafka, to: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are read, are; the others are looked at again when they are needed."""
    monkeypatch.setattr(topics, "MAX_TRACKED", 4)
    async with opened(f"{shared_kafka.urls[0]}?topology=topic") as bus:
        async with reading(bus, to) as reader:
            for _ in range(2):
                for number in range(8):
                    peer = Address(to.namespace, f"peer{number}", "writer")
                    await bus.publish(peer, Lane.CALL, b"x")
            assert len(bus._cluster.tracked) <= 4
            await bus.publish(to, Lane.CALL, b"ours")
            await reader.wait_for(b"ours")


async def test_more_replicas_than_brokers_is_told(
    shared_kafka: LocalKafka, to: Address
) -> None:
    """With what to say instead."""
    async with opened(f"{shared_kafka.urls[0]}?replication=3") as bus:
        with pytest.raises(ConnectionFailed, match="replication=1"):
            async with reading(bus, to):
                pass


async def test_a_small_broker_takes_smaller_messages(to: Address) -> None:
    """64 KiB: the limit is known before, named, and what is below it arrives."""
    with LocalKafka(max_message_bytes=65536) as small:
        async with opened(f"{small.urls[0]}?partitions=2") as bus:
            async with reading(bus, to) as reader:
                largest = bus.limits.max_bytes
                assert 60_000 < largest < 65_536
                with pytest.raises(LimitExceeded) as caught:
                    await bus.publish(to, Lane.CALL, bytes(largest + 1))
                assert caught.value.limit == "message.max.bytes"
                assert (caught.value.value, caught.value.asked) == (
                    largest,
                    largest + 1,
                )
                works = [
                    bus.publish(to, Lane.CALL, bytes([n]) * largest) for n in range(8)
                ]
                await asyncio.gather(*works)
                for number in range(8):
                    await reader.wait_for(bytes([number]) * largest)


async def test_a_consumer_that_raises_does_not_end_the_reader(
    shared_kafka: LocalKafka, to: Address
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

    async with opened(shared_kafka.urls[0]) as bus:
        async with bus.consume(to, [Lane.CALL], prefetch=1, deliver=deliver):
            await bus.publish(to, Lane.CALL, b"bad")
            await bus.publish(to, Lane.CALL, b"good")
            await reader.wait_for(b"good")
    assert [type(error) for error in told] == [ZeroDivisionError]


async def test_a_cancelled_consume_leaves_the_bus_whole(
    own: LocalKafka, to: Address
) -> None:
    """Cancelled while it waits for the broker; the next one works, and is alone."""
    async with opened(own.urls[0] + QUICK) as bus:
        own.cut()

        async def enter() -> None:
            async with reading(bus, to):
                raise AssertionError("the broker cannot have answered")

        task = asyncio.create_task(enter())
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        own.heal()
        async with reading(bus, to) as reader:
            await bus.publish(to, Lane.CALL, b"x")
            await reader.wait_for(b"x")
            assert reader.bodies == [b"x"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("kafka://h/path", "no path"),
        ("kafka://h?nope=1", "nope"),
        ("kafka://h?topology=star", "partitions or topic"),
        ("kafka://h?fetch_wait=0", "seconds above 0"),
        ("kafka://h?tls_key=k", "tls_cert"),
        ("kafka://h?tls=0&tls_ca=f", "contradict"),
        ("kafka://me@h", "user:password"),
        ("kafka://h?sasl=PLAIN", "needs user"),
        ("kafka://me:secret@h?sasl=GSSAPI", "SCRAM-SHA-256"),
        ("kafka://me:secret@h,you:secret@i", "one user"),
        ("http://h", "kafka://"),
    ],
)
async def test_a_url_that_is_wrong_is_told(url: str, words: str) -> None:
    """The message says what is wrong, and shows no secret."""
    with pytest.raises(ValueError, match=words) as caught:
        KafkaBackend().open(url)
    assert "secret" not in str(caught.value)


async def test_nobody_there_is_an_error_that_names_each_host() -> None:
    """Every host is tried once; the message says what each of them said."""
    with pytest.raises(ConnectionFailed) as caught:
        async with KafkaBackend().open("kafka://127.0.0.1:1,127.0.0.1:2"):
            pass
    assert "127.0.0.1:1:" in str(caught.value)
    assert "127.0.0.1:2:" in str(caught.value)
    assert not caught.value.final


async def test_brokers_of_two_clusters_behind_one_url(
    own: LocalKafka, shared_kafka: LocalKafka
) -> None:
    """Refused at once, whichever answers first; peers would never meet."""
    both = f"{own.urls[0]},{shared_kafka.urls[0].removeprefix('kafka://')}"
    for _ in range(4):
        with pytest.raises(ConnectionFailed, match="two Kafka clusters") as caught:
            async with KafkaBackend().open(both):
                pass
        assert caught.value.final
