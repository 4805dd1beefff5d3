"""A `Line`: the halves of one connection, their turns, their timers, their writers.

Owns when what is pulled is published. A half is touched when its state changed; in the
next turn of the loop every touched half is asked for its batch and its next envelope.
While a publish of a half is under way its frames gather, so many calls share one
message. Where little happens, the first envelope goes out in the caller's own turn. The
same class serves both connections of a Bus, on one loop or two. It must not know which,
nor what an envelope says. Next: `port`, `pair`.
"""

from __future__ import annotations

import heapq
import logging
import random
from collections import deque
from collections.abc import Callable
from typing import Any

from remoting_bus._loop import Crossing, Loop, Signal, Tasks, Timer, clock
from remoting_bus.bus.backend import Bus, LinkEvent
from remoting_bus.errors import RemotingError
from remoting_bus.names import Address, Lane
from remoting_bus.protocol.crossing import Batch

from .entry import Entry

__all__ = ["Line"]

MAX_WRITERS = 16
"""Publishes under way at once, where the bus allows more: 2 to 4 use up a connection
(speed.md, 14 and 15); further ones let more sessions wait for their brokers' confirms."""

_LANES = tuple(Lane)

_PAUSE = 0.1
_LONGEST_PAUSE = 2.0
"""Seconds that a line rests after a publish failed, doubled each time."""

_GRAIN = 0.02
"""Seconds between two ticks of a half that stays due because nothing can be sent."""

_logger = logging.getLogger("remoting_bus")


_Held = tuple[Entry, Address, Lane, bytes]
"""What was pulled, with where it goes: an entry may write to many."""


class Line:
    """The halves of one connection.

    Args:
        tasks: Who owns the writers; of the loop that the connection lives on.
        bus: The connection.
        inbound: What the other line put for halves here.
        outbound: What halves here put for the other line.
        one_each: At most one publish of a half is under way, so that its frames gather.
    """

    def __init__(
        self,
        tasks: Tasks,
        bus: Bus,
        *,
        inbound: Crossing[Batch],
        outbound: Crossing[Batch],
        one_each: bool,
    ) -> None:
        self.bus = bus
        self.loop: Loop = tasks.loop
        self.inbound = inbound
        self.outbound = outbound
        self.up = True
        self.entries: dict[bytes, Entry] = {}
        self.unknown: Callable[[bytes, Batch], Entry | None] = _nobody
        self.published = 0
        self.failed = 0
        self._tasks = tasks
        self._one_each = one_each
        self._most_writers = min(bus.limits.publishes_under_way, MAX_WRITERS)
        self._touched: list[Entry] = []
        self._queue: deque[Entry] = deque()  # bounded by the halves, as all here
        self._held: deque[_Held] = deque()  # pulled; a writer begins with it at once
        self._idle: list[Signal] = []
        self._writers = 0
        self._under_way = 0
        self._scheduled = False
        self._acts = 0  # of programs, since the last turn
        self._batchy = False
        self._resting = False
        self._rest = _PAUSE
        self._timers: list[tuple[float, int, Entry]] = []
        self._tie = 0
        self._timer: Timer | None = None
        self._timer_at: float | None = None
        self._closed = False
        self._down_at = 0.0
        self._graces_seen = 0.0

    # -- who is on it --

    def add(self, entry: Entry) -> None:
        """Take a half; it is looked at in the coming turn."""
        self.entries[entry.key] = entry
        if not self.up:
            entry.half.link(False, clock(), "the link is down")
        self.touch(entry)

    def rename(self, entry: Entry, key: bytes) -> None:
        """Its session has another id now."""
        if self.entries.pop(entry.key, None) is entry:
            self.entries[key] = entry
        entry.key = key

    def drop(self, entry: Entry) -> None:
        """Forget a half that is not over; its owner has ended."""
        if self.entries.get(entry.key) is entry:
            del self.entries[entry.key]

    def _forget(self, entry: Entry) -> None:
        if self.entries.get(entry.key) is entry:
            del self.entries[entry.key]
            entry.on_over()

    def close(self) -> None:
        """Be still: no turn, no timer, no publish begins any more."""
        self._closed = True
        self.entries.clear()
        self._touched.clear()
        self._queue.clear()
        self._timers.clear()
        if self._timer is not None:
            self._timer.cancel()

    # -- input --

    def take_crossing(self) -> None:
        """Hand over what the other line has put, before anything is delivered."""
        now = clock()
        for key, batch in self.inbound.take().items():
            entry = self.entries.get(key)
            if entry is None:
                entry = self.unknown(key, batch)
                if entry is None:
                    continue  # it ended
            entry.half.cross(batch, now)
            self.touch(entry)

    def crossed(self) -> None:
        """Something stands in the inbound crossing; on this line's loop."""
        self._schedule()

    def touch(self, entry: Entry) -> None:
        """The state of a half has changed: look at it in the coming turn."""
        if entry.half.events:
            entry.notify()
        if not entry.touched:
            entry.touched = True
            self._touched.append(entry)
        if not self._scheduled:
            self._schedule()

    def touch_now(self, entry: Entry) -> None:
        """As `touch`; publish at once where little happens (speed.md, 7).

        Only a program's own act may come here, never a delivery: what that makes due
        gathers until the end of the turn.
        """
        direct = not (self._batchy or self._scheduled)
        self._acts += 1
        self.touch(entry)
        if direct and not self._closed:
            self._look(clock())

    def _schedule(self) -> None:
        if not self._scheduled and not self._closed:
            self._scheduled = True
            self.loop.call_soon(self._turn)

    # -- the turn --

    def _turn(self) -> None:
        if self._closed:
            return
        try:
            if self.inbound:
                self.take_crossing()
            # Several acts in one turn: they are better gathered in the next one, too.
            self._batchy = self._acts > 1
            self._acts = 0
            self._scheduled = False
            self._look(clock())
        except Exception as error:  # noqa: BLE001 - a bug: the owner says so to all
            self._tasks.crash(error)

    def _look(self, now: float) -> None:
        """Ask every touched half for its batch and its envelope."""
        touched, self._touched = self._touched, []
        for entry in touched:
            entry.touched = False
            self.cross(entry)
            self._want_pull(entry)
        self._pump(now)
        for entry in touched:
            if entry.dirty:  # it could not be asked for all that it has
                self._settle(entry, now)

    def _settle(self, entry: Entry, now: float) -> None:
        """Nothing more is pulled now: set its timer, or forget it."""
        if entry.half.over:
            self._forget(entry)
        else:
            self._arm(entry, now)

    def cross(self, entry: Entry) -> None:
        """Put what the other half is to know."""
        batch = entry.half.take_batch()
        if batch is not None:
            self.outbound.put(entry.key, batch)

    def _want_pull(self, entry: Entry) -> None:
        entry.dirty = True
        if not entry.queued and not (self._one_each and entry.publishing):
            entry.queued = True
            self._queue.append(entry)

    def _next(self, now: float) -> _Held | None:
        """Pull the next envelope of any half, the halves by turns."""
        queue = self._queue
        while queue:
            entry = queue.popleft()
            half = entry.half
            entry.queued = False
            envelope = half.next_envelope(now)
            # What is pulled with it is put before it is published.
            self.cross(entry)
            if half.events:
                entry.notify()
            if envelope is None:
                entry.dirty = False
                self._settle(entry, now)
                continue
            return entry, entry.to, _LANES[envelope[3]], envelope
        return None

    def _pump(self, now: float) -> None:
        """Publish while there is something, and the bus takes it."""
        while self._may_pull():
            held = self._next(now)
            if held is None:
                return
            entry, to, lane, envelope = held
            # Never past one that waits: publishes begin in order.
            waits = self._held or self._under_way
            if not waits and self._try(to, lane, envelope):
                self._went(entry, now)
            else:
                self._hold(held)

    def _went(self, entry: Entry, now: float) -> None:
        """An envelope of it was published at once."""
        self.published += 1
        if entry.half.more:
            self._want_pull(entry)
        else:  # nearly always, where little happens: asking would cost a tenth
            entry.dirty = False
            self._settle(entry, now)

    def _may_pull(self) -> bool:
        return (
            self.up
            and not self._resting
            and not self._closed
            and self._under_way + len(self._held) < self._most_writers
        )

    def _try(self, to: Address, lane: Lane, envelope: bytes) -> bool:
        try:
            return self.bus.try_publish(to, lane, envelope)
        except RemotingError as error:
            self._has_failed(error)
            return True  # it counts as sent, and will be sent again

    def _hold(self, held: _Held) -> None:
        """Let a writer publish it: the bus would wait."""
        held[0].publishing += 1
        if not self._one_each:
            self._want_pull(held[0])
        self._held.append(held)
        if self._idle:
            self._idle.pop().set()
        elif self._writers < self._most_writers:
            self._writers += 1
            self._tasks.start_soon(self._write, name="writer")

    async def _write(self) -> None:
        signal = self.loop.signal()
        while True:
            held = self._take_held()
            if held is None:
                self._idle.append(signal)
                await signal.wait()
                continue
            entry, to, lane, envelope = held
            self._under_way += 1
            try:
                await self.bus.publish(to, lane, envelope)
                self.published += 1
                self._rest = _PAUSE
            except RemotingError as error:
                self._has_failed(error)
            finally:
                self._under_way -= 1
                entry.publishing -= 1
            if entry.dirty or entry.half.over:
                self._want_pull(entry)

    def _take_held(self) -> _Held | None:
        """Return what is to be published next by a writer that is free now."""
        if self._held:
            return self._held.popleft()
        if not self._may_pull():
            return None
        now = clock()
        while (held := self._next(now)) is not None:
            entry, to, lane, envelope = held
            if self._under_way or not self._try(to, lane, envelope):
                entry.publishing += 1
                if not self._one_each:
                    self._want_pull(entry)
                return held
            self._went(entry, now)
        return None

    def _has_failed(self, error: RemotingError) -> None:
        """A publish failed: what was in it is sent again, after a rest."""
        self.failed += 1
        _logger.debug("a publish failed: %s", error)
        if not self._resting and not self._closed:
            self._resting = True
            pause = self._rest * random.uniform(0.75, 1.25)  # noqa: S311 - jitter
            self._rest = min(self._rest * 2, _LONGEST_PAUSE)
            self.loop.call_later(pause, self._rested)

    def _rested(self) -> None:
        self._resting = False
        self._schedule()

    # -- timers --

    def _arm(self, entry: Entry, now: float) -> None:
        """See to it that its timer fires when it has to, or before."""
        at = entry.half.wake_at(now)
        if at is None or (entry.armed is not None and entry.armed <= at):
            return
        if at <= now and now - entry.ticked < _GRAIN:
            at = now + _GRAIN  # it is due, and cannot go: the link takes nothing
        entry.armed = at
        self._tie += 1
        heapq.heappush(self._timers, (at, self._tie, entry))
        if self._timer_at is None or at < self._timer_at:
            self._set_timer(at, now)

    def _set_timer(self, at: float, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self.loop.call_later(max(0.0, at - now), self._fire)

    def _fire(self) -> None:
        self._timer = self._timer_at = None
        if self._closed:
            return
        try:
            now = clock()
            timers = self._timers
            while timers and (timers[0][0] <= now or timers[0][2].armed is None):
                at, _, entry = heapq.heappop(timers)
                if entry.armed != at:
                    continue  # it was armed again, for an earlier time
                entry.armed, entry.ticked = None, now
                if self.entries.get(entry.key) is entry:
                    entry.half.tick(now)
                    self.touch(entry)
            if timers:
                self._set_timer(timers[0][0], now)
        except Exception as error:  # noqa: BLE001 - a bug: the owner says so to all
            self._tasks.crash(error)

    # -- the link --

    def link_changed(self, event: LinkEvent) -> None:
        """Tell every half that the connection went down, or came back."""
        up = event.state in ("up", "blocked")
        if up == self.up:
            return
        self.up = up
        self._rest = _PAUSE
        now = clock()
        for entry in list(self.entries.values()):
            entry.half.link(up, now, event.cause)
            self.touch(entry)
        if not up:
            self._down_at = self._graces_seen = now
            self._judge_graces()

    def _judge_graces(self) -> None:
        """Give up the streams of those whose grace has passed since the link went."""
        if self.up or self._closed:
            return
        now, seen = clock(), self._graces_seen
        self._graces_seen = now
        soonest: float | None = None
        for entry in list(self.entries.values()):
            if entry.grace is None:
                continue
            at = self._down_at + entry.grace
            if seen < at <= now:
                half: Any = entry.half
                half.give_up_streams(f"no bulk link for {entry.grace:g} s")
                self.touch(entry)
            elif at > now and (soonest is None or at < soonest):
                soonest = at
        if soonest is not None:
            self.loop.call_later(soonest - now, self._judge_graces)

    def statistics(self) -> dict[str, int]:
        """Return counts, for people and tests."""
        return {
            "halves": len(self.entries),
            "published": self.published,
            "failed": self.failed,
            "under_way": self._under_way,
            "timers": len(self._timers),
        }


def _nobody(key: bytes, batch: Batch) -> Entry | None:
    return None
