"""Owners of tasks: who enters one need not be the task that leaves it.

A *life* is an async context manager and a task group, entered and left in one task of
their own. `Supervisor` runs that task on this loop, `IoThread` on a loop in a thread of
its own, `Errand` on a loop that runs elsewhere. All three are entered and left from any
task of the loop that made them. They must not know what lives.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Generic, TypeVar

import anyio
import anyio.abc
import anyio.lowlevel
from typing_extensions import TypeVarTuple, Unpack

from remoting_bus.errors import ChannelBroken

from .loops import Loop, Signal, current_loop

__all__ = ["CLOSE_PATIENCE", "Errand", "IoThread", "Supervisor", "Tasks"]

CLOSE_PATIENCE = 5.0
"""Seconds that leaving waits where it was cancelled, or where a thread must end: a
driver's own limit for closing a connection."""

_LOOK = 1.0
"""Seconds between looks whether the loop that made a thread still lives."""

_logger = logging.getLogger("remoting_bus")

T = TypeVar("T")
A = TypeVarTuple("A")


class Tasks:
    """The tasks of one life, and how it ends. Used on the life's own loop only.

    Attributes:
        loop: Where it lives.
        group: Its task group.
        error: What ended it, if not its owner.
        on_crash: Called, at once, with what a task raised; before anything unwinds.
    """

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.group: anyio.abc.TaskGroup | None = None
        self.error: BaseException | None = None
        self.on_crash: Callable[[BaseException], None] | None = None
        self._stop: Signal = loop.signal()
        self._cancelled = False

    def start_soon(
        self,
        function: Callable[[Unpack[A]], Awaitable[Any]],
        *args: *A,
        name: str | None = None,
    ) -> None:
        """Start a task that is cancelled when the life ends.

        What it raises ends the life: see `on_crash`.
        """
        group = self.group
        assert group is not None, "the life has not begun"
        # Also from a callback, as deliveries are where a driver's client calls back.
        self.loop.as_task(
            lambda: group.start_soon(self._guard, function, args, name=name)
        )

    async def _guard(
        self, function: Callable[..., Awaitable[Any]], args: tuple[Any, ...]
    ) -> None:
        try:
            await function(*args)
        except Exception as error:  # noqa: BLE001 - the supervisor
            self.crash(error)

    def crash(self, error: BaseException) -> None:
        """End the life because of a bug, or of what cannot be repaired."""
        if self.error is None:
            self.error = error
            if self.on_crash is not None:
                self.on_crash(error)
        self.cancel()

    def stop(self) -> None:
        """Let the life end in good order."""
        self._stop.set()

    def cancel(self) -> None:
        """End the life now."""
        self._cancelled = True
        if self.group is not None:
            self.group.cancel_scope.cancel()

    async def run(
        self,
        life: Callable[[Tasks], AbstractAsyncContextManager[T]],
        entered: Callable[[T], None],
    ) -> None:
        """Live: enter, wait until stopped, leave. Never raises but to end the loop."""
        try:
            async with anyio.create_task_group() as group:
                self.group = group
                if self._cancelled:
                    group.cancel_scope.cancel()
                async with life(self) as value:
                    entered(value)
                    await self._stop.wait()
                group.cancel_scope.cancel()
        except BaseException as error:
            if self.error is None:
                self.error = self._why(_single(error))
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise

    def _why(self, error: BaseException) -> BaseException | None:
        """Return what ended it; None where its owner had it cancelled."""
        if not isinstance(error, anyio.get_cancelled_exc_class()):
            return error
        if self._cancelled:
            return None
        return ChannelBroken("the loop or thread that it lived on has ended")


def _single(error: BaseException) -> BaseException:
    """Return the one exception of a group of one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


class _Owner(ABC, Generic[T]):
    """What the three have in common, on the side of the loop that made them."""

    def __init__(
        self,
        life: Callable[[Tasks], AbstractAsyncContextManager[T]],
        name: str,
        on_end: Callable[[BaseException | None], None] | None,
    ) -> None:
        self.name = name
        self.home = current_loop()
        self.error: BaseException | None = None
        self._life = life
        self._on_end = on_end
        self._value: list[T] = []
        self._entered = anyio.Event()
        self._ended = anyio.Event()

    async def __aenter__(self) -> T:
        """Begin.

        Raises:
            Whatever the life raised while it was entered.

        Cancelling ends it again, within `CLOSE_PATIENCE`.
        """
        self._launch()
        try:
            await self._entered.wait()
        except BaseException:
            await self._give_up()
            raise
        if self._value:
            return self._value[0]
        await self._last_rites()
        raise self.error or ChannelBroken(f"{self.name} ended before it began")

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End, and raise what ended it before, unless something is raised already."""
        self._request_stop()
        try:
            await self._ended.wait()
        except BaseException:
            await self._give_up()
            raise
        await self._last_rites()
        if self.error is None or exc is not None:
            return
        if isinstance(self.error, ChannelBroken):
            raise self.error
        raise ChannelBroken(f"{self.name} broke: {self.error}") from self.error

    async def _give_up(self) -> None:
        self._request_cancel()
        with anyio.move_on_after(CLOSE_PATIENCE, shield=True):
            await self._ended.wait()
            await self._last_rites()

    def _was_entered(self, value: T) -> None:
        self._value.append(value)
        self._entered.set()

    def _has_ended(self, error: BaseException | None) -> None:
        if self._ended.is_set():
            return
        self.error = error
        self._ended.set()
        self._entered.set()
        if self._on_end is not None:
            self._on_end(error)

    @abstractmethod
    def _launch(self) -> None: ...

    @abstractmethod
    def _request_stop(self) -> None: ...

    @abstractmethod
    def _request_cancel(self) -> None: ...

    async def _last_rites(self) -> None:
        """What is still to be done once it has ended."""


class Supervisor(_Owner[T]):
    """A life in a task of its own on this loop.

    Args:
        life: Makes what is entered and left in that task; may start more on `Tasks`.
        name: For error messages and the task.
        on_end: Called on this loop when it ended, with what ended it.
    """

    def __init__(
        self,
        life: Callable[[Tasks], AbstractAsyncContextManager[T]],
        name: str,
        on_end: Callable[[BaseException | None], None] | None = None,
    ) -> None:
        super().__init__(life, name, on_end)
        self._tasks = Tasks(self.home)
        self._task: object = None

    def _launch(self) -> None:
        self._task = self.home.spawn(self._main, self.name)

    async def _main(self) -> None:
        try:
            await self._tasks.run(self._life, self._was_entered)
        finally:
            self._has_ended(self._tasks.error)

    def _request_stop(self) -> None:
        self._tasks.stop()

    def _request_cancel(self) -> None:
        self._tasks.cancel()


class IoThread(_Owner[T]):
    """A life on a loop of its own, in a daemon thread. Of asyncio's loops only.

    Its last act tells the loop that made it, however it ends; and it ends by itself,
    within about a second, once that loop is closed. An exit of the process never waits
    for it. It runs uvloop where the maker's loop does.

    Attributes:
        tasks: Of the life; None until entered.
    """

    def __init__(
        self,
        life: Callable[[Tasks], AbstractAsyncContextManager[T]],
        name: str,
        on_end: Callable[[BaseException | None], None] | None = None,
    ) -> None:
        super().__init__(life, name, on_end)
        assert self.home.kind == "asyncio", "an I/O thread beside trio"
        self.tasks: Tasks | None = None
        self._wanted = True
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def post(self, callback: Callable[[], None]) -> bool:
        """Run `callback` on the thread's loop; False if it has ended."""
        return self.tasks is not None and self.tasks.loop.post(callback)

    def _launch(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            options: dict[str, Any] = {"use_uvloop": self.home.fast}
            anyio.run(self._main, backend="asyncio", backend_options=options)
        except BaseException as raised:  # noqa: BLE001 - told to the maker's loop
            error = raised
        finally:
            if self.tasks is not None and self.tasks.error is not None:
                error = self.tasks.error
            self.home.post(lambda: self._has_ended(error))

    async def _main(self) -> None:
        tasks = self.tasks = Tasks(current_loop())
        if not self._wanted:
            tasks.cancel()
        watch = tasks.loop.call_later(_LOOK, lambda: self._look(tasks))
        try:
            await tasks.run(self._life, self._tell_entered)
        finally:
            watch.cancel()

    def _look(self, tasks: Tasks) -> None:
        if self.home.closed:
            _logger.warning("%s ends: the loop that opened it was closed", self.name)
            tasks.cancel()
        else:
            tasks.loop.call_later(_LOOK, lambda: self._look(tasks))

    def _tell_entered(self, value: T) -> None:
        self.home.post(lambda: self._was_entered(value))

    def _request_stop(self) -> None:
        tasks = self.tasks
        if tasks is not None:
            tasks.loop.post(tasks.stop)

    def _request_cancel(self) -> None:
        self._wanted = False
        tasks = self.tasks
        if tasks is not None:
            tasks.loop.post(tasks.cancel)

    async def _last_rites(self) -> None:
        # It has said its last word; what is left of it takes microseconds, and `join`
        # would block the loop for them.
        with anyio.move_on_after(CLOSE_PATIENCE):
            while self._thread.is_alive():
                await anyio.lowlevel.checkpoint()


class Errand(_Owner[T]):
    """A life on the loop of a thread that runs already, beside its other tasks.

    Args:
        where: The thread's tasks; the errand ends with them.
    """

    def __init__(
        self,
        where: Tasks,
        life: Callable[[Tasks], AbstractAsyncContextManager[T]],
        name: str,
        on_end: Callable[[BaseException | None], None] | None = None,
    ) -> None:
        super().__init__(life, name, on_end)
        self._where = where
        self._tasks: Tasks | None = None
        self._wanted = True

    def _launch(self) -> None:
        if not self._where.loop.post(self._begin):
            self._has_ended(ChannelBroken("the I/O thread has ended"))

    def _begin(self) -> None:
        group = self._where.group
        if group is None or self._where.error is not None:
            self._report(self._where.error)
            return
        self._tasks = Tasks(self._where.loop)
        if not self._wanted:
            self._tasks.cancel()
        try:
            group.start_soon(self._main, self._tasks, name=self.name)
        except RuntimeError as error:  # the group is not active any more
            self._report(error)

    async def _main(self, tasks: Tasks) -> None:
        try:
            await tasks.run(self._life, self._tell_entered)
        finally:
            self._report(tasks.error)

    def _report(self, error: BaseException | None) -> None:
        self.home.post(lambda: self._has_ended(error))

    def _tell_entered(self, value: T) -> None:
        self.home.post(lambda: self._was_entered(value))

    def _request_stop(self) -> None:
        self._where.loop.post(lambda: self._tasks.stop() if self._tasks else None)

    def _request_cancel(self) -> None:
        self._wanted = False
        self._where.loop.post(lambda: self._tasks.cancel() if self._tasks else None)
