"""What the agents of the demo run; they load it with `--commands`.

It must not know the steps that call it.
"""

from __future__ import annotations

import collections
import hashlib
import os
import stat
import sys
import zlib
from pathlib import Path

import anyio
import anyio.abc

from remoting_bus._remote.context import current
from remoting_bus._remote.registry import command

__all__ = ["describe_tree", "echo", "hold", "is_running", "job", "sha256", "steady"]

_PIECE = 1024 * 1024

_runs: collections.Counter[str] = collections.Counter()


@command
async def who() -> int:
    """Return this process."""
    return os.getpid()


@command
async def echo(number: int) -> int:
    """Return what came."""
    return number


@command
async def job() -> None:
    """Run a process that would take long, and tell which."""
    line = [sys.executable, "-c", "import time; time.sleep(600)"]
    async with await anyio.open_process(line) as process:
        current().progress(process.pid)
        await process.wait()


@command
async def hold() -> None:
    """Be under way, and say so, until stopped."""
    current().progress(1)
    await anyio.sleep_forever()


@command
async def steady(token: str, seconds: float) -> int:
    """Work for some time; return how often this was run for `token`."""
    _runs[token] += 1
    current().progress(1)
    await anyio.sleep(seconds)
    return _runs[token]


@command
async def swallow(stream: anyio.abc.ByteReceiveStream) -> tuple[int, int]:
    """Read a stream to its end; return how many bytes, and their CRC-32."""
    size = check = 0
    async for piece in stream:
        size += len(piece)
        check = zlib.crc32(piece, check)
    return size, check


@command
def is_running(pid: int) -> bool:
    """Return whether there is such a process on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@command
def sha256(path: str) -> str:
    """Return a file's hash."""
    made = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(_PIECE):
            made.update(piece)
    return made.hexdigest()


@command
def describe_tree(path: str) -> dict[str, str]:
    """Return all that is in a folder: kind, mode, and content or target of each."""
    base = Path(path)
    return {str(each.relative_to(base)): _described(each) for each in base.rglob("*")}


def _described(path: Path) -> str:
    if path.is_symlink():
        return f"link to {path.readlink()}"
    mode = stat.filemode(path.stat().st_mode)
    return mode if path.is_dir() else f"{mode} {sha256(str(path))}"
