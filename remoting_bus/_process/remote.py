"""The near side of processes: `open_process`, `run_process` and `RemoteProcess`.

Owns what a program sees of a process elsewhere: the members of `anyio.abc.Process`, and
that it does not outlive its block. It must not know how the far side runs it. Next:
`serving`.
"""

from __future__ import annotations

import os
import signal as signals
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from subprocess import (  # noqa: TID251 - anyio's own result and error
    CalledProcessError,
    CompletedProcess,
)
from typing import Any

import anyio
import anyio.abc

from remoting_bus._remote.call import Call
from remoting_bus._remote.caller import Caller
from remoting_bus.channel.streams import ReceiveStream, SendStream
from remoting_bus.errors import LimitExceeded, RemotingError
from remoting_bus.protocol import ends

__all__ = ["MAX_OUTPUT", "RemoteProcess", "open_process", "run_process"]

MAX_OUTPUT = 64 * 1024 * 1024
"""Bytes that `run_process` captures of each stream, unless told otherwise: it holds them
in memory. Longer output is read from `open_process`, piece by piece."""

LEAVE_PATIENCE = 15.0
"""Seconds that leaving a block waits for the far side to have ended the process: its
grace, and what the keeper there waits then. A link that is down is not waited for longer;
the far side goes on by itself."""

_NEWS = 256
"""Bytes read at once of lines that have twenty."""


class RemoteProcess(anyio.abc.Process):
    """A process of a peer, with the members of `anyio.abc.Process`.

    Signals, `terminate` and `kill` are for its whole process group; they are sent at
    once, and do nothing after its end. Its streams are never None.
    """

    def __init__(
        self,
        call: Call[Any],
        stdin: SendStream,
        outputs: tuple[ReceiveStream, ReceiveStream],
        orders: SendStream,
        news: ReceiveStream,
    ) -> None:
        self._call = call
        self._stdin = stdin
        self._stdout, self._stderr = outputs
        self._orders = orders
        self._news = news
        self._lock = anyio.Lock()
        self._data = b""
        self._pid = 0
        self._status: int | None = None
        self._left = False

    def __repr__(self) -> str:
        status = "running" if self._status is None else f"exited with {self._status}"
        return f"<RemoteProcess {self._pid}: {status}>"

    @property
    def pid(self) -> int:
        """The process's id where it runs."""
        return self._pid

    @property
    def returncode(self) -> int | None:
        """What it exited with, below zero for a signal; None while it is not known."""
        if not self._lock.locked():
            with suppress(RemotingError):
                while piece := self._news.inlet.read_nowait():
                    self._take(bytes(piece))
        return self._status

    @property
    def stdin(self) -> SendStream:
        """Its standard input; closing it is the end of the input."""
        return self._stdin

    @property
    def stdout(self) -> ReceiveStream:
        """Its standard output. While it is not read the process waits."""
        return self._stdout

    @property
    def stderr(self) -> ReceiveStream:
        """Its standard error; at its end at once where it goes to `stdout`."""
        return self._stderr

    async def _started(self) -> None:
        """Wait until it has started, or raise why it has not."""
        while not self._pid:
            await self._hear()

    async def wait(self) -> int:
        """Wait until it has exited; return its status, below zero for a signal.

        What it wrote may still be on its way. Cancelling only stops the wait. As with
        any process: one whose output nobody reads may never end.

        Raises:
            RemotingError: The call that runs it has failed, as where the peer is lost.
        """
        while self.returncode is None:
            async with self._lock:
                if self._status is None:
                    await self._hear()
        assert self._status is not None
        return self._status

    async def _hear(self) -> None:
        try:
            self._take(await self._news.receive(_NEWS))
        except (anyio.BrokenResourceError, anyio.EndOfStream) as error:
            self._status = int(await self._call.result())
            if not self._pid:
                raise RemotingError("the peer ran it without a word") from error

    def _take(self, piece: bytes) -> None:
        *lines, self._data = (self._data + piece).split(b"\n")
        for line in lines:
            word, _, number = line.partition(b" ")
            if word == b"pid":
                self._pid = int(number)
            elif word == b"exit":
                self._status = int(number)

    def send_signal(self, signal: int) -> None:
        """Send a signal to its process group."""
        self._order(f"signal {int(signal)}")

    def terminate(self) -> None:
        """Ask its process group to end (SIGTERM)."""
        self.send_signal(signals.SIGTERM)

    def kill(self) -> None:
        """End its process group at once (SIGKILL)."""
        self.send_signal(signals.SIGKILL)

    def _order(self, line: str) -> None:
        # Bounded by the stream's buffer, of which an order takes ten bytes. A stream
        # that is broken is one of a process that has ended, or is about to.
        with suppress(RemotingError):
            self._orders.outlet.write_nowait(f"{line}\n".encode())

    async def aclose(self) -> None:
        """End it with all that it started, and wait until that is done.

        Cancelling leaves the rest to the far side.
        """
        if self._left:
            return
        self._left = True
        self._order("end")
        for stream in (self._stdout, self._stderr):
            stream.reset("closed by its reader")
        with anyio.move_on_after(LEAVE_PATIENCE):
            with suppress(RemotingError):
                await self.wait()
            await self._call.result()
        await self._stdin.aclose()


@asynccontextmanager
async def open_process(
    caller: Caller,
    command: str | bytes | Sequence[str | bytes | os.PathLike[str]],
    *,
    cwd: str | bytes | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    merge_stderr: bool = False,
) -> AsyncGenerator[RemoteProcess, None]:
    """Start a process of a peer; leaving the block ends it with all that it started.

    Leaving waits for that, unless it is by an error or a cancel: then the far side does
    it alone. SIGTERM comes first, SIGKILL two seconds later.

    Args:
        caller: The peer.
        command: A sequence of the program and its arguments, or a line for its shell.
        cwd: Where it runs there.
        env: Its environment, in place of the peer's own.
        merge_stderr: Its standard error goes to its standard output.

    Raises:
        FileNotFoundError: The program, or the folder, is not there; and the other
            errors of the operating system.
        NotGranted: The peer offers no processes.
        PeerLost: Inside the block, by `wait` and on leaving: the peer is gone. It ends
            the process when it notices.
    """
    if isinstance(command, str | bytes):
        words = [b"/bin/sh", b"-c", os.fsencode(command)]
    else:
        words = [os.fsencode(each) for each in command]
    pairs = None
    if env is not None:
        pairs = [os.fsencode(f"{key}={value}") for key, value in env.items()]
    their_stdin, stdin = ends.pipe()
    their_orders, orders = ends.pipe()
    (stdout, their_stdout), (stderr, their_stderr) = ends.pipe(), ends.pipe()
    news, their_news = ends.pipe()
    call: Call[Any]
    async with caller.start(
        "rb:process.run",
        words,
        None if cwd is None else os.fsencode(cwd),
        pairs,
        merge_stderr,
        their_stdin,
        their_stdout,
        their_stderr,
        their_orders,
        their_news,
    ) as call:
        outputs = (ReceiveStream(stdout), ReceiveStream(stderr))
        wires = (SendStream(orders), ReceiveStream(news))
        process = RemoteProcess(call, SendStream(stdin), outputs, *wires)
        await process._started()
        yield process
        await process.aclose()


async def run_process(
    caller: Caller,
    command: str | bytes | Sequence[str | bytes | os.PathLike[str]],
    *,
    input: bytes | None = None,  # noqa: A002 - as anyio.run_process has it
    check: bool = True,
    cwd: str | bytes | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    merge_stderr: bool = False,
    max_output: int = MAX_OUTPUT,
) -> CompletedProcess[bytes]:
    """Run a process of a peer to its end, and return what it wrote.

    Args:
        caller: The peer.
        command: As for `open_process`.
        input: Is written to its standard input, which is then closed.
        check: Raise CalledProcessError if its exit status is not 0.
        cwd: As for `open_process`.
        env: As for `open_process`.
        merge_stderr: As for `open_process`.
        max_output: Bytes captured of each stream, at most.

    Raises:
        CalledProcessError: Its exit status is not 0; output and errors are in it.
        LimitExceeded: It wrote more than `max_output`, and was ended.

    Otherwise as `open_process`. Cancelling ends the process.
    """
    captured = [_Capture("stdout", max_output), _Capture("stderr", max_output)]
    options: dict[str, Any] = {"cwd": cwd, "env": env, "merge_stderr": merge_stderr}
    async with open_process(caller, command, **options) as process:
        failed: list[Exception] = []
        async with anyio.create_task_group() as group:
            group.start_soon(_write, process.stdin, input or b"")
            for capture, stream in zip(
                captured, (process.stdout, process.stderr), strict=True
            ):
                group.start_soon(capture.read, stream, group.cancel_scope, failed)
        if failed:
            # The call tells why its streams broke, where that is what happened.
            if isinstance(failed[0], anyio.BrokenResourceError):
                await process._call.result()
            raise failed[0]
        status = await process.wait()
    done = CompletedProcess(command, status, captured[0].output, captured[1].output)
    if check and status != 0:
        raise CalledProcessError(status, done.args, done.stdout, done.stderr)
    return done


async def _write(stream: SendStream, data: bytes) -> None:
    with suppress(anyio.BrokenResourceError):  # it need not read all of it
        await stream.send(data)
    await stream.aclose()


class _Capture:
    """One stream's output, up to a limit."""

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def output(self) -> bytes:
        return b"".join(self._parts)

    async def read(
        self, stream: ReceiveStream, scope: anyio.CancelScope, failed: list[Exception]
    ) -> None:
        try:
            async for piece in stream:
                self._size += len(piece)
                if self._size > self._limit:
                    raise LimitExceeded(
                        f"{self._name} has more than {self._limit} bytes (max_output); "
                        "read it from open_process, piece by piece",
                        limit="max_output",
                        value=self._limit,
                        asked=self._size,
                    )
                self._parts.append(piece)
        except (LimitExceeded, anyio.BrokenResourceError) as error:
            failed.append(error)
            scope.cancel()
