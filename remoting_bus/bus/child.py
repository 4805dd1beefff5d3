"""A broker, or any other server, as a child process that cannot outlive its parent.

It starts `keeper`, which starts the command; when this process ends, however it ends, the
keeper ends the command. It must not know what the command is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from . import keeper

__all__ = ["Child", "keeper_command", "open_child", "read_answer"]

START_LIMIT = 30.0
"""Seconds for the keeper, a bare Python, to report; it takes some 20 ms."""

ANSWER_LIMIT = 8192
"""Bytes of the keeper's one line."""

KEEPER_GRACE = 5.0
"""Seconds beyond the child's own grace before the keeper itself is killed."""


class Child:
    """A command that runs under a keeper; made by `open_child`.

    Attributes:
        pid: The command's own process, not the keeper's.
    """

    def __init__(self, process: Process, pid: int) -> None:
        self._process = process
        self.pid = pid

    @property
    def running(self) -> bool:
        """Whether it had not ended when last looked at."""
        return self._process.returncode is None

    async def wait(self) -> int:
        """Wait until the command has ended: its status, or 128 + the signal."""
        return await self._process.wait()

    async def end(self) -> int:
        """End it, kindly, then by force after its grace; return as `wait`."""
        assert self._process.stdin is not None
        await self._process.stdin.aclose()
        return await self._process.wait()


def keeper_command(
    command: Sequence[str | os.PathLike[str]], *, log: Path, grace: float
) -> list[str]:
    """The command line that runs `command` under a keeper.

    Whoever runs it holds the keeper's standard input open, and closes it to end the
    command; standard output has one line for `read_answer`.
    """
    python = [sys.executable, "-I", "-S", keeper.__file__]
    return [*python, str(grace), os.fspath(log), *(os.fspath(c) for c in command)]


def read_answer(line: str, command: Sequence[str | os.PathLike[str]]) -> int:
    """The command's pid from the keeper's line.

    Raises:
        OSError: The command could not be started; the message says why.
    """
    word, _, rest = line.strip().partition(" ")
    if word == "pid":
        return int(rest)
    name = os.fspath(command[0])
    raise OSError(f"{name} could not be started: {rest or 'its keeper said nothing'}")


@asynccontextmanager
async def open_child(
    command: Sequence[str | os.PathLike[str]], *, log: Path, grace: float = 5.0
) -> AsyncGenerator[Child, None]:
    """Run a command while entered, and end it when left or when this process ends.

    May be entered and left in different tasks.

    Args:
        command: Program and arguments; its standard input is empty.
        log: A file that its output is appended to.
        grace: Seconds from SIGTERM to SIGKILL.

    Raises:
        OSError: It could not be started.
    """
    process = await anyio.open_process(
        keeper_command(command, log=log, grace=grace),
        stderr=None,
        start_new_session=True,  # a Ctrl-C at the terminal is the parent's to act on
    )
    try:
        assert process.stdout is not None
        with anyio.fail_after(START_LIMIT):
            lines = BufferedByteReceiveStream(process.stdout)
            try:
                line = await lines.receive_until(b"\n", ANSWER_LIMIT)
            except (anyio.IncompleteRead, anyio.EndOfStream):
                line = b""
        yield Child(process, read_answer(line.decode(), command))
    finally:
        with anyio.move_on_after(grace + KEEPER_GRACE, shield=True):
            assert process.stdin is not None
            await process.stdin.aclose()
            await process.wait()
        if process.returncode is None:
            process.kill()
        with anyio.move_on_after(KEEPER_GRACE, shield=True):
            await process.aclose()
