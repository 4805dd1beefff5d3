"""The buses that tests of programs run on, each with the event loops that it knows.

A test that takes `place` runs once for each of `PLACES`; a module that needs others has a
`place_kind` of its own. To add a broker: a name in `PLACES`, its URL in `Brokers.url`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from remoting_bus._agent import Agent
from remoting_bus._master import Master
from remoting_bus.testing.brokers import LocalKafka, LocalNats, LocalRabbitMQ

pytestmark = pytest.mark.anyio

MEMORY = [("memory", "asyncio"), ("memory", "trio")]
BROKERS = [
    pytest.param(("nats", "asyncio"), marks=pytest.mark.broker("nats")),
    pytest.param(("jetstream", "asyncio"), marks=pytest.mark.broker("nats")),
    pytest.param(("embedded", "asyncio"), marks=pytest.mark.broker("nats")),
    pytest.param(("kafka", "asyncio"), marks=pytest.mark.broker("kafka")),
    pytest.param(("kafka-topic", "asyncio"), marks=pytest.mark.broker("kafka")),
    pytest.param(("amqp", "asyncio"), marks=pytest.mark.broker("amqp")),
    pytest.param(("amqp-quorum", "asyncio"), marks=pytest.mark.broker("amqp")),
    pytest.param(("amqp-priority", "asyncio"), marks=pytest.mark.broker("amqp")),
]
MAILBOX_AGE = 60
"""Seconds that RabbitMQ keeps a mailbox that no test reads any more."""

MAILBOX_BYTES = 8 * 1024 * 1024
"""Of each namespace, and each test has one: the server sets them aside at once."""

PARTITIONS = 4
"""Of each topic, and each test has a namespace of its own: 16 by default cost more."""

PLACES: list[Any] = [*MEMORY, *BROKERS]


def on(*names: str) -> pytest.MarkDecorator:
    """Mark a test for these buses only."""
    chosen = [each for each in PLACES if _bus(each) in names]
    return pytest.mark.parametrize("place_kind", chosen, ids=id_of)


def _bus(place: Any) -> str:
    return str(getattr(place, "values", (place,))[0][0])


def id_of(value: object) -> str:
    """Return how a place is called in a test's id."""
    return "-".join(value) if isinstance(value, tuple) else str(value)


shared = on(
    "memory",
    "nats",
    "jetstream",
    "kafka",
    "kafka-topic",
    "amqp",
    "amqp-quorum",
    "amqp-priority",
)
"""Marks a test whose bus outlives its master: an embedded one does not."""

between_processes = on("nats")
"""Marks a test of several processes; one bus is enough."""


class Brokers:
    """Private brokers, started when first needed, for all tests of a run."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request
        self._stack = ExitStack()
        self._nats: LocalNats | None = None

    def url(self, bus: str) -> str:
        """Return the URL of a bus by its name in `PLACES`."""
        match bus:
            case "memory" | "embedded":
                return f"{bus}://"
            case "nats":
                return self.nats().urls[0]
            case "jetstream":
                return f"{self.nats().urls[0]}?topology=jetstream&mailbox_bytes={MAILBOX_BYTES}"
            case "kafka":
                return f"{self.kafka().urls[0]}?partitions={PARTITIONS}"
            case "kafka-topic":
                return f"{self.kafka().urls[0]}?topology=topic"
            case "amqp":
                return self.rabbitmq().urls[0]
            case "amqp-quorum" | "amqp-priority":
                topology = bus.removeprefix("amqp-")
                options = f"topology={topology}&mailbox_age={MAILBOX_AGE}"
                return f"{self.rabbitmq().urls[0]}?{options}"
            case _:
                raise LookupError(bus)

    def nats(self) -> LocalNats:
        """Return the one that tests share; it is not to be harmed."""
        if self._nats is None:
            self._nats = self._stack.enter_context(LocalNats())
        return self._nats

    def kafka(self) -> LocalKafka:
        """Return the one that all tests of a run share; it is not to be harmed."""
        running: LocalKafka = self._request.getfixturevalue("shared_kafka")
        return running

    def rabbitmq(self) -> LocalRabbitMQ:
        """Return the one that tests share; it is not to be harmed."""
        running: LocalRabbitMQ = self._request.getfixturevalue("shared_rabbitmq")
        return running

    def close(self) -> None:
        """End what was started."""
        self._stack.close()


class Place:
    """Where a test's programs meet: a bus, and a namespace of its own.

    Attributes:
        bus: Its name in `PLACES`.
        url: What a master opens; agents open `Master.urls`, or the same where it is not
            embedded.
    """

    def __init__(self, bus: str, url: str, namespace: str) -> None:
        self.bus = bus
        self.url = url
        self.namespace = namespace

    def master(self, name: str = "master", **options: Any) -> Master:
        """Return a master, not yet running."""
        options = {"namespace": self.namespace, "timeout": 20.0, **options}
        return Master(self.url, name=name, **options)

    def agent(self, master: Master, name: str = "agent", **options: Any) -> Agent:
        """Return an agent of a running master's bus, not yet running."""
        options = {"namespace": self.namespace, "timeout": 20.0, **options}
        options.setdefault("offers", {"commands"})
        return Agent(master.urls, name=name, **options)


_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def brokers(request: pytest.FixtureRequest) -> Iterator[Brokers]:
    """Private brokers; each starts when it is first needed."""
    made = Brokers(request)
    yield made
    made.close()


@pytest.fixture(params=PLACES, ids=id_of)
def place_kind(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Which bus, and which event loop."""
    kind: tuple[str, str] = request.param
    return kind


@pytest.fixture
def anyio_backend(place_kind: tuple[str, str]) -> str:
    """The event loop of this test, for anyio's plugin."""
    return place_kind[1]


@pytest.fixture
def bus_url(place_kind: tuple[str, str], brokers: Brokers) -> str:
    """A URL of the bus of this test."""
    url = brokers.url(place_kind[0])
    return f"{url}t{next(_numbers)}" if url == "memory://" else url


@pytest.fixture
def place(place_kind: tuple[str, str], bus_url: str) -> Place:
    """Where this test's programs meet."""
    return Place(place_kind[0], bus_url, f"t{os.getpid()}-{next(_numbers)}")
