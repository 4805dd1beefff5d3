"""Durable logs on Kafka: outages, leaders, retention, topics that are otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from remoting_bus.bus import Bus, LinkEvent, LogReader
from remoting_bus.errors import ChannelBroken, ConnectionFailed
from remoting_bus.names import LogName
from remoting_bus.testing.brokers import LocalKafka
from remoting_bus_kafka import KafkaBackend
from remoting_bus_kafka.log_reader import AHEAD_BYTES, KafkaReader
from remoting_bus_kafka.topology import log_topic

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.broker("kafka"),
    pytest.mark.usefixtures("no_blocking"),
]

LIMIT = 60.0
QUICK = "?answer_timeout=0.7&connect_timeout=1&fetch_wait=0.5"


@pytest.fixture(scope="module")
def own() -> Iterator[LocalKafka]:
    """A broker that looks after its retention, and is harmed."""
    soon = "log.retention.check.interval.ms=200\nlog.initial.task.delay.ms=200"
    with LocalKafka(config=soon) as running:
        yield running


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
            except ChannelBroken:
                await asyncio.sleep(0.05)


async def make(
    broker: LocalKafka, log: LogName, partitions: int, **configs: Any
) -> None:
    client = AIOKafkaAdminClient(
        bootstrap_servers=broker.inner_url().removeprefix("kafka://")
    )
    await client.start()
    try:
        configs = {name.replace("_", "."): value for name, value in configs.items()}
        new = NewTopic(log_topic(log), partitions, 1, topic_configs=configs)
        answer = await client.create_topics([new])
        assert [entry[1] for entry in answer.topic_errors] == [0]
    finally:
        await client.close()


async def note(events: AsyncIterator[LinkEvent]) -> str:
    async with asyncio.timeout(LIMIT):
        async for event in events:
            if event.state == "note":
                return event.cause
    raise AssertionError("events ended")


async def test_a_reader_outlives_a_killed_broker(own: LocalKafka, log: LogName) -> None:
    """What was stored before is there after; reading goes on where it was."""
    async with (
        KafkaBackend().open(own.urls[0] + QUICK) as bus,
        bus.read(log, "first") as reader,
    ):
        for number in range(20):
            await bus.append(log, "key", b"%d" % number)
        assert await bodies(reader, 10) == [b"%d" % number for number in range(10)]
        await asyncio.to_thread(own.kill)
        with pytest.raises(ChannelBroken):
            await bus.append(log, "key", b"lost")
        await asyncio.to_thread(own.start)
        for number in range(20, 40):
            await append_surely(bus, log, b"%d" % number)
        came: list[bytes] = []
        while b"39" not in came:
            came += await bodies(reader, 1)
        # An append whose answer was lost may stand there twice.
        wanted = [b"%d" % number for number in range(10, 40)]
        assert [body for body in dict.fromkeys(came) if body != b"lost"] == wanted
        assert (reader.lost, reader.restarted) == (0, 0)


async def test_a_reader_outlives_the_broker_that_leads_its_log(log: LogName) -> None:
    """On three nodes: the leader is killed; nothing that was stored is missed."""
    with LocalKafka(nodes=3) as cluster:
        url = ",".join(cluster.urls) + QUICK
        async with KafkaBackend().open(url) as bus, bus.read(log, "first") as reader:
            for number in range(10):
                await append_surely(bus, log, b"%d" % number)
            leader = bus._cluster.leader((log_topic(log), 0))  # type: ignore[attr-defined]
            await asyncio.to_thread(cluster.kill, leader - 1)
            for number in range(10, 20):
                await append_surely(bus, log, b"%d" % number)
            came: list[bytes] = []
            while b"19" not in came:
                came += await bodies(reader, 1)
            once = list(dict.fromkeys(came))
            assert once == [b"%d" % number for number in range(20)]
            assert (reader.lost, reader.restarted) == (0, 0)


async def test_a_slow_reader_has_a_bounded_number_ahead(
    own: LocalKafka, log: LogName
) -> None:
    """And what retention takes from under it meanwhile, it counts."""
    url = own.urls[0] + "?log_bytes=1048576"
    async with KafkaBackend().open(url) as bus, bus.read(log, "first") as reader:
        assert isinstance(reader, KafkaReader)
        await bus.append(log, "key", b"0 ")
        first = await anext(reader)
        for number in range(1, 201):
            await bus.append(log, "key", b"%d " % number + bytes(64 * 1024))
            assert reader.ahead_bytes < AHEAD_BYTES * 3 // 2
        await _until_first_is_past(bus, log, first.position + 100)
        came = []
        while b"200" not in came:
            came += [(await bodies(reader, 1))[0].split(b" ")[0]]
        numbers = [int(body) for body in came]
        assert numbers == sorted(numbers)
        assert reader.lost == 200 - len(numbers) > 50


async def _until_first_is_past(bus: Bus, log: LogName, position: int) -> None:
    """Wait until retention has done its work: the broker looks now and then."""
    async with asyncio.timeout(LIMIT):
        while True:
            async with bus.read(log, "first") as reader:
                if (await anext(reader)).position > position:
                    return
            await asyncio.sleep(0.1)


async def test_a_log_keeps_what_the_url_says(own: LocalKafka, log: LogName) -> None:
    """The oldest segments go by age."""
    url = own.urls[0] + "?log_age=1"
    async with KafkaBackend().open(url) as bus:
        for number in range(5):
            await bus.append(log, "key", b"%d" % number)
        async with asyncio.timeout(LIMIT):
            while True:
                async with bus.read(log, "first") as reader:
                    await bus.append(log, "key", b"new")
                    if await bodies(reader, 1) == [b"new"]:
                        return
                await asyncio.sleep(0.5)


async def test_a_log_that_was_made_otherwise_is_told_of_once(
    own: LocalKafka, log: LogName
) -> None:
    """It is used as it is."""
    await make(own, log, 1, retention_bytes="2000000", retention_ms="60000")
    async with (
        KafkaBackend().open(own.urls[0]) as bus,
        bus.link_events() as events,
    ):
        for _ in range(3):
            await bus.append(log, "key", b"1")
        async with bus.read(log, "first") as reader:
            assert await bodies(reader, 3) == [b"1", b"1", b"1"]
        assert "it keeps 2000000 bytes and 60 s" in await note(events)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await note(events)


@pytest.mark.parametrize(
    ("partitions", "configs", "wrong"),
    [
        (2, {}, "has 2 partitions, and a log is one"),
        (1, {"cleanup_policy": "compact"}, "would drop all but the newest"),
    ],
)
async def test_a_topic_that_is_no_log_is_refused(
    own: LocalKafka,
    log: LogName,
    partitions: int,
    configs: dict[str, str],
    wrong: str,
) -> None:
    await make(own, log, partitions, **configs)
    async with KafkaBackend().open(own.urls[0]) as bus:
        with pytest.raises(ConnectionFailed, match=wrong):
            await bus.append(log, "key", b"1")
        with pytest.raises(ConnectionFailed, match=wrong):
            async with bus.read(log, "first"):
                pass


async def test_a_log_that_was_deleted_by_others_is_made_again(
    own: LocalKafka, log: LogName
) -> None:
    """By whoever appends next; readers see that it is another one."""
    async with (
        KafkaBackend().open(own.urls[0] + QUICK) as one,
        KafkaBackend().open(own.urls[0] + QUICK) as other,
        one.read(log, "first") as reader,
    ):
        await one.append(log, "key", b"1")
        await one.append(log, "key", b"2")
        assert await bodies(reader, 2) == [b"1", b"2"]
        await other.delete_log(log)
        await append_surely(one, log, b"3")
        assert await bodies(reader, 1) == [b"3"]
        assert reader.restarted == 1
