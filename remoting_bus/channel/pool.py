"""The tasks that run calls: a leader takes the next one, a follower takes its place.

`start_soon` per call costs four times what the whole layer may (speed.md, 1). So one
woken worker drains the queue; before it starts a call while more wait it wakes, or
starts, one other. A call that waits for something holds nobody up, each runs in a real
task, and the number of tasks is the limit. Each call has its own view of context
variables. It must not know what a call does.
"""

from __future__ import annotations

import contextvars
import logging
import types
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar

import anyio

from remoting_bus import observe
from remoting_bus._loop import Signal, Tasks, clock
from remoting_bus.protocol.calls import IncomingCall, RefusalCode

__all__ = ["Answers", "Pool"]

_TURN = 32
"""Calls that a worker runs before it lets others run, where none of them waited."""

_KEPT = 8
"""Idle workers kept; further ones end. A burst does not pin its memory for ever."""

_logger = logging.getLogger("remoting_bus")


class _Named(Protocol):
    @property
    def name(self) -> str: ...


class Answers(Protocol):
    """Where a call came from, and what the pool itself answers there."""

    @property
    def node(self) -> _Named:
        """The node that serves it."""

    @property
    def peer(self) -> str:
        """Who called."""

    def refused(self, call: IncomingCall, code: RefusalCode, message: str) -> None:
        """Answer that it did not run."""

    def cancelled_done(
        self, call: IncomingCall, *, ran: bool, message: str = ""
    ) -> None:
        """Answer that it was stopped."""


L = TypeVar("L", bound=Answers)

_Item = tuple[L, IncomingCall, float]
"""A call, where it came from, and when, where somebody wants to know."""


class Pool(Generic[L]):
    """Runs calls, so many at once, and keeps so many waiting.

    Args:
        tasks: Who owns the workers.
        serve: Runs one call and answers it. When the call is cancelled, so is the
            scope round this. What it leaves unanswered is answered "stopped".
        workers: Calls in execution at once.
        waiting: Calls that wait for a worker; past it they are refused as overloaded.
    """

    def __init__(
        self,
        tasks: Tasks,
        serve: Callable[[L, IncomingCall], Awaitable[None]],
        *,
        workers: int,
        waiting: int,
    ) -> None:
        self._tasks = tasks
        self._serve = serve
        self._limit = workers
        self._waiting = waiting
        self._queue: deque[_Item[L]] = deque()  # `waiting` bounds it
        self._idle: list[Signal] = []
        self._coming = False  # a worker was woken and has not looked yet
        self._context = contextvars.copy_context()
        self._at_rest: anyio.Event | None = None
        self.workers = 0
        self.running = 0
        self.lingering: list[str] = []  # as many as there are threads

    @property
    def waiting(self) -> int:
        """Calls that wait for a worker."""
        return len(self._queue)

    async def wait_idle(self) -> None:
        """Wait until no call runs, waits, or lingers."""
        while not self._rests:
            if self._at_rest is None:
                self._at_rest = anyio.Event()
            await self._at_rest.wait()

    @property
    def _rests(self) -> bool:
        return not (self.running or self._queue or self.lingering)

    @contextmanager
    def linger(self, call: IncomingCall) -> Iterator[None]:
        """Give the place of a call away that was cancelled and does not end.

        Its worker stays with it. Whoever uses this bounds how many do.
        """
        self.running -= 1
        self.lingering.append(call.name)
        if self._queue:
            self._call_worker()
        try:
            yield
        finally:
            self.lingering.remove(call.name)
            self.running += 1

    def submit(self, link: L, call: IncomingCall) -> None:
        """Run `call` as soon as a worker is free, or refuse it."""
        # Those that will run are in the queue, too, until their workers have looked.
        if self.running + len(self._queue) >= self._limit + self._waiting:
            link.refused(
                call,
                RefusalCode.OVERLOADED,
                f"as many calls run and wait here as may: the limits are "
                f"workers={self._limit} and waiting={self._waiting}",
            )
            return
        item = (link, call, clock() if observe.observed() else 0.0)
        call.on_cancel = lambda: self._withdraw(item)
        self._queue.append(item)
        self._call_worker()

    def _withdraw(self, item: _Item[L]) -> None:
        """It was cancelled while it waited."""
        link, call, _ = item
        try:
            self._queue.remove(item)
        except ValueError:
            return
        link.cancelled_done(call, ran=False, message="it was never started")

    def _call_worker(self) -> None:
        if self._coming:
            return
        if self._idle:
            self._coming = True
            self._idle.pop().set()
        elif self.workers - len(self.lingering) < self._limit:
            self._coming = True
            self.workers += 1
            self._tasks.start_soon(self._work, name="call worker")

    async def _work(self) -> None:
        signal = self._tasks.loop.signal()
        try:
            while True:
                # One scope until a call is cancelled: to make and enter one a call
                # costs 8 µs.
                with anyio.CancelScope() as scope:
                    while await self._drain(scope):
                        if len(self._idle) >= _KEPT:
                            return
                        self._idle.append(signal)
                        await signal.wait()
        finally:
            self.workers -= 1

    async def _drain(self, scope: anyio.CancelScope) -> bool:
        """Run calls until none waits; False if one was cancelled: `scope` is spent."""
        queue = self._queue
        ran = 0
        self._coming = False
        while queue:
            item = queue.popleft()
            if queue:
                self._call_worker()
            await self._run(scope, item)
            if scope.cancel_called:
                return False
            ran += 1
            if ran % _TURN == 0:
                await self._tasks.loop.turn()
        return True

    async def _run(self, scope: anyio.CancelScope, item: _Item[L]) -> None:
        link, call, came = item
        began = clock() if came else 0.0
        call.started = True
        call.on_cancel = scope.cancel
        self.running += 1
        try:
            await _with_context(self._context.copy(), self._serve(link, call))
        except Exception as error:
            _logger.exception("serving the call of %r failed", call.name)
            link.cancelled_done(
                call, ran=True, message=f"serving it failed: {type(error).__name__}"
            )
        finally:
            self.running -= 1
            if self._at_rest is not None and self._rests:
                self._at_rest.set()
                self._at_rest = None
            call.on_cancel = None
            if not call.ended:
                link.cancelled_done(call, ran=True, message="it was stopped")
            if came:
                served = clock() - began
                observe.tell(
                    observe.CallServed(
                        link.node.name,
                        link.peer,
                        call.name,
                        began - came,
                        served,
                        call.cancelled,
                    )
                )


def _with_context(
    context: contextvars.Context, what: Awaitable[None]
) -> Awaitable[None]:
    if type(what) is types.CoroutineType:  # to ask for the abstract type costs 2 µs
        return _steps(context, what)
    return what


@types.coroutine
def _steps(
    context: contextvars.Context, coroutine: Coroutine[Any, Any, None]
) -> Generator[Any, Any, None]:
    """Run each step of a coroutine in `context`, inside the present task."""
    step: Callable[..., Any] = coroutine.send
    argument: Any = None
    while True:
        try:
            waits_for = context.run(step, argument)
        except StopIteration:
            return
        try:
            argument = yield waits_for
            step = coroutine.send
        except BaseException as error:  # noqa: BLE001 - thrown in where it belongs
            step, argument = coroutine.throw, error
