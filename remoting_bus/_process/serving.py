"""The agent's side of processes: `rb:process.run` and `rb:process.signal`.

One call runs one process from its start to the end of its output. However the call ends
(it returned, its caller left, the session was lost) the process group is ended with it.
It must not know who calls.
"""

from __future__ import annotations

import signal

import anyio
from anyio.abc import (
    ByteReceiveStream as AnyReceiveStream,
    ByteSendStream as AnySendStream,
    Process,
)

from remoting_bus._remote.context import current
from remoting_bus._remote.registry import Registry
from remoting_bus.channel.streams import ReceiveStream, SendStream
from remoting_bus.errors import CallRefused

from .groups import Groups, end_group, signal_group

__all__ = ["CHUNK", "Processes", "register"]

CHUNK = 64 * 1024
"""Bytes read at once from a process: what a pipe of Linux holds."""

STARTED = "started"
EXITED = "exited"
"""What a report says: its `done` is the pid, its `total` the exit status, once known."""


class Processes:
    """The processes that callers have running on this agent."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, str], Process] = {}
        self._groups = Groups()

    async def run(
        self,
        token: str,
        command: list[str] | str,
        cwd: str | None,
        env: dict[str, str] | None,
        stdin: ReceiveStream,
        stdout: SendStream,
        stderr: SendStream | None,
    ) -> int:
        """Run a process; return its exit status, below zero for a signal.

        Args:
            token: The caller's name for it, for signals.
            command: The program and its arguments, or a line for the shell.
            cwd: Where it runs; None for the agent's own folder.
            env: Its environment; None for the agent's.
            stdin: Is carried to its standard input.
            stdout: Gets its standard output.
            stderr: Gets its standard error. None sends it to `stdout`.
        """
        context = current()
        key = (context.peer, token)
        # Two at a time could not be told apart by a signal.
        if key in self._running:
            raise CallRefused(f"a process with the token {token!r} is running")
        process = await anyio.open_process(
            command,
            stdin=-1,
            stdout=-1,
            stderr=-1 if stderr is not None else -2,
            cwd=cwd,
            env=env,
            start_new_session=True,
        )
        self._running[key] = process
        try:
            await self._groups.started(process.pid)
            context.progress(process.pid, None, STARTED)
            await self._carry(process, stdin, stdout, stderr)
            status = process.returncode
            assert status is not None
            return status
        finally:
            with anyio.CancelScope(shield=True):  # bounded by the two graces
                await end_group(process)
                await process.aclose()
            self._groups.over(process.pid)
            del self._running[key]
            if not self._running:
                with anyio.CancelScope(shield=True):
                    await self._groups.close()

    async def _carry(
        self,
        process: Process,
        stdin: ReceiveStream,
        stdout: SendStream,
        stderr: SendStream | None,
    ) -> None:
        context = current()
        assert process.stdin is not None
        assert process.stdout is not None
        async with anyio.create_task_group() as feeding:
            feeding.start_soon(_feed, stdin, process.stdin)
            async with anyio.create_task_group() as group:
                group.start_soon(_drain, process.stdout, stdout)
                if stderr is not None and process.stderr is not None:
                    group.start_soon(_drain, process.stderr, stderr)
                status = await process.wait()
                context.progress(process.pid, status, EXITED)
            feeding.cancel_scope.cancel()

    async def signal(self, token: str, number: int, group: bool) -> bool:
        """Send a signal to a process of this caller, or to all of its group.

        Returns:
            False if it has ended.
        """
        process = self._running.get((current().peer, token))
        if process is None or process.returncode is not None:
            return False
        if group:
            return signal_group(process.pid, signal.Signals(number))
        process.send_signal(signal.Signals(number))
        return True


async def _feed(source: ReceiveStream, sink: AnySendStream) -> None:
    """Carry what the caller writes; the process sees its end of file."""
    try:
        async for piece in source:
            await sink.send(piece)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        source.reset("the process reads no more")
    await sink.aclose()


async def _drain(source: AnyReceiveStream, sink: SendStream) -> None:
    """Carry what the process writes; it waits while the caller is slow."""
    try:
        while True:
            await sink.send(await source.receive(CHUNK))
    except anyio.EndOfStream:
        await sink.send_eof()
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        await source.aclose()  # nobody reads on: the process gets SIGPIPE


def register(registry: Registry) -> None:
    """Offer processes under "processes"."""
    processes = Processes()
    registry.add(processes.run, name="rb:process.run", offer="processes")
    registry.add(processes.signal, name="rb:process.signal", offer="processes")
