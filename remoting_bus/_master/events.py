"""What happens to agents, as data, and whoever reads of it.

Owns the events and the readers' queues. A queue holds one event for each agent, the
latest: that bounds it, and a slow reader misses steps but never where an agent stands.
It must not know what makes an event happen; `roster` does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from .remote_agent import RemoteAgent

__all__ = [
    "AgentEvent",
    "AgentJoined",
    "AgentLeft",
    "AgentLost",
    "AgentResumed",
    "AgentSuspended",
    "Watcher",
]


@dataclass(frozen=True, slots=True)
class AgentJoined:
    """An agent has made this master its home; also each that had before the watch began."""

    agent: RemoteAgent


@dataclass(frozen=True, slots=True)
class AgentSuspended:
    """An agent is silent, or the bus is away. Its calls wait; nothing is lost yet.

    Attributes:
        reason: Which of the two, in words for an operator.
    """

    agent: RemoteAgent
    reason: str


@dataclass(frozen=True, slots=True)
class AgentResumed:
    """A suspended agent is back, in the same session: its calls go on."""

    agent: RemoteAgent


@dataclass(frozen=True, slots=True)
class AgentLost:
    """An agent did not come back within the grace, or came back as a new process.

    Attributes:
        reason: Which of the two, in words for an operator.
    """

    agent: RemoteAgent
    reason: str


@dataclass(frozen=True, slots=True)
class AgentLeft:
    """An agent said goodbye: it was stopped in good order.

    Attributes:
        reason: What it said.
    """

    agent: RemoteAgent
    reason: str


AgentEvent = AgentJoined | AgentSuspended | AgentResumed | AgentLost | AgentLeft


class Watcher(AsyncIterator[AgentEvent]):
    """One reader of events: at most one waits for each agent.

    A cancelled `__anext__` takes nothing. The iteration ends when the master is left.
    """

    def __init__(self, known: Iterable[AgentEvent]) -> None:
        self._events: dict[str, AgentEvent] = {e.agent.name: e for e in known}
        self._news: anyio.Event | None = None
        self._closed = False

    def put(self, event: AgentEvent) -> None:
        """Keep an event in place of an older one of the same agent."""
        # The newest goes to the end: what is read is in the order of what happened.
        self._events.pop(event.agent.name, None)
        self._events[event.agent.name] = event
        self._wake()

    def close(self) -> None:
        """End the iteration, after what waits was read."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = None

    async def __anext__(self) -> AgentEvent:
        while not self._events:
            if self._closed:
                raise StopAsyncIteration
            if self._news is None:
                self._news = anyio.Event()
            await self._news.wait()
        return self._events.pop(next(iter(self._events)))
