"""`links`: each reader begins with the present state, and never loses the newest."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest
from anyio.lowlevel import checkpoint

from remoting_bus.bus import LinkEvent
from remoting_bus.bus.links import MAX_EVENTS_HELD, LinkBoard

pytestmark = pytest.mark.anyio


async def test_a_reader_begins_with_the_present_and_gets_each_change() -> None:
    board = LinkBoard(LinkEvent("up"))
    board.tell(LinkEvent("down", "cable"))
    async with board.events() as events:
        board.tell(LinkEvent("up", "again"))
        assert await anext(events) == LinkEvent("down", "cable")
        assert await anext(events) == LinkEvent("up", "again")
        async with anyio.create_task_group() as tasks:

            async def later() -> None:
                board.tell(LinkEvent("blocked"))

            tasks.start_soon(later)
            assert await anext(events) == LinkEvent("blocked")


async def test_lost_messages_are_told_but_are_no_state() -> None:
    board = LinkBoard(LinkEvent("up"))
    async with board.events() as events:
        board.tell(LinkEvent("lost", "3 messages"))
        assert (await anext(events)).state == "up"
        assert (await anext(events)).state == "lost"
    async with board.events() as events:
        assert (await anext(events)).state == "up"


async def test_a_slow_reader_loses_the_oldest() -> None:
    board = LinkBoard(LinkEvent("up", "first"))
    async with board.events() as events:
        for number in range(MAX_EVENTS_HELD):
            board.tell(LinkEvent("up", f"{number}"))
        causes = [(await anext(events)).cause for _ in range(MAX_EVENTS_HELD)]
    assert causes == [f"{number}" for number in range(MAX_EVENTS_HELD)]


async def take(events: AsyncIterator[LinkEvent]) -> None:
    await anext(events)


async def test_a_cancelled_reader_takes_nothing() -> None:
    board = LinkBoard(LinkEvent("up"))
    async with board.events() as events:
        await anext(events)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take, events)
            await checkpoint()
            tasks.cancel_scope.cancel()
        board.tell(LinkEvent("down"))
        assert (await anext(events)).state == "down"
