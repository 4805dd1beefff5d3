"""The Kafka driver on three brokers: a leader that dies, stands still, or comes back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest

from remoting_bus.bus import Bus, LinkEvent
from remoting_bus.errors import ChannelBroken
from remoting_bus.names import Address, Lane
from remoting_bus.testing.brokers import LocalKafka
from remoting_bus_kafka import KafkaBackend
from remoting_bus_kafka.backend import KafkaBus

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.broker("kafka"),
    pytest.mark.usefixtures("no_blocking"),
]

LIMIT = 60.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalKafka]:
    with LocalKafka(nodes=3) as running:
        yield running


def leader_of(bus: Bus, to: Address) -> int:
    """The number of the node that leads a reader's partition."""
    assert isinstance(bus, KafkaBus)
    leaders = bus._cluster.leaders
    found = [n for (topic, _), n in leaders.items() if to.namespace in topic]
    assert len(found) == 1, "one partition, so that there is one leader"
    return found[0] - 1


async def publish_for_ever(bus: Bus, to: Address, taken: list[bytes]) -> None:
    """Publish numbered messages one after the other, and note those that were taken."""
    for number in range(100_000):
        body = b"%d" % number
        with contextlib.suppress(ChannelBroken):
            await bus.publish(to, Lane.CALL, body)
            taken.append(body)
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("fault", ["kill", "pause"])
async def test_a_leader_is_lost(cluster: LocalKafka, fault: str) -> None:
    """What was taken is read, in order, over its loss; and again when it is back."""
    to = Address(f"ns-{uuid4().hex[:8]}", "reader", "writer")
    url = ",".join(cluster.urls).replace(",kafka://", ",") + "?partitions=1"
    came: list[bytes] = []
    taken: list[bytes] = []
    states: list[str] = []

    async def watch(events: AsyncIterator[LinkEvent]) -> None:
        async for event in events:
            states.append(event.state)  # noqa: PERF401 - it never ends

    async def more(seconds: float) -> None:
        """Wait until something published from now on has come."""
        before = len(taken)
        async with asyncio.timeout(seconds):
            while len(taken) < before + 2 or taken[-1] not in came:  # noqa: ASYNC110 - of two
                await asyncio.sleep(0.01)

    async with (
        KafkaBackend().open(url) as bus,
        KafkaBackend().open(url) as other,
        other.link_events() as events,
        other.consume(
            to, [Lane.CALL], prefetch=10, deliver=lambda body, _lane: came.append(body)
        ),
    ):
        tasks = [
            asyncio.create_task(publish_for_ever(bus, to, taken)),
            asyncio.create_task(watch(events)),
        ]
        await more(LIMIT)
        node = leader_of(other, to)
        getattr(cluster, fault)(node)
        await more(LIMIT)
        if fault == "kill":
            await asyncio.to_thread(cluster.start, node)
        else:
            cluster.resume(node)
        await more(LIMIT)
        assert states[-1] == "up"
        assert "lost" not in states
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    once = list(dict.fromkeys(came))
    assert set(taken) - {taken[-1]} <= set(once)
    assert once == sorted(once, key=int)
