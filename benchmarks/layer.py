"""The layer alone: calls over the memory bus, both sides in one process and one loop.

What a call costs without a broker and without marshalling: session, lines, pool. The
target for everything above included is 25 µs a call at 128 in flight.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from dataclasses import asdict, dataclass

import anyio

from remoting_bus.channel.link import Link
from remoting_bus.channel.node import Node
from remoting_bus.channel.pair import open_bus
from remoting_bus.protocol.calls import IncomingCall, OutgoingCall
from remoting_bus.protocol.codec import encode

SUMMARY = "µs a call of the layer alone (memory bus, one process)"

ARGUMENT = b"x" * 64
WARM_UP = 2_000


@dataclass(frozen=True)
class Result:
    """One figure."""

    scenario: str
    loop: str
    in_flight: int
    calls: int
    us_per_call: float
    cpu_us_per_call: float
    frames_per_envelope: float


async def _serve(link: Link, call: IncomingCall) -> None:
    link.returned(call, encode(call.args[0][0]))


async def _call(link: Link, args: bytes, count: int) -> None:
    for _ in range(count):
        call = OutgoingCall("echo", args)
        link.start(call)
        await link.wait(call)


async def _round(link: Link, in_flight: int, calls: int) -> None:
    args = encode([[ARGUMENT], {}])
    async with anyio.create_task_group() as group:
        for _ in range(in_flight):
            group.start_soon(_call, link, args, calls // in_flight)


async def _measure(loop: str, in_flight: int, calls: int, profile: bool) -> Result:
    async with (
        open_bus("memory://layer") as pair,
        Node(pair, "left", serve=_serve) as left,
        Node(pair, "right", serve=_serve),
    ):
        link = await left.connect("right", timeout=10)
        await _round(link, in_flight, WARM_UP)
        before = pair.statistics()["calls"]["published"]
        profiler = cProfile.Profile() if profile else None
        if profiler is not None:
            profiler.enable()
        started, cpu = time.perf_counter(), time.process_time()
        await _round(link, in_flight, calls)
        cpu, took = time.process_time() - cpu, time.perf_counter() - started
        if profiler is not None:
            profiler.disable()
            pstats.Stats(profiler).sort_stats("tottime").print_stats(45)
        envelopes = pair.statistics()["calls"]["published"] - before
    return Result(
        scenario="layer",
        loop=loop,
        in_flight=in_flight,
        calls=calls,
        us_per_call=round(took / calls * 1e6, 1),
        cpu_us_per_call=round(cpu / calls * 1e6, 1),
        frames_per_envelope=round(2 * calls / envelopes, 1),
    )


def run(arguments: list[str]) -> list[dict[str, object]]:
    """Measure; returns one record a figure."""
    parser = argparse.ArgumentParser(prog="layer", description=SUMMARY)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--in-flight", type=int, nargs="*", default=[1, 16, 128])
    parser.add_argument(
        "--loop", choices=["asyncio", "uvloop", "trio"], default="uvloop"
    )
    parser.add_argument("--profile", action="store_true", help="print a profile, too")
    options = parser.parse_args(arguments)
    trio = options.loop == "trio"
    made = {} if trio else {"use_uvloop": options.loop == "uvloop"}
    return [
        asdict(
            anyio.run(
                _measure,
                options.loop,
                in_flight,
                options.calls,
                options.profile,
                backend="trio" if trio else "asyncio",
                backend_options=made,
            )
        )
        for in_flight in options.in_flight
    ]
