"""A TCP proxy that can stop passing bytes without closing anything: a cut cable.

It runs in a thread of its own and works with sockets only. It must not know what is
passed.
"""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import suppress

__all__ = ["Proxy"]

CHUNK = 256 * 1024
"""Bytes passed at a time; that much of a connection may be under way in the proxy."""


class Proxy:
    """Passes connections from a loopback port of its own to another, until cut.

    While it is cut, connections stay open and pass nothing, new ones are accepted and
    pass nothing either, as behind a switch without a cable. `heal` lets all go on.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._cut = False
        self._stopping = False
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._peers: dict[socket.socket, socket.socket] = {}
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
                for key, _ in selector.select():
                    if key.fileobj is self._wake_reader:
                        self._wake_reader.recv(4096)
                    elif self._cut or self._stopping:
                        break
                    elif key.fileobj is self._listener:
                        self._accept()
                    elif isinstance(key.fileobj, socket.socket):
                        self._pass(key.fileobj)
        for one in [*self._peers, self._listener, self._wake_reader, self._wake_writer]:
            one.close()

    def _watch(self, selector: selectors.BaseSelector) -> None:
        """Watch what should be read now: all of it, or only the wake-up."""
        wanted = {self._wake_reader}
        if not self._cut:
            wanted |= {self._listener, *self._peers}
        for key in list(selector.get_map().values()):
            if key.fileobj not in wanted:
                selector.unregister(key.fileobj)
        watched = {key.fileobj for key in selector.get_map().values()}
        for one in wanted - watched:
            selector.register(one, selectors.EVENT_READ)

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        try:
            far = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            near.close()
            return
        for one in (near, far):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._peers[near] = far
        self._peers[far] = near

    def _pass(self, source: socket.socket) -> None:
        """Pass one piece on; a slow reader holds up its own side's other traffic.

        Sending blocks, as tests read what they are sent; a reader that is meant to stand
        still has the kernel's buffers before it.
        """
        sink = self._peers.get(source)
        if sink is None:
            return
        try:
            data = source.recv(CHUNK)
            if data:
                sink.sendall(data)
                return
        except OSError:
            pass
        for one in (source, sink):
            del self._peers[one]
            one.close()
