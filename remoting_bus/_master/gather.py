"""One function on many agents: `Master.using(…).gather(…)`.

Owns the options of many calls and their types; the work is `_remote.gather`'s. It must
not know the master.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, ParamSpec, TypeVar, overload

from remoting_bus._remote.caller import Options
from remoting_bus._remote.gather import gather
from remoting_bus._remote.outcome import Outcome
from remoting_bus.names import Priority, check_count, check_timeout

from .remote_agent import RemoteAgent

__all__ = ["Many"]

P = ParamSpec("P")
R = TypeVar("R")

Results = AbstractAsyncContextManager[AsyncIterator[tuple[RemoteAgent, Outcome[R]]]]


class Many:
    """Calls to many agents with options of their own; made by `Master.using`."""

    __slots__ = ("_limit", "_options")

    def __init__(
        self,
        *,
        limit: int | None = None,
        timeout: float | None = None,
        priority: Priority | None = None,
        key: str | None = None,
    ) -> None:
        if limit is not None:
            check_count(limit, "limit", least=1)
        self._limit = limit
        chosen = Priority.NORMAL if priority is None else Priority(priority)
        self._options = Options(check_timeout(timeout), chosen, key)

    @overload
    def gather(
        self,
        agents: Iterable[RemoteAgent],
        function: Callable[P, Awaitable[R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Results[R]: ...
    @overload
    def gather(
        self,
        agents: Iterable[RemoteAgent],
        function: Callable[P, R],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Results[R]: ...
    @overload
    def gather(
        self,
        agents: Iterable[RemoteAgent],
        function: str,
        /,
        *args: Any,
        **kwargs: Any,
    ) -> Results[Any]: ...
    def gather(
        self,
        agents: Iterable[RemoteAgent],
        function: Any,
        /,
        *args: Any,
        **kwargs: Any,
    ) -> Results[Any]:
        """Call a function on each of `agents`; iterate over their outcomes as they come.

        One agent's failure is its outcome, and never raised. A slow reader holds further
        calls up; leaving the block cancels those that still run.

        Args:
            agents: Whom to call; the iterable is read as calls are started.
            function: A function or the name of one, as for `RemoteAgent.call`.
            args: Its arguments, the same for all.
            kwargs: Its arguments by name.
        """
        return gather(
            agents,
            function,
            args,
            kwargs,
            limit=self._limit,
            options=self._options,
        )
