"""One function at many peers, over the memory bus."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest

import remoting_bus as rb
from remoting_bus._remote.caller import Options
from remoting_bus._remote.gather import gather

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def to_many(count: int, function: Any) -> AsyncIterator[list[rb.Channel]]:
    """Give channels to so many peers, which know their number as `function`'s first."""
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(rb.open_bus("memory://many"))
        channels = []
        for number in range(count):

            async def own(*args: Any, number: int = number) -> Any:
                return await function(number, *args)

            names = {"local": f"peer-{number}", "peer": f"us-{number}"}
            served = rb.Channel(bus, **names, commands={"own": own})
            await stack.enter_async_context(served)
            channel = rb.Channel(bus, local=names["peer"], peer=names["local"])
            channels.append(await stack.enter_async_context(channel))
        with anyio.fail_after(20):
            yield channels


async def test_each_peer_has_its_outcome_and_none_is_raised() -> None:
    async def odd_ones_fail(number: int, add: int) -> int:
        if number % 2:
            raise ValueError(number)
        return number + add

    async with (
        to_many(6, odd_ones_fail) as channels,
        gather(channels, "own", (10,), {}, limit=2, options=Options()) as results,
    ):
        found = {each.peer: outcome async for each, outcome in results}
    assert len(found) == 6
    assert found["peer-2"].value == 12
    assert found["peer-3"].state == "raised"
    assert isinstance(found["peer-3"].error, ValueError)


async def test_no_more_than_the_limit_are_under_way() -> None:
    running = most = 0

    async def counted(number: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        running -= 1

    async with (
        to_many(8, counted) as channels,
        gather(channels, "own", (), {}, limit=3, options=Options()) as results,
    ):
        assert len([each async for each in results]) == 8
    assert 1 <= most <= 3


async def test_leaving_cancels_those_that_run() -> None:
    began, ended = anyio.Event(), anyio.Event()

    async def forever(number: int) -> None:
        if number == 0:
            return
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async with to_many(2, forever) as channels:
        async with gather(
            channels, "own", (), {}, limit=None, options=Options()
        ) as results:
            async for each, _ in results:
                assert each.peer == "peer-0"
                break
            await began.wait()
        await ended.wait()


async def test_an_error_in_the_block_is_raised_as_it_is() -> None:
    async def nothing(number: int) -> None: ...

    async def fail(channels: list[rb.Channel]) -> None:
        async with gather(channels, "own", (), {}, limit=1, options=Options()):
            raise KeyError("mine")

    async with to_many(2, nothing) as channels:
        with pytest.raises(KeyError, match="mine"):
            await fail(channels)


async def test_a_mistake_of_the_caller_is_raised_at_once() -> None:
    with pytest.raises(ValueError, match="limit is 0"):
        async with gather([], "own", (), {}, limit=0, options=Options()):
            pass
    with pytest.raises(TypeError, match="lambda"):
        async with gather([], lambda: 1, (), {}, limit=1, options=Options()):
            pass
    nobody: list[rb.Channel] = []
    async with gather(nobody, "own", (), {}, limit=1, options=Options()) as results:
        assert [each async for each in results] == []
