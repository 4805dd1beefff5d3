"""What all private brokers share: nodes under keepers, their folder, ports and faults.

A node is a process under `bus.keeper`, so that it ends when the test process does, however
that happens. It must not know any broker: a subclass says how its nodes are run and when
they are ready.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from remoting_bus.bus.child import keeper_command, read_answer

from .proxy import Proxy

__all__ = ["LocalBroker", "Node", "free_ports", "wait_until"]

START_ATTEMPTS = 3
"""Whole starts before giving up: between choosing a port and using it another may come."""

LOOK = 0.02
"""Seconds between looks whether a broker is ready."""

STOP_LIMIT = 5.0
"""Seconds until a process has stopped after SIGSTOP: micro-seconds as a rule."""

LOG_TAIL = 2000
"""Characters of a node's log in the message of a failed start."""


class Node:
    """One broker process and its proxy."""

    def __init__(self, number: int, folder: Path, port: int) -> None:
        self.number = number
        self.folder = folder
        self.port = port
        self.log = folder / "log"
        self.proxy: Proxy | None = None
        self.pid: int | None = None
        self._keeper: subprocess.Popen[str] | None = None

    @property
    def running(self) -> bool:
        """Whether the process is there (paused ones are)."""
        return self._keeper is not None and self._keeper.poll() is None

    def start(self, command: list[str], grace: float) -> None:
        """Start the process."""
        assert not self.running
        keeper = subprocess.Popen(  # noqa: S603 - commands are the subclasses' own
            keeper_command(command, log=self.log, grace=grace),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._keeper = keeper
        assert keeper.stdout is not None
        try:
            self.pid = read_answer(keeper.stdout.readline(), command)
        except BaseException:
            self.end()
            raise

    def send(self, number: int) -> None:
        """Send the broker a signal."""
        if not self.running or self.pid is None:
            raise RuntimeError(f"node {self.number} does not run")
        os.kill(self.pid, number)

    def end(self, number: int = 0) -> None:
        """End it, kindly or by a signal, and wait until it is gone."""
        keeper = self._keeper
        if keeper is None:
            return
        if number and keeper.poll() is None and self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
            keeper.wait()
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        with contextlib.suppress(OSError):
            keeper.stdin.close()
        keeper.wait()
        keeper.stdout.close()
        self._keeper = None
        self.pid = None

    def tail(self) -> str:
        """The end of its log."""
        with contextlib.suppress(OSError):
            return self.log.read_text(errors="replace")[-LOG_TAIL:]
        return "(no log)"


class LocalBroker(ABC):
    """One or three nodes of a broker on loopback, as a sync context manager.

    Entering returns when all nodes are ready; leaving ends them and removes their files.
    Nodes are numbered from 0. Clients go through a proxy for each node, so that a node
    can be cut off.

    Attributes:
        urls: One URL for each node, to be used together or alone.
        folder: Where configuration, data and logs are, while entered.
    """

    stop_grace = 5.0
    """Seconds from SIGTERM to SIGKILL when leaving."""

    ready_limit = 20.0
    """Seconds from start to ready."""

    def __init__(self, *, nodes: int = 1) -> None:
        if nodes not in (1, 3):
            raise ValueError(f"a private broker has 1 or 3 nodes, not {nodes}")
        self._count = nodes
        self._nodes: list[Node] = []
        self.urls: list[str] = []
        self.folder = Path()

    def __enter__(self) -> Self:
        for attempt in range(START_ATTEMPTS):
            self.folder = Path(tempfile.mkdtemp(prefix="remoting-bus-"))
            try:
                self._start_all()
            except BaseException as error:
                self._stop_all()
                if attempt + 1 == START_ATTEMPTS or not isinstance(error, RuntimeError):
                    raise
            else:
                return self
        raise AssertionError("unreachable")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop_all()

    def pid(self, i: int = 0) -> int:
        """The process of a node that runs."""
        pid = self._nodes[i].pid
        if pid is None:
            raise RuntimeError(f"node {i} does not run")
        return pid

    def log(self, i: int = 0) -> str:
        """The end of a node's log."""
        return self._nodes[i].tail()

    def kill(self, i: int = 0) -> None:
        """Kill a node as by kill -9, and wait until it is gone."""
        self._nodes[i].end(signal.SIGKILL)

    def pause(self, i: int = 0) -> None:
        """Stop a node: connections stay, and nothing is answered."""
        self._nodes[i].send(signal.SIGSTOP)
        pid = self.pid(i)
        # The signal reaches a process's threads one by one.
        wait_until(lambda: _has_stopped(pid), STOP_LIMIT, lambda: f"pausing node {i}")

    def resume(self, i: int = 0) -> None:
        """Let a paused node go on."""
        self._nodes[i].send(signal.SIGCONT)

    def start(self, i: int = 0) -> None:
        """Start a killed node again, on its ports and data; wait until it is ready."""
        node = self._nodes[i]
        node.end()
        node.start(self._command(node), self.stop_grace)
        self._wait_ready(node, self._is_back)

    def cut(self, i: int = 0) -> None:
        """Cut clients off from a node without closing a connection."""
        self._proxy(i).cut()

    def heal(self, i: int = 0) -> None:
        """Let clients reach the node again."""
        self._proxy(i).heal()

    def traffic(self, i: int = 0) -> int:
        """Bytes that clients and a node have sent each other so far."""
        return self._proxy(i).passed

    @abstractmethod
    def _prepare(self) -> None:
        """Write the configuration of all nodes (they have ports and proxies)."""

    @abstractmethod
    def _command(self, node: Node) -> list[str]:
        """The command line of a node."""

    @abstractmethod
    def _is_ready(self, node: Node) -> bool:
        """Whether a started node can be used; asked again and again, never blocks long."""

    def _is_back(self, node: Node) -> bool:
        """Whether a node that was started again serves clients; the same, by default."""
        return self._is_ready(node)

    @abstractmethod
    def _url(self, node: Node, port: int) -> str:
        """The URL of a node for clients; `port` is the proxy's."""

    def _start_all(self) -> None:
        self._nodes = []
        for number, port in enumerate(free_ports(self._count)):
            folder = self.folder / f"n{number}"
            folder.mkdir()
            node = Node(number, folder, port)
            node.proxy = Proxy(port)  # some brokers tell clients where to connect
            self._nodes.append(node)
        self._prepare()
        for node in self._nodes:
            node.start(self._command(node), self.stop_grace)
        for node in self._nodes:
            self._wait_ready(node, self._is_ready)
        self.urls = [self._url(n, self._proxy(n.number).port) for n in self._nodes]

    def _wait_ready(self, node: Node, is_ready: Callable[[Node], bool]) -> None:
        def look() -> bool:
            if not node.running:
                raise RuntimeError(f"node {node.number} ended: {self._log_of(node)}")
            return is_ready(node)

        wait_until(
            look, self.ready_limit, lambda: f"node {node.number}: {self._log_of(node)}"
        )

    def _log_of(self, node: Node) -> str:
        """What a node that did not start says of it."""
        return node.tail()

    def _stop_all(self) -> None:
        for node in self._nodes:
            if node.proxy is not None:
                node.proxy.close()
            node.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _proxy(self, i: int) -> Proxy:
        proxy = self._nodes[i].proxy
        assert proxy is not None, "not entered"
        return proxy


def _has_stopped(pid: int) -> bool:
    """Whether all threads stand still; yes where the system does not tell."""
    threads = Path(f"/proc/{pid}/task").glob("*/stat")
    return all(
        stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in threads
    )


def free_ports(count: int) -> list[int]:
    """Loopback ports that are free now, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            for _ in range(count)
        ]
        return [one.getsockname()[1] for one in sockets]


def wait_until(
    ready: Callable[[], bool], limit: float, what: Callable[[], str]
) -> None:
    """Look until it is so.

    Raises:
        TimeoutError: It was not so within `limit` seconds; with the text of `what`.
    """
    deadline = time.monotonic() + limit
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not ready after {limit:g} s: {what()}")
        time.sleep(LOOK)
