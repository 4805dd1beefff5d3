"""`testing.faulty`: each switch does what it says, by the seed, and no more."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.lowlevel import checkpoint

from remoting_bus.bus import Bus
from remoting_bus.bus.memory import MemoryBackend, MemoryBus, memory_broker
from remoting_bus.errors import ChannelBroken, LimitExceeded
from remoting_bus.names import Address, Lane
from remoting_bus.testing import Faults, FaultyBackend, FaultyBus

pytestmark = pytest.mark.anyio

TO = Address("ns", "reader", "writer")
CALL, BULK = Lane.CALL, Lane.BULK
BODIES = [b"%d" % number for number in range(200)]

_numbers = itertools.count()


async def settle() -> None:
    """Let every task run till it waits, and every callback that is due."""
    await anyio.wait_all_tasks_blocked()
    for _ in range(10):
        await checkpoint()
    await anyio.wait_all_tasks_blocked()


class Wire:
    """A faulty connection that writes and reads, and the memory link below it."""

    def __init__(self, bus: Bus, link: MemoryBus) -> None:
        self.bus = bus
        self.link = link
        self.came: list[bytes] = []
        self.arrival = anyio.Event()

    def deliver(self, body: bytes, lane: Lane) -> None:
        self.came.append(body)
        self.arrival.set()
        self.arrival = anyio.Event()

    async def wait_for(self, count: int) -> None:
        with anyio.fail_after(20):
            while len(self.came) < count:
                await self.arrival.wait()


@asynccontextmanager
async def wire(
    faults: Faults, lanes: Collection[Lane] = tuple(Lane)
) -> AsyncGenerator[Wire, None]:
    name = f"f{next(_numbers)}"
    async with FaultyBackend(MemoryBackend(), faults).open(f"memory://{name}") as bus:
        here = Wire(bus, memory_broker(name).links[0])
        async with bus.consume(TO, lanes, prefetch=10, deliver=here.deliver):
            yield here


async def send(faults: Faults, expected: int, lane: Lane = CALL) -> list[bytes]:
    """Send all bodies through these faults; what came, in order."""
    async with wire(faults) as here:
        for body in BODIES:
            await here.bus.publish(TO, lane, body)
        await here.wait_for(expected)
        return here.came


async def test_a_dropped_message_never_comes_and_the_rest_does() -> None:
    faults = Faults(seed=1, drop=0.2)
    async with wire(faults) as here:
        for body in BODIES:
            await here.bus.publish(TO, CALL, body)
        dropped = faults.counts["dropped"]
        assert 10 < dropped < 80
        await here.wait_for(len(BODIES) - dropped)
        assert here.came == [body for body in BODIES if body in set(here.came)]


async def test_the_same_seed_drops_the_same() -> None:
    def faults(seed: int) -> Faults:
        return Faults(seed=seed, drop=0.2)

    async def came(seed: int) -> list[bytes]:
        async with wire(faults(seed)) as here:
            for body in BODIES:
                assert here.bus.try_publish(TO, CALL, body)
            await settle()
            return here.came

    first = await came(3)
    assert first == await came(3)
    assert first != await came(4)


async def test_a_duplicate_comes_twice_unchanged() -> None:
    came = await send(Faults(duplicate=1.0), 2 * len(BODIES))
    assert sorted(came) == sorted(BODIES * 2)


async def test_reordered_messages_all_come_in_another_order() -> None:
    came = await send(Faults(seed=2, reorder=0.3), len(BODIES))
    assert came != BODIES
    assert sorted(came) == sorted(BODIES)


async def test_delayed_messages_are_late_and_in_order() -> None:
    faults = Faults(delay=0.05, jitter=0.05)
    async with wire(faults) as here:
        began = anyio.current_time()
        for body in BODIES:
            assert here.bus.try_publish(TO, CALL, body)
        await checkpoint()
        assert here.came == []
        faults.calm()
        await here.bus.publish(TO, CALL, b"end")
        await here.wait_for(len(BODIES) + 1)
        assert anyio.current_time() - began >= 0.05
        assert here.came == [*BODIES, b"end"]


async def test_faults_aim_at_lanes_and_at_chosen_messages() -> None:
    only_bulk = Faults(drop=1.0, lanes=(BULK,))
    assert await send(only_bulk, len(BODIES)) == BODIES
    chosen = Faults(drop=1.0, only=lambda to, lane, body: body == b"7")
    came = await send(chosen, len(BODIES) - 1)
    assert set(BODIES) - set(came) == {b"7"}


async def test_a_cut_is_told_and_lets_nothing_through() -> None:
    faults = Faults()
    async with wire(faults) as here, here.bus.link_events() as events:
        assert (await anext(events)).state == "up"
        faults.delay = 10
        await here.bus.publish(TO, CALL, b"held")
        faults.calm()
        faults.cut("a digger")
        down = await anext(events)
        assert (down.state, down.cause) == ("down", "a digger")
        assert not here.bus.try_publish(TO, CALL, b"cut")
        with pytest.raises(ChannelBroken, match="a digger"):
            await here.bus.publish(TO, CALL, b"cut")
        here.link.try_publish(TO, CALL, b"inbound")
        await settle()
        assert here.came == []
        faults.heal()
        assert (await anext(events)).state == "up"
        await here.bus.publish(TO, CALL, b"after")
        await here.wait_for(1)
        assert here.came == [b"after"]


async def test_a_blocked_link_lets_publishes_wait() -> None:
    faults = Faults()
    async with wire(faults) as here, here.bus.link_events() as events:
        await anext(events)
        faults.block()
        assert (await anext(events)).state == "blocked"
        assert not here.bus.try_publish(TO, CALL, b"no")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(here.bus.publish, TO, CALL, b"waits")
            await settle()
            assert here.came == []
            faults.unblock()
        assert (await anext(events)).state == "up"
        await here.wait_for(1)


async def test_the_state_of_the_bus_below_is_passed_on() -> None:
    faults = Faults()
    async with wire(faults) as here, here.bus.link_events() as events:
        assert (await anext(events)).state == "up"
        here.link.cut("below")
        assert (await anext(events)).cause == "below"
        faults.cut("above")
        assert (await anext(events)).cause == "above"
        faults.heal()
        assert (await anext(events)).cause == "below"
        here.link.heal()
        assert (await anext(events)).state == "up"


async def test_a_connection_opened_while_the_link_is_cut_says_so_first() -> None:
    faults = Faults()
    faults.cut("before")
    async with wire(faults) as here, here.bus.link_events() as events:
        assert (await anext(events)).state == "down"


async def test_a_message_that_is_dropped_is_still_measured() -> None:
    async with wire(Faults(drop=1.0)) as here:
        with pytest.raises(LimitExceeded):
            await here.bus.publish(TO, CALL, bytes(here.bus.limits.max_bytes + 1))
        with pytest.raises(LimitExceeded):
            here.bus.try_publish(TO, CALL, bytes(here.bus.limits.max_bytes + 1))


async def test_an_open_bus_can_be_wrapped_for_a_while() -> None:
    faults = Faults(drop=1.0)
    async with MemoryBackend().open(f"memory://f{next(_numbers)}") as inner:
        came: list[bytes] = []
        reading = inner.consume(
            TO, (CALL,), prefetch=1, deliver=lambda body, lane: came.append(body)
        )
        async with reading:
            async with FaultyBus(inner, faults) as bus:
                await bus.publish(TO, CALL, b"dropped")
            await inner.publish(TO, CALL, b"kept")
            await settle()
            assert came == [b"kept"]
