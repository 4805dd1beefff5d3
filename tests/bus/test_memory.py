"""`memory`: what it adds to the contract that `check_backend` tries.

Bounds and who waits at them, faults of the link, and who shares a broker.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import anyio
import pytest
from anyio.lowlevel import checkpoint

from remoting_bus.bus import Bus
from remoting_bus.bus.memory import (
    MESSAGE_COST,
    MemoryBackend,
    MemoryBus,
    memory_broker,
)
from remoting_bus.errors import ChannelBroken, ChannelClosed, ConnectionFailed
from remoting_bus.names import Address, Lane

pytestmark = pytest.mark.anyio

TO = Address("ns", "reader", "writer")
CALL, BULK = Lane.CALL, Lane.BULK

_numbers = itertools.count()


async def settle() -> None:
    """Let every task run till it waits, and every callback that is due."""
    await anyio.wait_all_tasks_blocked()
    for _ in range(10):
        await checkpoint()
    await anyio.wait_all_tasks_blocked()


def open_bus(url: str) -> AbstractAsyncContextManager[Bus]:
    return MemoryBackend().open(url)


class Room:
    """Two connections of one broker, and what the second one has read."""

    def __init__(self, writer: MemoryBus, reader: MemoryBus) -> None:
        self.writer = writer
        self.reader = reader
        self.came: list[bytes] = []

    def deliver(self, body: bytes, lane: Lane) -> None:
        self.came.append(body)

    def reading(
        self, lanes: tuple[Lane, ...] = (CALL, BULK), prefetch: int = 10
    ) -> AbstractAsyncContextManager[None]:
        return self.reader.consume(TO, lanes, prefetch=prefetch, deliver=self.deliver)

    async def has(self, *bodies: bytes) -> bool:
        """Let all that is queued be delivered, and compare."""
        await settle()
        return self.came == list(bodies)


@asynccontextmanager
async def room(options: str = "") -> AsyncGenerator[Room, None]:
    name = f"m{next(_numbers)}"
    url = f"memory://{name}{options}"
    async with open_bus(url), open_bus(url):
        writer, reader = memory_broker(name).links
        yield Room(writer, reader)


BOUND = f"?queue_bytes={2 * (100 + MESSAGE_COST)}"
"""Room for two messages of 100 bytes."""


async def test_at_the_bound_try_publish_is_refused_and_publish_waits() -> None:
    async with room(BOUND) as here, here.reading(), anyio.create_task_group() as tasks:
        bodies = [bytes([number]) * 100 for number in range(4)]
        assert here.writer.try_publish(TO, BULK, bodies[0])
        assert here.writer.try_publish(TO, BULK, bodies[1])
        assert not here.writer.try_publish(TO, BULK, bodies[2])
        tasks.start_soon(here.writer.publish, TO, BULK, bodies[2])
        tasks.start_soon(here.writer.publish, TO, BULK, bodies[3])
        assert here.came == []
        await settle()
        assert set(here.came) == set(bodies)


async def test_a_flood_of_one_lane_stops_no_other() -> None:
    async with room(BOUND) as here, here.reading():
        while here.writer.try_publish(TO, BULK, bytes(100)):
            pass
        assert here.writer.try_publish(TO, CALL, b"small")


async def test_one_message_larger_than_the_bound_goes_through() -> None:
    async with room("?queue_bytes=10") as here, here.reading():
        assert here.writer.try_publish(TO, BULK, bytes(100))
        assert not here.writer.try_publish(TO, BULK, b"")
        assert await here.has(bytes(100))
        assert here.writer.try_publish(TO, BULK, b"")


async def test_empty_messages_are_bounded_too() -> None:
    async with room(BOUND) as here, here.reading():
        count = 0
        while here.writer.try_publish(TO, BULK, b""):
            count += 1
            assert count < 100


async def test_nobody_overtakes_those_that_wait() -> None:
    async with room() as here, here.reading():
        async with anyio.create_task_group() as tasks:
            here.writer.block()
            tasks.start_soon(here.writer.publish, TO, BULK, b"first")
            await settle()
            here.writer.unblock()
            assert not here.writer.try_publish(TO, BULK, b"second")
            assert here.writer.try_publish(TO, CALL, b"another lane")
            await here.writer.publish(TO, BULK, b"second")
        assert await here.has(b"another lane", b"first", b"second")


async def test_a_cancelled_wait_gives_its_turn_to_the_next() -> None:
    async with room() as here, here.reading():
        here.writer.block()
        async with anyio.create_task_group() as others:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(here.writer.publish, TO, BULK, b"cancelled")
                await settle()
                others.start_soon(here.writer.publish, TO, BULK, b"next")
                await settle()
                tasks.cancel_scope.cancel()
            here.writer.unblock()
        assert await here.has(b"next")


async def test_a_reader_that_is_left_makes_room() -> None:
    async with room(BOUND) as here, AsyncExitStack() as stack:
        await stack.enter_async_context(here.reading())
        here.writer.try_publish(TO, BULK, bytes(100))
        here.writer.try_publish(TO, BULK, bytes(100))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(here.writer.publish, TO, BULK, bytes(100))
            await stack.aclose()


async def test_a_turn_delivers_no_more_than_the_prefetch() -> None:
    async with room() as here, here.reading(prefetch=2):
        for number in range(30):
            here.writer.try_publish(TO, CALL, b"%d" % number)
        seen = [0]
        while len(here.came) < 30:
            await checkpoint()
            seen.append(len(here.came))
        # Trio runs what is ready in any order: two turns may come between two looks.
        assert max(b - a for a, b in itertools.pairwise(seen)) <= 4


async def test_a_reader_that_answers_does_not_recurse() -> None:
    async with room() as here:
        depth = deepest = count = 0

        def again(body: bytes, lane: Lane) -> None:
            nonlocal depth, deepest, count
            depth += 1
            count += 1
            deepest = max(deepest, depth)
            if count < 5000:
                here.writer.try_publish(TO, CALL, body)
            depth -= 1

        async with here.reader.consume(TO, (CALL,), prefetch=10, deliver=again):
            await here.writer.publish(TO, CALL, b"ping")
            with anyio.fail_after(20):
                while count < 5000:
                    await checkpoint()
        assert deepest == 1


async def test_a_cut_link_tells_fails_publishes_and_loses_what_waits() -> None:
    async with room() as here, here.reading(), here.writer.link_events() as events:
        here.writer.try_publish(TO, CALL, b"before")
        assert await here.has(b"before")
        assert (await anext(events)).state == "up"
        here.writer.cut("the cable")
        down = await anext(events)
        assert (down.state, down.cause) == ("down", "the cable")
        assert not here.writer.try_publish(TO, CALL, b"cut")
        with pytest.raises(ChannelBroken, match="the cable"):
            await here.writer.publish(TO, CALL, b"cut")
        here.writer.heal()
        assert (await anext(events)).state == "up"
        assert here.writer.try_publish(TO, CALL, b"after")
        assert await here.has(b"before", b"after")


async def test_readers_are_back_before_up_is_told() -> None:
    async with room() as here, here.reading(), here.reader.link_events() as events:
        await anext(events)
        here.writer.try_publish(TO, CALL, b"waits")
        here.reader.cut()
        here.writer.try_publish(TO, CALL, b"missed")
        assert (await anext(events)).state == "down"
        here.reader.heal()
        here.writer.try_publish(TO, CALL, b"read")
        assert (await anext(events)).state == "up"
        assert await here.has(b"read")


async def test_a_reader_entered_while_the_link_is_down_reads_after_it() -> None:
    async with room() as here:
        here.reader.cut()
        async with here.reading():
            here.writer.try_publish(TO, CALL, b"missed")
            here.reader.heal()
            here.writer.try_publish(TO, CALL, b"read")
            assert await here.has(b"read")


async def test_a_blocked_link_lets_publishes_wait_and_deliveries_go_on() -> None:
    async with room() as here, here.reading(), here.writer.link_events() as events:
        await anext(events)
        here.writer.block("alarm")
        here.reader.block()
        assert (await anext(events)).state == "blocked"
        assert not here.writer.try_publish(TO, CALL, b"no")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(here.writer.publish, TO, CALL, b"waits")
            await settle()
            assert here.came == []
            here.writer.unblock()
        assert (await anext(events)).state == "up"
        assert await here.has(b"waits")


async def test_a_cut_breaks_publishes_that_wait() -> None:
    async with room() as here:
        here.writer.block()
        broken = []

        async def publish() -> None:
            with pytest.raises(ChannelBroken):
                await here.writer.publish(TO, CALL, b"")
            broken.append(1)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publish)
            tasks.start_soon(publish)
            await settle()
            here.writer.cut()
        assert len(broken) == 2


async def test_a_closed_connection_says_so() -> None:
    async with open_bus("memory://closed") as bus:
        pass
    with pytest.raises(ChannelClosed, match="memory://closed is closed"):
        await bus.publish(TO, CALL, b"")
    with pytest.raises(ChannelClosed):
        bus.try_publish(TO, CALL, b"")
    with pytest.raises(ChannelClosed):
        async with bus.consume(TO, (CALL,), prefetch=1, deliver=print):
            pass


async def test_nonsense_is_refused() -> None:
    async with open_bus("memory://nonsense") as bus:
        with pytest.raises(ValueError, match="prefetch must be at least 1"):
            async with bus.consume(TO, (CALL,), prefetch=0, deliver=print):
                pass
        with pytest.raises(ValueError, match="at least one lane"):
            async with bus.consume(TO, (), prefetch=1, deliver=print):
                pass


@pytest.mark.parametrize(
    "url",
    [
        "memory://", "memory://a,b", "memory://a:1", "memory://me@a", "memory://a/b",
        "memory://a.b", "memory://a?size=1", "memory://a?max_bytes=0",
        "memory://a?max_bytes=x", "memory://" + "n" * 64,
    ],
)  # fmt: skip
async def test_what_is_no_url_of_memory_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        async with open_bus(url):
            pass


async def test_the_size_is_an_option() -> None:
    async with open_bus("memory://size?max_bytes=70000") as bus:
        assert bus.limits.max_bytes == 70000


async def test_a_broker_lasts_as_long_as_a_connection() -> None:
    with pytest.raises(LookupError, match="memory://lasts"):
        memory_broker("lasts")
    async with open_bus("memory://lasts"):
        broker = memory_broker("lasts")
        async with open_bus("memory://lasts"):
            assert len(broker.links) == 2
        assert memory_broker("lasts") is broker
    with pytest.raises(LookupError):
        memory_broker("lasts")


async def test_what_the_block_raises_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with open_bus("memory://raises"):
            raise KeyError("mine")


async def test_another_loop_is_refused_by_name() -> None:
    async def main() -> None:
        async with open_bus("memory://loops"):
            pass

    async with open_bus("memory://loops"):
        with pytest.raises(
            ConnectionFailed, match="memory://loops is in use on another"
        ):
            await anyio.to_thread.run_sync(asyncio.run, main())
    await anyio.to_thread.run_sync(asyncio.run, main())


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_loop_that_ended_leaves_the_name_free() -> None:
    async def leave_open() -> None:
        await open_bus("memory://left").__aenter__()

    def run() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(leave_open())
        loop.close()

    await anyio.to_thread.run_sync(run)
    async with open_bus("memory://left"):
        assert len(memory_broker("left").links) == 1
