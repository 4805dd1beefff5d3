"""The promises of `remoting_bus.bus.backend` about messages, one check each.

Owns what is tried, in the words of the contract. A check raises AssertionError where a
promise is broken, or never ends: `conformance` gives it a deadline. Next: `log_promises`, `probe`.
"""

from __future__ import annotations

import threading
from contextlib import AsyncExitStack

import anyio

from remoting_bus.bus import Bus
from remoting_bus.errors import LimitExceeded, RemotingError
from remoting_bus.names import MAX_NAME_LENGTH, Address, Lane

from .probe import PREFETCH, Inbox, Probe, expect
from .promise import promise

__all__ = ["BURST", "UNDER_WAY", "numbered"]

LEAST_MAX_BYTES = 64 * 1024
"""A bus must carry an envelope of calls, which is up to 64 KiB."""

BURST = 2000
"""Messages in one go: more than the queues of client libraries hold by default."""

UNDER_WAY = 50
"""Publishes at once, more than `publishes_under_way` of any driver we know."""


def numbered(count: int, prefix: str = "") -> list[bytes]:
    """Return bodies that tell each other apart."""
    return [f"{prefix}{number}".encode() for number in range(count)]


@promise("limits", "BusLimits say what one connection can do")
async def _limits(probe: Probe) -> None:
    async with probe.backend.open(probe.url) as bus:
        limits = bus.limits
        expect(
            limits.max_bytes >= LEAST_MAX_BYTES,
            f"max_bytes is {limits.max_bytes}, less than {LEAST_MAX_BYTES}",
        )
        expect(limits.publishes_under_way >= 1, "publishes_under_way is less than 1")


@promise("url", "ValueError: the URL is not understood")
async def _url(probe: Probe) -> None:
    scheme = probe.url.partition("://")[0]
    for bad in (f"{scheme}://host:port", f"{scheme}://host?no-such-option-at-all=1"):
        try:
            async with probe.backend.open(bad):
                pass
        except ValueError:
            continue
        raise AssertionError(f"{bad!r} was opened")


@promise("unchanged", "A message is never changed, and never cut")
async def _unchanged(probe: Probe) -> None:
    inbox = Inbox()
    async with probe.two() as (writer, reader), probe.read(reader, inbox):
        every_byte = bytes(range(256)) * (writer.limits.max_bytes // 256)
        bodies = [b"", b"\x00", b"\xff" * 1000, every_byte]
        for body in bodies:
            await writer.publish(probe.at(), Lane.CALL, body)
        await probe.arrival(inbox, bodies)
        expect(set(inbox.bodies) == set(bodies), "something else arrived, too")
        kinds = {type(body).__name__ for body in inbox.bodies}
        expect(kinds == {"bytes"}, f"a body is not bytes: {kinds}")


@promise("max-bytes", "LimitExceeded: the body is too large. Nothing was sent")
async def _max_bytes(probe: Probe) -> None:
    inbox = Inbox()
    async with probe.two() as (writer, reader), probe.read(reader, inbox):
        limit = writer.limits.max_bytes
        large = bytes(limit + 1)
        try:
            await writer.publish(probe.at(), Lane.CALL, large)
        except LimitExceeded as error:
            told = (error.value, error.asked)
            expect(told == (limit, limit + 1), f"LimitExceeded tells {told}")
        else:
            raise AssertionError(f"publish took {limit + 1} bytes of {limit}")
        try:
            # False is as good: `publish`, which comes next then, tells the limit.
            took = writer.try_publish(probe.at(), Lane.CALL, large)
        except LimitExceeded:
            took = False
        expect(not took, f"try_publish took {limit + 1} bytes of {limit}")
        await writer.publish(probe.at(), Lane.CALL, b"end")
        await probe.arrival(inbox, [b"end"])
        expect(inbox.once == [b"end"], "something of a message too large was sent")


@promise("order", "Messages of one (sender, address, lane) arrive in order")
async def _order(probe: Probe) -> None:
    places = [("reader", tuple(Lane))]
    async with probe.two() as (one, two), probe.inboxes(two, places) as (inbox,):
        sent = {}
        for bus, sender in ((one, "one"), (two, "two")):
            for lane in Lane:
                sent[bus, sender, lane] = numbered(50, f"{sender}{lane.name}")
        async with anyio.create_task_group() as tasks:
            for (bus, sender, lane), bodies in sent.items():
                tasks.start_soon(
                    _publish_mixed, bus, probe.at(sender=sender), lane, bodies
                )
        await probe.arrival(inbox, [b for bodies in sent.values() for b in bodies])
        if one.limits.ordered and two.limits.ordered:
            for (_, sender, lane), bodies in sent.items():
                mine = set(bodies)
                came = [body for body in inbox.once if body in mine]
                expect(
                    came == bodies, f"{lane.name} of sender {sender} came disordered"
                )


async def _publish_mixed(
    bus: Bus, to: Address, lane: Lane, bodies: list[bytes]
) -> None:
    """Publish in order, by waiting and by not waiting in turn."""
    for number, body in enumerate(bodies):
        if number % 2 or not bus.try_publish(to, lane, body):
            await bus.publish(to, lane, body)


@promise("lanes", "A message is delivered with its lane, to readers of that lane only")
async def _lanes(probe: Probe) -> None:
    places = [("reader", (lane,)) for lane in Lane] + [("reader", tuple(Lane))]
    async with probe.two() as (writer, reader):
        async with probe.inboxes(reader, places) as inboxes:
            for lane in Lane:
                await writer.publish(probe.at(), lane, lane.name.encode())
            names = [lane.name.encode() for lane in Lane]
            for inbox, (_, lanes) in zip(inboxes, places, strict=True):
                await probe.arrival(inbox, [names[lane] for lane in lanes])
            await probe.quiet()
            for inbox, (_, lanes) in zip(inboxes, places, strict=True):
                mine = {names[lane] for lane in lanes}
                expect(set(inbox.bodies) == mine, "another lane's message arrived")
                for body, lane in zip(inbox.bodies, inbox.lanes, strict=True):
                    expect(names[lane] == body, f"{body!r} was delivered as {lane!r}")


@promise("fan-out", "Every consumer of an address gets every message")
async def _fan_out(probe: Probe) -> None:
    bodies = numbered(20)
    places = [("reader", (Lane.CALL,))] * 2
    async with probe.two() as (writer, reader):
        async with AsyncExitStack() as stack:
            here = await stack.enter_async_context(probe.inboxes(writer, places))
            there = await stack.enter_async_context(probe.inboxes(reader, places))
            await probe.send_all(writer, probe.at(), Lane.CALL, bodies)
            for inbox in here + there:
                await probe.arrival(inbox, bodies)


@promise("subscribed", "A message published after `consume` was entered arrives")
async def _subscribed(probe: Probe) -> None:
    async with probe.two() as (writer, reader):
        for number in range(20):
            inbox = Inbox()
            name = f"reader{number % 10}"
            async with probe.read(reader, inbox, name):
                await writer.publish(probe.at(name), Lane.CALL, b"%d" % number)
                await probe.arrival(inbox, [b"%d" % number])


@promise("under-way", "Several publishes may be under way")
async def _under_way(probe: Probe) -> None:
    inbox = Inbox()
    bodies = numbered(UNDER_WAY)
    async with probe.two() as (writer, reader), probe.read(reader, inbox):
        async with anyio.create_task_group() as tasks:
            for body in bodies:
                tasks.start_soon(writer.publish, probe.at(), Lane.CALL, body)
        await probe.arrival(inbox, bodies)


@promise("cancel", "Cancelling a publish is safe; the message may have been sent")
async def _cancel(probe: Probe) -> None:
    inbox = Inbox()
    whole = [b"%d" % number + bytes(10_000) for number in range(40)]
    async with probe.two() as (writer, reader), probe.read(reader, inbox):
        for number, body in enumerate(whole):
            if number % 2:
                await writer.publish(probe.at(), Lane.CALL, body)
            else:
                await _publish_and_cancel(writer, probe.at(), body, number % 3)
        await probe.arrival(inbox, whole[1::2])
        expect(
            set(inbox.bodies) <= set(whole), "a cancelled message came cut or changed"
        )


async def _publish_and_cancel(bus: Bus, to: Address, body: bytes, after: int) -> None:
    """Cancel a publish after so many turns of the loop."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bus.publish, to, Lane.CALL, body)
        for _ in range(after):
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()


@promise("outside", "`deliver` is never called from inside a publish, and on this loop")
async def _outside(probe: Probe) -> None:
    inbox = Inbox()
    publishing = threading.local()
    publisher = anyio.get_current_task().id
    faults: list[str] = []

    def deliver(body: bytes, lane: Lane) -> None:
        if threading.get_ident() != thread:
            faults.append("deliver was called in another thread")
        elif getattr(publishing, "now", False):
            faults.append("deliver was called inside try_publish")
        elif _task() == publisher:
            faults.append("deliver was called by the task that publishes")
        inbox.deliver(body, lane)

    thread = threading.get_ident()
    bodies = numbered(40)
    async with probe.backend.open(probe.url) as bus:
        reading = bus.consume(
            probe.at(), (Lane.CALL,), prefetch=PREFETCH, deliver=deliver
        )
        async with reading:
            for number, body in enumerate(bodies):
                publishing.now = True
                went = number % 2 and bus.try_publish(probe.at(), Lane.CALL, body)
                publishing.now = False
                if not went:
                    await bus.publish(probe.at(), Lane.CALL, body)
            await probe.arrival(inbox, bodies)
    expect(not faults, faults[0] if faults else "")


def _task() -> int | None:
    """Return the id of the task that runs; None inside a callback of the loop."""
    try:
        return anyio.get_current_task().id
    except Exception:  # noqa: BLE001 - what a callback gets depends on the loop library
        return None


@promise("answer", "`deliver` may publish without waiting")
async def _answer(probe: Probe) -> None:
    pings, pongs = Inbox(), Inbox()
    async with probe.two() as (here, there):

        def answer(body: bytes, lane: Lane) -> None:
            pings.deliver(body, lane)
            if not there.try_publish(probe.at("here", "there"), lane, body):
                refused.append(body)

        refused: list[bytes] = []
        bodies = numbered(20)
        reading = there.consume(
            probe.at("there"), (Lane.CALL,), prefetch=PREFETCH, deliver=answer
        )
        async with reading, probe.read(here, pongs, "here"):
            await probe.send_all(here, probe.at("there", "here"), Lane.CALL, bodies)
            await probe.arrival(pings, bodies)
            await probe.arrival(pongs, set(bodies) - set(refused))


@promise("left", "`deliver` is called while `consume` is entered, and not after")
async def _left(probe: Probe) -> None:
    async with probe.two() as (writer, reader):
        inbox = Inbox()
        async with probe.read(reader, inbox):
            await probe.send_all(writer, probe.at(), Lane.CALL, numbered(100))
        seen = len(inbox.bodies)
        await probe.send_all(writer, probe.at(), Lane.CALL, numbered(100, "late"))
        await probe.quiet()
        expect(len(inbox.bodies) == seen, "messages came after consume was left")


@promise("names", "Every name that `check_name` allows is a place of its own")
async def _names(probe: Probe) -> None:
    longest = MAX_NAME_LENGTH
    names = [
        "a", "A", "_", "-".join("ab"), "a_b", "a--b", "0", "__", "_-",
        "x" * longest, "x" * (longest - 1) + "y", "x" * (longest - 1) + "-",
        "_" * longest, "CALL", "all", "nul",
    ]  # fmt: skip
    places = [(name, (Lane.CALL,)) for name in names]
    async with probe.two() as (writer, reader):
        async with probe.inboxes(reader, places) as inboxes:
            for name in names:
                to = probe.at(name, sender=name)
                await writer.publish(to, Lane.CALL, name.encode())
            for inbox, name in zip(inboxes, names, strict=True):
                await probe.arrival(inbox, [name.encode()])
            await probe.quiet()
            for inbox, name in zip(inboxes, names, strict=True):
                came = set(inbox.bodies)
                expect(came == {name.encode()}, f"at {name!r} came {came}")


@promise("namespaces", "Namespaces do not mix")
async def _namespaces(probe: Probe) -> None:
    ours = probe.namespace
    longest = ours + "n" * (MAX_NAME_LENGTH - len(ours))
    pairs = [
        (ours, "a_b"), (f"{ours}_a", "b"), (f"{ours}-a", "b"), (ours, "a-b"),
        (ours.upper(), "b"), (longest, "x" * MAX_NAME_LENGTH), (longest, "b"),
    ]  # fmt: skip
    async with probe.two() as (writer, reader), AsyncExitStack() as stack:
        inboxes = [Inbox() for _ in pairs]
        for inbox, (namespace, name) in zip(inboxes, pairs, strict=True):
            reading = reader.consume(
                Address(namespace, name),
                (Lane.CALL,),
                prefetch=PREFETCH,
                deliver=inbox.deliver,
            )
            await stack.enter_async_context(reading)
        for number, (namespace, name) in enumerate(pairs):
            to = Address(namespace, name, "x" * MAX_NAME_LENGTH)
            await writer.publish(to, Lane.CALL, b"%d" % number)
        for number, inbox in enumerate(inboxes):
            await probe.arrival(inbox, [b"%d" % number])
        await probe.quiet()
        for number, inbox in enumerate(inboxes):
            came = set(inbox.bodies)
            expect(came == {b"%d" % number}, f"at {pairs[number]} came {came}")


@promise("burst", "While the link is up, what is published arrives")
async def _burst(probe: Probe) -> None:
    inbox = Inbox()
    bodies = [body + bytes(100) for body in numbered(BURST)]
    async with probe.two() as (writer, reader), probe.read(reader, inbox):
        await probe.send_all(writer, probe.at(), Lane.CALL, bodies)
        await probe.arrival(inbox, bodies)


@promise("prefetch", "A small prefetch is slow at worst")
async def _prefetch(probe: Probe) -> None:
    inbox = Inbox()
    bodies = numbered(50)
    async with probe.two() as (writer, reader):
        reading = reader.consume(
            probe.at(), tuple(Lane), prefetch=1, deliver=inbox.deliver
        )
        async with reading:
            await probe.send_all(writer, probe.at(), Lane.BULK, bodies)
            await probe.arrival(inbox, bodies)


@promise("nobody", "Publishing to where nobody reads harms nothing")
async def _nobody(probe: Probe) -> None:
    inbox = Inbox()
    async with probe.two() as (writer, reader), probe.read(reader, inbox):
        try:
            await writer.publish(probe.at("nobody"), Lane.CALL, b"lost")
        except RemotingError:
            expect(writer.limits.tells_no_route, "it raised, but not tells_no_route")
        await writer.publish(probe.at(), Lane.CALL, b"here", expires_in=60)
        await probe.arrival(inbox, [b"here"])


@promise("link-events", "`link_events` begins with the present state")
async def _link_events(probe: Probe) -> None:
    async with probe.backend.open(probe.url) as bus:
        for _ in range(2):
            async with bus.link_events() as events, bus.link_events() as others:
                for reader in (events, others):
                    probe.progress = "waiting for the first link event"
                    event = await anext(reader)
                    state = event.state
                    expect(state == "up", f"an open bus says {state!r} first")
                with anyio.move_on_after(0.01):
                    await anext(events)


@promise("closing", "Leaving `open` ends what is under way, and returns")
async def _closing(probe: Probe) -> None:
    begun, ended = [], []
    all_begun = anyio.Event()

    async def publish(bus: Bus, number: int) -> None:
        body = bytes(min(bus.limits.max_bytes, 100_000))
        begun.append(number)
        if len(begun) == 4:
            all_begun.set()
        try:
            for _ in range(100):
                await bus.publish(probe.at(), Lane.BULK, body)
        except RemotingError:
            pass
        ended.append(number)

    async with anyio.create_task_group() as tasks:
        async with probe.two() as (writer, reader), probe.read(reader, Inbox()):
            for number in range(4):
                tasks.start_soon(publish, writer, number)
            await all_begun.wait()
            probe.progress = "closing while publishes are under way"
    expect(len(ended) == 4, "a publish did not end")


@promise("again", "A connection can be opened again after it was closed")
async def _again(probe: Probe) -> None:
    for number in range(3):
        inbox = Inbox()
        async with probe.two() as (writer, reader), probe.read(reader, inbox):
            await writer.publish(probe.at(), Lane.CALL, b"%d" % number)
            await probe.arrival(inbox, [b"%d" % number])
