"""The process groups that this agent has running, and their end.

Each process is started in a group of its own. The reaper, one child of the agent made
with the first process, knows them all and ends them if the agent is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

import anyio
from anyio.abc import Process

__all__ = ["GRACE", "Groups", "end_group"]

GRACE = 2.0
"""Seconds that a process group has between SIGTERM and SIGKILL."""

_REAPER = Path(__file__).with_name("reaper.py")


class Groups:
    """The groups of one program, told to its reaper."""

    def __init__(self) -> None:
        self._pipe: int | None = None
        self._reaper: Process | None = None

    async def started(self, group: int) -> None:
        """A process was started as the leader of this group."""
        if self._pipe is None:
            await self._start_reaper()
        self._tell(f"+{group}\n")

    def over(self, group: int) -> None:
        """The group is no more."""
        self._tell(f"-{group}\n")

    async def _start_reaper(self) -> None:
        reader, writer = os.pipe()
        try:
            # It ends by itself when this program's end of the pipe closes.
            reaper = await anyio.open_process(
                [sys.executable, "-I", "-S", str(_REAPER)],
                stdin=reader,
                stdout=None,
                stderr=None,
                start_new_session=True,
            )
        except BaseException:
            os.close(writer)
            raise
        finally:
            os.close(reader)
        if self._pipe is None:
            self._pipe, self._reaper = writer, reaper
        else:  # another call was quicker; the second reaper ends at once
            os.close(writer)
            await reaper.wait()

    def _tell(self, line: str) -> None:
        if self._pipe is not None:
            # A reaper that was killed leaves only the case of an agent that is, too.
            with contextlib.suppress(BrokenPipeError):
                os.write(self._pipe, line.encode())

    async def close(self) -> None:
        """No process runs any more: let the reaper end, which it does at once."""
        pipe, self._pipe = self._pipe, None
        reaper, self._reaper = self._reaper, None
        if pipe is not None and reaper is not None:
            os.close(pipe)
            await reaper.wait()


def signal_group(group: int, number: int) -> bool:
    """Signal a group; False if there is none any more."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


async def end_group(process: Process) -> None:
    """End a process and all of its group: SIGTERM, then SIGKILL after the grace."""
    group = process.pid
    if not signal_group(group, signal.SIGTERM):
        return
    signal_group(group, signal.SIGCONT)  # a stopped one would not see it
    with anyio.move_on_after(GRACE):
        await process.wait()
        # Nobody tells when a group is empty.
        while signal_group(group, 0):  # noqa: ASYNC110
            await anyio.sleep(0.02)
        return
    signal_group(group, signal.SIGKILL)
    with anyio.move_on_after(GRACE):
        await process.wait()
