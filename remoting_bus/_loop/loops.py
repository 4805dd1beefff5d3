"""The loop that runs: turns, timers and waiters on asyncio and on trio alike.

Owns what anyio has no cheap form of: a waiter over the loop's own future (a tenth of an
`anyio.Event`), a callback in a later turn, and a timer without a task. All the rest of
the library speaks anyio. It must not know what waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
import itertools
import logging
import math
import sys
import threading
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import trio

__all__ = ["Loop", "Signal", "Timer", "current_loop"]

_logger = logging.getLogger("remoting_bus")


class Timer(Protocol):
    """A callback to come."""

    def cancel(self) -> None:
        """Forget it. Again, or after it came, it does nothing."""


class Signal(ABC):
    """A waiter for one task at a time, level-triggered: "wake, then look".

    `set` may come before, during or after `wait`, any number of times; a `wait` after
    it returns at once and takes the level down. Spurious wakes are allowed, so the
    waiter looks at the state it waits for, before and after. A cancelled `wait` leaves
    the level as it was: nothing is lost by it.
    """

    __slots__ = ("_is_set",)

    def __init__(self) -> None:
        self._is_set = False

    @abstractmethod
    def set(self) -> None:
        """Wake the waiter, now or when it comes. From this loop's thread only."""

    @abstractmethod
    async def wait(self) -> None:
        """Wait until set. Not a checkpoint where that is so already."""

    @property
    @abstractmethod
    def waiting(self) -> bool:
        """A task waits here now."""


class Loop(ABC):
    """A handle on one running event loop.

    Attributes:
        kind: Which library runs it.
        fast: It is uvloop's.
    """

    kind: Literal["asyncio", "trio"]
    fast: bool = False

    @abstractmethod
    def signal(self) -> Signal:
        """Make a waiter of this loop."""

    @abstractmethod
    def as_task(self, callback: Callable[[], object]) -> None:
        """Run `callback` now; anyio knows where it is, as in a task of this loop."""

    @abstractmethod
    def call_soon(self, callback: Callable[[], None]) -> None:
        """Run `callback` in a later turn of this loop; from its own thread only."""

    @abstractmethod
    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` after `delay` seconds; from the loop's own thread only."""

    @abstractmethod
    def post(self, callback: Callable[[], None]) -> bool:
        """Run `callback` on this loop, from any thread.

        Returns:
            False if the loop is closed: it will not run. True does not promise that it
            will, as the loop may end first.
        """

    @abstractmethod
    def spawn(self, main: Callable[[], Coroutine[Any, Any, None]], name: str) -> object:
        """Start a task that belongs to no scope of the caller's; it must not raise.

        Returns:
            A reference to keep while the task is wanted: the loop itself has none.
        """

    @abstractmethod
    async def turn(self) -> None:
        """Let others run once: a checkpoint."""

    @property
    @abstractmethod
    def closed(self) -> bool:
        """It runs no more; may be asked from any thread."""

    @property
    @abstractmethod
    def here(self) -> bool:
        """It is the one that runs in this thread."""


# -- asyncio --


class _AsyncioSignal(Signal):
    __slots__ = ("_loop", "_waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_set = False
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        self._is_set = True
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def wait(self) -> None:
        if not self._is_set:
            assert self._waiter is None, "a second task waits for the same signal"
            waiter = self._waiter = self._loop.create_future()
            try:
                await waiter
            finally:
                self._waiter = None
        self._is_set = False

    @property
    def waiting(self) -> bool:
        return self._waiter is not None


@types.coroutine
def _bare_yield() -> Generator[None, None, None]:
    yield


class _AsyncioLoop(Loop):
    kind = "asyncio"

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.fast = type(loop).__module__.partition(".")[0] == "uvloop"
        # A callback runs in no task, and where trio is installed, too, that leaves
        # anyio (by way of sniffio) without a word of which library this is.
        self._context = contextvars.copy_context()
        with contextlib.suppress(ImportError):
            import sniffio

            self._context.run(sniffio.current_async_library_cvar.set, "asyncio")

    def signal(self) -> Signal:
        return _AsyncioSignal(self._loop)

    def as_task(self, callback: Callable[[], object]) -> None:
        if asyncio.current_task(self._loop) is None:
            self._context.copy().run(callback)
        else:
            callback()

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._loop.call_soon(callback, context=self._context)

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        return self._loop.call_later(delay, callback, context=self._context)

    def post(self, callback: Callable[[], None]) -> bool:
        try:
            self._loop.call_soon_threadsafe(callback, context=self._context)
        except RuntimeError:
            if self._loop.is_closed():
                return False
            raise
        return True

    def spawn(self, main: Callable[[], Coroutine[Any, Any, None]], name: str) -> object:
        return self._loop.create_task(main(), name=name)

    async def turn(self) -> None:
        await _bare_yield()

    @property
    def closed(self) -> bool:
        return self._loop.is_closed()

    @property
    def here(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False


# -- trio --


class _TrioSignal(Signal):
    __slots__ = ("_lowlevel", "_task")

    def __init__(self) -> None:
        import trio

        self._is_set = False
        self._lowlevel = trio.lowlevel
        self._task: trio.lowlevel.Task | None = None

    def set(self) -> None:
        self._is_set = True
        task, self._task = self._task, None
        if task is not None:
            self._lowlevel.reschedule(task)

    async def wait(self) -> None:
        if not self._is_set:
            assert self._task is None, "a second task waits for the same signal"
            self._task = self._lowlevel.current_task()
            await self._lowlevel.wait_task_rescheduled(self._abort)
        self._is_set = False

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return self._lowlevel.Abort.SUCCEEDED

    @property
    def waiting(self) -> bool:
        return self._task is not None


class _TrioTimer:
    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class _TrioLoop(Loop):
    """Trio has neither callbacks nor bare timers: one system task runs them all."""

    kind = "trio"

    def __init__(self) -> None:
        import trio

        self._trio = trio
        self._token = trio.lowlevel.current_trio_token()
        self._signal = _TrioSignal()
        self._callbacks: list[Callable[[], None]] = []
        self._timers: list[tuple[float, int, _TrioTimer]] = []
        self._tie = itertools.count()
        self._started = False
        self._closed = False

    def signal(self) -> Signal:
        return _TrioSignal()

    def as_task(self, callback: Callable[[], object]) -> None:
        callback()  # there are no callbacks outside tasks

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._start()
        self._callbacks.append(callback)
        self._signal.set()

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        self._start()
        timer = _TrioTimer(callback)
        at = self._trio.current_time() + delay
        heapq.heappush(self._timers, (at, next(self._tie), timer))
        if self._timers[0][2] is timer:
            self._signal.set()
        return timer

    def _start(self) -> None:
        if not self._started:
            self._started = True
            self._trio.lowlevel.spawn_system_task(
                self._serve, name="remoting_bus turns", context=contextvars.Context()
            )

    async def _serve(self) -> None:
        try:
            while True:
                with self._trio.CancelScope(deadline=self._next()):
                    await self._signal.wait()
                self._run_due()
                if self._callbacks:  # made meanwhile: for a later turn, after others
                    await self._trio.lowlevel.checkpoint()
        finally:
            self._closed = True

    def _next(self) -> float:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else math.inf

    def _run_due(self) -> None:
        callbacks, self._callbacks = self._callbacks, []
        now = self._trio.current_time()
        while self._timers and self._timers[0][0] <= now:
            callback = heapq.heappop(self._timers)[2].callback
            if callback is not None:
                callbacks.append(callback)
        for callback in callbacks:
            try:
                callback()
            except Exception:
                _logger.exception("a callback of the loop failed")

    def post(self, callback: Callable[[], None]) -> bool:
        try:
            self._token.run_sync_soon(callback)
        except self._trio.RunFinishedError:
            return False
        return True

    def spawn(self, main: Callable[[], Coroutine[Any, Any, None]], name: str) -> object:
        return self._trio.lowlevel.spawn_system_task(
            main, name=name, context=contextvars.copy_context()
        )

    async def turn(self) -> None:
        await self._trio.lowlevel.checkpoint()

    @property
    def closed(self) -> bool:
        if not self._closed:
            self._closed = not self.post(_nothing)
        return self._closed

    @property
    def here(self) -> bool:
        lowlevel = self._trio.lowlevel
        return lowlevel.in_trio_run() and (lowlevel.current_trio_token() is self._token)


def _nothing() -> None:
    pass


class _Latest(threading.local):
    """The loop that ran last in a thread: nearly always the one that runs."""

    native: object = None
    loop: Loop | None = None


_latest = _Latest()


def current_loop() -> Loop:
    """Return the handle on the loop that runs in this thread.

    Raises:
        RuntimeError: None does.
    """
    # Trio first: as a guest it runs inside a loop of asyncio's.
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        token = trio.lowlevel.current_trio_token()
        if _latest.native is not token:
            _latest.native, _latest.loop = token, _TrioLoop()
    else:
        native = asyncio.get_running_loop()
        if _latest.native is not native:
            _latest.native, _latest.loop = native, _AsyncioLoop(native)
    assert _latest.loop is not None
    return _latest.loop
