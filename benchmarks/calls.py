"""Calls over NATS beside nats-py's own request and reply: two processes, one broker.

The same argument of 64 bytes, uvloop on both sides, in turn and in one run: one call at a
time, and 128 in flight. Ratios come first; absolute figures mean little elsewhere.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator

import nats
import uvloop
from nats.aio.msg import Msg

import remoting_bus as rb
from remoting_bus.testing.brokers import LocalNats

SUMMARY = "calls over NATS beside nats-py request (two processes)"

ARGUMENT = b"x" * 64
SUBJECT = "raw.echo"
WARM_UP = 300

OneCall = Callable[[], Awaitable[object]]


async def echo(data: bytes) -> bytes:
    """Return what came."""
    return data


async def serve(url: str) -> None:
    """Answer both kinds of calls until standard input ends."""
    raw = await nats.connect(url)

    async def reply(message: Msg) -> None:
        await message.respond(message.data)

    await raw.subscribe(SUBJECT, cb=reply)
    async with rb.open_bus(url) as bus:
        async with rb.Channel(
            bus, local="bench-b", peer="bench-a", commands={"echo": echo}
        ):
            print("ready", flush=True)
            await asyncio.to_thread(sys.stdin.read)
    await raw.close()


async def one_by_one(call: OneCall, count: int) -> list[float]:
    """Return the seconds of each call, sorted."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        await call()
        times.append(time.perf_counter() - began)
    return sorted(times)


async def at_once(call: OneCall, count: int, in_flight: int) -> float:
    """Return calls a second."""

    async def worker() -> None:
        for _ in range(count // in_flight):
            await call()

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(in_flight)))
    return count // in_flight * in_flight / (time.perf_counter() - began)


async def measure(
    url: str, rounds: int, calls: int, in_flight: int
) -> list[dict[str, object]]:
    """Measure both, by turns."""
    raw = await nats.connect(url)
    async with rb.open_bus(url) as bus:
        async with rb.Channel(bus, local="bench-a", peer="bench-b") as channel:

            async def ours() -> object:
                return await channel.call("echo", ARGUMENT)

            async def theirs() -> object:
                return await raw.request(SUBJECT, ARGUMENT, timeout=30)

            both: dict[str, OneCall] = {"ours": ours, "nats-py": theirs}
            for call in both.values():
                await one_by_one(call, WARM_UP)
            latency: dict[str, list[float]] = {name: [] for name in both}
            p99: dict[str, list[float]] = {name: [] for name in both}
            rate: dict[str, list[float]] = {name: [] for name in both}
            for _ in range(rounds):
                for name, call in both.items():
                    times = await one_by_one(call, calls)
                    latency[name].append(times[len(times) // 2])
                    p99[name].append(times[len(times) * 99 // 100])
                for name, call in both.items():
                    rate[name].append(await at_once(call, calls * 8, in_flight))
    await raw.close()
    median = statistics.median
    records: list[dict[str, object]] = [
        {
            "scenario": "calls",
            "p50_ratio": round(median(latency["ours"]) / median(latency["nats-py"]), 2),
            "rate_ratio": round(median(rate["ours"]) / median(rate["nats-py"]), 2),
            "in_flight": in_flight,
        }
    ]
    records += [
        {
            "peer": name,
            "p50_ms": round(median(latency[name]) * 1e3, 3),
            "p99_ms": round(median(p99[name]) * 1e3, 3),
            "calls_per_second": round(median(rate[name])),
            "spread": [round(each) for each in sorted(rate[name])],
        }
        for name in both
    ]
    return records


def run(arguments: list[str]) -> Iterator[dict[str, object]]:
    """Start a broker and the other process, and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks run calls")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--in-flight", type=int, default=128)
    options = parser.parse_args(arguments)
    with LocalNats() as broker:
        server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.calls", broker.urls[0]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            server.stdout.readline()
            yield from uvloop.run(
                measure(
                    broker.urls[0], options.rounds, options.calls, options.in_flight
                )
            )
        finally:
            server.stdin.close()
            server.wait(timeout=20)
            server.stdout.close()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
