"""`embedded://`: a bus that brings its own nats-server.

    embedded://                      a free port on loopback
    embedded://0.0.0.0:4222          for other machines, too
    embedded://TOKEN@0.0.0.0:4222    only for those who know it

Option `store=FOLDER` keeps mailboxes over restarts; all options of `nats://` hold for the
connection. All openings of one URL in one process share a server, on whichever loops and
threads they are. `server` runs it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from urllib.parse import urlencode

import anyio
import anyio.to_thread

from remoting_bus.bus.backend import Backend, Bus
from remoting_bus.bus.urls import parse_url
from remoting_bus_nats.backend import NatsBus
from remoting_bus_nats.server import EmbeddedServer
from remoting_bus_nats.settings import parse

__all__ = ["EmbeddedBackend", "EmbeddedBus", "EmbeddedServer"]


class EmbeddedBus(NatsBus):
    """A connection to a server of our own.

    Attributes:
        urls: What agents connect to.
        server: The server itself.
    """

    urls: list[str]
    server: EmbeddedServer


class EmbeddedBackend(Backend):
    """Opens `embedded://` URLs."""

    def open(self, url: str) -> AbstractAsyncContextManager[Bus]:
        """Start the server of this URL, or share it, and connect to it."""
        server, options = _understand(url)
        return _opened(url, server, options)


def _understand(url: str) -> tuple[EmbeddedServer, str]:
    """The server that a URL means, and the options of connections to it.

    Raises:
        ValueError: What is wrong with it.
    """
    parts = parse_url(url, needs_host=False)
    if parts.scheme != "embedded":
        raise ValueError(f"this driver is for embedded://, not {parts.scheme}://")
    if len(parts.hosts) > 1 or parts.path:
        raise ValueError(
            "embedded:// is one server: embedded://, or embedded://HOST:PORT"
        )
    options = dict(parts.options)
    store = options.pop("store", None)
    if store == "":
        raise ValueError("option 'store' of embedded:// wants a folder")
    query = f"?{urlencode(options)}" if options else ""
    parse(f"nats://localhost{query}")
    folder = None if store is None else Path(store).expanduser().absolute()
    if not parts.hosts:
        return EmbeddedServer(store=folder), query
    host = parts.hosts[0]
    server = EmbeddedServer(
        host=host.name,
        port=host.port or 0,
        user=host.user,
        password=host.password,
        store=folder,
    )
    return server, query


@contextlib.asynccontextmanager
async def _opened(url: str, new: EmbeddedServer, options: str) -> AsyncIterator[Bus]:
    share = _Share(url, new)
    try:
        server = await anyio.to_thread.run_sync(share.take)
        bus = EmbeddedBus(parse(server.url + options))
        bus.server = server
        bus.urls = server.urls
        await bus.start()
        try:
            yield bus
        finally:
            await bus.aclose()
    finally:
        # Bounded by the server's stop. Also after a cancelled `take`, whose thread goes on.
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(share.give_back)


_lock = threading.Lock()
"""Held while a server starts or stops: openings of one URL wait for each other."""

_servers: dict[str, tuple[EmbeddedServer, int]] = {}
"""URL -> its server and how many use it; bounded by the buses that are open."""


class _Share:
    """One opening's share of a server; its methods block, and run in any thread."""

    def __init__(self, url: str, new: EmbeddedServer) -> None:
        self._url = url
        self._new = new
        self._taken = False
        self._over = False

    def take(self) -> EmbeddedServer:
        """The server of the URL, started if nobody has it."""
        with _lock:
            server, users = _servers.get(self._url, (self._new, 0))
            if self._over:
                return server  # the opening was cancelled before this thread ran
            if not users:
                server.start()
            _servers[self._url] = (server, users + 1)
            self._taken = True
            return server

    def give_back(self) -> None:
        """Use it no more; the last one stops it."""
        with _lock:
            self._over = True
            if not self._taken:
                return
            self._taken = False
            server, users = _servers[self._url]
            if users > 1:
                _servers[self._url] = (server, users - 1)
            else:
                del _servers[self._url]
                server.stop()
