"""What idle agents cost their master: memory each, and a share of a core.

Two processes and a NATS server: the master, measured from outside by the system's own
counts, and all agents in this one, on one open bus. Memory is the master's own (USS)
after all have joined and have been idle for a while, less what it was before.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import psutil

import remoting_bus as rb
from remoting_bus.testing.brokers import LocalNats

SUMMARY = "memory and CPU that idle agents cost a master (two processes, NATS)"

AT_ONCE = 20
"""Agents that join at the same time."""


async def serve(url: str, count: int) -> None:
    """Be the master: tell when `count` agents are here; end with standard input."""
    async with rb.Master(url, name="bench") as master:
        print("ready", flush=True)
        async with anyio.create_task_group() as tasks:

            async def tell() -> None:
                async with master.watch() as events:
                    async for _ in events:
                        if len(master.agents()) == count:
                            print("joined", flush=True)
                            return

            tasks.start_soon(tell)
            await anyio.to_thread.run_sync(sys.stdin.read)
            tasks.cancel_scope.cancel()


@contextmanager
def master_process(url: str, count: int) -> Iterator[subprocess.Popen[str]]:
    """Run the master as a process of its own."""
    code = f"import remoting_bus as rb, benchmarks.fleet as f; rb.run(f.serve, {url!r}, {count})"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(20)


def cpu_seconds(process: psutil.Process) -> float:
    """Return the processor time that it has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


async def measure(url: str, count: int, idle: float) -> dict[str, object]:
    """Join `count` agents, be idle, and return what the master needed for that."""
    with master_process(url, count) as child:
        assert child.stdout is not None
        await anyio.to_thread.run_sync(child.stdout.readline)
        process = psutil.Process(child.pid)
        before = process.memory_full_info().uss
        began = time.perf_counter()
        async with rb.open_bus(url) as bus, anyio.create_task_group() as tasks:
            room = anyio.CapacityLimiter(AT_ONCE)

            async def join(number: int) -> None:
                agent = rb.Agent(bus, name=f"agent-{number}", offers={"commands"})
                async with room:
                    await tasks.start(agent.serve)

            for number in range(count):
                tasks.start_soon(join, number)
            await anyio.to_thread.run_sync(child.stdout.readline)
            joined = time.perf_counter() - began
            cpu_joined = cpu_seconds(process)
            await anyio.sleep(idle)
            cpu = cpu_seconds(process) - cpu_joined
            after = process.memory_full_info().uss
            tasks.cancel_scope.cancel()
    return {
        "scenario": "fleet",
        "agents": count,
        "kib_each": round((after - before) / 1024 / count, 1),
        "cpu_percent_of_a_core": round(100 * cpu / idle, 2),
        "seconds_to_join": round(joined, 1),
        "idle_seconds": idle,
    }


def run(arguments: list[str]) -> Iterator[dict[str, object]]:
    """Yield one record."""
    parser = argparse.ArgumentParser(prog="fleet", description=SUMMARY)
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--idle", type=float, default=30.0, help="seconds")
    options = parser.parse_args(arguments)
    with LocalNats() as nats:
        yield rb.run(measure, nats.urls[0], options.agents, options.idle)
