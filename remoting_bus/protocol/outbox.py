"""What the CALL connection has to say, and in which order.

CONTROL first: frames and state; then calls and answers by their queue; then reports of
running calls, of which only the newest waits (law 7). It must not know phases, nor what
a frame means.
"""

from __future__ import annotations

from typing import Any

from remoting_bus.names import Lane

from .clocks import Clocks
from .envelope import OVERHEAD
from .lanes import Lanes
from .queue import CallQueue

__all__ = [
    "CALL_ENVELOPE",
    "STATE_ASK",
    "STATE_MINIMUM",
    "STATE_PARTED",
    "STATE_REST",
    "STATE_STAY",
    "Outbox",
]

CALL_ENVELOPE = 64 * 1024
"""Bytes of an envelope of calls: larger ones would block the lane behind themselves."""

STATE_ASK = 1
STATE_MINIMUM = 2
STATE_PARTED = 3
STATE_REST = 4
STATE_STAY = 5
"""State of this connection: an answer is wanted; our own clocks' minimum in µs; your
goodbye was acted on; may an unused session end; no, it is used (see `rest`)."""


class Outbox:
    """What waits to be pulled on CONTROL and CALL.

    Attributes:
        queue: Calls and answers.
        asked_at: When a question was last pulled.
    """

    __slots__ = (
        "_budget",
        "_clocks",
        "_control",
        "_lanes",
        "_reports",
        "_state",
        "asked_at",
        "queue",
    )

    def __init__(self, lanes: Lanes, clocks: Clocks) -> None:
        self.queue = CallQueue(0)
        self.asked_at = 0.0
        self._lanes = lanes
        self._clocks = clocks
        self._budget = 0
        self._control: list[bytes] = []
        self._reports: dict[int, bytes] = {}
        self._state: dict[int, Any] | None = None

    def limit(self, max_envelope: int) -> None:
        """Make no envelope larger than both buses carry."""
        room = min(CALL_ENVELOPE, max_envelope) - OVERHEAD
        self.queue.largest = self._budget = max(room, 1024)

    def control(self, frame: bytes) -> None:
        """Queue a frame on CONTROL; what bounds them is what they answer or cancel."""
        self._control.append(frame)

    def say(self, key: int, value: Any) -> None:
        """Say some state with the next CONTROL envelope, which it makes due."""
        if self._state is None:
            self._state = {}
        self._state[key] = value

    def say_minimum(self) -> None:
        """Tell how our clock differs from the peer's (law 10)."""
        minimum = self._clocks.minimum
        self.say(STATE_MINIMUM, 0 if minimum is None else int(minimum * 1e6))

    def report(self, number: int, frame: bytes) -> None:
        """Keep the newest report of a call until there is room (law 7)."""
        self._reports[number] = frame

    def forget_report(self, number: int) -> None:
        """Its call's answer makes it worthless."""
        self._reports.pop(number, None)

    def clear(self) -> None:
        """Drop what is not CONTROL's: this side leaves, or the session is over."""
        self.queue.clear()
        self._reports.clear()

    def pull(self, now: float, *, new_calls: bool) -> bytes | None:
        """Return the next envelope, or None where nothing is due.

        Args:
            now: The time.
            new_calls: Frames of CALL that were never sent may go, too.
        """
        control = self._lanes.get(Lane.CONTROL)
        if self._control or self._state or (control and control.sender.lost):
            return self._pull_control(now)
        calls = self._lanes.get(Lane.CALL)
        if self.queue or self._reports or (calls and calls.sender.lost):
            if new_calls:
                take, fill = self._take_queued, self.queue.fill
            else:
                take, fill = _nothing_new, None
            envelope = self._lanes.build(Lane.CALL, take, None, now, self._budget, fill)
            if envelope is not None:
                return envelope
        if not self._lanes.ack_due(now):
            return None
        return self._lanes.build(Lane.CONTROL, None, None, now, self._budget)

    def waits(self) -> bool:
        """Tell whether there may be another envelope, once one was pulled."""
        if self.queue or self._control or self._reports or self._state:
            return True
        for lane in (Lane.CALL, Lane.CONTROL):
            used = self._lanes.get(lane)
            if used and used.sender.lost:
                return True
        return False

    def last_word(self, now: float) -> bytes | None:
        """Return the envelope that acknowledges a goodbye."""
        said = {STATE_PARTED: 1}
        return self._lanes.build(Lane.CONTROL, None, said, now, self._budget)

    def _pull_control(self, now: float) -> bytes | None:
        state, self._state = self._state, None
        if state and STATE_ASK in state:
            self.asked_at = now
            minimum = self._clocks.minimum
            if minimum is not None:
                state[STATE_MINIMUM] = int(minimum * 1e6)
        return self._lanes.build(
            Lane.CONTROL, self._take_control, state, now, self._budget
        )

    def _take_control(self, room: int, number: int) -> bytes | None:
        if not self._control or len(self._control[0]) > room:
            return None
        return self._control.pop(0)

    def _take_queued(self, room: int, number: int) -> bytes | None:
        data = self.queue.take(room, number)
        if data is None and self._reports and not self.queue:
            report = next(iter(self._reports))
            if len(self._reports[report]) <= room:
                return self._reports.pop(report)
        return data


def _nothing_new(room: int, number: int) -> bytes | None:
    return None
