"""The pool: limits, cancels, isolation of calls."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from remoting_bus import observe
from remoting_bus._loop import Supervisor, Tasks
from remoting_bus.channel.pool import Pool
from remoting_bus.names import Priority
from remoting_bus.protocol.calls import IncomingCall, RefusalCode

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """The pool knows no shell but these."""
    name: str = request.param
    return name


class Desk:
    """Where calls come from: it writes down what they are answered."""

    peer = "caller"

    def __init__(self, name: str = "desk") -> None:
        self.name = name
        self.refusals: list[tuple[RefusalCode, str]] = []
        self.stopped: list[tuple[int, bool, str]] = []

    @property
    def node(self) -> Desk:
        """Itself: a node is something with a name."""
        return self

    def refused(self, call: IncomingCall, code: RefusalCode, message: str) -> None:
        call.ended = True
        self.refusals.append((code, message))

    def cancelled_done(
        self, call: IncomingCall, *, ran: bool, message: str = ""
    ) -> None:
        if not call.ended:
            call.ended = True
            self.stopped.append((call.number, ran, message))


def a_call(number: int) -> IncomingCall:
    """Make a call as it comes."""
    return IncomingCall(
        number,
        "f",
        [[], {}],
        streams=(),
        references=(),
        priority=Priority.NORMAL,
        deadline=None,
        key=None,
        on_behalf=False,
    )


Serve = Callable[[Desk, IncomingCall], Awaitable[None]]


def pool_of(
    serve: Serve, workers: int = 4, waiting: int = 100
) -> AbstractAsyncContextManager[Pool[Desk]]:
    """A pool in a life of its own."""

    @asynccontextmanager
    async def life(tasks: Tasks) -> AsyncGenerator[Pool[Desk], None]:
        yield Pool(tasks, serve, workers=workers, waiting=waiting)

    return Supervisor(life, "pool")


async def test_no_more_run_than_there_are_workers() -> None:
    """The others wait, and all run in the end."""
    most, running, ran = 0, 0, 0

    async def serve(desk: Desk, call: IncomingCall) -> None:
        nonlocal most, running, ran
        running += 1
        most = max(most, running)
        await anyio.sleep(0.001)
        running -= 1
        ran += 1
        call.ended = True

    desk = Desk()
    async with pool_of(serve, workers=3) as pool:
        for number in range(20):
            pool.submit(desk, a_call(number))
        await pool.wait_idle()
        assert (most, ran, pool.workers) == (3, 20, 3)
        assert pool.waiting == pool.running == 0


async def test_a_burst_of_short_calls_needs_few_tasks() -> None:
    """A leader drains the queue; who followed finds nothing and waits."""

    async def serve(desk: Desk, call: IncomingCall) -> None:
        call.ended = True

    async with pool_of(serve, workers=64, waiting=1000) as pool:
        for _ in range(10):
            for number in range(500):
                pool.submit(Desk(), a_call(number))
            await pool.wait_idle()
        assert pool.workers <= 18


async def test_one_too_many_is_refused() -> None:
    """By name, with the limits, before any has begun."""

    async def serve(desk: Desk, call: IncomingCall) -> None:
        await anyio.sleep_forever()

    desk = Desk()
    async with pool_of(serve, workers=2, waiting=1) as pool:
        for number in range(4):
            pool.submit(desk, a_call(number))
        assert [code for code, _ in desk.refusals] == [RefusalCode.OVERLOADED]
        assert desk.refusals[0][1] == (
            "as many calls run and wait here as may: the limits are workers=2 and "
            "waiting=1"
        )


async def test_a_call_that_lingers_gives_its_place_away() -> None:
    """Others run as if it were not there; the pool is idle when it has ended."""
    lingers, go_on = anyio.Event(), anyio.Event()
    made: list[Pool[Desk]] = []

    async def serve(desk: Desk, call: IncomingCall) -> None:
        if call.number == 0:
            with made[0].linger(call):
                lingers.set()
                await go_on.wait()
        call.ended = True

    desk = Desk()
    async with pool_of(serve, workers=1, waiting=1) as pool:
        made.append(pool)
        pool.submit(desk, a_call(0))
        await lingers.wait()
        others = [a_call(number) for number in (1, 2)]
        for call in others:
            pool.submit(desk, call)
        await anyio.wait_all_tasks_blocked()
        assert [call.ended for call in others] == [True, True]
        assert (pool.running, pool.lingering, desk.refusals) == (0, ["f"], [])
        idle = anyio.Event()

        async def wait_idle() -> None:
            await pool.wait_idle()
            idle.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait_idle)
            await anyio.wait_all_tasks_blocked()
            assert not idle.is_set()
            go_on.set()
        assert (pool.running, pool.lingering) == (0, [])


async def test_a_cancel_stops_the_handler_and_no_other() -> None:
    """Its worker goes on with the next call."""
    ended: list[str] = []

    async def serve(desk: Desk, call: IncomingCall) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(f"{call.number}")

    desk = Desk()
    async with pool_of(serve, workers=1) as pool:
        calls = [a_call(number) for number in range(3)]
        for call in calls:
            pool.submit(desk, call)
        await anyio.wait_all_tasks_blocked()
        calls[1].cancel("cancelled")  # it waits
        calls[0].cancel("cancelled")
        await anyio.wait_all_tasks_blocked()
        assert ended == ["0"]
        assert desk.stopped == [
            (1, False, "it was never started"),
            (0, True, "it was stopped"),
        ]
        calls[2].cancel("timed out")
        await pool.wait_idle()
        assert pool.workers == 1
        assert ended == ["0", "2"]


async def test_a_handler_that_raises_harms_no_other() -> None:
    """It is logged, the call is answered, the worker lives."""

    async def serve(desk: Desk, call: IncomingCall) -> None:
        if call.number == 0:
            raise LookupError("a bug in serving")
        call.ended = True

    desk = Desk()
    async with pool_of(serve, workers=1) as pool:
        pool.submit(desk, a_call(0))
        pool.submit(desk, a_call(1))
        await pool.wait_idle()
        assert desk.stopped == [(0, True, "serving it failed: LookupError")]


async def test_each_call_has_its_own_context_variables() -> None:
    """What one sets no other sees, and tasks it starts do."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    seen: list[Any] = []

    async def look() -> None:
        seen.append(variable.get(None))

    async def serve(desk: Desk, call: IncomingCall) -> None:
        await look()
        variable.set(f"of {call.number}")
        await anyio.lowlevel.checkpoint()
        async with anyio.create_task_group() as group:
            group.start_soon(look)
        call.ended = True

    async with pool_of(serve, workers=1) as pool:
        pool.submit(Desk(), a_call(1))
        pool.submit(Desk(), a_call(2))
        await pool.wait_idle()
    assert seen == [None, "of 1", None, "of 2"]


async def test_what_was_served_is_told_to_who_asks() -> None:
    """With the time it waited and the time it took."""

    async def serve(desk: Desk, call: IncomingCall) -> None:
        await anyio.sleep(0.01)
        call.ended = True

    told: list[observe.Happening] = []
    undo = observe.observe(told.append)
    try:
        async with pool_of(serve, workers=1) as pool:
            pool.submit(Desk("here"), a_call(1))
            await pool.wait_idle()
    finally:
        undo()
    (served,) = told
    assert isinstance(served, observe.CallServed)
    assert (served.local, served.peer, served.name) == ("here", "caller", "f")
    assert served.took >= 0.009
    assert served.cancelled is None
