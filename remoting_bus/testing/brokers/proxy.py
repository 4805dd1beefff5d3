"""A TCP proxy that can stop passing bytes without closing anything: a cut cable.

It runs in a thread of its own and works with sockets only. It must not know what is
passed.
"""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import suppress
from typing import cast

__all__ = ["Proxy"]

CHUNK = 256 * 1024
"""Bytes passed at a time; that much of a connection may be under way in the proxy."""


class Proxy:
    """Passes connections from a loopback port of its own to another, until cut.

    While it is cut, connections stay open and pass nothing, new ones are accepted and
    pass nothing either, as behind a switch without a cable. `heal` lets all go on.

    Attributes:
        port: Where it listens.
        passed: Bytes that it has passed on so far, both ways together.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.passed = 0
        self._cut = False
        self._stopping = False
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._peers: dict[socket.socket, socket.socket] = {}
        self._unsent: dict[socket.socket, bytes] = {}
        self._thread = threading.Thread(
            target=self._run, name=f"proxy to {target}", daemon=True
        )
        self._thread.start()

    def cut(self) -> None:
        """Pass nothing from now on, and close nothing."""
        self._cut = True
        self._wake()

    def heal(self) -> None:
        """Pass everything again, what has waited first."""
        self._cut = False
        self._wake()

    def close(self) -> None:
        """Close all connections and stop."""
        self._stopping = True
        self._wake()
        self._thread.join()

    def _wake(self) -> None:
        with suppress(OSError):
            self._wake_writer.send(b"!")

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            while not self._stopping:
                self._watch(selector)
                for key, events in selector.select():
                    if key.fileobj is self._wake_reader:
                        self._wake_reader.recv(4096)
                    elif self._cut or self._stopping:
                        break
                    elif key.fileobj is self._listener:
                        self._accept()
                    elif isinstance(key.fileobj, socket.socket):
                        self._serve(key.fileobj, events)
        for one in [*self._peers, self._listener, self._wake_reader, self._wake_writer]:
            one.close()

    def _watch(self, selector: selectors.BaseSelector) -> None:
        """Watch each socket for what it can do next; only the wake-up while cut."""
        wanted = {self._wake_reader: selectors.EVENT_READ}
        if not self._cut:
            wanted[self._listener] = selectors.EVENT_READ
            for one, peer in self._peers.items():
                events = 0 if self._unsent[peer] else selectors.EVENT_READ
                events |= selectors.EVENT_WRITE if self._unsent[one] else 0
                if events:
                    wanted[one] = events
        for key in list(selector.get_map().values()):
            if wanted.get(cast(socket.socket, key.fileobj)) != key.events:
                selector.unregister(key.fileobj)
        watched = {key.fileobj for key in selector.get_map().values()}
        for one, events in wanted.items():
            if one not in watched:
                selector.register(one, events)

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        try:
            far = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            near.close()
            return
        for one, peer in ((near, far), (far, near)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            one.setblocking(False)
            self._peers[one] = peer
            self._unsent[one] = b""

    def _serve(self, one: socket.socket, events: int) -> None:
        """Send a socket what is unsent, or pass on what it has, one piece at a time."""
        peer = self._peers.get(one)
        if peer is None:
            return  # closed with its peer, in this same round
        try:
            if events & selectors.EVENT_WRITE:
                self._unsent[one] = self._unsent[one][one.send(self._unsent[one]) :]
            if events & selectors.EVENT_READ:
                data = one.recv(CHUNK)
                if not data:
                    raise ConnectionResetError
                self.passed += len(data)
                self._unsent[peer] = data
                self._unsent[peer] = data[peer.send(data) :]
        except BlockingIOError:
            return
        except OSError:
            for closed in (one, peer):
                del self._peers[closed], self._unsent[closed]
                closed.close()
