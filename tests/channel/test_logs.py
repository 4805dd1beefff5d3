"""Durable logs of an open bus, with one loop and with two."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager

import anyio
import pytest

from remoting_bus.bus import Backend, Bus
from remoting_bus.channel import logs
from remoting_bus.channel.pair import open_bus
from remoting_bus.errors import ChannelClosed, LimitExceeded, Unsupported
from remoting_bus.names import LogName
from remoting_bus.testing import check_backend
from remoting_bus.testing.brokers import LocalNats
from remoting_bus.testing.promise import PROMISES

pytestmark = [pytest.mark.anyio, pytest.mark.broker("nats")]

LOG = LogName("ns", "log")
ABOUT_LOGS = [name for name in PROMISES if name.startswith("log-")]


@pytest.fixture(scope="module")
def nats() -> Iterator[LocalNats]:
    with LocalNats() as running:
        yield running


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Opened(Backend):
    """What programs open, as a driver."""

    def open(self, url: str) -> AbstractAsyncContextManager[Bus]:
        return open_bus(url)


@pytest.mark.parametrize("loops", [1, 2])
async def test_an_open_bus_keeps_the_promises_of_logs(
    nats: LocalNats, loops: int
) -> None:
    assert len(ABOUT_LOGS) > 10
    url = f"{nats.urls[0]}?loops={loops}"
    await check_backend(Opened(), url, promises=ABOUT_LOGS)


async def test_a_bus_of_one_loop_has_logs_too() -> None:
    await check_backend(Opened(), "memory://open", promises=ABOUT_LOGS)


async def test_a_log_is_used_on_the_loop_of_bulk(nats: LocalNats) -> None:
    """So that a flood of records delays no calls."""
    async with open_bus(nats.urls[0]) as pair:
        assert pair.loops == 2
        threads = set()
        bus = pair._bulk.bus  # type: ignore[union-attr]
        inner = bus.append

        async def append(log: LogName, key: str, body: bytes) -> None:
            threads.add(threading.current_thread().name)
            await inner(log, key, body)

        bus.append = append  # type: ignore[method-assign]
        await pair.append(LOG, "key", b"body")
        await pair.delete_log(LOG)
        assert threads == {"remoting_bus I/O"}


async def test_few_records_stand_between_the_loops(
    nats: LocalNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow reader stops at the bound, and gets all when it goes on."""
    monkeypatch.setattr(logs, "AHEAD", 10)
    bodies = [b"%d" % number for number in range(1000)]
    belts = []
    make = logs._Belt.__init__

    def noted(self: logs._Belt, *args: object) -> None:
        belts.append(self)
        make(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(logs._Belt, "__init__", noted)
    async with open_bus(nats.urls[0]) as pair:
        try:
            for body in bodies:
                await pair.append(LOG, "key", body)
            async with pair.read(LOG, "first") as reader:
                came = [(await anext(reader)).body]
                await anyio.sleep(0.3)
                (belt,) = belts
                assert len(belt._items) == 10
                with anyio.fail_after(20):
                    while len(came) < len(bodies):
                        came.append((await anext(reader)).body)
                assert came == bodies
        finally:
            await pair.delete_log(LOG)


@pytest.fixture
async def pair(nats: LocalNats) -> AsyncIterator[Bus]:
    async with open_bus(nats.urls[0]) as opened:
        yield opened


async def test_errors_cross_as_they_are(pair: Bus) -> None:
    with pytest.raises(LimitExceeded) as caught:
        await pair.append(LOG, "key", bytes(pair.limits.max_bytes + 1))
    assert caught.value.asked == pair.limits.max_bytes + 1
    with pytest.raises(ValueError, match="no position -1"):
        async with pair.read(LOG, -1):
            pass


async def test_a_bus_without_logs_says_so() -> None:
    with LocalNats(jetstream=False) as plain:
        async with open_bus(plain.urls[0]) as pair:
            assert not pair.limits.durable_log
            with pytest.raises(Unsupported, match="JetStream is off"):
                await pair.append(LOG, "key", b"body")


async def test_a_closed_bus_appends_nothing(nats: LocalNats) -> None:
    async with open_bus(nats.urls[0]) as pair:
        pass
    with pytest.raises(ChannelClosed):
        await pair.append(LOG, "key", b"body")
    with pytest.raises(ChannelClosed):
        async with pair.read(LOG, "first"):
            pass
