"""`remoting-bus run`: a command on an agent, as if it ran here.

Its output comes as it is written, its exit status is ours, and what is interrupted here
ends there. Owns the three streams between. It must not know how processes are run.
"""

from __future__ import annotations

import os
import stat
import sys
from typing import Annotated, BinaryIO

import anyio
import anyio.abc
import anyio.to_thread
from cyclopts import Parameter

from remoting_bus._loop import run as run_loop
from remoting_bus._process import RemoteProcess
from remoting_bus.channel.streams import SendStream

from .failures import Failure, Finished, describe
from .output import Output
from .places import Common
from .session import reach

__all__ = ["OWN_FAILURE", "run"]

OWN_FAILURE = 255
"""The exit status when it is not the command's: as ssh has it."""

STANDARD_INPUT = 0

INPUT_PIECE = 64 * 1024
"""Bytes read at once from standard input: what a pipe holds."""

CAPTURED = 16 * 1024 * 1024
"""Bytes of output that --json holds of each stream; past it, it is refused."""


def run(
    agent: str,
    /,
    *cmd: Annotated[str, Parameter(allow_leading_hyphen=True)],
    cwd: str | None = None,
    common: Common | None = None,
) -> int:
    """Run a command on an agent; its exit status is passed through.

    255 is a failure of our own; a command that a signal ended gives 128 + its number.
    Standard input is passed on.

    Args:
        agent: Its name.
        cmd: The program and its arguments, after --.
        cwd: The folder on the agent in which it runs.
        common: Where the bus is. --timeout counts for reaching the bus only.
    """
    common = common or Common()
    output = Output(as_json=common.as_json)
    try:
        if not cmd:
            raise Failure("no command: remoting-bus run AGENT -- CMD ARGS…")
        if common.as_json:
            return run_loop(_captured, common, agent, list(cmd), cwd, output)
        return run_loop(_passed_through, common, agent, list(cmd), cwd)
    except FileNotFoundError as error:
        where = "" if cwd is None else f", or no folder {cwd}"
        output.failure(
            Failure(
                f"agent {agent} has no program {cmd[0]}{where}",
                kind=type(error).__name__,
            )
        )
        raise Finished(OWN_FAILURE) from None
    except Exception as error:  # noqa: BLE001 - the status of all of them is 255
        output.failure(describe(error))
        raise Finished(OWN_FAILURE) from None


def _shown(status: int) -> int:
    return 128 - status if status < 0 else status


async def _captured(
    common: Common, name: str, cmd: list[str], cwd: str | None, output: Output
) -> int:
    async with reach(common) as master:
        agent = master.agent(name)
        await agent.ready(timeout=common.patience)
        done = await agent.run_process(cmd, cwd=cwd, check=False, max_output=CAPTURED)
    status = _shown(done.returncode)
    output.data(
        {
            "status": status,
            "stdout": done.stdout.decode(errors="replace"),
            "stderr": done.stderr.decode(errors="replace"),
        }
    )
    return status


async def _passed_through(
    common: Common, name: str, cmd: list[str], cwd: str | None
) -> int:
    async with reach(common) as master:
        agent = master.agent(name)
        await agent.ready(timeout=common.patience)
        async with agent.open_process(cmd, cwd=cwd) as process:
            return await _attached(process)


async def _attached(process: RemoteProcess) -> int:
    """Pass the streams on until the process has ended and all of it was written."""
    try:
        async with anyio.create_task_group() as feeding:
            feeding.start_soon(_feed, process.stdin)
            async with anyio.create_task_group() as reading:
                reading.start_soon(_copy, process.stdout, sys.stdout.buffer)
                reading.start_soon(_copy, process.stderr, sys.stderr.buffer)
            status = await process.wait()
            feeding.cancel_scope.cancel()
    except BaseExceptionGroup as errors:
        raise _only(errors) from None
    return _shown(status)


def _only(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


async def _copy(stream: anyio.abc.ByteReceiveStream, to: BinaryIO) -> None:
    async for piece in stream:
        await anyio.to_thread.run_sync(_write, to, piece)


def _write(to: BinaryIO, piece: bytes) -> None:
    to.write(piece)
    to.flush()


async def _feed(stdin: SendStream) -> None:
    """Send what comes from standard input, and its end.

    It is waited for without a thread where that is possible: a thread that reads from a
    terminal or a pipe could not be called off when the command ends.
    """
    waits = _waits(STANDARD_INPUT)
    try:
        while True:
            if waits:
                await anyio.wait_readable(STANDARD_INPUT)
            piece = os.read(STANDARD_INPUT, INPUT_PIECE)
            if not piece:
                break
            await stdin.send(piece)
    except anyio.BrokenResourceError:
        return  # it does not read all of its input, as with any pipe
    await stdin.aclose()


def _waits(descriptor: int) -> bool:
    """Whether reading may have to wait; files, and /dev/null, are always ready."""
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)
