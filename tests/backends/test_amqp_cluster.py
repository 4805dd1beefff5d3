"""The RabbitMQ driver on three nodes: one is lost, the others go on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from remoting_bus.bus import LinkEvent
from remoting_bus.names import Address, Lane
from remoting_bus.testing import check_backend
from remoting_bus.testing.brokers import LocalRabbitMQ
from remoting_bus_amqp import AmqpBackend

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.broker("amqp"),
    pytest.mark.usefixtures("no_blocking"),
]

LIMIT = 30.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalRabbitMQ]:
    """Three nodes; each test leaves them running."""
    with LocalRabbitMQ(nodes=3) as running:
        yield running


def all_hosts(cluster: LocalRabbitMQ, options: str = "") -> str:
    return ",".join(cluster.urls).replace(",amqp://", ",") + options


def port_of(url: str) -> str:
    return url.rpartition(":")[2]


async def wait_state(events: AsyncIterator[LinkEvent], *states: str) -> LinkEvent:
    async with asyncio.timeout(LIMIT):
        async for event in events:
            if event.state in states:
                return event
    raise AssertionError("events ended")


@pytest.mark.parametrize("topology", ["classic", "quorum", "priority"])
async def test_peers_on_two_nodes_reach_each_other(
    cluster: LocalRabbitMQ, topology: str
) -> None:
    """Every promise is kept where writer and reader are on different nodes."""
    options = f"?topology={topology}&mailbox_age=30"
    here, there = (url + options for url in cluster.urls[:2])
    await check_backend(AmqpBackend(), here, other_url=there)


async def test_the_next_host_is_tried_at_once(cluster: LocalRabbitMQ) -> None:
    """The loss of the node that we are on costs next to no time."""
    to = Address("next", "reader", "writer")
    came = asyncio.Event()
    async with (
        AmqpBackend().open(all_hosts(cluster)) as bus,
        bus.consume(to, [Lane.CALL], prefetch=10, deliver=lambda _body, _: came.set()),
        bus.link_events() as events,
    ):
        up = await wait_state(events, "up")
        ports = [port_of(url) for url in cluster.urls]
        lost = ports.index(port_of(up.cause))
        began = time.monotonic()
        cluster.kill(lost)
        await wait_state(events, "down")
        again = await wait_state(events, "up")
        assert port_of(again.cause) != ports[lost]
        assert time.monotonic() - began < 5.0
        await bus.publish(to, Lane.CALL, b"after")
        async with asyncio.timeout(LIMIT):
            await came.wait()
    await asyncio.to_thread(cluster.start, lost)
