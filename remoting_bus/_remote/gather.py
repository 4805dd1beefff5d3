"""The same call to many peers, so many at a time, each ending as an outcome.

It must not know what the peers are: whoever can be called has `attempt`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from .caller import Caller, Handle, Options
from .naming import unwrap
from .outcome import Outcome
from .targets import target_of

__all__ = ["DEFAULT_LIMIT", "gather"]

DEFAULT_LIMIT = 100
"""Calls under way at once, where nothing is said."""

C = TypeVar("C", bound=Caller)


@asynccontextmanager
async def gather(
    callers: Iterable[C],
    function: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    limit: int | None,
    options: Options,
) -> AsyncGenerator[AsyncIterator[tuple[C, Outcome[Any]]], None]:
    """Call a function at each of `callers`, and iterate over outcomes as they come.

    A slow reader holds further calls up. Leaving cancels those that still run.

    Args:
        callers: Whom to call; consumed as calls are started.
        function: As for `Caller.call`.
        args: Its arguments.
        kwargs: Its arguments by name.
        limit: Calls under way at once.
        options: For each call.

    Raises:
        TypeError: No peer could find the function.
        ValueError: `limit` is below 1.
    """
    most = DEFAULT_LIMIT if limit is None else limit
    if most < 1:
        raise ValueError(f"limit is {most}: at least one call must be under way")
    function, args, kwargs = unwrap(function, args, kwargs)
    target_of(function)  # a mistake of the caller's is no outcome of a peer's
    everyone = list(callers)
    waiting = iter(everyone)
    send, receive = anyio.create_memory_object_stream[tuple[C, Outcome[Any]]](0)

    async def work(results: MemoryObjectSendStream[tuple[C, Outcome[Any]]]) -> None:
        with results:
            for caller in waiting:
                outcome = await Handle(caller, options).attempt(function, args, kwargs)
                await results.send((caller, outcome))

    try:
        async with anyio.create_task_group() as group:
            with send, receive:
                for _ in range(min(most, len(everyone))):
                    group.start_soon(work, send.clone())
                send.close()
                yield receive
                group.cancel_scope.cancel()
    except BaseExceptionGroup as errors:
        if len(errors.exceptions) == 1:
            raise errors.exceptions[0] from None
        raise
