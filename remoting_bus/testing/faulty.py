"""Any bus, made to fail on purpose: messages dropped, doubled, swapped, late; links cut.

Owns the switches and the dice. It wraps a driver or an open bus by the public contract
alone, so it works with every broker, and on asyncio and trio. It must not know what the
messages carry: a test that aims at some of them passes `only`.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, NamedTuple

import anyio

from remoting_bus._loop import Supervisor, Tasks, current_loop
from remoting_bus.bus import Backend, Bus, Deliver, LinkEvent, LogReader, LogStart
from remoting_bus.bus.links import LinkBoard
from remoting_bus.errors import ChannelBroken, ChannelClosed, LimitExceeded
from remoting_bus.names import Address, Lane, LogName

from .faulty_log import faulty_read

__all__ = ["Faults", "FaultyBackend", "FaultyBus"]

MAX_HELD = 10_000
"""Messages that one connection holds back; past it publishes wait."""

Chooses = Callable[[Address, Lane, bytes], bool]
"""Whether the faults are meant for this message."""


@dataclass(eq=False)
class Faults:
    """Switches for any number of wrapped connections; they may be turned at any time.

    Appends to logs count as of the lane LOG, unless `only` chooses messages: one that is
    dropped raises ChannelBroken and was stored or not, by the dice; one that is
    duplicated is stored twice; `delay` and `jitter` make it wait; `reorder` leaves it be.

    Attributes:
        seed: Of the dice: the same seed and the same publishes give the same faults.
        drop: The chance, 0 to 1, that a message is lost.
        duplicate: The chance that it comes twice.
        reorder: The chance that later ones overtake it, for up to `reorder_for`.
        reorder_for: In seconds.
        delay: Seconds that every message is late; their order is kept.
        jitter: Up to so many seconds more, by the dice; order is kept all the same.
        lanes: The lanes that this is about.
        only: The messages that this is about; None means all.
        counts: What was done: "dropped", "duplicated", "reordered", "delayed", "cut".
    """

    seed: int = 0
    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    reorder_for: float = 0.02
    delay: float = 0.0
    jitter: float = 0.0
    lanes: Collection[Lane] = tuple(Lane)
    only: Chooses | None = None
    counts: Counter[str] = field(default_factory=Counter)
    state: Literal["up", "down", "blocked"] = field(default="up", init=False)
    cause: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)  # noqa: S311 - dice of a test
        self._buses: list[FaultyBus] = []

    def calm(self) -> None:
        """Turn the faults of messages off; what is held back still comes."""
        self.drop = self.duplicate = self.reorder = self.delay = self.jitter = 0.0

    def cut(self, cause: str = "cut by a test") -> None:
        """Take the links down: nothing goes out, nothing comes in, what is held is lost."""
        self._turn("down", cause)

    def heal(self) -> None:
        """Bring the links up again."""
        self._turn("up", "healed")

    def block(self, cause: str = "blocked by a test") -> None:
        """Take no publishes; deliveries go on."""
        self._turn("blocked", cause)

    def unblock(self) -> None:
        """Take publishes again."""
        self._turn("up", "unblocked")

    def _turn(self, state: Literal["up", "down", "blocked"], cause: str) -> None:
        """Change the state at once, and tell each connection on its own loop."""
        if state == self.state:
            return
        self.state, self.cause = state, cause
        for bus in tuple(self._buses):
            bus.loop.post(bus.turned)

    def attach(self, bus: FaultyBus) -> None:
        """Tell this connection of changes from now on."""
        self._buses.append(bus)

    def detach(self, bus: FaultyBus) -> None:
        """Tell it no more."""
        self._buses.remove(bus)


class FaultyBackend(Backend):
    """A driver whose connections have faults.

    Args:
        inner: The driver that does the work.
        faults: The switches of all its connections.
    """

    def __init__(self, inner: Backend, faults: Faults) -> None:
        self.inner = inner
        self.faults = faults

    @asynccontextmanager
    async def open(self, url: str) -> AsyncGenerator[Bus, None]:
        """Open a connection of the inner driver, and wrap it."""
        async with self.inner.open(url) as bus:
            async with FaultyBus(bus, self.faults) as faulty:
                yield faulty


class _Message(NamedTuple):
    """One message held back; the heap's order is its due time, then its number."""

    due: float
    number: int
    to: Address
    lane: Lane
    body: bytes
    expires_in: float | None
    in_order: bool


class FaultyBus(Bus):
    """An open bus with faults; an async context manager.

    Args:
        inner: The bus that does the work; it is not closed by this one.
        faults: The switches.
    """

    def __init__(self, inner: Bus, faults: Faults) -> None:
        self.inner = inner
        self.limits = inner.limits
        self.faults = faults
        self.loop = current_loop()
        self._board: LinkBoard
        self._inner_state: LinkEvent
        self._supervisor = Supervisor(self._life, "faulty bus")
        self._held: list[_Message] = []
        self._numbers = itertools.count()
        self._in_order: Counter[Lane] = Counter()
        self._last_due: defaultdict[Lane, float] = defaultdict(float)
        self._arrival = self.loop.signal()
        self._changed = anyio.Event()
        self._closed = False

    async def __aenter__(self) -> FaultyBus:
        """Begin."""
        return await self._supervisor.__aenter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End; what is held back is lost."""
        await self._supervisor.__aexit__(exc_type, exc, traceback)

    async def publish(
        self,
        to: Address,
        lane: Lane,
        body: bytes,
        *,
        expires_in: float | None = None,
    ) -> None:
        """Publish with faults; waits while the link is blocked.

        Raises:
            ChannelBroken: The link is cut.
        """
        self._check_size(body)
        while self.faults.state == "blocked" or len(self._held) >= MAX_HELD:
            await self._changed.wait()
        if self.faults.state == "down":
            raise ChannelBroken(f"the link is down ({self.faults.cause})")
        if not self._fate(to, lane, body, expires_in):
            await self.inner.publish(to, lane, body, expires_in=expires_in)

    def try_publish(
        self,
        to: Address,
        lane: Lane,
        body: bytes,
        *,
        expires_in: float | None = None,
    ) -> bool:
        """Publish with faults, or do nothing and return False."""
        self._check_size(body)
        if self.faults.state != "up" or len(self._held) >= MAX_HELD:
            return False
        if self._fate(to, lane, body, expires_in):
            return True
        return self.inner.try_publish(to, lane, body, expires_in=expires_in)

    @asynccontextmanager
    async def consume(
        self,
        at: Address,
        lanes: Collection[Lane],
        *,
        prefetch: int,
        deliver: Deliver,
    ) -> AsyncGenerator[None, None]:
        """Read from the inner bus; nothing arrives while the link is cut."""

        def unless_cut(body: bytes, lane: Lane) -> None:
            if self.faults.state == "down":
                self.faults.counts["cut"] += 1
            else:
                deliver(body, lane)

        reading = self.inner.consume(at, lanes, prefetch=prefetch, deliver=unless_cut)
        async with reading:
            yield

    def link_events(self) -> AbstractAsyncContextManager[AsyncIterator[LinkEvent]]:
        """Return the states of the link, as the switches and the inner bus make it."""
        return self._board.events()

    async def append(self, log: LogName, key: str, body: bytes) -> None:
        """Append with faults; waits while the link is blocked.

        Raises:
            ChannelBroken: The link is cut, or the dice say so.
        """
        self._check_size(body)
        while self.faults.state == "blocked":
            await self._changed.wait()
        faults, dice = self.faults, self.faults.dice
        copies, unsure = 1, False
        if Lane.LOG in faults.lanes and faults.only is None:
            if faults.delay or faults.jitter:
                faults.counts["delayed"] += 1
                await anyio.sleep(faults.delay + dice.random() * faults.jitter)
            if dice.random() < faults.drop:
                faults.counts["dropped"] += 1
                copies, unsure = dice.randrange(2), True
            elif dice.random() < faults.duplicate:
                faults.counts["duplicated"] += 1
                copies = 2
        if faults.state == "down":
            raise ChannelBroken(f"the link is down ({faults.cause})")
        for _ in range(copies):
            await self.inner.append(log, key, body)
        if unsure:
            raise ChannelBroken(f"the answer to an append to {log} was lost")

    def read(
        self, log: LogName, start: LogStart
    ) -> AbstractAsyncContextManager[LogReader]:
        """Read a log of the inner bus; nothing arrives while the link is cut."""
        return faulty_read(self.inner, log, start, self._not_cut, self._look_again)

    async def delete_log(self, log: LogName) -> None:
        """Delete a log of the inner bus.

        Raises:
            ChannelBroken: The link is cut.
        """
        if self.faults.state == "down":
            raise ChannelBroken(f"the link is down ({self.faults.cause})")
        await self.inner.delete_log(log)

    async def _not_cut(self) -> None:
        """Wait until the link is not cut."""
        while True:
            if self._closed:
                raise ChannelClosed("this connection is closed")
            if self.faults.state != "down":
                return
            await self._changed.wait()

    def turned(self) -> None:
        """Act on a switch of the link: called by `Faults`, on this loop."""
        state, cause = self.faults.state, self.faults.cause
        if state == "up":
            inner = self._inner_state
            present = LinkEvent("up", cause) if inner.state == "up" else inner
        else:
            present = LinkEvent(state, cause)
        if state == "down":
            self.faults.counts["cut"] += len(self._held)
            self._held.clear()
            self._in_order.clear()
        self._board.tell(present)
        self._look_again()

    def _check_size(self, body: bytes) -> None:
        limit = self.limits.max_bytes
        if len(body) > limit:
            raise LimitExceeded(
                f"a message of {len(body)} bytes is larger than the {limit} that this "
                "bus carries (max_bytes)",
                limit="max_bytes",
                value=limit,
                asked=len(body),
            )

    def _fate(
        self, to: Address, lane: Lane, body: bytes, expires_in: float | None
    ) -> bool:
        """Throw the dice: False if the message is to be published now, by the caller."""
        faults, dice = self.faults, self.faults.dice
        now = anyio.current_time()
        hold = 0.0
        overtaken = False
        if lane in faults.lanes and (
            faults.only is None or faults.only(to, lane, body)
        ):
            if dice.random() < faults.drop:
                faults.counts["dropped"] += 1
                return True
            if faults.delay or faults.jitter:
                faults.counts["delayed"] += 1
                hold = faults.delay + dice.random() * faults.jitter
            if dice.random() < faults.reorder:
                faults.counts["reordered"] += 1
                hold += dice.uniform(0.1, 1.0) * faults.reorder_for
                overtaken = True
            if dice.random() < faults.duplicate:
                faults.counts["duplicated"] += 1
                self._hold(to, lane, body, expires_in, now + hold, in_order=False)
        if overtaken:
            self._hold(to, lane, body, expires_in, now + hold, in_order=False)
        elif hold or self._in_order[lane]:
            due = self._last_due[lane] = max(now + hold, self._last_due[lane])
            self._hold(to, lane, body, expires_in, due, in_order=True)
        return bool(overtaken or hold or self._in_order[lane])

    def _hold(
        self,
        to: Address,
        lane: Lane,
        body: bytes,
        expires_in: float | None,
        due: float,
        *,
        in_order: bool,
    ) -> None:
        """Keep a message for the pump."""
        number = next(self._numbers)
        message = _Message(due, number, to, lane, body, expires_in, in_order)
        self._in_order[lane] += in_order
        heapq.heappush(self._held, message)
        self._arrival.set()

    @asynccontextmanager
    async def _life(self, tasks: Tasks) -> AsyncGenerator[FaultyBus, None]:
        async with self.inner.link_events() as events:
            self._inner_state = await anext(events)
            self._board = LinkBoard(self._inner_state)
            if self.faults.state != "up":
                self.turned()
            self.faults.attach(self)
            tasks.start_soon(self._relay, events)
            tasks.start_soon(self._pump)
            try:
                yield self
            finally:
                self._closed = True
                self._look_again()
                self.faults.detach(self)

    async def _relay(self, events: AsyncIterator[LinkEvent]) -> None:
        """Pass the inner link's changes on while no switch hides them."""
        async for event in events:
            if event.state not in ("lost", "note"):
                self._inner_state = event
            if self.faults.state == "up":
                self._board.tell(event)

    async def _pump(self) -> None:
        """Publish what was held back when it is due; the loop's only publisher of it."""
        while True:
            if not self._held:
                await self._arrival.wait()
                continue
            wait = self._held[0].due - anyio.current_time()
            if wait > 0:
                with anyio.move_on_after(wait):
                    await self._arrival.wait()
                continue
            message = heapq.heappop(self._held)
            try:
                await self.inner.publish(
                    message.to,
                    message.lane,
                    message.body,
                    expires_in=message.expires_in,
                )
            except ChannelClosed:
                return
            except ChannelBroken:
                self.faults.counts["cut"] += 1
            finally:
                if message.in_order and self._in_order[message.lane]:
                    self._in_order[message.lane] -= 1
            if len(self._held) == MAX_HELD - 1:
                self._look_again()

    def _look_again(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
