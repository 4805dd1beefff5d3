"""Every driver keeps every promise of the bus contract."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import pytest

from remoting_bus.bus import Backend
from remoting_bus.bus.memory import MemoryBackend
from remoting_bus.testing import Faults, FaultyBackend, check_backend
from remoting_bus.testing.brokers import LocalKafka
from remoting_bus_kafka import KafkaBackend

_numbers = itertools.count()


@dataclass(frozen=True)
class Driver:
    """One driver to try: how it is made, its broker, the loops that it runs on."""

    name: str
    make: Callable[[], Backend]
    broker: Callable[[], AbstractContextManager[tuple[str, str]]]
    loops: tuple[str, ...] = ("asyncio", "trio")


@contextmanager
def memory() -> Iterator[tuple[str, str]]:
    url = f"memory://conformance-{next(_numbers)}"
    yield url, url


# A driver is added here: its broker yields two URLs that lead to the same place.
DRIVERS = [
    Driver("memory", MemoryBackend, memory),
    Driver("faultless", lambda: FaultyBackend(MemoryBackend(), Faults()), memory),
]


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
@pytest.mark.anyio
async def test_it_keeps_every_promise(driver: Driver, anyio_backend_name: str) -> None:
    if anyio_backend_name not in driver.loops:
        pytest.skip(f"{driver.name} does not run on {anyio_backend_name}")
    with driver.broker() as (url, other_url):
        await check_backend(driver.make(), url, other_url=other_url)


@pytest.mark.parametrize("topology", ["partitions", "topic"])
@pytest.mark.broker("kafka")
@pytest.mark.asyncio
async def test_kafka_keeps_every_promise(
    shared_kafka: LocalKafka, topology: str
) -> None:
    url = f"{shared_kafka.urls[0]}?topology={topology}"
    await check_backend(KafkaBackend(), url)
