"""`run`: a program's main, on the fastest loop there is, ended in order by signals.

Owns the signal handlers of a program; nothing else in the library installs any but the
command line. It must not know what the program does.
"""

from __future__ import annotations

import importlib.util
import signal
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import anyio.abc
from typing_extensions import TypeVarTuple, Unpack

__all__ = ["run"]

R = TypeVar("R")
A = TypeVarTuple("A")


def run(main: Callable[[Unpack[A]], Awaitable[R]], *args: *A) -> R:
    """Run an async main to its end, on uvloop where it is installed.

    SIGINT and SIGTERM cancel `main`, which may clean up; the same signal again ends the
    process at once.

    Returns:
        What `main` returned.

    Raises:
        KeyboardInterrupt: SIGINT came.
        SystemExit: SIGTERM came; the status is 143, as a shell shows it.
    """
    fast = importlib.util.find_spec("uvloop") is not None
    options = {"use_uvloop": fast}
    return anyio.run(_guarded, main, args, backend="asyncio", backend_options=options)


async def _guarded(main: Callable[[Unpack[A]], Awaitable[R]], args: tuple[*A]) -> R:
    if threading.current_thread() is not threading.main_thread():
        return await main(*args)  # only the main thread may handle signals
    came: list[signal.Signals] = []
    result: list[R] = []
    try:
        async with anyio.create_task_group() as group:
            await group.start(_watch, group.cancel_scope, came)
            result.append(await main(*args))
            group.cancel_scope.cancel()
    except BaseExceptionGroup as errors:
        if len(errors.exceptions) == 1:
            raise errors.exceptions[0] from None
        raise
    if result:
        return result[0]
    if came and came[0] == signal.SIGTERM:
        raise SystemExit(128 + signal.SIGTERM)
    raise KeyboardInterrupt


async def _watch(
    scope: anyio.CancelScope,
    came: list[signal.Signals],
    *,
    task_status: anyio.abc.TaskStatus[None],
) -> None:
    """Cancel on the first signal, then give its handler back to the system."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            came.append(number)
            break
    scope.cancel()
