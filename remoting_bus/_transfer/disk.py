"""Disk work beside the event loop: threads, steps, and getting things to the disk.

Owns how long a thread is held (a cancel waits for one step) and how many there are. It
must not know what is transferred.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
from typing_extensions import TypeVarTuple, Unpack

__all__ = ["CHUNK", "in_steps", "in_thread", "sync_file_system", "sync_folder"]

CHUNK = 1024 * 1024
"""Bytes of one hop to a thread: a hop costs a quarter of a millisecond (speed.md), which
is little beside reading, hashing and writing a MiB."""

THREADS = 8
"""Threads with disk work at once, of one event loop; further work waits. A disk serves
no more at once to any use, and what anyio's own threads are used for is not held up."""

STEP = 0.1
"""Seconds after which long work looks whether it was cancelled."""

R = TypeVar("R")
A = TypeVarTuple("A")

_limiter: anyio.lowlevel.RunVar[anyio.CapacityLimiter] = anyio.lowlevel.RunVar(
    "remoting_bus.disk"
)


async def in_thread(function: Callable[[Unpack[A]], R], *args: Unpack[A]) -> R:  # noqa: UP044
    """Run `function` in a thread. A cancel waits for its end: keep it short."""
    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(THREADS)
        _limiter.set(limiter)
    return await anyio.to_thread.run_sync(function, *args, limiter=limiter)


async def in_steps(work: Generator[None, None, R]) -> R:
    """Run a generator to its end in threads and return its result.

    It yields where it may be interrupted; a cancel closes it there.
    """
    result: list[R] = []
    try:
        while await in_thread(_advance, work, result):
            pass
    finally:
        work.close()
    return result[0]


def _advance(work: Generator[None, None, R], result: list[R]) -> bool:
    until = time.monotonic() + STEP
    try:
        while time.monotonic() < until:
            next(work)
    except StopIteration as end:
        result.append(end.value)
        return False
    return True


def sync_folder(path: str | bytes) -> None:
    """See to it that the names in a folder are on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file_system(fd: int) -> None:
    """See to it that all files of the file system that `fd` is on are on the disk.

    One call for thousands of files, each of whose own would wait for the disk.

    Raises:
        OSError: The disk failed.
    """
    syncfs: Any = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if sys.platform != "linux" or syncfs is None:
        os.sync()
        return
    if syncfs(fd) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
