"""The far side of processes: what a program that offers "processes" lets its peers call.

One call runs one process, from its start to the end of its output. However the call ends
(it returned, its caller left, the session was lost) the process ends with it, and with
all that it started. It must not know who calls. Next: `child`.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import anyio
import anyio.abc
import anyio.lowlevel

from remoting_bus._remote.registry import Registry
from remoting_bus.channel.streams import ReceiveStream

from .child import CHUNK, GRACE, Child

__all__ = ["OFFER", "register"]

OFFER = "processes"

END_PATIENCE = GRACE + 12.0
"""Seconds that a call waits until nothing is left of its process: the grace, and what the
keeper then waits for what hangs in the kernel."""

_ORDER = 64
"""Bytes of an order's line; the longest has nine."""


def register(registry: Registry) -> None:
    """Let peers run processes; it is `remoting_bus`'s own function."""
    registry.add(_run, "rb:process.run", OFFER)


async def _run(
    command: list[bytes],
    cwd: bytes | None,
    env: list[bytes] | None,
    merge_stderr: bool,
    stdin: ReceiveStream,
    stdout: anyio.abc.ByteSendStream,
    stderr: anyio.abc.ByteSendStream,
    orders: anyio.abc.ByteReceiveStream,
    news: anyio.abc.ByteSendStream,
) -> int:
    """Run a process; return its exit status, below zero for a signal.

    Args:
        command: The program and its arguments.
        cwd: Where it runs; None for this program's own folder.
        env: Its environment as NAME=VALUE; None for this program's.
        merge_stderr: Its standard error goes to `stdout`.
        stdin: Is carried to its standard input.
        stdout: Gets its standard output.
        stderr: Gets its standard error.
        orders: Lines: "signal N", and "end" when the caller is done with it.
        news: Lines: "pid N" and "exit STATUS". Apart from the result, which comes only
            after the output.
    """
    pairs = None if env is None else dict(_pair(each) for each in env)
    child = await Child.start(command, cwd=cwd, env=pairs, merge_stderr=merge_stderr)
    try:
        await news.send(b"pid %d\n" % child.pid)
        await _carry(child, stdin, stdout, stderr, orders, news)
    finally:
        child.end()
        with anyio.move_on_after(END_PATIENCE, shield=True):
            await child.wait_gone()
        child.close()
    return 0 if child.status is None else child.status


def _pair(item: bytes) -> tuple[bytes, bytes]:
    name, _, value = item.partition(b"=")
    return name, value


async def _carry(
    child: Child,
    stdin: ReceiveStream,
    stdout: anyio.abc.ByteSendStream,
    stderr: anyio.abc.ByteSendStream,
    orders: anyio.abc.ByteReceiveStream,
    news: anyio.abc.ByteSendStream,
) -> None:
    """Carry all that goes in and out, until the process and its output have ended."""
    failed: list[Exception] = []
    async with anyio.create_task_group() as beside:
        stop = beside.cancel_scope.cancel

        async def tell() -> None:
            try:
                status = await child.wait()
                await news.send(b"exit %d\n" % status)
            except anyio.BrokenResourceError:
                return  # its caller knows enough
            except Exception as error:  # noqa: BLE001 - raised below, without a group
                failed.append(error)

        beside.start_soon(_feed, stdin, child)
        beside.start_soon(_obey, orders, child, stop)
        async with anyio.create_task_group() as outputs:
            outputs.start_soon(tell)
            outputs.start_soon(_drain, child.stdout, stdout)
            outputs.start_soon(_drain, child.stderr, stderr)
        stop()
    if failed:
        raise failed[0]


async def _feed(stdin: ReceiveStream, child: Child) -> None:
    """Carry what the caller writes; the process sees its end."""
    try:
        async for piece in stdin:
            view = memoryview(piece)
            while view:
                try:
                    view = view[os.write(child.stdin, view) :]
                except BlockingIOError:
                    await anyio.wait_writable(child.stdin)
    except BrokenPipeError:
        stdin.reset("the process reads no more of its standard input")
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass  # its caller gave it up; the call is about to end
    child.close_stdin()


async def _drain(fd: int, sink: anyio.abc.ByteSendStream) -> None:
    """Carry what the process writes; while the caller is slow nothing is read."""
    try:
        while fd >= 0:
            try:
                piece = os.read(fd, CHUNK)
            except BlockingIOError:
                await anyio.wait_readable(fd)
                continue
            if not piece:
                break
            await sink.send(piece)
        await sink.aclose()
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        # Nobody reads on. It is read away here: who closes one of the two outputs of a
        # process means that he does not care for it, and not that it should die.
        await _read_away(fd)


async def _read_away(fd: int) -> None:
    while True:
        try:
            if not os.read(fd, CHUNK):
                return
        except BlockingIOError:
            await anyio.wait_readable(fd)
        else:
            await anyio.lowlevel.checkpoint()


async def _obey(
    orders: anyio.abc.ByteReceiveStream, child: Child, stop: Callable[[], None]
) -> None:
    """Do what the caller says of the process while it runs."""
    data = b""
    try:
        async for piece in orders:
            *lines, data = (data + piece).split(b"\n")
            for line in lines:
                if line == b"end":
                    stop()
                    return
                word, _, number = line.partition(b" ")
                if word != b"signal" or not number.isdigit() or len(number) > 3:
                    raise ValueError(f"{line[:_ORDER]!r} is no order to a process")
                child.signal(int(number))
            if len(data) > _ORDER:
                raise ValueError("an order to a process without an end")
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        return  # the caller has gone, and its call with it
