"""The program that does the work that masters ask for.

Owns what a user's program holds: the commands, what is offered, serving and draining.
`home` finds the master; `_remote.program` says how a program is entered and left. It
must not know `_master`.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import (
    AsyncGenerator,
    Callable,
    Collection,
    Iterable,
)
from contextlib import asynccontextmanager
from types import ModuleType, TracebackType
from typing import Any, ClassVar, Self, TypeVar, overload

import anyio
import anyio.abc

from remoting_bus._loop import Tasks, before_termination
from remoting_bus._remote.dispatch import Dispatcher
from remoting_bus._remote.fleet import HOME, MAX_LABEL_LENGTH, MAX_LABELS, ROLE
from remoting_bus._remote.join import JoinToken
from remoting_bus._remote.program import (
    IDLE,
    BusSource,
    Program,
    about_this_process,
    check_term,
)
from remoting_bus._remote.registry import Registry, command
from remoting_bus.channel.link import Link
from remoting_bus.channel.node import Node
from remoting_bus.channel.pair import Pair
from remoting_bus.errors import ChannelClosed, RemotingError
from remoting_bus.names import check_count, check_seconds, check_timeout

from .home import Home

__all__ = ["OFFERS", "PATIENCE", "Agent"]

F = TypeVar("F", bound=Callable[..., Any])

OFFERS = frozenset({"commands", "files", "processes"})
"""All that an agent can offer: its commands, its files, and starting processes."""

PATIENCE = 30.0
"""Seconds that running calls have after SIGTERM; less than the 90 s after which systemd,
and the most that Kubernetes' users set, kill."""


class Agent(Program):
    """Serves the masters of a namespace under one name.

    Use `serve`, or the agent as an async context manager; both begin with the agent
    joined to a master, and go on through every outage of bus and master by themselves.

    Args:
        url: A URL, several of one broker, or an open bus, which agents may share.
        join: In place of a URL: the token that a master gives (`Master.join_token`).
        name: Its name on the bus, which no other agent of the namespace has.
        labels: By which masters choose agents.
        namespace: The fleet ("default"); a token brings its own.
        commands: Functions, and modules with the functions that they mark with
            `command`.
        offers: What masters may use: of "commands", "files" and "processes". All by
            default: whoever can reach the bus can then run programs here.
        accept_code: Reserved; shipping code is not available yet.
        timeout: Seconds to wait for the bus when entered; without it, it is tried again
            for ever.
        workers: Calls in execution at once.
        waiting: Calls that wait for a worker; past it they are refused as overloaded.
        grace: Seconds that a peer may be silent, or the bus away, before it is lost; the
            shorter of both sides' counts.
        heartbeat: Seconds of silence after which a peer is asked; the longer counts. It
            is suspended after four of them.
        patience: Seconds that running calls have after a SIGTERM, where `run` runs the
            program. Then they are cancelled.
    """

    _kind: ClassVar[str] = "agent"

    def __init__(
        self,
        url: BusSource | None = None,
        *,
        join: str | None = None,
        name: str,
        labels: Collection[str] = (),
        namespace: str | None = None,
        commands: Iterable[Callable[..., Any] | ModuleType] = (),
        offers: Collection[str] = OFFERS,
        accept_code: bool = False,
        timeout: float | None = None,
        workers: int = 64,
        waiting: int = 1000,
        grace: float = 300.0,
        heartbeat: float = 5.0,
        patience: float = PATIENCE,
    ) -> None:
        bus, fleet = _place(url, join, namespace)
        super().__init__(bus, name=name, namespace=fleet, timeout=timeout)
        if accept_code:
            raise ValueError(
                "accept_code=True is not available yet: this release ships no code. "
                "Register functions with `commands`"
            )
        self._labels = _check_labels(labels)
        self._offers = _check_offers(offers)
        self._workers = check_count(workers, "workers", least=1)
        self._waiting = check_count(waiting, "waiting", least=0)
        self._grace = check_term(grace, "grace")
        self._heartbeat = check_term(heartbeat, "heartbeat")
        self._patience = check_seconds(patience, "patience")
        self._registry = Registry()
        self._registry.add_all(commands)
        self._register_own()
        self._dispatcher = Dispatcher(self._registry, self._offers)
        self._home: Home | None = None
        self._joined: anyio.Event | None = None
        self._ended: anyio.Event | None = None
        self._error: Exception | None = None

    def _register_own(self) -> None:
        # Also what is not offered: its callers are told that, and not "unknown". Imported
        # here, so that a program of masters only does not pay for it.
        from remoting_bus import _process, _transfer

        _transfer.register(self._registry)
        _process.register(self._registry)
        self._carried = _transfer.CARRIED

    # -- for users --

    @property
    def labels(self) -> frozenset[str]:
        """By which masters choose agents."""
        return self._labels

    @property
    def master(self) -> str | None:
        """The name of the master that is its home now; None where there is none."""
        home = self._home
        return None if home is None or home.link is None else home.link.peer

    @overload
    def command(self, function: F, /) -> F: ...
    @overload
    def command(self, name: str, /) -> Callable[[F], F]: ...
    def command(self, function: Any, /) -> Any:
        """Let masters call a function; it is returned unchanged.

        `@agent.command` gives it the name `module:qualname`, `@agent.command("name")`
        that one. It may be added while the agent serves.

        Raises:
            TypeError: An annotation that cannot be done; it names function and parameter.
            ValueError: Another function has the name.
        """
        if isinstance(function, str):
            named = command(function)

            def add(real: F) -> F:
                return self._add(named(real))

            return add
        return self._add(command(function))

    def _add(self, function: F) -> F:
        self._registry.add(function)
        return function

    async def serve(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until cancelled, or drained; a SIGTERM drains it where `run` runs it.

        `await tg.start(agent.serve)` returns once it has joined a master.

        Raises:
            ConnectionFailed: The bus refused the credentials, or was not reached within
                `timeout`.
            NameTaken: Another program runs under this name. Do not start again.
        """
        async with self:
            task_status.started()
            await self.wait_ended()

    async def wait_ended(self) -> None:
        """Wait until it was drained, or another program has taken its name.

        Raises:
            NameTaken: The latter.
            ChannelClosed: It is not running.
        """
        self._running()
        assert self._ended is not None
        await self._ended.wait()
        if self._error is not None:
            raise self._error

    async def drain(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - running calls get it
    ) -> None:
        """Take no new calls, let running ones end, and leave.

        New calls are refused as ending. Masters see that the agent left. It is then to
        be left as a context manager, and `serve` returns.

        Args:
            timeout: Seconds that running calls have; then they are cancelled.

        Raises:
            ChannelClosed: It is not running.
        """
        node = self._running()
        ended = self._ended
        assert ended is not None
        try:
            await node.drain(check_timeout(timeout))
        finally:
            ended.set()

    # -- as a program --

    async def __aenter__(self) -> Self:
        """Open the bus and join a master, however long it takes.

        Raises:
            ConnectionFailed: The bus refused the credentials, or was not reached within
                `timeout` seconds.
            NameTaken: Another program runs under this name.
        """
        joined, ended = anyio.Event(), anyio.Event()
        self._joined, self._ended, self._error = joined, ended, None
        await super().__aenter__()
        try:
            await joined.wait()
            if self._error is not None:
                raise self._error
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Say goodbye to the masters, and close what was opened."""
        await super().__aexit__(exc_type, exc, traceback)
        if self._error is not None and exc is None:
            raise self._error

    def _make_node(self, pair: Pair) -> Node:
        info = {
            ROLE: "agent",
            HOME: "",
            "labels": sorted(self._labels),
            "offers": sorted(self._offers),
            **about_this_process(),
        }
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
            idle=IDLE,
            carried=self._carried.__contains__,
        )

    @asynccontextmanager
    async def _work(self, tasks: Tasks, node: Node) -> AsyncGenerator[None, None]:
        dice = random.Random()  # noqa: S311 - pauses, no secrets
        home = Home(self._name, node, self._is_home, dice)
        self._home = home
        node.watch_links(home.changed)
        tasks.start_soon(self._keep_home, home)
        try:
            with before_termination(self._terminate):
                yield
        finally:
            self._home = None

    async def _terminate(self) -> bool:
        if self._joined is None or not self._joined.is_set():
            return False  # there is nothing to drain, and who entered it still waits
        with contextlib.suppress(ChannelClosed):  # it was left meanwhile
            await self.drain(self._patience)
        return True

    def _is_home(self, link: Link) -> None:
        assert self._joined is not None
        self._joined.set()

    async def _keep_home(self, home: Home) -> None:
        try:
            await home.keep()
        except RemotingError as error:
            if self._home is not None:  # else it is leaving, and its node is closed
                self._end(error)

    def _end(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        assert self._joined is not None
        assert self._ended is not None
        self._joined.set()
        self._ended.set()


def _place(
    url: BusSource | None, join: str | None, namespace: str | None
) -> tuple[BusSource, str]:
    """Return where the bus is, and which fleet."""
    if (url is None) == (join is None):
        raise TypeError("an agent needs either a URL or join=, a master's token")
    if join is None:
        assert url is not None
        return url, "default" if namespace is None else namespace
    token = JoinToken.parse(join)
    if namespace not in (None, token.namespace):
        raise ValueError(
            f"the join token is for namespace {token.namespace!r}, not {namespace!r}"
        )
    return token.urls, token.namespace


def _check_labels(labels: Collection[str]) -> frozenset[str]:
    if isinstance(labels, str):
        raise TypeError(f"labels is a set of them: write {{{labels!r}}}")
    for each in labels:
        if not isinstance(each, str):
            raise TypeError(f"a label is a str, not {type(each).__name__}")
        if not 0 < len(each) <= MAX_LABEL_LENGTH or not each.isprintable():
            raise ValueError(
                f"label {each[:80]!r} is not allowed: use 1 to {MAX_LABEL_LENGTH} "
                "printable characters"
            )
    if len(labels) > MAX_LABELS:
        raise ValueError(f"{len(labels)} labels are more than the {MAX_LABELS} allowed")
    return frozenset(labels)


def _check_offers(offers: Collection[str]) -> frozenset[str]:
    if isinstance(offers, str):
        raise TypeError(f"offers is a set: write {{{offers!r}}}")
    unknown = sorted(set(offers) - OFFERS)
    if unknown:
        raise ValueError(
            f"an agent cannot offer {', '.join(map(repr, unknown))}; "
            f"it can: {', '.join(sorted(OFFERS))}"
        )
    return frozenset(offers)
