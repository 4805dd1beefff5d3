"""The steps that move bytes: a file, a folder, a flood with calls beside it."""

from __future__ import annotations

import os
import statistics
import zlib
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread

from remoting_bus._loop import clock
from remoting_bus._master import RemoteAgent
from remoting_bus.channel.streams import pipe

from . import work
from .show import Done, Show, expect
from .stage import Stage

__all__ = ["flood", "send_file", "send_folder"]

MIB = 1024 * 1024

FILE_MIB = 64

FLOOD_SECONDS = 3.0

IDLE_CALLS = 100

PIECE = 256 * 1024

SLOWEST = 100.0
"""Milliseconds: the median of small calls beside the flood. Where bulk held calls up, it
would be hundreds; a busy machine of two cores shows 5."""


async def send_file(stage: Stage, show: Show) -> Done:
    """Send a file, and let the far side say its hash."""
    source, target = stage.folder / "file.bin", stage.there / "file.bin"
    await anyio.to_thread.run_sync(_write_random, source)
    agent = stage.agents[0]
    began = clock()
    with show.bar(f"  {FILE_MIB} MiB to {agent.name}") as report:
        await agent.files.put(source, target, progress=report)
    took = clock() - began
    here = await anyio.to_thread.run_sync(work.sha256, str(source))
    there = await agent.call(work.sha256, str(target))
    expect(here == there, f"sha256 is {here} here and {there} there")
    await anyio.to_thread.run_sync(source.unlink)
    rate = FILE_MIB / took
    return Done(
        f"{FILE_MIB} MiB in {took:.2f} s, {rate:.0f} MiB/s; sha256 is the same there",
        {"mib": FILE_MIB, "took_s": took, "mib_per_s": rate, "sha256": there},
    )


def _write_random(path: Path) -> None:
    with path.open("wb") as file:
        for _ in range(FILE_MIB):
            file.write(os.urandom(MIB))


async def send_folder(stage: Stage, show: Show) -> Done:
    """Send a folder with modes, links and an empty folder, and compare."""
    source, target = stage.folder / "tree", stage.there / "tree"
    await anyio.to_thread.run_sync(_make_tree, source)
    agent = stage.agents[1]
    began = clock()
    with show.bar(f"  a folder to {agent.name}") as report:
        await agent.files.put_tree(source, target, progress=report)
    took = clock() - began
    here = await anyio.to_thread.run_sync(work.describe_tree, str(source))
    there = await agent.call(work.describe_tree, str(target))
    wrong = sorted(
        name for name in here.keys() | there.keys() if here.get(name) != there.get(name)
    )
    expect(not wrong, f"not the same there: {', '.join(wrong)}")
    return Done(
        f"{len(there)} entries in {took:.2f} s; contents, modes, links and empty folders "
        "are the same there",
        {"entries": len(there), "took_s": took},
    )


def _make_tree(base: Path) -> None:
    (base / "src" / "deep").mkdir(parents=True)
    (base / "empty").mkdir()
    for number in range(50):
        (base / "src" / f"module_{number}.py").write_bytes(os.urandom(2000 * number))
    script = base / "run.sh"
    script.write_text("#!/bin/sh\necho hello\n")
    script.chmod(0o750)
    (base / "src" / "deep" / "notes ünïcode.txt").write_text("notes\n")
    (base / "latest").symlink_to("src/deep")


async def flood(stage: Stage, show: Show) -> Done:
    """Send bulk as fast as it goes, and call the same agent meanwhile."""
    agent = stage.agents[0]
    idle = [await _round_trip(agent) for _ in range(IDLE_CALLS)]
    busy: list[float] = []
    async with pipe() as (reader, writer):
        async with agent.start(work.swallow, reader) as call:
            async with anyio.create_task_group() as group:
                group.start_soon(_call_until_cancelled, agent, busy)
                began = clock()
                size, check = await _pour(writer)
                group.cancel_scope.cancel()
            arrived = await call.result()
            took = clock() - began
    expect(arrived == (size, check), f"{size} bytes were sent, and {arrived[0]} came")
    expect(busy, "no call came through")
    before, beside = statistics.median(idle), statistics.median(busy)
    worst = max(busy)
    expect(beside <= SLOWEST, f"a call took {beside:.0f} ms (median) beside the flood")
    rate = size / MIB / took
    return Done(
        f"{size / MIB:.0f} MiB at {rate:.0f} MiB/s; a call takes {before:.2f} ms idle and "
        f"{beside:.2f} ms beside it (worst of {len(busy)}: {worst:.1f} ms)",
        {
            "mib": size / MIB,
            "mib_per_s": rate,
            "idle_p50_ms": before,
            "beside_p50_ms": beside,
            "beside_worst_ms": worst,
            "calls_beside": len(busy),
        },
    )


async def _round_trip(agent: RemoteAgent) -> float:
    began = clock()
    await agent.call(work.echo, 1)
    return (clock() - began) * 1000


async def _call_until_cancelled(agent: RemoteAgent, times: list[float]) -> None:
    while True:
        times.append(await _round_trip(agent))


async def _pour(writer: anyio.abc.ByteSendStream) -> tuple[int, int]:
    """Write for some time; return how many bytes, and their CRC-32."""
    piece = os.urandom(PIECE)
    size = check = 0
    until = clock() + FLOOD_SECONDS
    while clock() < until:
        await writer.send(piece)
        size += len(piece)
        check = zlib.crc32(piece, check)
    await writer.aclose()
    return size, check
