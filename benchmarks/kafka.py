"""Calls and a file over Kafka beside aiokafka's own producer and consumer.

Two processes, one broker without a proxy, uvloop on both sides; by turns and in one run.
The raw client is written by hand as well as one can: `assign`, no commits, no linger, one
message for each call with a number of 8 bytes and a dict of futures, acks of the leader
that nobody waits for; in bulk messages of 64 KiB, batches of 1 MiB, 64 sends under way.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

import remoting_bus as rb
from benchmarks.calls import ARGUMENT, WARM_UP, OneCall, at_once, echo, one_by_one
from benchmarks.files import MIB, PIECE, Memory, Move
from remoting_bus.testing.brokers import LocalKafka

SUMMARY = "calls and a file over Kafka beside raw aiokafka (two processes)"

ASK, ANSWER, BULK = "raw-ask", "raw-answer", "raw-bulk"
UNDER_WAY = 64


class Raw:
    """One side of the raw client: a producer for each kind, a consumer for each topic."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._numbers = itertools.count()
        self._waiting: dict[bytes, asyncio.Future[bytes]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._clients: list[Any] = []
        self.producer: Any = None
        self.bulk: Any = None

    async def start(self) -> None:
        """Connect to write."""
        self.producer = AIOKafkaProducer(bootstrap_servers=self._place, acks=1)
        self.bulk = AIOKafkaProducer(
            bootstrap_servers=self._place,
            acks=1,
            max_batch_size=MIB,
            max_request_size=4 * MIB,
        )
        self._clients += [self.producer, self.bulk]
        for client in self._clients:
            await client.start()

    async def read(self, topic: str, take: Any) -> None:
        """Read a topic from its end on."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._place,
            enable_auto_commit=False,
            max_partition_fetch_bytes=4 * MIB,
        )
        await consumer.start()
        self._clients.append(consumer)
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        await consumer.seek_to_end(partition)
        await consumer.position(partition)

        async def loop() -> None:
            while True:
                for records in (await consumer.getmany(timeout_ms=1000)).values():
                    for record in records:
                        await take(record)

        self._tasks.append(asyncio.create_task(loop()))

    async def close(self) -> None:
        """Close all."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        for client in self._clients:
            await client.stop()

    async def answer(self, record: Any) -> None:
        """Take an answer to a call."""
        self._waiting.pop(record.key).set_result(record.value)

    async def call(self, body: bytes = ARGUMENT) -> bytes:
        """One call, one message."""
        key = next(self._numbers).to_bytes(8)
        waiter = asyncio.get_running_loop().create_future()
        self._waiting[key] = waiter
        await self.producer.send(ASK, body, key, 0)
        result: bytes = await waiter
        return result

    async def send_bulk(self, size: int) -> None:
        """Send messages, and wait until all were counted."""
        piece = bytes(PIECE)
        key = next(self._numbers).to_bytes(8)
        waiter = asyncio.get_running_loop().create_future()
        self._waiting[key] = waiter
        sent: list[Any] = []
        count = size // PIECE
        for number in range(count):
            if len(sent) == UNDER_WAY:
                await sent.pop(0)
            last = key if number == count - 1 else None
            sent.append(await self.bulk.send(BULK, piece, last, 0))
        assert int(await waiter) == size, "messages were lost"


async def serve(place: str) -> None:
    """Answer both kinds of everything until standard input ends."""
    raw = Raw(place)
    await raw.start()
    counted = 0

    async def reply(record: Any) -> None:
        await raw.producer.send(ANSWER, record.value, record.key, 0)

    async def count(record: Any) -> None:
        nonlocal counted
        counted += len(record.value)
        if record.key is not None:
            await raw.producer.send(ANSWER, str(counted).encode(), record.key, 0)
            counted = 0

    await raw.read(ASK, reply)
    await raw.read(BULK, count)
    async with rb.open_bus(f"kafka://{place}") as bus:
        async with rb.Channel(
            bus, local="bench-b", peer="bench-a", commands={"echo": echo}
        ):
            # It is entered when its master is there, which may be never.
            agent = asyncio.create_task(serve_files(place))
            print("ready", flush=True)
            await asyncio.to_thread(sys.stdin.read)
            agent.cancel()
            await asyncio.wait([agent])
    await raw.close()


async def serve_files(place: str) -> None:
    """Be an agent until cancelled."""
    async with rb.Agent(f"kafka://{place}", name="bench-files", offers={"files"}):
        await asyncio.Event().wait()


async def make_topics(place: str) -> None:
    """The raw client's."""
    admin = AIOKafkaAdminClient(bootstrap_servers=place)
    await admin.start()
    await admin.create_topics([NewTopic(name, 1, 1) for name in (ASK, ANSWER, BULK)])
    await admin.close()


async def measure_calls(
    place: str, raw: Raw, rounds: int, calls: int, in_flight: int
) -> list[dict[str, object]]:
    """Both, by turns."""
    async with rb.open_bus(f"kafka://{place}") as bus:
        async with rb.Channel(bus, local="bench-a", peer="bench-b") as channel:

            async def ours() -> object:
                return await channel.call("echo", ARGUMENT)

            both: dict[str, OneCall] = {"ours": ours, "aiokafka": raw.call}
            for call in both.values():
                await one_by_one(call, WARM_UP)
            latency: dict[str, list[float]] = {name: [] for name in both}
            rate: dict[str, list[float]] = {name: [] for name in both}
            for _ in range(rounds):
                for name, call in both.items():
                    times = await one_by_one(call, calls)
                    latency[name].append(times[len(times) // 2])
                for name, call in both.items():
                    rate[name].append(await at_once(call, calls * 8, in_flight))
    p50 = {name: statistics.median(each) for name, each in latency.items()}
    per_second = {name: statistics.median(each) for name, each in rate.items()}
    return [
        {
            "scenario": "kafka calls",
            "p50_ratio": round(p50["ours"] / p50["aiokafka"], 2),
            "rate_ratio": round(per_second["ours"] / per_second["aiokafka"], 2),
            "in_flight": in_flight,
        },
        *(
            {
                "peer": name,
                "p50_ms": round(p50[name] * 1e3, 3),
                "calls_per_second": round(per_second[name]),
                "spread": [round(each) for each in sorted(rate[name])],
            }
            for name in both
        ),
    ]


async def measure_files(
    place: str, raw: Raw, folder: Path, rounds: int, size: int, server: int
) -> list[dict[str, object]]:
    """All, by turns."""
    source = folder / "source"
    source.write_bytes(os.urandom(MIB) * (size // MIB))
    async with rb.Master(f"kafka://{place}", name="bench-master") as master:
        files = master.agent("bench-files").files
        moves: dict[str, Move] = {
            "aiokafka": lambda: raw.send_bulk(size),
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
    median = {name: statistics.median(each) for name, each in rate.items()}
    return [
        {
            "scenario": "kafka files",
            "put_ratio": round(median["put"] / median["aiokafka"], 2),
            "get_ratio": round(median["get"] / median["aiokafka"], 2),
            "mib": size // MIB,
            "memory_grown_mib": round(memory.grown / MIB, 1),
        },
        *(
            {
                "what": name,
                "mib_per_second": round(median[name]),
                "spread": [round(each) for each in sorted(rate[name])],
            }
            for name in moves
        ),
    ]


async def measure(
    place: str, server: int, folder: Path, options: argparse.Namespace
) -> list[dict[str, object]]:
    """Measure calls, then files."""
    raw = Raw(place)
    await raw.start()
    await raw.read(ANSWER, raw.answer)
    records = await measure_calls(
        place, raw, options.rounds, options.calls, options.in_flight
    )
    size = options.mib * MIB
    records += await measure_files(place, raw, folder, options.rounds, size, server)
    await raw.close()
    return records


def run(arguments: list[str]) -> Iterator[dict[str, object]]:
    """Start a broker and the other process, and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks run kafka")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--in-flight", type=int, default=128)
    parser.add_argument("--mib", type=int, default=64)
    options = parser.parse_args(arguments)
    with LocalKafka(heap=512) as broker, tempfile.TemporaryDirectory() as folder:
        place = broker.inner_url().removeprefix("kafka://")
        uvloop.run(make_topics(place))
        server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.kafka", place],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            server.stdout.readline()
            yield from uvloop.run(measure(place, server.pid, Path(folder), options))
        finally:
            server.stdin.close()
            server.wait(timeout=20)
            server.stdout.close()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
