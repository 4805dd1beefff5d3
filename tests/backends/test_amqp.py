"""The RabbitMQ driver on real nodes: promises, outages, credentials, limits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from remoting_bus.names import Address
from remoting_bus.testing import check_backend
from remoting_bus.testing.brokers import LocalRabbitMQ
from remoting_bus_amqp import AmqpBackend

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.broker("amqp"),
    pytest.mark.usefixtures("no_blocking"),
]

LIMIT = 20.0
TO_READER = Address("ns", "reader", "writer")


@pytest.fixture(scope="module")
def broker() -> Iterator[LocalRabbitMQ]:
    with LocalRabbitMQ() as running:
        yield running


@pytest.mark.parametrize("topology", ["classic", "quorum", "priority"])
async def test_it_keeps_every_promise(broker: LocalRabbitMQ, topology: str) -> None:
    """All topologies are buses as the contract says."""
    url = f"{broker.urls[0]}?topology={topology}&mailbox_age=30"
    await check_backend(AmqpBackend(), url)
