"""Transfers without a bus, and trees to transfer."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.abc
import pytest

import remoting_bus as rb
from remoting_bus._transfer.bulk import Report
from remoting_bus._transfer.exchange import Transfer, receive, send
from remoting_bus._transfer.source import Source
from remoting_bus.channel.streams import ReceiveStream, SendStream, pipe

R = TypeVar("R")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Counting(anyio.abc.ByteSendStream):
    """A stream that breaks after so many bytes, as that of a lost session does."""

    def __init__(self, stream: SendStream, limit: float) -> None:
        self._stream = stream
        self._limit = limit
        self.sent = 0

    async def send(self, item: bytes) -> None:
        self.sent += len(item)
        if self.sent > self._limit:
            self._stream.reset("the test cut it")
            raise anyio.BrokenResourceError("the test cut it")
        await self._stream.send(item)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def transfer(
    source: str | Path,
    target: str | Path,
    *,
    tree: bool = False,
    cut_after: float = float("inf"),
    report: Report | None = None,
) -> tuple[Transfer, int]:
    """Transfer over two pipes; what was said of it, and how many bytes went."""
    made: list[Transfer] = []
    async with pipe() as (their_in, our_out), pipe() as (our_in, their_out):
        out = Counting(our_out, cut_after)

        async def give() -> None:
            try:
                made.append(await send(Source(str(source), tree=tree), out, our_in))
            except anyio.BrokenResourceError:
                pass  # the other side raises why
            except Exception as error:  # noqa: BLE001 - as leaving the stream's block does
                our_out.reset(str(error))

        async with anyio.create_task_group() as group:
            group.start_soon(give)
            error = await attempt(str(target), tree, their_in, their_out, report)
            if error is not None:
                their_in.reset(str(error))
                their_out.reset(str(error))
        if error is not None:
            raise error
    return made[0], out.sent


async def attempt(
    target: str,
    tree: bool,
    incoming: ReceiveStream,
    outgoing: SendStream,
    report: Report | None = None,
) -> Exception | None:
    """Receive; what went wrong is returned, out of the task group's reach."""
    try:
        await receive(target, tree, incoming, outgoing, report)
    except Exception as error:  # noqa: BLE001 - returned
        return error
    return None


def run(work: Generator[None, None, R]) -> R:
    """Run work in steps to its end, here."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            value: R = end.value
            return value


def make_file(path: Path, size: int) -> Path:
    """Write a file of this size that repeats nowhere."""
    path.write_bytes(random.Random(size).randbytes(size))
    return path


def make_tree(top: Path, files: int = 30, *, size: int = 100) -> Path:
    """Make a tree with what trees have: empty folders in folders, links, modes."""
    (top / "a" / "b" / "empty").mkdir(parents=True)
    (top / "z").mkdir()
    for index in range(files):
        where = top / ("a" if index % 2 else "a/b")
        make_file(where / f"file {index}", size + index)
    (top / "none").touch()
    (top / "a" / "run").write_text("#!/bin/sh\n")
    (top / "a" / "run").chmod(0o750)
    (top / "a" / "secret").write_text("s")
    (top / "a" / "secret").chmod(0o400)
    (top / "inner").symlink_to("a/run")
    (top / "outer").symlink_to("/etc/passwd")
    (top / "dangling").symlink_to("no/such")
    (top / "folder link").symlink_to("a", target_is_directory=True)
    (Path(os.fsdecode(os.fsencode(top) + b"/caf\xe9"))).write_text("not UTF-8")
    os.utime(top / "z", ns=(10**18, 10**18))
    (top / "z").chmod(0o711)
    return top


def described(top: Path) -> dict[bytes, Any]:
    """Return all there is to compare of a tree."""
    found: dict[bytes, Any] = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        name = os.fsencode(path.relative_to(top))
        if path.is_symlink():
            found[name] = path.readlink()
            continue
        content = None if path.is_dir() else path.read_bytes()
        found[name] = (status.st_mode, status.st_mtime_ns, content)
    return found


def hidden(folder: Path) -> list[str]:
    """Return what transfers have left in a folder."""
    return [each.name for each in folder.iterdir() if each.name.endswith(".rb-part")]


Fleet = Callable[..., Any]


@asynccontextmanager
async def fleet(url: str, **options: Any) -> AsyncIterator[rb.RemoteAgent]:
    """Yield a master's handle on an agent that offers files, on this bus."""
    async with rb.Master(url, name="control", timeout=20) as master:
        agent = rb.Agent(master.urls, name="worker", offers={"files"}, **options)
        async with agent:
            worker = master.agent("worker")
            await worker.ready(timeout=20)
            yield worker
