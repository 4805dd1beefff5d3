"""What a master and an agent share: a name, a bus, and a node on it.

Owns how such a program is entered and left (from any task: a supervisor owns its tasks),
and which bus it opens or borrows. It must not know what the program is for: `_agent` and
`_master` say that. Read them next.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import Any, ClassVar, Self

from remoting_bus._loop import Supervisor, Tasks
from remoting_bus.bus.opening import normalise
from remoting_bus.channel.node import Node
from remoting_bus.channel.pair import Pair, open_bus
from remoting_bus.errors import ChannelClosed, LocalProtocolError
from remoting_bus.names import MAX_SECONDS, check_name, check_seconds, check_timeout

__all__ = [
    "IDLE",
    "BusSource",
    "Program",
    "about_this_process",
    "check_term",
    "name_of_this_process",
]

BusSource = str | Sequence[str] | Pair
"""Where a program finds its bus: a URL, several of one broker, or an open bus."""

IDLE = 60.0
"""Seconds without use after which a session that was opened for a call ends. Opening it
again costs two round trips; keeping it, beats and memory at both sides."""

_HOST_LENGTH = 48
"""Characters of the host in a name made up; with the rest it stays below the limit."""


def name_of_this_process() -> str:
    """Return a name from the host's, with a random end: no two processes share it."""
    host = re.sub(r"[^A-Za-z0-9_-]+", "-", socket.gethostname()).strip("-")
    return f"{host[:_HOST_LENGTH] or 'host'}-{secrets.token_hex(3)}"


def about_this_process() -> dict[str, Any]:
    """Return what a program says of itself in its handshakes."""
    try:
        release = version("remoting-bus")
    except PackageNotFoundError:  # run from a folder, and never installed
        release = ""
    return {
        "version": release,
        "host": socket.gethostname()[:255],
        "pid": os.getpid(),
        "python": ".".join(map(str, sys.version_info[:3])),
    }


def check_term(value: float, what: str) -> float:
    """Return the seconds that a program offers its peers, if they can be offered.

    Raises:
        ValueError: They are not from a thousandth to a year.
    """
    return check_seconds(value, what, least=0.001, most=MAX_SECONDS)


class Program(ABC):
    """A named program on a bus. Entered and left, and then perhaps entered again."""

    _kind: ClassVar[str]

    def __init__(
        self,
        bus: BusSource,
        *,
        name: str,
        namespace: str,
        timeout: float | None,
    ) -> None:
        self._name = check_name(name, f"{self._kind} name")
        self._namespace = check_name(namespace, "namespace")
        # What is wrong with a URL is told here, to whoever wrote it.
        self._source = bus if isinstance(bus, Pair) else normalise(bus)
        self._timeout = check_timeout(timeout)
        self._owner: Supervisor[None] | None = None
        self._node: Node | None = None
        self._pair: Pair | None = None

    @property
    def name(self) -> str:
        """What peers call it by."""
        return self._name

    @property
    def namespace(self) -> str:
        """The fleet that it belongs to."""
        return self._namespace

    def __repr__(self) -> str:
        where = "" if self._namespace == "default" else f" of {self._namespace}"
        return f"<{type(self).__name__} {self._name}{where}>"

    async def __aenter__(self) -> Self:
        """Open the bus and begin.

        Raises:
            ConnectionFailed: The bus refused the credentials, or was not reached within
                `timeout` seconds. Without one it is tried again for ever.
        """
        if self._owner is not None:
            raise LocalProtocolError(f"{self!r} is running already")
        owner = Supervisor(self._life, f"{self._kind} {self._name}")
        self._owner = owner
        try:
            await owner.__aenter__()
        except BaseException:
            self._owner = None
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Say goodbye to every peer, and close what was opened."""
        owner = self._owner
        if owner is None:
            return
        try:
            await owner.__aexit__(exc_type, exc, traceback)
        finally:
            self._owner = None

    @asynccontextmanager
    async def _life(self, tasks: Tasks) -> AsyncGenerator[None, None]:
        async with self._bus() as pair:
            node = self._make_node(pair)
            async with node:
                self._pair, self._node = pair, node
                try:
                    async with self._work(tasks, node):
                        yield
                finally:
                    self._pair = self._node = None

    def _bus(self) -> AbstractAsyncContextManager[Pair]:
        if isinstance(self._source, Pair):
            return nullcontext(self._source)
        return open_bus(self._source, timeout=self._timeout)

    @abstractmethod
    def _make_node(self, pair: Pair) -> Node: ...

    @abstractmethod
    def _work(self, tasks: Tasks, node: Node) -> AbstractAsyncContextManager[None]: ...

    def _running(self) -> Node:
        """Return the node.

        Raises:
            ChannelClosed: The program was not entered, or was left.
        """
        if self._node is None:
            raise ChannelClosed(f"{self!r} is not running: use it inside `async with`")
        return self._node

    @property
    def urls(self) -> list[str]:
        """Where other programs find the bus.

        Raises:
            ChannelClosed: The program is not running.
        """
        self._running()
        assert self._pair is not None
        return list(self._pair.urls)

    def statistics(self) -> Mapping[str, Any]:
        """Return counts and sizes of every session, by the peer's name."""
        links = self._running().links
        return {peer: link.statistics() for peer, link in links.items()}
