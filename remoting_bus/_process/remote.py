"""The caller's side of processes: `open_process`, `run_process`, `RemoteProcess`."""

from __future__ import annotations

import os
import secrets
import signal as signals
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from subprocess import (  # noqa: TID251 - anyio's own result and error
    CalledProcessError,
    CompletedProcess,
)
from typing import TYPE_CHECKING, Any

import anyio

from remoting_bus.channel.streams import ReceiveStream, SendStream, pipe
from remoting_bus.errors import LimitExceeded

from .serving import EXITED

if TYPE_CHECKING:
    from remoting_bus._remote.call import Call
    from remoting_bus._remote.caller import Caller

__all__ = ["MAX_OUTPUT", "RemoteProcess", "open_process", "run_process"]

MAX_OUTPUT = 64 * 1024 * 1024
"""Bytes that `run_process` captures of each stream, unless told otherwise: it holds them
in memory. Longer output is read from `open_process`, piece by piece."""


class RemoteProcess:
    """A process on an agent, with the members of `anyio.abc.Process`.

    Attributes:
        pid: On the agent.
        stdin: Its standard input; `aclose` is its end of file.
        stdout: Its standard output.
        stderr: Its standard error; at its end from the start where that goes to
            `stdout`.
    """

    def __init__(
        self,
        caller: Caller,
        call: Call[int],
        token: str,
        streams: tuple[SendStream, ReceiveStream, ReceiveStream],
    ) -> None:
        self._caller = caller
        self._call = call
        self._token = token
        self._status: int | None = None
        self.pid = 0
        self.stdin, self.stdout, self.stderr = streams

    def __repr__(self) -> str:
        return f"<RemoteProcess {self.pid}, returncode {self._status}>"

    @property
    def returncode(self) -> int | None:
        """The exit status as far as `wait` has seen it; below zero for a signal."""
        return self._status

    async def _started(self) -> None:
        async for report in self._call.progress:
            self.pid = int(report.done)
            if report.message == EXITED and report.total is not None:
                self._status = int(report.total)
            return
        # It ended before it was told of: the result says why, or how.
        self._status = await self._call.result()

    async def wait(self) -> int:
        """Wait until it has exited; return its status, below zero for a signal.

        What it wrote may still be on the way. Cancelling stops only the wait.

        Raises:
            RemotingError: The call that runs it failed, as when the agent is lost.
        """
        if self._status is None:
            async for report in self._call.progress:
                if report.message == EXITED and report.total is not None:
                    self._status = int(report.total)
                    break
            else:
                self._status = await self._call.result()
        return self._status

    async def send_signal(self, signal: int) -> None:
        """Send a signal to the process; nothing happens if it has ended."""
        await self._caller.call("rb:process.signal", self._token, int(signal), False)

    async def terminate(self) -> None:
        """Ask it to end (SIGTERM)."""
        await self.send_signal(signals.SIGTERM)

    async def kill(self) -> None:
        """End it and its whole process group, at once (SIGKILL)."""
        number = int(signals.SIGKILL)
        await self._caller.call("rb:process.signal", self._token, number, True)


@asynccontextmanager
async def open_process(
    caller: Caller,
    command: str | Sequence[str],
    *,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    merge_stderr: bool = False,
) -> AsyncIterator[RemoteProcess]:
    """Start a process on an agent; leaving the block ends its process group.

    Args:
        caller: The agent.
        command: A list of the program and its arguments, or a line for the shell.
        cwd: Where it runs, on the agent.
        env: Its environment, in place of the agent's.
        merge_stderr: Its standard error goes to its standard output.

    Raises:
        FileNotFoundError: There is no such program, or no such folder.
        NotGranted: The agent does not offer processes.
    """
    token = secrets.token_hex(8)
    line = (
        command if isinstance(command, str) else [os.fspath(part) for part in command]
    )
    async with pipe() as (in_reader, stdin), pipe() as (stdout, out_writer):
        async with pipe() as (stderr, err_writer):
            if merge_stderr:
                await err_writer.aclose()
            async with caller.start(
                "rb:process.run",
                token,
                line,
                None if cwd is None else os.fspath(cwd),
                None if env is None else dict(env),
                in_reader,
                out_writer,
                None if merge_stderr else err_writer,
            ) as call:
                process = RemoteProcess(caller, call, token, (stdin, stdout, stderr))
                await process._started()
                yield process


async def run_process(
    caller: Caller,
    command: str | Sequence[str],
    *,
    input: bytes | None = None,  # noqa: A002 - as anyio.run_process has it
    check: bool = True,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    max_output: int = MAX_OUTPUT,
    **options: Any,
) -> CompletedProcess[bytes]:
    """Run a process on an agent to its end, and return what it wrote.

    Args:
        caller: The agent.
        command: As for `open_process`.
        input: Is written to its standard input, which is then closed.
        check: Raise `CalledProcessError` if its exit status is not 0.
        cwd: As for `open_process`.
        env: As for `open_process`.
        max_output: Bytes captured of each stream, at most.
        options: As for `open_process`.

    Raises:
        CalledProcessError: Its exit status is not 0; output and errors are in it.
        LimitExceeded: It wrote more than `max_output`; it was ended.
    """
    captured: dict[str, bytes] = {}

    async def read(name: str, stream: ReceiveStream) -> None:
        parts: list[bytes] = []
        size = 0
        async for piece in stream:
            size += len(piece)
            if size > max_output:
                raise LimitExceeded(
                    f"{name} of {command!r} is longer than max_output, {max_output} "
                    "bytes; read it from open_process instead",
                    limit="max_output",
                    value=max_output,
                    asked=size,
                )
            parts.append(piece)
        captured[name] = b"".join(parts)

    async def feed(stream: SendStream) -> None:
        try:
            if input:
                await stream.send(input)
        except anyio.BrokenResourceError:
            return  # it does not read all of its input, as with any pipe
        await stream.aclose()

    async with open_process(caller, command, cwd=cwd, env=env, **options) as process:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(feed, process.stdin)
                group.start_soon(read, "stdout", process.stdout)
                group.start_soon(read, "stderr", process.stderr)
        except BaseExceptionGroup as errors:
            if len(errors.exceptions) == 1:
                raise errors.exceptions[0] from None
            raise
        status = await process.wait()
    done = CompletedProcess(
        command, status, captured.get("stdout", b""), captured.get("stderr", b"")
    )
    if check and status != 0:
        raise CalledProcessError(status, command, done.stdout, done.stderr)
    return done
