"""Lives: entered in one task and left in another, on this loop and on others."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from remoting_bus._loop import Errand, IoThread, Supervisor, Tasks, current_loop
from remoting_bus.errors import ChannelBroken

pytestmark = pytest.mark.anyio

on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@asynccontextmanager
async def plain(tasks: Tasks) -> AsyncGenerator[Tasks, None]:
    """A life that does nothing."""
    yield tasks


@asynccontextmanager
async def failing(tasks: Tasks) -> AsyncGenerator[None, None]:
    """A life that cannot be entered."""
    await anyio.lowlevel.checkpoint()
    raise LookupError("not to be entered")
    yield


async def test_it_is_left_by_another_task() -> None:
    """A cancel scope of whoever entered does not reach what lives."""
    ended: list[BaseException | None] = []
    owner = Supervisor(plain, "it", ended.append)
    got: list[Tasks] = []

    async def enter() -> None:
        with anyio.CancelScope() as scope:
            got.append(await owner.__aenter__())
            scope.cancel()
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        group.start_soon(enter)
    ran = anyio.Event()

    async def work() -> None:
        ran.set()

    got[0].start_soon(work)
    await ran.wait()
    assert ended == []
    async with anyio.create_task_group() as group:
        group.start_soon(owner.__aexit__, None, None, None)
    assert ended == [None]


async def test_what_entering_raises_is_raised() -> None:
    """Itself, not a group of one."""
    with pytest.raises(LookupError):
        async with Supervisor(failing, "it"):
            pass


async def test_a_crash_is_told_before_anything_unwinds() -> None:
    """Then raised to whoever leaves."""
    told: list[BaseException] = []
    unwound: list[bool] = []

    @asynccontextmanager
    async def life(tasks: Tasks) -> AsyncGenerator[Tasks, None]:
        tasks.on_crash = told.append
        try:
            yield tasks
        finally:
            unwound.append(bool(told))

    async def bug() -> None:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ChannelBroken, match="a bug") as raised:  # noqa: PT012 - it is raised on leaving
        async with Supervisor(life, "it") as tasks:
            tasks.start_soon(bug)
            while not unwound:
                await anyio.lowlevel.checkpoint()
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    assert unwound == [True]


async def test_a_cancelled_enter_leaves_nothing() -> None:
    """What was begun is ended first."""
    left = anyio.Event()

    @asynccontextmanager
    async def slow(tasks: Tasks) -> AsyncGenerator[None, None]:
        try:
            await anyio.sleep_forever()
            yield
        finally:
            left.set()

    with anyio.move_on_after(0.02) as scope:
        async with Supervisor(slow, "it"):
            pass
    assert scope.cancelled_caught
    assert left.is_set()


@on_asyncio
async def test_a_thread_has_a_loop_of_its_own() -> None:
    """It lives there, and is gone when left."""
    async with IoThread(plain, "test I/O") as tasks:
        assert not tasks.loop.here
        seen: list[threading.Thread] = []
        done = current_loop().signal()
        home = current_loop()

        def look() -> None:
            seen.append(threading.current_thread())
            home.post(done.set)

        tasks.loop.post(look)
        await done.wait()
        assert seen[0].name == "test I/O"
        assert seen[0].daemon
    assert not seen[0].is_alive()
    assert tasks.loop.closed


@on_asyncio
async def test_a_thread_that_breaks_tells_the_loop() -> None:
    """Its last act, with the cause; leaving does not wait."""
    told: list[BaseException | None] = []
    heard = anyio.Event()

    def ended(error: BaseException | None) -> None:
        told.append(error)
        heard.set()

    thread = IoThread(plain, "test I/O", ended)
    with pytest.raises(ChannelBroken, match="test I/O broke: a bug"):  # noqa: PT012 - it is raised on leaving
        async with thread as tasks:
            tasks.loop.post(lambda: tasks.crash(ZeroDivisionError("a bug")))
            with anyio.fail_after(5):
                await heard.wait()
    assert isinstance(told[0], ZeroDivisionError)


@on_asyncio
async def test_what_a_thread_raises_on_entering_is_raised_here() -> None:
    """As if it had been entered here."""
    with pytest.raises(LookupError):
        async with IoThread(failing, "test I/O"):
            pass


@on_asyncio
async def test_an_errand_runs_over_there() -> None:
    """Entered and left from here; its errors come home."""
    async with IoThread(plain, "test I/O") as tasks:
        async with Errand(tasks, plain, "errand") as theirs:
            assert theirs.loop is tasks.loop
        with pytest.raises(LookupError):
            async with Errand(tasks, failing, "errand"):
                pass
        with anyio.move_on_after(0.02) as scope:

            @asynccontextmanager
            async def slow(_: Tasks) -> AsyncGenerator[None, None]:
                await anyio.sleep_forever()
                yield

            async with Errand(tasks, slow, "errand"):
                pass
        assert scope.cancelled_caught
    with pytest.raises(ChannelBroken, match="has ended"):
        async with Errand(tasks, plain, "errand"):
            pass


def test_a_thread_ends_when_its_makers_loop_is_closed() -> None:
    """Nobody leaves it then; it looks once a second."""
    loop = asyncio.new_event_loop()

    async def enter() -> None:
        await IoThread(plain, "orphan I/O").__aenter__()

    loop.run_until_complete(enter())
    loop.close()
    orphans = [t for t in threading.enumerate() if t.name == "orphan I/O"]
    assert orphans
    for orphan in orphans:
        orphan.join(5)
        assert not orphan.is_alive()


@on_asyncio
async def test_tasks_start_from_a_callback_of_a_client() -> None:
    """Where no task runs and nothing in the context says which library this is."""
    async with Supervisor(plain, "it") as tasks:
        ran = anyio.Event()
        failed: list[BaseException] = []

        async def work() -> None:
            ran.set()

        def called_back() -> None:
            try:
                tasks.start_soon(work)
            except BaseException as error:  # noqa: BLE001 - for the assertion below
                failed.append(error)
                ran.set()

        loop = asyncio.get_running_loop()
        loop.call_soon(called_back, context=contextvars.Context())
        await ran.wait()
        assert not failed
