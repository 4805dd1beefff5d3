"""Agents as processes of their own, ended with the test that started them."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE

import anyio
import anyio.abc
from anyio.streams.buffered import BufferedByteReceiveStream

VICTIM = Path(__file__).with_name("victim.py")
ROOT = VICTIM.parents[2]


async def start_victim(url: str, namespace: str, name: str) -> anyio.abc.Process:
    """Start `victim.py`; it has not joined yet."""
    return await anyio.open_process(
        [sys.executable, str(VICTIM), url, namespace, name],
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        cwd=ROOT,
    )


async def has_joined(process: anyio.abc.Process) -> None:
    """Wait for its line."""
    assert process.stdout is not None
    lines = BufferedByteReceiveStream(process.stdout)
    with anyio.fail_after(30):
        assert await lines.receive_until(b"\n", 100) == b"joined"


@asynccontextmanager
async def victim(
    url: str, namespace: str, name: str = "agent"
) -> AsyncIterator[anyio.abc.Process]:
    """Run `victim.py`, joined, and kill it in the end."""
    async with await start_victim(url, namespace, name) as process:
        try:
            await has_joined(process)
            yield process
        finally:
            if process.returncode is None:
                process.kill()
