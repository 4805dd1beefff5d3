"""A process of this program's, started by its keeper.

Owns the way to the keeper, which is started with the first process and ends by itself a
moment after the last, and what is known of one process. It must not know who wants the
process. Next: `keeper`, whose docstring has the words of the two.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import struct
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio

from remoting_bus.errors import RemotingError

__all__ = ["CHUNK", "GRACE", "Child"]

GRACE = 2.0
"""Seconds that a process and what it started have between SIGTERM and SIGKILL."""

CHUNK = 64 * 1024
"""Bytes read at once from a process: what a pipe of Linux holds."""

_KEEPER = Path(__file__).with_name("keeper.py")

_WORD = 4096
"""Bytes of one line of the keeper's; they are some twenty."""


class _Door:
    """The socket to the keeper of this program, whichever threads and loops want it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._owner = 0

    def hand_over(self, fds: list[int]) -> None:
        """Give the keeper the ends of a process; it duplicates them."""
        with self._lock:
            if self._owner != os.getpid():  # a fork of ours has no keeper yet
                self._socket = None
            while True:
                fresh = self._socket is None
                if self._socket is None:
                    self._socket = _start_keeper()
                    self._owner = os.getpid()
                try:
                    socket.send_fds(self._socket, [b"+"], fds)
                    return
                except (BrokenPipeError, ConnectionResetError):
                    # It has closed its door, and never saw this: see `Keeper.rest`.
                    self._socket.close()
                    self._socket = None
                    if fresh:
                        raise


_door = _Door()


def _start_keeper() -> socket.socket:
    ours, theirs = socket.socketpair()
    with theirs:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", os.fspath(_KEEPER)],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            ],
            setsid=True,  # a Ctrl-C at the terminal is this program's to act on
        )
    # Nothing waits for it but this thread: it ends long after who started it.
    threading.Thread(
        target=_reap, args=(pid,), name="keeper of processes", daemon=True
    ).start()
    return ours


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


class Child:
    """One process. Made by `start`; `close` it in the end, whatever happened.

    Attributes:
        pid: Of the process, which leads a session and group of that number.
        status: What it exited with, below zero for a signal; None while it runs.
        stdin: Where its standard input is written; -1 once closed.
        stdout: Where its output is read; never waits.
        stderr: The same; -1 if it goes to `stdout`.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._data = b""
        self._gone = False
        self.pid = 0
        self.status: int | None = None
        self.stdin = self.stdout = self.stderr = -1

    @classmethod
    async def start(
        cls,
        command: Sequence[bytes],
        *,
        cwd: bytes | None,
        env: Mapping[bytes, bytes] | None,
        merge_stderr: bool = False,
    ) -> Child:
        """Start a process.

        Args:
            command: The program and its arguments.
            cwd: The folder that it runs in; None for ours.
            env: Its environment; None for ours.
            merge_stderr: Its standard error goes to its standard output.

        Raises:
            OSError: The folder or the program is not there, or may not be used.
            ValueError: A NUL in one of them, or no program.
        """
        request = _request(command, cwd, env)
        control, theirs = socket.socketpair()
        child = cls(control)
        control.setblocking(False)
        try:
            with theirs:
                child._open(theirs.fileno(), merge_stderr)
            await child._send(request)
            await child._answered(command, cwd)
        except BaseException:
            child.close()
            raise
        return child

    def _open(self, control: int, merge_stderr: bool) -> None:
        ours: list[int] = []
        theirs: list[int] = []
        try:
            for which in range(2 if merge_stderr else 3):
                reader, writer = os.pipe()
                ours.append(reader if which else writer)
                theirs.append(writer if which else reader)
                os.set_blocking(ours[-1], False)
            _door.hand_over([control, *theirs, *theirs[1 : 1 + merge_stderr]])
        except BaseException:
            for fd in ours:
                os.close(fd)
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        self.stdin, self.stdout, *rest = ours
        self.stderr = rest[0] if rest else -1

    async def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self._control.send(view) :]
            except BlockingIOError:
                await anyio.wait_writable(self._control)

    async def _answered(self, command: Sequence[bytes], cwd: bytes | None) -> None:
        word = await self._word()
        if word[:1] == [b"pid"]:
            self.pid = int(word[1])
        elif word[:1] == [b"error"]:
            code = int(word[1])
            what = command[0] if word[2] == b"program" or cwd is None else cwd
            name = what.decode(errors="backslashreplace")
            raise OSError(code, os.strerror(code), name)
        else:
            raise RemotingError("the keeper of processes ended; was it killed?")

    async def _word(self) -> list[bytes]:
        """Return the keeper's next line in words; none if it has ended."""
        while b"\n" not in self._data:
            try:
                data = self._control.recv(_WORD)
            except BlockingIOError:
                await anyio.wait_readable(self._control)
                continue
            except OSError:
                data = b""
            if not data:
                return []
            self._data += data
        line, _, self._data = self._data.partition(b"\n")
        return line.split()

    async def wait(self) -> int:
        """Wait until the process has exited; return its status.

        Raises:
            RemotingError: The keeper was killed, and the process with it.
        """
        while self.status is None:
            await self._listen()
            if self._gone and self.status is None:
                raise RemotingError("the keeper of processes ended; was it killed?")
        return self.status

    async def wait_gone(self) -> None:
        """Wait, after `end`, until nothing is left of what the process started."""
        while not self._gone:
            await self._listen()

    async def _listen(self) -> None:
        word = await self._word()
        if word[:1] == [b"exit"]:
            self.status = int(word[1])
        elif not word:
            self._gone = True
            with contextlib.suppress(OSError):  # nobody else will
                os.killpg(self.pid, signal.SIGKILL)
        else:
            self._gone = word[0] == b"gone"

    def signal(self, number: int) -> None:
        """Signal the process and its group; after its end nothing happens."""
        self._say(f"signal {int(number)}")

    def end(self) -> None:
        """Begin to end it with all that it started; the keeper sees to the rest."""
        self._say("end")

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):
            self._control.send(f"{line}\n".encode())

    def close_stdin(self) -> None:
        """Its standard input ends."""
        fd, self.stdin = self.stdin, -1
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        """Let go of it: it ends, if it has not. Again, it does nothing."""
        self.close_stdin()
        for fd in (self.stdout, self.stderr):
            if fd >= 0:
                os.close(fd)
        self.stdout = self.stderr = -1
        self._control.close()


def _request(
    command: Sequence[bytes], cwd: bytes | None, env: Mapping[bytes, bytes] | None
) -> bytes:
    if not command or not command[0]:
        raise ValueError("a command begins with a program")
    if env is None:
        env = os.environb
    head = [secrets.token_hex(16).encode(), str(GRACE).encode(), cwd or b""]
    pairs = [key + b"=" + value for key, value in env.items()]
    items = [*head, str(len(command)).encode(), *command, *pairs]
    if any(b"\0" in each for each in items):
        raise ValueError("a NUL in a command, its folder or its environment")
    if any(b"=" in key or not key for key in env):
        raise ValueError("a variable's name is not empty and has no = in it")
    data = b"\0".join(items)
    return struct.pack(">I", len(data)) + data
