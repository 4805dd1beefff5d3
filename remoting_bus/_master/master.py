"""The program that runs work on agents.

Owns what a user's program holds: handles on agents, the watch over them, the addresses
and the token that agents need. `roster` keeps what is known of agents; `_remote.program`
says how a program is entered and left. It must not know `_agent`.
"""

from __future__ import annotations

import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
)
from contextlib import asynccontextmanager
from typing import Any, ClassVar, ParamSpec, TypeVar, overload

from remoting_bus._loop import Tasks, clock
from remoting_bus._remote.context import current
from remoting_bus._remote.dispatch import Dispatcher
from remoting_bus._remote.fleet import OFFER, ROLE, SETTLE, TELL
from remoting_bus._remote.join import JoinToken
from remoting_bus._remote.program import (
    IDLE,
    BusSource,
    Program,
    about_this_process,
    check_term,
    name_of_this_process,
)
from remoting_bus._remote.registry import Registry
from remoting_bus._remote.shapes import BadValue, converter
from remoting_bus.channel.node import Node
from remoting_bus.channel.pair import Pair
from remoting_bus.errors import RemotingError
from remoting_bus.names import (
    Priority,
    check_count,
    check_name,
    check_seconds,
    check_timeout,
)

from .events import AgentEvent
from .gather import Many, Results
from .remote_agent import RemoteAgent
from .roster import AgentRecord, Roster

__all__ = ["Master"]

P = ParamSpec("P")
R = TypeVar("R")

EMBEDDED = "embedded://"
"""The bus of a master that was given none: it brings a broker along."""

_logger = logging.getLogger("remoting_bus")


class Master(Program):
    """Runs work on the agents of a namespace.

    Use it as an async context manager; entering and leaving may be in different tasks.

    Args:
        url: A URL, several of one broker, or an open bus. Without one a broker is
            started (`embedded://`), and `urls` tells where.
        name: Its name on the bus; by default made up from the host's, new at each start.
            A master with a name of its own finds its agents again sooner when it is
            restarted.
        namespace: The fleet.
        timeout: Seconds to wait for the bus when entered; without it, it is tried again
            for ever.
        adopt: Agents may make it their home. A program that only wants to call them,
            beside their master, says False.
        workers: Calls of peers in execution at once.
        waiting: Calls of peers that wait; past it they are refused as overloaded.
        grace: Seconds that a peer may be silent, or the bus away, before it is lost; the
            shorter of both sides' counts.
        heartbeat: Seconds of silence after which a peer is asked; the longer counts. It
            is suspended after four of them. In a fleet with more than two hundred agents
            for each second of it, further ones get longer intervals, up to a minute.
        idle: Seconds after which a session ends that was opened for a call to somebody
            else's agent, or to a master, and that nothing uses any more. The next call
            opens it again. Agents at home here are not concerned.
    """

    _kind: ClassVar[str] = "master"

    def __init__(
        self,
        url: BusSource | None = None,
        *,
        name: str | None = None,
        namespace: str = "default",
        timeout: float | None = None,
        adopt: bool = True,
        workers: int = 64,
        waiting: int = 1000,
        grace: float = 300.0,
        heartbeat: float = 5.0,
        idle: float = IDLE,
    ) -> None:
        super().__init__(
            EMBEDDED if url is None else url,
            name=name_of_this_process() if name is None else name,
            namespace=namespace,
            timeout=timeout,
        )
        self._adopt = adopt
        self._workers = check_count(workers, "workers", least=1)
        self._waiting = check_count(waiting, "waiting", least=0)
        self._grace = check_term(grace, "grace")
        self._heartbeat = check_term(heartbeat, "heartbeat")
        self._idle = check_timeout(idle, "idle")
        self._roster = self._new_roster()
        self._dispatcher = Dispatcher(self._commands(), {OFFER})

    def _new_roster(self) -> Roster:
        def make(name: str) -> RemoteAgent:
            return RemoteAgent(
                name,
                self._running,
                lambda: [each.name for each in self._roster.agents(())],
            )

        return Roster(self._name, make)

    # -- for users --

    def agent(self, name: str) -> RemoteAgent:
        """Return the handle on an agent, known or not; no I/O.

        Raises:
            ValueError: No agent can have this name.
        """
        return self._roster.agent(check_name(name, "agent name"))

    def agents(self, labels: Collection[str] = ()) -> list[RemoteAgent]:
        """Return the agents that are here now, suspended ones too.

        Args:
            labels: Only those that have all of these.
        """
        if isinstance(labels, str):
            raise TypeError(f"labels is a set of them: write {{{labels!r}}}")
        return self._roster.agents(labels)

    @asynccontextmanager
    async def watch(self) -> AsyncGenerator[AsyncIterator[AgentEvent], None]:
        """Read what happens to agents, beginning with `AgentJoined` for those here.

        A slow reader gets the latest event of each agent. The iteration ends when the
        master is left.
        """
        self._running()
        with self._roster.watch() as watcher:
            yield watcher

    def using(
        self,
        *,
        limit: int | None = None,
        timeout: float | None = None,
        priority: Priority | None = None,
        key: str | None = None,
    ) -> Many:
        """Return a handle whose `gather` has these options.

        Args:
            limit: Calls under way at once (100).
            timeout: Seconds until each call's deadline, from its own start.
            priority: Of each call.
            key: Makes each call durable.
        """
        return Many(limit=limit, timeout=timeout, priority=priority, key=key)

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
        self, agents: Iterable[RemoteAgent], function: str, /, *args: Any, **kwargs: Any
    ) -> Results[Any]: ...
    def gather(
        self, agents: Iterable[RemoteAgent], function: Any, /, *args: Any, **kwargs: Any
    ) -> Results[Any]:
        """Call a function on many agents; see `Many.gather`. Options are on `using`."""
        return Many().gather(agents, function, *args, **kwargs)

    @property
    def join_token(self) -> str:
        """The one line that an agent needs: addresses and namespace.

        What the URLs hold, credentials too, is in it.

        Raises:
            ChannelClosed: The master is not running.
        """
        return str(JoinToken(tuple(self.urls), self._namespace))

    async def survey(
        self,
        timeout: float = 2.0,  # noqa: ASYNC109 - what came by then is the result
    ) -> list[AgentRecord]:
        """Ask every master of the namespace what agents it knows.

        Args:
            timeout: Seconds; a master that does not answer within is left out.

        Returns:
            Sorted by name; an agent known to several stands where it is joined.
        """
        node = self._running()
        records = [*self._roster.records()]
        deadline = clock() + check_seconds(timeout, "timeout")
        for found in await node.look_up(timeout=timeout / 2):
            if found.name != self._name:
                records += await self._ask(found.name, deadline)
        return _best(records)

    async def _ask(self, master: str, deadline: float) -> list[AgentRecord]:
        peer = RemoteAgent(master, self._running, list)
        handle = peer.using(timeout=max(0.0, deadline - clock()))
        convert = converter(list[AgentRecord])
        assert convert is not None
        try:
            known: list[AgentRecord] = convert(await handle.call(TELL))
        except (RemotingError, BadValue) as error:
            _logger.warning("master %s tells nothing of its agents: %s", master, error)
            return []
        return known

    # -- as a program --

    def _commands(self) -> Registry:
        registry = Registry()
        registry.add(self._settle, name=SETTLE, offer=OFFER)
        registry.add(self._tell, name=TELL, offer=OFFER)
        return registry

    async def _settle(self) -> None:
        peer = current().peer
        link = self._running().links.get(peer)
        if link is None or not self._adopt:
            raise LookupError(f"master {self._name!r} is no home for {peer!r}")
        link.keep()  # at home, whoever opened it
        self._roster.joined(link)

    async def _tell(self) -> list[AgentRecord]:
        return self._roster.records()

    def _make_node(self, pair: Pair) -> Node:
        info = {ROLE: "master", **about_this_process()}
        return Node(
            pair,
            self._name,
            namespace=self._namespace,
            info=info,
            serve=self._dispatcher.serve,
            workers=self._workers,
            waiting=self._waiting,
            grace=self._grace,
            heartbeat=self._heartbeat,
            idle=self._idle,
            answers_lookup=info if self._adopt else None,
        )

    @asynccontextmanager
    async def _work(self, tasks: Tasks, node: Node) -> AsyncGenerator[None, None]:
        self._roster = self._new_roster()
        node.watch_links(self._roster.changed)
        try:
            yield
        finally:
            # Watchers end before the sessions do: that we leave is no news of agents.
            self._roster.close()


def _best(records: list[AgentRecord]) -> list[AgentRecord]:
    """Return one record for each name: where it is joined, if anywhere."""
    order = ["joined", "suspended", "left", "lost", "unknown"]
    best: dict[str, AgentRecord] = {}
    for each in records:
        known = best.get(each.name)
        if known is None or order.index(each.state) < order.index(known.state):
            best[each.name] = each
    return [best[name] for name in sorted(best)]
