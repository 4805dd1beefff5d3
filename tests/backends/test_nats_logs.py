"""Durable logs on NATS: outages, retention, rights, servers that cannot keep them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from remoting_bus.bus import Bus, LinkEvent, LogReader
from remoting_bus.errors import (
    ChannelBroken,
    ConnectionFailed,
    SecurityError,
    Unsupported,
)
from remoting_bus.names import LogName
from remoting_bus.testing import check_backend
from remoting_bus.testing.brokers import LocalNats
from remoting_bus_nats import NatsBackend
from remoting_bus_nats.embedded import EmbeddedBackend
from remoting_bus_nats.log_reader import AHEAD, NatsReader

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.broker("nats"),
    pytest.mark.usefixtures("no_blocking"),
]

LIMIT = 30.0
LOG = LogName("ns", "log")
QUICK = "?ping_interval=0.3&connect_timeout=0.5"


@pytest.fixture
def own() -> Iterator[LocalNats]:
    with LocalNats() as running:
        yield running


async def bodies(reader: LogReader, count: int) -> list[bytes]:
    async with asyncio.timeout(LIMIT):
        return [(await anext(reader)).body for _ in range(count)]


async def append_surely(bus: Bus, body: bytes) -> None:
    """As a program would: again, until it is stored."""
    async with asyncio.timeout(LIMIT):
        while True:
            try:
                return await bus.append(LOG, "key", body)
            except ChannelBroken:
                await asyncio.sleep(0.05)


async def note(events: AsyncIterator[LinkEvent]) -> str:
    async with asyncio.timeout(LIMIT):
        async for event in events:
            if event.state == "note":
                return event.cause
    raise AssertionError("events ended")


async def test_a_reader_outlives_a_killed_server(own: LocalNats) -> None:
    """What was stored before is there after; reading goes on where it was."""
    async with (
        NatsBackend().open(own.urls[0] + QUICK) as bus,
        bus.read(LOG, "first") as reader,
    ):
        for number in range(20):
            await bus.append(LOG, "key", b"%d" % number)
        assert await bodies(reader, 10) == [b"%d" % number for number in range(10)]
        await asyncio.to_thread(own.kill)
        with pytest.raises(ChannelBroken):
            await bus.append(LOG, "key", b"lost")
        await asyncio.to_thread(own.start)
        for number in range(20, 40):
            await append_surely(bus, b"%d" % number)
        came = await bodies(reader, 30)
        assert came == [b"%d" % number for number in range(10, 40)]
        assert (reader.lost, reader.restarted) == (0, 0)


async def test_a_reader_outlives_the_server_that_leads_its_log() -> None:
    """On three nodes: the leader is killed; nothing that was stored is missed."""
    with LocalNats(nodes=3) as cluster:
        url = ",".join(cluster.urls) + QUICK + "&replicas=3&log_bytes=1048576"
        async with NatsBackend().open(url) as bus, bus.read(LOG, "first") as reader:
            for number in range(10):
                await append_surely(bus, b"%d" % number)
            info = await bus._logs.info(bus._link.connection(), LOG)  # type: ignore[attr-defined]
            leader = int(info["cluster"]["leader"].removeprefix("n"))
            await asyncio.to_thread(cluster.kill, leader)
            for number in range(10, 20):
                await append_surely(bus, b"%d" % number)
            came: list[bytes] = []
            while b"19" not in came:
                came += await bodies(reader, 1)
            # An append whose answer was lost may stand there twice.
            once = list(dict.fromkeys(came))
            assert once == [b"%d" % number for number in range(20)]
            assert (reader.lost, reader.restarted) == (0, 0)


async def test_an_append_to_a_server_that_stands_still_is_told(own: LocalNats) -> None:
    """It ends within the time that silence takes to be noticed."""
    async with NatsBackend().open(own.urls[0] + QUICK) as bus:
        await bus.append(LOG, "key", b"1")
        await asyncio.to_thread(own.pause)
        async with asyncio.timeout(LIMIT):
            with pytest.raises(ChannelBroken):
                await bus.append(LOG, "key", b"2")
        await asyncio.to_thread(own.resume)
        await append_surely(bus, b"3")


async def test_a_slow_reader_has_a_bounded_number_ahead(own: LocalNats) -> None:
    """And what retention takes from under it meanwhile, it counts."""
    url = own.urls[0] + "?log_bytes=1048576"
    async with NatsBackend().open(url) as bus, bus.read(LOG, "first") as reader:
        assert isinstance(reader, NatsReader)
        await bus.append(LOG, "key", b"0" + bytes(4000))
        assert (await anext(reader)).position == 1
        for number in range(1, 2001):
            await bus.append(LOG, "key", b"%d " % number + bytes(4000))
            assert reader.ahead <= AHEAD
        came = []
        while b"2000" not in came:
            came += [(await bodies(reader, 1))[0].split(b" ")[0]]
        numbers = [int(body) for body in came]
        assert numbers == sorted(numbers)
        assert reader.lost == 2000 - len(numbers) > 1000


async def test_a_log_keeps_what_the_url_says(own: LocalNats) -> None:
    """The oldest go by size at once, and by age."""
    url = own.urls[0] + "?log_bytes=1048576&log_age=1"
    async with NatsBackend().open(url) as bus:
        for number in range(40):
            await bus.append(LOG, "key", b"%d" % number + bytes(64 * 1024))
        async with bus.read(LOG, 1) as reader:
            first = await anext(reader)
            assert first.position == 41 - (1024 * 1024 // (64 * 1024 + 100))
            assert reader.lost == first.position - 1
        await asyncio.sleep(1.5)
        async with bus.read(LOG, "first") as reader:
            await bus.append(LOG, "key", b"new")
            assert await bodies(reader, 1) == [b"new"]


async def test_a_log_that_was_made_otherwise_is_told_of_once(own: LocalNats) -> None:
    """It is used as it is."""
    url = own.urls[0]
    async with (
        NatsBackend().open(url + "?log_bytes=2000000&log_age=60") as one,
        NatsBackend().open(url) as other,
        other.link_events() as events,
    ):
        await one.append(LOG, "key", b"1")
        for _ in range(3):
            await other.append(LOG, "key", b"2")
        async with other.read(LOG, "first") as reader:
            assert await bodies(reader, 4) == [b"1", b"2", b"2", b"2"]
        assert "it keeps 2000000 bytes and 60 s" in await note(events)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await note(events)


async def test_a_server_without_jetstream_says_what_it_needs() -> None:
    with LocalNats(jetstream=False) as plain:
        async with NatsBackend().open(plain.urls[0]) as bus:
            assert not bus.limits.durable_log
            with pytest.raises(Unsupported, match="start it with -js"):
                await bus.append(LOG, "key", b"body")
        await check_backend(NatsBackend(), plain.urls[0], promises=["log-unsupported"])


async def test_an_account_without_jetstream_says_so() -> None:
    config = """accounts { A { users: [ { user: a, password: p } ] } }"""
    with LocalNats(config=config) as other:
        url = other.urls[0].replace("nats://", "nats://a:p@")
        async with NatsBackend().open(url) as bus:
            with pytest.raises(Unsupported, match="account keeps no logs"):
                await bus.append(LOG, "key", b"body")
            with pytest.raises(Unsupported, match="account keeps no logs"):
                async with bus.read(LOG, "first"):
                    pass


async def test_a_log_that_there_is_no_room_for_is_refused(own: LocalNats) -> None:
    url = own.urls[0] + "?log_bytes=900000000000"
    async with NatsBackend().open(url) as bus:
        with pytest.raises(ConnectionFailed, match="room in it for what `log_bytes`"):
            await bus.append(LOG, "key", b"body")
        with pytest.raises(ConnectionFailed, match="ns/log cannot be had"):
            async with bus.read(LOG, "first"):
                pass


async def test_a_peer_may_be_allowed_to_append_as_itself_only() -> None:
    """By the rules of the server that `topology` tells; each refusal is an error."""
    config = """authorization { users: [
        { user: all, password: p },
        { user: a, password: p, permissions: {
            publish: ["rbl.ns.*.a", "$JS.API.STREAM.INFO.>"],
            subscribe: ["_INBOX.>"] } } ] }"""
    with LocalNats(config=config) as own:
        master, agent = [
            own.urls[0].replace("nats://", f"nats://{user}:p@") for user in ("all", "a")
        ]
        async with NatsBackend().open(master) as bus, NatsBackend().open(agent) as a:
            with pytest.raises(SecurityError, match=r"STREAM\.CREATE"):
                await a.append(LOG, "a", b"there is none yet")
            async with bus.read(LOG, "first") as reader:
                await a.append(LOG, "a", b"1")
                with pytest.raises(SecurityError, match=r"rbl\.ns\.log\.other"):
                    await a.append(LOG, "other", b"forged")
                with pytest.raises(SecurityError, match=r"STREAM\.DELETE"):
                    await a.delete_log(LOG)
                await a.append(LOG, "a", b"2")
                assert await bodies(reader, 2) == [b"1", b"2"]
            with pytest.raises(SecurityError, match="CONSUMER"):
                async with a.read(LOG, "first"):
                    pass


async def test_an_embedded_bus_keeps_its_logs_in_its_store(tmp_path: Path) -> None:
    """They are there when it starts again."""
    url = f"embedded://?store={tmp_path / 'store'}"
    async with EmbeddedBackend().open(url) as bus:
        assert bus.limits.durable_log
        await bus.append(LOG, "key", b"1")
    async with EmbeddedBackend().open(url) as bus:
        await bus.append(LOG, "key", b"2")
        async with bus.read(LOG, "first") as reader:
            assert await bodies(reader, 2) == [b"1", b"2"]
