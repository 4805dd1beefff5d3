"""A file over NATS beside raw nats-py publish and subscribe of 64 KiB messages.

Two processes, one broker, uvloop on both sides; by turns and in one run. A file is read,
hashed, sent, hashed again, written and synced to the disk; the raw messages are bytes in
memory that are counted and dropped. Memory is the growth of both processes' resident
memory while files are sent, above what it was before.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import nats
import psutil
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg

import remoting_bus as rb
from remoting_bus.testing.brokers import LocalNats

SUMMARY = "a file over NATS beside raw nats-py messages of 64 KiB (two processes)"

MIB = 1024 * 1024
PIECE = 64 * 1024
SUBJECT = "raw.bulk"
FLUSH_EVERY = 16
"""Messages between flushes: nats-py's `publish` alone never waits."""

Move = Callable[[], Coroutine[object, object, object]]


async def serve(url: str) -> None:
    """Take both kinds of bulk until standard input ends."""
    raw = await nats.connect(url, pending_size=4 * MIB)
    counted = 0

    async def count(message: Msg) -> None:
        nonlocal counted
        counted += len(message.data)
        if message.reply:
            await raw.publish(message.reply, str(counted).encode())
            counted = 0

    await raw.subscribe(SUBJECT, cb=count, pending_bytes_limit=1024 * MIB)
    await raw.flush()
    print("ready", flush=True)
    async with rb.Agent(url, name="bench-files", offers={"files"}):
        await asyncio.to_thread(sys.stdin.read)
    await raw.close()


async def send_raw(raw: Client, size: int) -> None:
    """Send messages, and wait until all were counted."""
    piece = bytes(PIECE)
    for number in range(size // PIECE - 1):
        await raw.publish(SUBJECT, piece)
        if number % FLUSH_EVERY == 0:
            await raw.flush(timeout=60)
    answer = await raw.request(SUBJECT, piece, timeout=60)
    assert int(answer.data) == size, "the broker dropped messages"


class Memory:
    """The most that processes have grown by, looked at all the time in a thread."""

    def __init__(self, pids: list[int]) -> None:
        self._processes = [psutil.Process(pid) for pid in pids]
        self._before = [each.memory_info().rss for each in self._processes]
        self._done = threading.Event()
        self.grown = 0
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.05):
            now = [each.memory_info().rss for each in self._processes]
            grown = [a - b for a, b in zip(now, self._before, strict=True)]
            self.grown = max(self.grown, *grown)


async def measure(
    url: str, folder: Path, rounds: int, size: int, server: int
) -> list[dict[str, object]]:
    """Measure all, by turns."""
    source = folder / "source"
    piece = bytes(range(256)) * 4096
    with source.open("wb") as file:
        for _ in range(size // MIB):
            file.write(piece)
    raw = await nats.connect(url, pending_size=4 * MIB)
    async with rb.Master(url, name="bench-master") as master:
        files = master.agent("bench-files").files
        moves: dict[str, Move] = {
            "nats-py": lambda: send_raw(raw, size),
            "put": lambda: files.put(source, folder / "there"),
            "get": lambda: files.get(folder / "there", folder / "back"),
        }
        for move in moves.values():
            await move()
        rate: dict[str, list[float]] = {name: [] for name in moves}
        with Memory([psutil.Process().pid, server]) as memory:
            for _ in range(rounds):
                for name, move in moves.items():
                    began = time.perf_counter()
                    await move()
                    rate[name].append(size / MIB / (time.perf_counter() - began))
    await raw.close()
    median = {name: statistics.median(each) for name, each in rate.items()}
    records: list[dict[str, object]] = [
        {
            "scenario": "files",
            "put_ratio": round(median["put"] / median["nats-py"], 2),
            "get_ratio": round(median["get"] / median["nats-py"], 2),
            "mib": size // MIB,
            "memory_grown_mib": round(memory.grown / MIB, 1),
        }
    ]
    records += [
        {
            "what": name,
            "mib_per_second": round(median[name]),
            "spread": [round(each) for each in sorted(rate[name])],
        }
        for name in moves
    ]
    return records


def run(arguments: list[str]) -> Iterator[dict[str, object]]:
    """Start a broker and the other process, and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks run files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, default=128)
    options = parser.parse_args(arguments)
    with LocalNats() as broker, tempfile.TemporaryDirectory() as folder:
        # Not through the proxy that can cut a node off: it lives in this process.
        node = broker._nodes[0]
        url = broker._url(node, node.port)
        server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.files", url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert server.stdin is not None
        assert server.stdout is not None
        size = options.mib * MIB
        try:
            server.stdout.readline()
            yield from uvloop.run(
                measure(url, Path(folder), options.rounds, size, server.pid)
            )
        finally:
            server.stdin.close()
            server.wait(timeout=20)
            server.stdout.close()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
