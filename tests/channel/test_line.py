"""The line: when what is pulled is published, over a half made of plain lists."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import pytest

from remoting_bus._loop import Crossing, Supervisor, Tasks, clock
from remoting_bus.bus.backend import Bus, BusLimits, Deliver, LinkEvent
from remoting_bus.channel.entry import Entry
from remoting_bus.channel.line import Line
from remoting_bus.errors import ChannelBroken
from remoting_bus.names import Address, Lane
from remoting_bus.protocol.crossing import Batch, Move
from remoting_bus.protocol.envelope import EnvelopeKind, pack_header

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """A line knows one loop, whichever."""
    name: str = request.param
    return name


class Wire(Bus):
    """Takes what is published, at once or when it is let."""

    def __init__(self, order: list[str]) -> None:
        self.limits = BusLimits(max_bytes=1000, publishes_under_way=2)
        self.order = order
        self.open = True
        self.fails = 0
        self.let = anyio.Event()

    async def publish(
        self, to: Address, lane: Lane, body: bytes, *, expires_in: float | None = None
    ) -> None:
        await self.let.wait()
        if self.fails:
            self.fails -= 1
            raise ChannelBroken("not this time")
        self.order.append(f"slowly {body[-1]} to {to.name}")

    def try_publish(
        self, to: Address, lane: Lane, body: bytes, *, expires_in: float | None = None
    ) -> bool:
        if self.open:
            self.order.append(f"{body[-1]} to {to.name}")
        return self.open

    def consume(
        self, at: Address, lanes: Collection[Lane], *, prefetch: int, deliver: Deliver
    ) -> AbstractAsyncContextManager[None]:
        raise AssertionError("a line does not read")

    def link_events(self) -> AbstractAsyncContextManager[AsyncIterator[LinkEvent]]:
        raise AssertionError("a line does not listen")


class FakeHalf:
    """Gives what it was given."""

    def __init__(self) -> None:
        self.over = False
        self.more = True
        self.events: list[Any] = []
        self.out: list[int] = []
        self.batch: Batch | None = None
        self.ticks = 0
        self.due: float | None = None
        self.links: list[bool] = []

    def cross(self, batch: Batch, now: float) -> None:
        self.events.append(batch)

    def next_envelope(self, now: float) -> bytes | None:
        if not self.out:
            return None
        header = pack_header(EnvelopeKind.SEALED, Lane.CALL, bytes(16), 1)
        return header + bytes((self.out.pop(0),))

    def take_batch(self) -> Batch | None:
        batch, self.batch = self.batch, None
        return batch

    def tick(self, now: float) -> None:
        self.ticks += 1

    def wake_at(self, now: float) -> float | None:
        return self.due

    def link(self, up: bool, now: float, cause: str = "") -> None:
        self.links.append(up)


class Rig:
    """A line, its wire, and halves."""

    def __init__(self, tasks: Tasks, one_each: bool) -> None:
        self.order: list[str] = []
        self.wire = Wire(self.order)
        self.out: Crossing[Batch] = Crossing(lambda: self.order.append("crossed"))
        self.into: Crossing[Batch] = Crossing(lambda: self.line.crossed())
        self.line = Line(
            tasks, self.wire, inbound=self.into, outbound=self.out, one_each=one_each
        )
        self.over: list[str] = []

    def add(self, name: str) -> tuple[Entry, FakeHalf]:
        half = FakeHalf()
        entry = Entry(
            half,
            name.encode(),
            Address("ns", name, "me"),
            lambda: None,
            lambda: self.over.append(name),
        )
        self.line.add(entry)
        return entry, half


@asynccontextmanager
async def rig(one_each: bool = True) -> AsyncGenerator[Rig, None]:
    """A line in a life of its own."""

    @asynccontextmanager
    async def life(tasks: Tasks) -> AsyncGenerator[Rig, None]:
        made = Rig(tasks, one_each)
        yield made
        made.line.close()

    with anyio.fail_after(10):
        async with Supervisor(life, "rig") as made:
            yield made


async def test_an_act_is_published_in_its_own_turn() -> None:
    """The first; further ones of the same turn gather, and go by turns."""
    async with rig() as r:
        a, half_a = r.add("a")
        b, half_b = r.add("b")
        await anyio.wait_all_tasks_blocked()
        half_a.out.append(1)
        r.line.touch_now(a)
        assert r.order == ["1 to a"]
        half_a.out += [2, 3]
        r.line.touch_now(a)
        half_b.out += [4, 5]
        r.line.touch_now(b)
        assert r.order == ["1 to a"]
        await anyio.wait_all_tasks_blocked()
        assert r.order == ["1 to a", "2 to a", "4 to b", "3 to a", "5 to b"]


async def test_a_batch_is_put_before_its_envelope() -> None:
    """Rule 2, out: the far half never meets bytes of an unknown stream."""
    async with rig() as r:
        a, half = r.add("a")
        await anyio.wait_all_tasks_blocked()
        half.out.append(1)
        half.batch = Batch()
        half.batch.move(Move.CLOSING)
        r.line.touch_now(a)
        assert r.order == ["crossed", "1 to a"]
        assert list(r.out.take()) == [b"a"]


async def test_what_crossed_reaches_its_half() -> None:
    """In a turn; what names an unknown one is dropped."""
    async with rig() as r:
        _, half = r.add("a")
        batch = Batch()
        batch.move(Move.CLOSING)
        r.into.put(b"a", batch)
        r.into.put(b"nobody", Batch())
        await anyio.wait_all_tasks_blocked()
        assert half.events == [batch]


async def test_one_publish_each_is_under_way() -> None:
    """The frames of that half gather; those of another go on."""
    async with rig() as r:
        r.wire.open = False
        a, half_a = r.add("a")
        b, half_b = r.add("b")
        half_a.out += [1, 2]
        half_b.out += [3, 4]
        r.line.touch(a)
        r.line.touch(b)
        await anyio.wait_all_tasks_blocked()
        assert (half_a.out, half_b.out) == ([2], [4])
        r.wire.let.set()
        await anyio.wait_all_tasks_blocked()
        assert sorted(r.order) == [
            "slowly 1 to a",
            "slowly 2 to a",
            "slowly 3 to b",
            "slowly 4 to b",
        ]


async def test_bulk_has_as_many_under_way_as_the_bus_takes() -> None:
    """Of one half, too; no more is pulled than begins at once."""
    async with rig(one_each=False) as r:
        r.wire.open = False
        a, half = r.add("a")
        half.out += [1, 2, 3, 4]
        r.line.touch(a)
        await anyio.wait_all_tasks_blocked()
        assert half.out == [3, 4]
        r.wire.let.set()
        await anyio.wait_all_tasks_blocked()
        assert sorted(r.order) == [f"slowly {n} to a" for n in (1, 2, 3, 4)]


async def test_after_a_failed_publish_it_rests_and_goes_on() -> None:
    """What was in it is for the session to send again."""
    async with rig() as r:
        r.wire.open = False
        r.wire.fails = 1
        r.wire.let.set()
        a, half = r.add("a")
        half.out += [1, 2]
        r.line.touch(a)
        while not r.order:  # noqa: ASYNC110 - the line has no event for it
            await anyio.sleep(0.01)
        assert r.order == ["slowly 2 to a"]
        assert r.line.statistics()["failed"] == 1


async def test_nothing_is_pulled_while_the_link_is_down() -> None:
    """What is pulled counts as sent; batches cross all the same."""
    async with rig() as r:
        a, half = r.add("a")
        await anyio.wait_all_tasks_blocked()
        r.line.link_changed(LinkEvent("down", "by a test"))
        half.out.append(1)
        half.batch = Batch()
        half.batch.move(Move.CLOSING)
        r.line.touch_now(a)
        await anyio.wait_all_tasks_blocked()
        assert r.order == ["crossed"]
        _, late = r.add("late")
        assert late.links == [False]
        r.line.link_changed(LinkEvent("up", "by a test"))
        await anyio.wait_all_tasks_blocked()
        assert r.order == ["crossed", "1 to a"]
        assert half.links == [False, True]


async def test_timers_tick_their_half() -> None:
    """When it is due, once; an earlier time replaces a later one."""
    async with rig() as r:
        a, half = r.add("a")
        half.due = clock() + 60
        r.line.touch(a)
        await anyio.wait_all_tasks_blocked()
        half.due = clock() + 0.02
        r.line.touch(a)
        await anyio.wait_all_tasks_blocked()
        assert half.ticks == 0
        while not half.ticks:  # noqa: ASYNC110 - the line has no event for it
            await anyio.sleep(0.005)
        half.due = None
        await anyio.sleep(0.05)
        assert half.ticks <= 2


async def test_what_stays_due_does_not_spin() -> None:
    """A half that cannot send is looked at fifty times a second, not always."""
    async with rig() as r:
        a, half = r.add("a")
        half.due = clock() - 1
        r.line.touch(a)
        await anyio.sleep(0.2)
        assert 1 <= half.ticks <= 15


async def test_one_that_is_over_is_forgotten() -> None:
    """Once, after its last envelope; also while the link is down."""
    async with rig() as r:
        a, half = r.add("a")
        b, down = r.add("b")
        await anyio.wait_all_tasks_blocked()
        half.out.append(9)
        half.over = True
        r.line.touch(a)
        await anyio.wait_all_tasks_blocked()
        assert r.order == ["9 to a"]
        assert r.over == ["a"]
        r.line.link_changed(LinkEvent("down", "by a test"))
        down.over = True
        r.line.touch(b)
        await anyio.wait_all_tasks_blocked()
        assert r.over == ["a", "b"]
        assert r.line.statistics()["halves"] == 0
