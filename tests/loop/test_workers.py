"""Blocking functions in threads of our own."""

from __future__ import annotations

import contextvars
import functools
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest

from remoting_bus._loop import Supervisor, Tasks, WorkerThreads

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def life(tasks: Tasks) -> AsyncGenerator[WorkerThreads, None]:
    """Threads, three at most."""
    threads = WorkerThreads(tasks, limit=3)
    try:
        yield threads
    finally:
        threads.close()


@pytest.fixture
async def threads() -> AsyncGenerator[WorkerThreads, None]:
    """Threads for the test."""
    async with Supervisor(life, "threads") as made:
        yield made


async def test_a_function_runs_in_a_thread(threads: WorkerThreads) -> None:
    """Its result or its error comes back."""
    here = threading.get_ident()
    assert await threads.submit(threading.get_ident).wait() != here

    def fail() -> None:
        raise LookupError("from the thread")

    with pytest.raises(LookupError, match="from the thread"):
        await threads.submit(fail).wait()


async def test_many_run_and_none_is_lost(threads: WorkerThreads) -> None:
    """A burst far over the limit of threads."""
    jobs = [threads.submit(functools.partial(pow, n, 2)) for n in range(1000)]
    assert [await job.wait() for job in jobs] == [n * n for n in range(1000)]
    assert threads.threads <= 3


async def test_a_long_one_holds_nobody_up(threads: WorkerThreads) -> None:
    """Another thread goes on with what waits."""
    release = threading.Event()
    long = threads.submit(release.wait)
    assert await threads.submit(lambda: "past it").wait() == "past it"
    assert not long.done
    release.set()
    assert await long.wait()


async def test_from_thread_works_inside(threads: WorkerThreads) -> None:
    """As in a thread of anyio's own: code that relies on it is a user's."""

    async def double(number: int) -> int:
        await anyio.lowlevel.checkpoint()
        return 2 * number

    def function() -> tuple[int, str]:
        return (
            anyio.from_thread.run(double, 21),
            anyio.from_thread.run_sync(str, "on the loop"),
        )

    assert await threads.submit(function).wait() == (42, "on the loop")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancelled_scope_is_seen_inside(threads: WorkerThreads) -> None:
    """`check_cancelled` raises once the scope that was handed over is cancelled."""
    scope = anyio.CancelScope()
    go_on = threading.Event()

    def function() -> None:
        anyio.from_thread.check_cancelled()
        go_on.wait()
        anyio.from_thread.check_cancelled()

    job = threads.submit(function, scope=scope)
    scope.cancel()
    go_on.set()
    while not job.done:
        await anyio.lowlevel.checkpoint()
    assert job.error is not None


async def test_a_loop_can_be_run_inside(threads: WorkerThreads) -> None:
    """The thread does not look as if a loop ran in it."""

    async def main() -> str:
        return "inner"

    assert await threads.submit(lambda: anyio.run(main)).wait() == "inner"


async def test_context_variables_are_copied(threads: WorkerThreads) -> None:
    """What is set inside is not seen outside."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("outside")

    def function() -> str:
        seen = variable.get()
        variable.set("inside")
        return seen

    assert await threads.submit(function).wait() == "outside"
    assert variable.get() == "outside"


async def test_one_withdrawn_never_starts(threads: WorkerThreads) -> None:
    """Unless it has: then it says so."""
    release = threading.Event()
    ran: list[int] = []
    running = [threads.submit(release.wait) for _ in range(3)]
    late = threads.submit(lambda: ran.append(1))
    while not all(job.started for job in running):
        await anyio.lowlevel.checkpoint()
    assert late.withdraw()
    assert not running[0].withdraw()
    release.set()
    for job in running:
        await job.wait()
    await late.wait()
    assert ran == []


async def test_a_cancelled_wait_leaves_the_job(threads: WorkerThreads) -> None:
    """It can be waited for again."""
    release = threading.Event()
    job = threads.submit(release.wait)
    with anyio.move_on_after(0.01) as scope:
        await job.wait()
    assert scope.cancelled_caught
    release.set()
    assert await job.wait()
