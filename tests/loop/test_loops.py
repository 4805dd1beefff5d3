"""Waiters, turns and timers, the same on both libraries."""

from __future__ import annotations

import threading

import anyio
import pytest

from remoting_bus._loop import clock, current_loop

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "uvloop", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Each loop that the library runs on."""
    if request.param == "trio":
        return "trio", {}
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


async def test_a_signal_set_before_is_not_lost() -> None:
    """The level stays until somebody waits, and goes down with it."""
    signal = current_loop().signal()
    signal.set()
    signal.set()
    await signal.wait()
    with anyio.move_on_after(0.01) as scope:
        await signal.wait()
    assert scope.cancelled_caught


async def test_a_cancelled_wait_leaves_the_level() -> None:
    """Set and cancelled at once: the next one returns, or this one did."""
    signal = current_loop().signal()
    returned = []

    async def wait(scope: anyio.CancelScope) -> None:
        with scope:
            await signal.wait()
            returned.append(True)

    async with anyio.create_task_group() as group:
        scope = anyio.CancelScope()
        group.start_soon(wait, scope)
        await anyio.wait_all_tasks_blocked()
        assert signal.waiting
        scope.cancel()
        signal.set()
    assert not signal.waiting
    if not returned:
        with anyio.fail_after(1):
            await signal.wait()


async def test_a_signal_wakes_from_a_callback() -> None:
    """Set in a later turn, by a timer, and from a thread."""
    loop = current_loop()
    signal = loop.signal()
    with anyio.fail_after(5):
        loop.call_soon(signal.set)
        await signal.wait()
        loop.call_later(0.01, signal.set)
        await signal.wait()
        threading.Thread(target=loop.post, args=(signal.set,)).start()
        await signal.wait()


async def test_timers_come_in_order_and_can_be_cancelled() -> None:
    """The soonest first, whenever it was set."""
    loop = current_loop()
    seen: list[str] = []
    done = loop.signal()
    loop.call_later(0.05, done.set)
    loop.call_later(0.03, lambda: seen.append("second"))
    loop.call_later(0.01, lambda: seen.append("first"))
    loop.call_later(0.02, lambda: seen.append("never")).cancel()
    with anyio.fail_after(5):
        await done.wait()
    assert seen == ["first", "second"]


async def test_a_turn_lets_others_run() -> None:
    """And is where a cancel is seen."""
    loop = current_loop()
    seen: list[int] = []
    loop.call_soon(lambda: seen.append(1))
    while not seen:
        await loop.turn()
    with anyio.CancelScope() as scope:
        scope.cancel()
        while True:
            await loop.turn()
    assert scope.cancelled_caught


async def test_the_loop_knows_itself() -> None:
    """The same handle each time; another thread has none."""
    loop = current_loop()
    assert current_loop() is loop
    assert loop.here
    assert not loop.closed
    seen: list[object] = []

    def elsewhere() -> None:
        seen.append(loop.here)
        try:
            current_loop()
        except RuntimeError as error:
            seen.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    while thread.is_alive():
        await loop.turn()
    assert seen[0] is False
    assert isinstance(seen[1], RuntimeError)


def test_a_closed_loop_says_so(anyio_backend: tuple[str, dict[str, bool]]) -> None:
    """Posting to it returns False instead of raising."""
    backend, options = anyio_backend

    async def main() -> object:
        return current_loop()

    loop = anyio.run(main, backend=backend, backend_options=options)
    assert loop.closed  # type: ignore[attr-defined]
    assert not loop.post(lambda: None)  # type: ignore[attr-defined]


def test_the_clock_goes_forward() -> None:
    """One clock for all."""
    first = clock()
    assert clock() >= first
