"""`testing.faulty` with logs: an append is stored or fails, readers wait out a cut."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest

from remoting_bus.bus import Bus, LogReader
from remoting_bus.bus.memory import MemoryBackend
from remoting_bus.errors import ChannelBroken
from remoting_bus.names import Lane, LogName
from remoting_bus.testing import Faults, FaultyBackend

pytestmark = pytest.mark.anyio

LOG = LogName("ns", "log")

_numbers = itertools.count()


@asynccontextmanager
async def opened(faults: Faults) -> AsyncGenerator[Bus, None]:
    url = f"memory://faulty-log-{next(_numbers)}"
    async with FaultyBackend(MemoryBackend(), faults).open(url) as bus:
        yield bus


async def stored(bus: Bus) -> list[bytes]:
    """All that is in the log, up to a last word that is appended now."""
    await bus.append(LOG, "end", b"")
    came = []
    async with bus.read(LOG, "first") as reader:
        with anyio.fail_after(5):
            async for record in reader:
                if record.key == "end":
                    break
                came.append(record.body)
    return came


async def test_a_dropped_append_raises_and_is_stored_or_not() -> None:
    """As with a broker whose answer is lost: only those that raised are in doubt."""
    faults = Faults(seed=1, drop=0.3)
    async with opened(faults) as bus:
        sure, unsure = [], []
        for number in range(100):
            body = b"%d" % number
            try:
                await bus.append(LOG, "key", body)
            except ChannelBroken:
                unsure.append(body)
            else:
                sure.append(body)
        faults.calm()
        came = await stored(bus)
        assert faults.counts["dropped"] == len(unsure) > 10
        assert set(sure) <= set(came)
        doubtful = set(came) - set(sure)
        assert doubtful
        assert doubtful < set(unsure)


async def test_an_append_comes_twice_or_late() -> None:
    faults = Faults(seed=1, duplicate=1.0, delay=0.02)
    async with opened(faults) as bus:
        began = anyio.current_time()
        await bus.append(LOG, "key", b"x")
        assert anyio.current_time() - began >= 0.02
        faults.calm()
        assert await stored(bus) == [b"x", b"x"]
        assert faults.counts == {"duplicated": 1, "delayed": 1}


@pytest.mark.parametrize(
    "faults",
    [
        Faults(drop=1.0, lanes=[Lane.CALL]),
        Faults(drop=1.0, only=lambda to, lane, body: True),
    ],
)
async def test_faults_that_are_aimed_at_messages_leave_logs_alone(
    faults: Faults,
) -> None:
    async with opened(faults) as bus:
        await bus.append(LOG, "key", b"x")
        assert await stored(bus) == [b"x"]


async def test_a_cut_link_is_waited_out_by_readers_and_fails_the_rest() -> None:
    """What came in the very moment of the cut is kept for after it."""
    faults = Faults()
    async with opened(faults) as bus, bus.read(LOG, "first") as reader:
        came: list[bytes] = []

        async def take(reader: LogReader) -> None:
            while True:
                came.append((await anext(reader)).body)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take, reader)
            await bus.append(LOG, "key", b"1")
            faults.cut()
            await anyio.wait_all_tasks_blocked()
            assert came in ([], [b"1"])
            with pytest.raises(ChannelBroken, match="cut by a test"):
                await bus.append(LOG, "key", b"2")
            with pytest.raises(ChannelBroken, match="cut by a test"):
                await bus.delete_log(LOG)
            faults.heal()
            await bus.append(LOG, "key", b"3")
            await anyio.wait_all_tasks_blocked()
            assert came == [b"1", b"3"]
            faults.block()
            tasks.start_soon(bus.append, LOG, "key", b"4")
            await anyio.wait_all_tasks_blocked()
            assert came == [b"1", b"3"]
            faults.unblock()
            await anyio.wait_all_tasks_blocked()
            assert came == [b"1", b"3", b"4"]
            tasks.cancel_scope.cancel()
