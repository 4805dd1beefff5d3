"""Clusters that lose a node: what calls, a file and a raw client notice of it.

Three nodes of one broker, a master here and an agent in a process of its own. Eight
callers call all the time, one file is under way, and beside them a raw client with its
own reconnect loop asks an echo for an answer. Then the node that carries most of it is
killed, stopped for 20 s, cut off, or all three are restarted one after another. Each
call has to end once, with the right result, and must have run once; the file has to
arrive as it was. `gap` is the longest time without an answer since the fault.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import hashlib
import itertools
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import uvloop

import remoting_bus as rb
from benchmarks._echoes import ECHOES, Echo
from remoting_bus.testing.brokers import (
    LocalBroker,
    LocalKafka,
    LocalNats,
    LocalRabbitMQ,
)

SUMMARY = "clusters of three that lose a node, beside a raw client (all brokers)"

BROKERS: dict[str, type[LocalBroker]] = {
    "nats": LocalNats,
    "amqp": LocalRabbitMQ,
    "kafka": LocalKafka,
}
FAULTS = ("kill", "cut", "pause", "rolling")
CALLERS = 8
MIB = 1024 * 1024
PAUSE = 20.0
"""Seconds that a node is stopped or cut off: longer than any client's patience."""


# -- the agent --


async def serve(urls: list[str]) -> None:
    """Count how often each call ran, until standard input ends."""
    runs: collections.Counter[int] = collections.Counter()
    agent = rb.Agent(urls, name="bench-agent", offers={"commands", "files"})

    @agent.command("count")
    async def count(number: int) -> int:
        runs[number] += 1
        return -number

    @agent.command("runs")
    async def ran() -> list[int]:
        """Return how many ran since last asked, and how many of them more than once."""
        result = [len(runs), sum(1 for each in runs.values() if each > 1)]
        runs.clear()
        return result

    async with agent:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


@contextlib.contextmanager
def agent_process(urls: list[str]) -> Iterator[None]:
    """Run `serve` in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.failover", *urls],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield
    finally:
        process.stdin.close()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


# -- the load --


class Answers:
    """When answers came."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._came = asyncio.Event()

    def add(self) -> None:
        """One has come."""
        self.times.append(time.monotonic())
        self._came.set()

    def gap(self, since: float) -> float:
        """Return the longest time without one, in seconds, from a moment on."""
        times = [since, *(at for at in self.times if at > since), time.monotonic()]
        return max(b - a for a, b in itertools.pairwise(times))

    async def newer(self, than: float) -> None:
        """Wait until one has come after a moment."""
        while not self.times or self.times[-1] < than:
            self._came.clear()
            await self._came.wait()


class Load:
    """Callers, until they are told to stop."""

    def __init__(self, agent: rb.RemoteAgent) -> None:
        self.answers = Answers()
        self.made = 0
        self.wrong: list[str] = []
        self._agent = agent
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Call until stopped; returns when every call has ended."""
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(self._call())

    def stop(self) -> None:
        """Begin no further call."""
        self._stop.set()

    async def _call(self) -> None:
        while not self._stop.is_set():
            self.made += 1
            number = self.made
            try:
                result = await self._agent.call("count", number)
            except rb.RemotingError as error:
                self.wrong.append(f"call {number} ended with {error!r}")
            else:
                if result != -number:
                    self.wrong.append(f"call {number} returned {result!r}")
                self.answers.add()
            await asyncio.sleep(0.005)


# -- a fault --


async def busiest(broker: LocalBroker) -> int:
    """Return the node that most goes through: it leads, whatever that is here."""
    before = [broker.traffic(i) for i in range(3)]
    await asyncio.sleep(0.5)
    return max(range(3), key=lambda i: broker.traffic(i) - before[i])


async def harm(broker: LocalBroker, fault: str) -> AsyncIterator[None]:
    """Do it; yields at its begin, and comes back when all nodes are well again."""
    thread = asyncio.to_thread
    node = await busiest(broker)
    match fault:
        case "kill":
            await thread(broker.kill, node)
            yield
            await asyncio.sleep(5)
            await thread(broker.start, node)
        case "cut":
            broker.cut(node)
            yield
            await asyncio.sleep(PAUSE)
            broker.heal(node)
        case "pause":
            await thread(broker.pause, node)
            yield
            await asyncio.sleep(PAUSE)
            if isinstance(broker, LocalRabbitMQ):
                # Past its net tick a node does not come back by itself.
                await thread(broker.kill, node)
                await thread(broker.start, node)
            else:
                broker.resume(node)
        case _:
            yield
            for each in range(3):
                await thread(broker.kill, each)
                await thread(broker.start, each)
                await asyncio.sleep(3)


def write_noise(path: Path, size: int) -> str:
    """Write a file of so many MiB, and return its hash."""
    with path.open("wb") as file:
        for _ in range(size):
            file.write(os.urandom(MIB))
    return hashed(path)


def hashed(path: Path) -> str:
    """Return the hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def put(agent: rb.RemoteAgent, source: Path, target: Path) -> float:
    """Send a file, and return when it had arrived."""
    await agent.files.put(source, target)
    return time.monotonic()


async def measure(
    bus: str, urls: list[str], broker: LocalBroker, fault: str, size: int
) -> dict[str, object]:
    """Let one fault happen under load, and judge what became of it."""
    echo: Echo = ECHOES[bus](urls)
    raw = Answers()
    with tempfile.TemporaryDirectory(prefix="remoting-bus-") as folder:
        source, target = Path(folder, "source"), Path(folder, "target")
        digest = await asyncio.to_thread(write_noise, source, size)
        async with (
            rb.Master(urls, name="bench-master") as master,
            asyncio.timeout(600),
        ):
            agent = master.agent("bench-agent")
            await agent.ready(timeout=60)
            load = Load(agent)
            async with asyncio.TaskGroup() as group, echo:
                asking = group.create_task(echo.ask_for_ever(raw.add))
                calling = group.create_task(load.run())
                await raw.newer(time.monotonic())
                await load.answers.newer(time.monotonic())
                await asyncio.sleep(1)
                sending = group.create_task(put(agent, source, target))
                course = harm(broker, fault)
                await anext(course)
                began = time.monotonic()
                async for _ in course:
                    raise AssertionError("a fault begins once")
                well = time.monotonic()
                await load.answers.newer(well)
                await raw.newer(well)
                filed = await sending
                gap, raw_gap = load.answers.gap(began), raw.gap(began)
                load.stop()
                await calling
                asking.cancel()
            ran, repeated = await agent.call("runs")
        arrived = await asyncio.to_thread(hashed, target)
    wrong = load.wrong[:3]
    if ran != load.made:
        wrong.append(f"{load.made} calls were made and {ran} ran")
    if repeated:
        wrong.append(f"{repeated} calls ran more than once")
    if arrived != digest:
        wrong.append("the file is another one")
    return {
        "bus": bus,
        "fault": fault,
        "gap_s": round(gap, 2),
        "raw_gap_s": round(raw_gap, 2),
        "calls": load.made,
        "file_mib": size,
        "file_s": round(filed - began, 1),
        "wrong": wrong,
    }


def run(arguments: list[str]) -> Iterator[dict[str, object]]:
    """Start a cluster for each bus, and harm it in each way."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks run failover")
    parser.add_argument("--bus", nargs="*", choices=BROKERS, default=list(BROKERS))
    parser.add_argument("--topology", help="of that one bus; else its default")
    parser.add_argument("--fault", nargs="*", choices=FAULTS, default=FAULTS)
    parser.add_argument("--size", type=int, default=256, help="MiB of the file")
    options = parser.parse_args(arguments)
    # What the raw clients say of each lost connection is no news here.
    logging.disable(logging.CRITICAL)
    failed = False
    for bus in options.bus:
        with BROKERS[bus](nodes=3) as broker:
            urls = list(broker.urls)
            if options.topology:
                urls = [f"{url}?topology={options.topology}" for url in urls]
            with agent_process(urls):
                for fault in options.fault:
                    record = uvloop.run(measure(bus, urls, broker, fault, options.size))
                    if options.topology:
                        record["topology"] = options.topology
                    failed |= bool(record["wrong"])
                    yield record
    if failed:
        raise SystemExit("something was lost, run twice, or changed: see `wrong`")


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1:]))
