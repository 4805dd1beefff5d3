"""Calls that cannot go well: each ends within its deadline, with an error that says why.

Nothing here may harm the agent: after each the same agent answers another call.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from remoting_bus._agent import Agent
from remoting_bus._master import Master, RemoteAgent
from remoting_bus.errors import (
    CallCancelled,
    CallError,
    CallRefused,
    CallTimeout,
    LimitExceeded,
    Overloaded,
    PeerLost,
    RemoteError,
)

from .conftest import Place

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def pair_of(
    place: Place, **options: Any
) -> AsyncIterator[tuple[Master, Agent, RemoteAgent]]:
    """A master, an agent that has joined it, and the handle; all well at the end."""
    async with place.master() as master, place.agent(master, **options) as agent:
        agent.command("add")(_add)
        handle = master.agent("agent")
        with anyio.fail_after(30):
            yield master, agent, handle
            assert await handle.using(timeout=10).call("add", 2, 3) == 5
            assert handle.state == "joined"


def _add(a: int, b: int) -> int:
    return a + b


async def test_an_unknown_function(place: Place) -> None:
    async with pair_of(place) as (_, _, handle):
        with pytest.raises(CallRefused, match=r"'nothing' is not known.*known: add"):
            await handle.call("nothing")


async def test_wrong_argument_types(place: Place) -> None:
    async with pair_of(place) as (_, _, handle):
        with pytest.raises(CallRefused, match=r"argument 'b'.*[Ee]xpected `?int"):
            await handle.call("add", 1, "2")
        with pytest.raises(CallRefused, match="missing a required argument: 'b'"):
            await handle.call("add", 1)
        with pytest.raises(CallRefused, match=r"too many|unexpected"):
            await handle.call("add", 1, 2, 3)
        with pytest.raises(CallRefused, match="unexpected keyword argument 'c'"):
            await handle.call("add", 1, 2, c=3)


async def test_an_argument_that_cannot_be_sent(place: Place) -> None:
    async with pair_of(place) as (_, _, handle):
        with pytest.raises(CallRefused, match=r"add: argument .*\['x'\]\[1\].*object"):
            await handle.call("add", 1, {"x": [1, object()]})


async def test_a_result_that_cannot_be_sent(place: Place) -> None:
    async with pair_of(place) as (_, agent, handle):

        @agent.command("bad")
        async def bad() -> Any:
            return {"x": [1, object()]}

        with pytest.raises(CallError, match=r"result\['x'\]\[1\].*[Tt]he call ran"):
            await handle.call("bad")


async def test_an_argument_over_the_limit(place: Place) -> None:
    async with pair_of(place) as (_, _, handle):
        with pytest.raises(LimitExceeded, match="max_message") as caught:
            await handle.call("add", b"x" * (17 * 1024 * 1024), 1)
        assert caught.value.value == 16 * 1024 * 1024
        assert caught.value.asked > 17 * 1024 * 1024


async def test_a_result_over_the_limit(place: Place) -> None:
    async with pair_of(place) as (_, agent, handle):
        agent.command("much")(lambda: b"x" * (17 * 1024 * 1024))
        with pytest.raises(CallError, match=r"max_message|16777216"):
            await handle.call("much")


async def test_ten_thousand_levels(place: Place) -> None:
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    async with pair_of(place) as (_, agent, handle):
        agent.command("deep")(lambda: deep)
        with pytest.raises(CallRefused, match=r"100 levels \(max_depth\)"):
            await handle.call("add", deep, 1)
        with pytest.raises(CallError, match=r"100 levels \(max_depth\)"):
            await handle.call("deep")


class _Odd(BaseException):
    pass


async def test_a_handler_that_raises_what_is_no_exception(place: Place) -> None:
    async with pair_of(place) as (_, agent, handle):

        @agent.command("odd")
        async def odd() -> None:
            raise _Odd("very")

        @agent.command("odd_sync")
        def odd_sync() -> None:
            raise _Odd("very")

        for name in ("odd", "odd_sync"):
            with pytest.raises(RemoteError, match="very") as caught:
                await handle.call(name)
            assert "_Odd" in caught.value.type_name


async def test_a_handler_that_exits(place: Place) -> None:
    async with pair_of(place) as (_, agent, handle):

        @agent.command("leave")
        async def leave() -> None:
            sys.exit(7)

        @agent.command("leave_sync")
        def leave_sync() -> None:
            sys.exit(7)

        @agent.command("interrupt")
        async def interrupt() -> None:
            raise KeyboardInterrupt

        for name in ("leave", "leave_sync", "interrupt"):
            with pytest.raises(RemoteError, match=r"SystemExit|KeyboardInterrupt"):
                await handle.call(name)


async def test_a_handler_that_never_returns(place: Place) -> None:
    async with pair_of(place) as (_, agent, handle):
        ended = anyio.Event()

        @agent.command("hang")
        async def hang() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                ended.set()

        with pytest.raises(CallTimeout, match="hang on 'agent'"):
            await handle.using(timeout=0.3).call("hang")
        await ended.wait()


async def test_a_caller_that_leaves_is_free_and_the_work_ends(place: Place) -> None:
    async with pair_of(place) as (_, agent, handle):
        began, ended = anyio.Event(), anyio.Event()

        @agent.command("hang")
        async def hang() -> None:
            began.set()
            try:
                await anyio.sleep_forever()
            finally:
                ended.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(handle.call, "hang")
            await began.wait()
            tasks.cancel_scope.cancel()
        await ended.wait()


async def test_a_result_after_the_caller_has_gone(place: Place) -> None:
    async with pair_of(place) as (_, agent, handle):
        began, go_on, done = anyio.Event(), anyio.Event(), anyio.Event()

        @agent.command("stubborn")
        async def stubborn() -> bytes:
            began.set()
            with anyio.CancelScope(shield=True):
                await go_on.wait()
            done.set()
            return b"x" * 100_000

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(handle.call, "stubborn")
            await began.wait()
            tasks.cancel_scope.cancel()
        go_on.set()
        await done.wait()


async def test_more_calls_than_an_agent_takes(place: Place) -> None:
    async with pair_of(place, workers=2, waiting=3) as (_, agent, handle):
        go_on = anyio.Event()
        refusals: list[str] = []
        returned: list[None] = []

        @agent.command("wait")
        async def wait() -> None:
            await go_on.wait()

        async def call() -> None:
            try:
                await handle.call("wait")
            except Overloaded as error:
                refusals.append(str(error))
                if len(refusals) == 5:
                    go_on.set()
            else:
                returned.append(None)

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(call)
        assert len(returned) == len(refusals) == 5
        assert all("3" in text for text in refusals), "the limit is named"


async def test_an_agent_that_leaves_in_mid_call(place: Place) -> None:
    async with place.master() as master, anyio.create_task_group() as tasks:
        agent = place.agent(master)
        began = anyio.Event()

        @agent.command("hang")
        async def hang() -> None:
            began.set()
            await anyio.sleep_forever()

        leave = anyio.CancelScope()

        async def serve(task_status: Any) -> None:
            with leave:
                await agent.serve(task_status=task_status)

        await tasks.start(serve)
        with anyio.fail_after(20):
            async with master.agent("agent").start("hang") as call:
                await began.wait()
                leave.cancel()
                with pytest.raises((PeerLost, CallCancelled)) as caught:
                    await call.result()
        if isinstance(caught.value, PeerLost):
            assert caught.value.executed == "unknown"


async def test_what_is_not_offered(place: Place) -> None:
    async with place.master() as master:
        async with place.agent(master, offers=set()) as agent:
            agent.command("add")(_add)
            with pytest.raises(CallRefused, match="not offered here; offered: nothing"):
                await master.agent("agent").call("add", 1, 2)
