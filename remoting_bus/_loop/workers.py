"""Worker threads for blocking functions, fed in batches.

`anyio.to_thread.run_sync` costs a quarter of a millisecond a call (speed.md, 8). Here
threads take from one queue, one wake serves all jobs that gathered, and all results
that gathered come back by one wake of the loop. `anyio.from_thread` works inside them.
Threads are daemons: a function that never returns does not keep the process. It must
not know what the functions do.
"""

from __future__ import annotations

import contextvars
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread

from .loops import Signal, current_loop
from .owner import Tasks

__all__ = ["MAX_THREADS", "Job", "WorkerThreads"]

MAX_THREADS = 64
"""As many blocking functions run at once; further ones wait for a thread. As many as
calls are in execution at an agent by default."""

_IDLE = 10.0
"""Seconds after which a thread that had nothing to do ends (anyio's number)."""

R = TypeVar("R")

_local: Any = anyio.from_thread.threadlocals  # type: ignore[attr-defined]
"""Where `anyio.from_thread` looks for the loop of a worker thread, and for its scope. Not
a public name of anyio's: a test says when it has moved."""


class Job(Generic[R]):
    """A function that was handed to the threads.

    Attributes:
        started: A thread took it.
        done: It has ended; `value` or `error` says how.
    """

    __slots__ = (
        "context",
        "done",
        "error",
        "function",
        "scope",
        "signal",
        "started",
        "value",
        "withdrawn",
    )

    def __init__(
        self,
        function: Callable[[], R],
        context: contextvars.Context,
        scope: anyio.CancelScope | None,
        signal: Signal,
    ) -> None:
        self.function = function
        self.context = context
        self.scope = scope
        self.signal = signal
        self.started = False
        self.withdrawn = False
        self.done = False
        self.value: R | None = None
        self.error: BaseException | None = None

    async def wait(self) -> R:
        """Wait for it and return its result, or raise what it raised.

        Cancelling leaves the function running; wait again, or leave it be.
        """
        while not self.done:
            await self.signal.wait()
        if self.error is not None:
            try:
                raise self.error
            finally:
                del self
        return self.value  # type: ignore[return-value]

    def withdraw(self) -> bool:
        """Let it not start; False if it has."""
        self.withdrawn = True
        return not self.started


def _forget_library(context: contextvars.Context) -> None:
    """No loop runs in a thread: what looks for one in the context finds none."""
    sniffio = sys.modules.get("sniffio")
    if sniffio is not None:
        context.run(sniffio.current_async_library_cvar.set, None)


class WorkerThreads:
    """The threads of one loop.

    Args:
        tasks: Of the life that owns them; on trio each thread is borrowed by a task.
        limit: Of threads.

    Attributes:
        threads: How many there are.
        held: How many of them run what nobody waits for any more.
    """

    def __init__(self, tasks: Tasks, limit: int = MAX_THREADS) -> None:
        self._tasks = tasks
        self.limit = limit
        self._loop = current_loop()
        self._token = anyio.lowlevel.current_token()
        self._jobs: deque[Job[Any]] = deque()  # bounded by the calls in execution
        self._ended: deque[Job[Any]] = deque()  # the same
        self._wakes: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._waking = False
        self._telling = False
        self._closed = False
        self.threads = 0
        self.held = 0

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Count a thread as lost while entered: its function was told to end."""
        self.held += 1
        try:
            yield
        finally:
            self.held -= 1

    def submit(
        self,
        function: Callable[[], R],
        *,
        context: contextvars.Context | None = None,
        scope: anyio.CancelScope | None = None,
    ) -> Job[R]:
        """Hand over a function; it runs as soon as a thread is free.

        Args:
            function: Takes no arguments; bind them.
            context: What it runs in; a copy of the present one if None.
            scope: What `anyio.from_thread.check_cancelled` looks at inside.
        """
        if context is None:
            context = contextvars.copy_context()
        _forget_library(context)
        job = Job(function, context, scope, self._loop.signal())
        self._jobs.append(job)
        self._feed()
        return job

    def close(self) -> None:
        """Let the threads end: idle ones now, others after the function they run."""
        self._closed = True
        self._jobs.clear()
        for _ in range(self.threads):
            self._wakes.put(False)

    # -- on the loop, and in the threads --

    def _feed(self) -> None:
        """See to it that one more thread looks at the queue, if one can."""
        with self._lock:
            if self._waking:
                return
            if self._idle:
                self._waking = True
                self._wakes.put(True)
                return
            if self.threads >= self.limit:
                return
            self._waking = True
            self.threads += 1
        if self._loop.kind == "trio":
            self._loop.post(self._lend)
        else:
            threading.Thread(
                target=self._own, name="remoting_bus worker", daemon=True
            ).start()

    def _lend(self) -> None:
        self._tasks.start_soon(self._borrow, name="worker thread")

    async def _borrow(self) -> None:
        """Trio ties `from_thread` to threads that it made: keep one of those."""
        limiter = anyio.CapacityLimiter(1)
        await anyio.to_thread.run_sync(
            self._serve, abandon_on_cancel=True, limiter=limiter
        )

    def _own(self) -> None:
        _local.current_token = self._token
        self._serve()

    def _serve(self) -> None:
        woken = True
        while woken:
            self._waking = False
            while self._jobs:
                try:
                    job = self._jobs.popleft()
                except IndexError:
                    break
                if self._jobs:
                    self._feed()  # whoever follows, if this one takes long
                self._run(job)
                del job
            woken = self._rest()

    def _rest(self) -> bool:
        """Wait for a wake; False: end."""
        with self._lock:
            if self._jobs and not self._closed:
                return True
            self._idle += 1
        woken = self._next_wake(_IDLE)
        with self._lock:
            self._idle -= 1
            if woken is None:  # unless it came just now
                woken = self._next_wake(0)
            goes_on = bool(woken or self._jobs) and not self._closed
            if not goes_on:
                self.threads -= 1
        return goes_on

    def _next_wake(self, timeout: float) -> bool | None:
        try:
            return self._wakes.get(timeout > 0, timeout or None)
        except queue.Empty:
            return None

    def _run(self, job: Job[Any]) -> None:
        job.started = True
        if not job.withdrawn:
            _local.current_cancel_scope = job.scope
            try:
                job.value = job.context.run(job.function)
            except BaseException as error:  # noqa: BLE001 - it is the job's result
                job.error = error
            finally:
                del _local.current_cancel_scope
        self._ended.append(job)
        if not self._telling:
            self._telling = True
            self._loop.post(self._tell)

    def _tell(self) -> None:
        self._telling = False
        ended = self._ended
        while ended:
            job = ended.popleft()
            job.done = True
            job.signal.set()
