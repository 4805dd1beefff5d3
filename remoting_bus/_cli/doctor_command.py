"""`remoting-bus doctor`: what a broker can and cannot do, and how far away it is.

It connects as a program would, says what the driver knows of the broker, and sends
messages to itself. What it cannot test it does not claim.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any

import anyio

from remoting_bus._loop import clock, run
from remoting_bus._remote.program import name_of_this_process
from remoting_bus.channel.pair import Pair, open_bus
from remoting_bus.names import Address, Lane

from .failures import Failure
from .output import Output
from .places import Common, Place, find, nearest

__all__ = ["doctor"]

MESSAGES = 100
"""Round trips that are measured: enough for a median."""

ANSWER_LIMIT = 5.0
"""Seconds for one message to come back, before the bus is said to lose it."""

SMALL = 64 * 1024
"""Bytes; a broker that takes no more cuts bulk into small pieces, which is slow."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was found.

    Attributes:
        limits: As `bus.BusLimits` has them.
        round_trip: Seconds, the median; `round_trip_worst` the longest.
        largest: Bytes of the largest message, which went there and back.
        wrong: What a user should know, in words.
    """

    connected: float
    loops: int
    limits: dict[str, Any]
    round_trip: float
    round_trip_worst: float
    largest: int
    wrong: list[str]


def doctor(url: str | None = None, /, *, common: Common | None = None) -> None:
    """Connect to a bus, and say what it can do and how long it takes.

    Args:
        url: The bus; without it the one that other commands would use.
        common: Where the bus is, otherwise.
    """
    common = common or Common()
    place = find(nearest(url, common.url), common.namespace)
    report = run(_examine, place, common.patience)
    output = Output(as_json=common.as_json)
    if output.as_json:
        output.data(asdict(report))
        return
    output.rows(("WHAT", "FOUND"), _rows(report))
    for each in report.wrong:
        output.line(f"note: {each}")


async def _examine(place: Place, limit: float) -> Report:
    began = clock()
    async with open_bus(place.urls, timeout=limit) as bus:
        connected = clock() - began
        here = Address(place.namespace, name_of_this_process())
        trips, largest = await _round_trips(bus, here)
        return Report(
            connected=connected,
            loops=bus.loops,
            limits=asdict(bus.limits),
            round_trip=statistics.median(trips),
            round_trip_worst=max(trips),
            largest=largest,
            wrong=_remarks(bus),
        )


async def _round_trips(bus: Pair, here: Address) -> tuple[list[float], int]:
    """Send messages to ourselves: small ones for time, then the largest there is."""
    came: list[bytes] = []
    event = anyio.Event()

    def deliver(body: bytes, lane: Lane) -> None:
        came.append(body)
        event.set()

    trips = []
    ourselves = Address(here.namespace, here.name, here.name)
    sizes = [64] * MESSAGES + [bus.limits.max_bytes]
    async with bus.consume(here, [Lane.CALL], prefetch=16, deliver=deliver):
        for number, size in enumerate(sizes):
            event = anyio.Event()
            body = number.to_bytes(4, "big") * (size // 4)
            began = clock()
            await bus.publish(ourselves, Lane.CALL, body)
            with anyio.move_on_after(ANSWER_LIMIT):
                await event.wait()
            if body not in came:
                raise Failure(
                    f"a message of {len(body)} bytes did not come back within "
                    f"{ANSWER_LIMIT:g} s: this bus loses messages, or the credentials "
                    "do not allow to read at rb.>"
                )
            came.clear()
            if size == 64:
                trips.append(clock() - began)
    return trips, sizes[-1] // 4 * 4


def _remarks(bus: Pair) -> list[str]:
    limits, remarks = bus.limits, []
    if limits.max_bytes < SMALL:
        remarks.append(
            f"the broker takes {limits.max_bytes} bytes a message; from {SMALL} on bulk "
            "is faster (NATS: max_payload)"
        )
    if not limits.ordered:
        remarks.append("messages may overtake each other: calls wait for stragglers")
    if not limits.keeps_while_away:
        remarks.append(
            "messages to a program that is away are not kept; what was under way is "
            "sent again when it is back"
        )
    return remarks


def _rows(report: Report) -> list[tuple[str, str]]:
    limits = report.limits
    return [
        ("connected in", f"{report.connected * 1000:.0f} ms"),
        ("round trip", f"{report.round_trip * 1000:.2f} ms (median of {MESSAGES})"),
        ("worst round trip", f"{report.round_trip_worst * 1000:.2f} ms"),
        ("largest message", f"{report.largest} bytes, went there and back"),
        ("loops", str(report.loops)),
        ("keeps order", _yes(limits["ordered"])),
        ("expires messages itself", _yes(limits["native_expiry"])),
        ("tells that nobody reads", _yes(limits["tells_no_route"])),
        ("keeps for those away", _yes(limits["keeps_while_away"])),
    ]


def _yes(value: bool) -> str:
    return "yes" if value else "no"
