"""What a master knows of its agents: who is here, who was, and what they said.

Owns the table of names, the states of agents (the law below) and the watchers. Sync, on
the master's loop, fed by the node's changes of phase; no task and no timer per agent.

    unknown ──joined──▶ joined ◀──resumed── suspended
                          │  ──suspended──▶    │
                          ▼                    ▼
                     left (goodbye)      lost (grace over, or a new process)

An agent joins by a call that says so; one that joins again after it left or was lost is
the same `RemoteAgent`. It must not know how a session is opened.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from remoting_bus._remote.fleet import MAX_LABEL_LENGTH, MAX_LABELS
from remoting_bus.protocol.terms import Phase, PhaseChanged

from .events import (
    AgentEvent,
    AgentJoined,
    AgentLeft,
    AgentLost,
    AgentResumed,
    AgentSuspended,
    Watcher,
)
from .remote_agent import AgentState, RemoteAgent

if TYPE_CHECKING:
    from remoting_bus.channel.link import Link

__all__ = ["AgentRecord", "Roster", "labels_of"]

MAX_DEPARTED = 1_000
"""Agents remembered after they left or were lost; past it the oldest is forgotten. Fleets
whose agents have new names at each start would fill the memory of a master otherwise."""


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """What a master knows of an agent, as others may ask for it.

    Attributes:
        state: As `RemoteAgent.state`.
        labels: Sorted.
        master: The name of the master that is its home.
        host: Where it says that it runs; with `pid` and `version` its own word.
    """

    name: str
    state: AgentState
    labels: list[str]
    master: str
    host: str = ""
    pid: int = 0
    version: str = ""


def labels_of(info: dict[str, Any]) -> frozenset[str]:
    """Return the labels in what an agent said of itself: hostile input, as all it says."""
    said = info.get("labels")
    if not isinstance(said, list):
        return frozenset()
    return frozenset(
        each
        for each in said[:MAX_LABELS]
        if isinstance(each, str) and 0 < len(each) <= MAX_LABEL_LENGTH
    )


class Roster:
    """The agents of one master.

    Args:
        master: Its name.
        make: Makes the handle for a name.
    """

    def __init__(self, master: str, make: Callable[[str], RemoteAgent]) -> None:
        self._master = master
        self._make = make
        self._known: dict[str, RemoteAgent] = {}
        self._departed: dict[str, None] = {}  # in the order in which they went
        # Handles on names that never joined live as long as somebody holds them.
        self._handles: weakref.WeakValueDictionary[str, RemoteAgent] = (
            weakref.WeakValueDictionary()
        )
        self._watchers: set[Watcher] = set()

    def agent(self, name: str) -> RemoteAgent:
        """Return the handle on a name; always the same one while it is used."""
        agent = self._known.get(name) or self._handles.get(name)
        if agent is None:
            agent = self._handles[name] = self._make(name)
        return agent

    def agents(self, labels: Collection[str]) -> list[RemoteAgent]:
        """Return the agents that are here (suspended ones too) with all these labels."""
        wanted = frozenset(labels)
        return [
            agent
            for agent in self._known.values()
            if agent.home is not None and wanted <= agent.labels
        ]

    def records(self) -> list[AgentRecord]:
        """Return what is known, for others."""
        return [self._record(agent) for agent in self._known.values()]

    def _record(self, agent: RemoteAgent) -> AgentRecord:
        info = agent.info
        host, pid, version = info.get("host"), info.get("pid"), info.get("version")
        return AgentRecord(
            name=agent.name,
            state=agent.state,
            labels=sorted(agent.labels),
            master=self._master,
            host=host if isinstance(host, str) else "",
            pid=pid if type(pid) is int else 0,
            version=version if isinstance(version, str) else "",
        )

    @contextlib.contextmanager
    def watch(self) -> Iterator[Watcher]:
        """Read what happens, beginning with those that are here."""
        watcher = Watcher(AgentJoined(agent) for agent in self.agents(()))
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    def close(self) -> None:
        """The master is left: end what watches."""
        for watcher in self._watchers:
            watcher.close()

    # -- what happens --

    def joined(self, link: Link) -> None:
        """An agent has made this master its home."""
        agent = self.agent(link.peer)
        if agent.home is link:
            return
        if agent.home is not None:
            self._gone(agent, AgentLost(agent, "it came back as a new process"), "lost")
        self._departed.pop(agent.name, None)
        self._known[agent.name] = agent
        agent.is_home(link, labels_of(link.info))
        self._tell(AgentJoined(agent))

    def changed(self, link: Link, change: PhaseChanged) -> None:
        """A session's phase changed."""
        agent = self._known.get(link.peer)
        if agent is None or agent.home is not link:
            handle = self._handles.get(link.peer)
            if handle is not None:
                handle.wake()
            return
        if change.phase is Phase.OVER:
            reason = change.reason or str(change.cause or change.kind)
            if change.kind == "closed":
                self._gone(agent, AgentLeft(agent, reason), "left")
            else:
                self._gone(agent, AgentLost(agent, reason), "lost")
        elif change.phase is Phase.SUSPENDED:
            if not agent.suspended:
                agent.suspended = True
                agent.wake()
                why = f"{change.kind}: {change.reason}".rstrip(": ")
                self._tell(AgentSuspended(agent, why))
        elif change.kind == "resumed" and agent.suspended:
            agent.suspended = False
            agent.wake()
            self._tell(AgentResumed(agent))

    def _gone(self, agent: RemoteAgent, event: AgentEvent, state: AgentState) -> None:
        agent.is_gone(state)
        self._departed[agent.name] = None
        while len(self._departed) > MAX_DEPARTED:
            oldest = next(iter(self._departed))
            del self._departed[oldest]
            # Whoever holds a handle keeps it, and finds it again by its name.
            self._handles[oldest] = self._known.pop(oldest)
        self._tell(event)

    def _tell(self, event: AgentEvent) -> None:
        for watcher in self._watchers:
            watcher.put(event)
