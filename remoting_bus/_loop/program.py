"""`run`: a program's main, on the fastest loop there is, ended in order by signals.

Owns the signal handlers of a program; nothing else in the library installs any but the
command line. What a program wants to do before a SIGTERM ends it, it leaves with
`before_termination`. It must not know what that is, nor what the program does.
"""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import threading
from collections.abc import Awaitable, Callable, Generator
from contextvars import ContextVar
from typing import TypeVar

import anyio
import anyio.abc
from typing_extensions import TypeVarTuple, Unpack

from .loops import Loop, current_loop

__all__ = ["before_termination", "run"]

R = TypeVar("R")
A = TypeVarTuple("A")

Drain = Callable[[], Awaitable[bool]]
"""Returns whether `main` is to have time to return, before it is cancelled."""

RETURN_GRACE = 5.0
"""Seconds that `main` has to return by itself, once all was done before termination."""

_CLOSED = getattr(signal, "SIGHUP", None)
"""The terminal was closed: what it started ends as by SIGINT, and cleans up."""

_program: ContextVar[tuple[Loop, list[Drain]] | None] = ContextVar(
    "program", default=None
)
"""What `run` runs here: its loop, and what is to be done before it is terminated."""


def run(main: Callable[[Unpack[A]], Awaitable[R]], *args: *A) -> R:
    """Run an async main to its end, on uvloop where it is installed.

    SIGTERM lets agents drain first: they take no new calls, running ones end or have
    their agent's `patience`, and `main` goes on meanwhile. Then, as by SIGINT, SIGHUP or
    a second SIGTERM at once, `main` is cancelled and may clean up; one more signal ends
    the process at once.

    Returns:
        What `main` returned; so it does after a SIGTERM where all that it waits for is
        an agent that has drained.

    Raises:
        KeyboardInterrupt: SIGINT came.
        SystemExit: SIGTERM or SIGHUP came; the status is 143 or 129, as a shell shows it.
    """
    fast = importlib.util.find_spec("uvloop") is not None
    options = {"use_uvloop": fast}
    return anyio.run(_guarded, main, args, backend="asyncio", backend_options=options)


@contextlib.contextmanager
def before_termination(drain: Drain) -> Generator[None, None, None]:
    """Have `drain` awaited after a SIGTERM, while entered, before `main` is cancelled.

    Where no `run` runs the program its signals are its own, and this does nothing.
    """
    program = _program.get()
    if program is None or not program[0].here:
        yield
        return
    drains = program[1]
    drains.append(drain)
    try:
        yield
    finally:
        drains.remove(drain)


async def _guarded(main: Callable[[Unpack[A]], Awaitable[R]], args: tuple[*A]) -> R:
    if threading.current_thread() is not threading.main_thread():
        return await main(*args)  # only the main thread may handle signals
    came: list[signal.Signals] = []
    result: list[R] = []
    drains: list[Drain] = []
    _program.set((current_loop(), drains))
    try:
        async with anyio.create_task_group() as group:
            await group.start(_watch, group.cancel_scope, drains, came)
            result.append(await main(*args))
            group.cancel_scope.cancel()
    except BaseExceptionGroup as errors:
        if len(errors.exceptions) == 1:
            raise errors.exceptions[0] from None
        raise
    if result:
        return result[0]
    if came and came[-1] != signal.SIGINT:
        raise SystemExit(128 + came[-1])
    raise KeyboardInterrupt


async def _watch(
    scope: anyio.CancelScope,
    drains: list[Drain],
    came: list[signal.Signals],
    *,
    task_status: anyio.abc.TaskStatus[None],
) -> None:
    """Drain or cancel on a signal; at last give the handlers back to the system."""
    wanted = [signal.SIGINT, signal.SIGTERM]
    if _CLOSED is not None and signal.getsignal(_CLOSED) is signal.SIG_DFL:
        wanted.append(_CLOSED)  # whoever ignores it, as nohup does, means to go on
    with anyio.open_signal_receiver(*wanted) as signals:
        task_status.started()
        async with anyio.create_task_group() as group:
            async for number in signals:
                came.append(number)
                if number != signal.SIGTERM or len(came) > 1 or not drains:
                    break
                group.start_soon(_drain, list(drains), scope)
            group.cancel_scope.cancel()
    scope.cancel()


async def _drain(drains: list[Drain], scope: anyio.CancelScope) -> None:
    returns: list[bool] = []

    async def one(drain: Drain) -> None:
        returns.append(await drain())

    async with anyio.create_task_group() as group:
        for each in drains:
            group.start_soon(one, each)
    if any(returns):
        await anyio.sleep(RETURN_GRACE)  # cancelled as soon as `main` has returned
    scope.cancel()
