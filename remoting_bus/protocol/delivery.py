"""Delivery of one lane: numbers, acknowledgement, repetition, order.

Theory. Frames of a lane are numbered without holes from 1, when they are pulled. The
receiver releases them in that order, keeps what came too early, drops what it has, and
says which *ranges* it has; that is state: the newest is enough, and none is repeated
(law 2). The sender keeps each frame until it is named. It sends one again for a gap only
if something sent after it was acknowledged (RACK, RFC 8985), and else probes with the
oldest, backing off (RFC 9002, 6.2). What is sent again goes in a new envelope; envelope
numbers never repeat and pass a replay window (RFC 6479).

It must not know what a frame says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from .pieces import Data

__all__ = ["WINDOW_FRAMES", "Receiver", "ReplayWindow", "RoundTrip", "Sender"]

WINDOW_FRAMES = 4096
"""Frames not yet acknowledged; it bounds tombstones and what may come too early."""

MAX_RANGES = 32
"""Ranges named beyond the first; what is not named is not acknowledged (law 2)."""

ACK_DELAY = 0.025
"""Seconds that an acknowledgement may wait for something to travel with (law 3)."""

_REPLAY_BITS = 2048
_REPLAY_MASK = (1 << _REPLAY_BITS) - 1


class RoundTrip:
    """The round trip of one connection, smoothed (RFC 6298), in seconds."""

    __slots__ = ("minimum", "smoothed", "variance")

    def __init__(self) -> None:
        self.smoothed = 0.0
        self.variance = 0.25
        self.minimum = 0.0

    def sample(self, value: float) -> None:
        """Take a measurement."""
        value = max(value, 1e-6)
        if self.smoothed == 0.0:
            self.smoothed = self.minimum = value
            self.variance = value / 2
            return
        self.variance += (abs(self.smoothed - value) - self.variance) / 4
        self.smoothed += (value - self.smoothed) / 8
        # A floor that is never raised would outlive a change of the path.
        self.minimum = min(value, self.minimum + (value - self.minimum) / 256)

    @property
    def probe_timeout(self) -> float:
        """How long to wait for any acknowledgement (RFC 9002, 6.2.1)."""
        if self.smoothed == 0.0:
            return 0.5
        return self.smoothed + max(4 * self.variance, 0.05) + 2 * ACK_DELAY


class ReplayWindow:
    """Which envelope numbers were seen (RFC 6479); mark only what opened."""

    __slots__ = ("highest", "seen")

    def __init__(self) -> None:
        self.highest = 0
        self.seen = 0

    def is_new(self, number: int) -> bool:
        """Tell whether this number may still be taken."""
        if number > self.highest:
            return True
        behind = self.highest - number
        return behind < _REPLAY_BITS and not self.seen >> behind & 1

    def mark(self, number: int) -> None:
        """Never take it again."""
        if number > self.highest:
            shift = min(number - self.highest, _REPLAY_BITS)
            self.seen = (self.seen << shift | 1) & _REPLAY_MASK
            self.highest = number
        else:
            self.seen |= 1 << (self.highest - number)

    def all_seen(self, highest: int) -> None:
        """Take nothing up to `highest` any more."""
        self.highest = highest
        self.seen = _REPLAY_MASK if highest else 0


class _Sent:
    """A frame that was pulled and not acknowledged."""

    __slots__ = ("at", "data", "envelope", "lost", "repeats")

    def __init__(self, data: bytes | Data, envelope: int, at: float) -> None:
        self.data = data
        self.envelope = envelope
        self.at = at
        self.lost = False
        self.repeats = 0


Take = Callable[[int, int], bytes | Data | None]
"""Given the room in bytes and the number it will get, the next new frame or None."""

Fill = Callable[[list[bytes], int, int, int, int], None]
"""Appends whole new frames: to this list, within so many bytes, the first of them with
this number; none after so many bytes of window, and at most so many frames."""


class Sender:
    """The sending side of a lane.

    Attributes:
        next: The number that the next new frame gets.
        unacknowledged: In the order of their last sending.
        window: Bytes that may be unacknowledged before a new frame waits.
        repeated: Frames sent again so far.
    """

    __slots__ = (
        "_backoff",
        "_loss_at",
        "_newest_at",
        "_newest_envelope",
        "_sent_at",
        "acknowledged",
        "bytes_unacknowledged",
        "lost",
        "next",
        "repeated",
        "sent_bytes",
        "unacknowledged",
        "window",
    )

    def __init__(self, window: int) -> None:
        self.window = window
        self.next = 1
        self.acknowledged = 0  # every frame up to here
        self.unacknowledged: dict[int, _Sent] = {}
        self.bytes_unacknowledged = 0
        self.lost: deque[int] = deque()
        self.repeated = 0
        self.sent_bytes = 0
        self._newest_envelope = 0  # the newest envelope of which something arrived
        self._newest_at = 0.0
        self._sent_at = 0.0
        self._loss_at: float | None = None
        self._backoff = 0

    def has_room(self) -> bool:
        """Tell whether a new frame may be pulled."""
        return (
            self.bytes_unacknowledged < self.window
            and len(self.unacknowledged) < WINDOW_FRAMES
            # One lost frame must not let the numbers run past the receiver's bound.
            and self.next - self.acknowledged <= WINDOW_FRAMES
        )

    def pull(
        self,
        budget: int,
        now: float,
        envelope: int,
        take: Take,
        fill: Fill | None = None,
    ) -> tuple[list[int], list[bytes | Data]]:
        """Choose frames for one envelope: what was lost, then what is new.

        Args:
            budget: Bytes for frames; no frame is larger.
            now: The time.
            envelope: The number of the envelope that they will travel in.
            take: Gives new frames, until it has none or none fits.
            fill: Gives many at once; asked first.

        Returns:
            Runs (first, count, first, count, …) and the frames in that order.
        """
        runs: list[int] = []
        frames: list[bytes | Data] = []
        while self.lost:
            number = self.lost[0]
            sent = self.unacknowledged.get(number)
            if sent is None or not sent.lost:
                self.lost.popleft()
                continue
            if len(sent.data) > budget:
                return runs, frames
            self.lost.popleft()
            budget -= len(sent.data)
            sent.lost = False
            sent.repeats += 1
            self.repeated += 1
            del self.unacknowledged[number]
            self._put(number, sent.data, sent, envelope, now, runs, frames)
        if fill is not None:
            budget -= self._put_many(fill, budget, now, envelope, runs, frames)
        while self.has_room():
            data = take(budget, self.next)
            if data is None:
                break
            budget -= len(data)
            self.bytes_unacknowledged += len(data)
            self.sent_bytes += len(data)
            sent = _Sent(data, envelope, now)
            self._put(self.next, data, sent, envelope, now, runs, frames)
            self.next += 1
        return runs, frames

    def _put_many(
        self,
        fill: Fill,
        budget: int,
        now: float,
        envelope: int,
        runs: list[int],
        frames: list[bytes | Data],
    ) -> int:
        """Take what `fill` gives; one by one a frame would cost twice as much."""
        if not self.has_room():
            return 0
        unacknowledged = self.unacknowledged
        new: list[bytes] = []
        fill(
            new,
            budget,
            self.next,
            self.window - self.bytes_unacknowledged,
            min(
                WINDOW_FRAMES - len(unacknowledged),
                WINDOW_FRAMES - (self.next - self.acknowledged) + 1,
            ),
        )
        if not new:
            return 0
        number = first = self.next
        size = 0
        for data in new:
            unacknowledged[number] = _Sent(data, envelope, now)
            size += len(data)
            number += 1
        self.next = number
        self.bytes_unacknowledged += size
        self.sent_bytes += size
        self._sent_at = now
        frames += new
        if runs and runs[-2] + runs[-1] == first:
            runs[-1] += len(new)
        else:
            runs += (first, len(new))
        return size

    def _put(
        self,
        number: int,
        data: bytes | Data,
        sent: _Sent,
        envelope: int,
        now: float,
        runs: list[int],
        frames: list[bytes | Data],
    ) -> None:
        sent.envelope, sent.at = envelope, now
        self.unacknowledged[number] = sent
        self._sent_at = now
        frames.append(data)
        if runs and runs[-2] + runs[-1] == number:
            runs[-1] += 1
        else:
            runs += (number, 1)

    def acknowledge(
        self, upto: int, ranges: list[int], now: float, trip: RoundTrip
    ) -> bool:
        """Take the peer's word for what arrived.

        Args:
            upto: Every frame below this number arrived.
            ranges: Further ones as (first, last, first, last, …).
            now: The time.
            trip: The round trip, for what is lost.

        Returns:
            Whether anything was news.

        Raises:
            ValueError: It names what was never sent.
        """
        if upto > self.next or (ranges and max(ranges) >= self.next):
            raise ValueError("acknowledges a frame that was never sent")
        news = False
        if upto > self.acknowledged + 1:
            for number in range(self.acknowledged + 1, upto):
                news |= self._arrived(number, now, trip)
            self.acknowledged = upto - 1
        for first, last in zip(ranges[::2], ranges[1::2], strict=True):
            for number in range(max(first, self.acknowledged + 1), last + 1):
                news |= self._arrived(number, now, trip)
        if news:
            self._backoff = 0
            self._find_losses(now, trip)
        return news

    def _arrived(self, number: int, now: float, trip: RoundTrip) -> bool:
        sent = self.unacknowledged.pop(number, None)
        if sent is None:
            return False
        self.bytes_unacknowledged -= len(sent.data)
        # Sooner than any round trip: the first sending arrived, not the last (RACK).
        certain = sent.repeats == 0 or now - sent.at >= trip.minimum
        if certain and sent.envelope > self._newest_envelope:
            self._newest_envelope, self._newest_at = sent.envelope, sent.at
        return True

    def _find_losses(self, now: float, trip: RoundTrip) -> None:
        patience = trip.smoothed * 1.25
        self._loss_at = None
        for number, sent in self.unacknowledged.items():
            if sent.envelope >= self._newest_envelope:
                break
            if sent.lost:
                continue
            if sent.at + patience > now:
                self._loss_at = sent.at + patience
                break
            sent.lost = True
            self.lost.append(number)

    def everything_lost(self) -> None:
        """The link came back: send again all that was not acknowledged (law 11)."""
        self._backoff = 0
        self._loss_at = None
        self.lost.clear()
        for number in sorted(self.unacknowledged):
            self.unacknowledged[number].lost = True
            self.lost.append(number)

    def wake_at(self, trip: RoundTrip, ceiling: float) -> float | None:
        """Return when `tick` has something to do."""
        if not self.unacknowledged or self.lost:
            return None
        probe: float = min(trip.probe_timeout * 2**self._backoff, ceiling)
        at = self._sent_at + probe
        return at if self._loss_at is None else min(at, self._loss_at)

    def tick(self, now: float, trip: RoundTrip, ceiling: float) -> None:
        """Mark what is due to be sent again."""
        if self._loss_at is not None and now >= self._loss_at:
            self._find_losses(now, trip)
        due = self.wake_at(trip, ceiling)
        if due is not None and now >= due and self._loss_at is None:
            number, sent = next(iter(self.unacknowledged.items()))
            sent.lost = True
            self.lost.append(number)
            self._backoff = min(self._backoff + 1, 10)


class Receiver:
    """The receiving side of a lane.

    Attributes:
        next: The number that is released next.
        ack_at: When an acknowledgement is due, or None.
        duplicates: Frames that came again.
    """

    __slots__ = (
        "_ahead",
        "_bytes_since",
        "_frames_since",
        "_half_window",
        "ack_at",
        "ahead_bytes",
        "duplicates",
        "next",
    )

    def __init__(self, window: int) -> None:
        self.next = 1
        self.ack_at: float | None = None
        self.duplicates = 0
        self.ahead_bytes = 0
        self._ahead: dict[int, tuple[Any, int]] = {}
        self._half_window = window // 2
        self._bytes_since = 0
        self._frames_since = 0

    @property
    def ahead(self) -> int:
        """How many frames came before their turn."""
        return len(self._ahead)

    def accept(
        self,
        runs: list[int],
        frames: list[Any],
        size: int,
        now: float,
        released: list[tuple[int, Any]],
    ) -> None:
        """Take the frames of an envelope; append what is released, in order.

        Args:
            runs: Their numbers, (first, count, first, count, …).
            frames: In that order, decoded.
            size: Bytes of all of them together.
            now: The time.
            released: Is appended to.

        Raises:
            ValueError: The runs do not fit the frames, or go past the window.
        """
        if (
            len(runs) == 2
            and runs[0] == self.next
            and runs[1] == len(frames)
            and not self._ahead
        ):  # nearly always: the next ones, and nothing too early
            first = self.next
            released += enumerate(frames, first)
            self.next = first + len(frames)
            self._frames_since += len(frames)
            self._bytes_since += size
            self._make_due(now, urgent=False)
            return
        if sum(runs[1::2]) != len(frames) or len(runs) % 2 or min(runs) < 1:
            raise ValueError("runs of frame numbers do not fit the frames")
        if max(f + c for f, c in zip(runs[::2], runs[1::2], strict=True)) > (
            self.next + 2 * WINDOW_FRAMES
        ):
            raise ValueError("a frame number past the window")
        each = size // len(frames)
        index, urgent = 0, False
        for first, count in zip(runs[::2], runs[1::2], strict=True):
            for number in range(first, first + count):
                frame = frames[index]
                index += 1
                if number == self.next:
                    self.next += 1
                    released.append((number, frame))
                elif number < self.next or number in self._ahead:
                    self.duplicates += 1
                    urgent = True
                else:
                    self._ahead[number] = (frame, each)
                    self.ahead_bytes += each
                    urgent = True
            if self._ahead:
                self._release(released)
        self._frames_since += len(frames)
        self._bytes_since += size
        self._make_due(now, urgent=urgent)

    def _release(self, released: list[tuple[int, Any]]) -> None:
        while (early := self._ahead.pop(self.next, None)) is not None:
            self.ahead_bytes -= early[1]
            released.append((self.next, early[0]))
            self.next += 1

    def _make_due(self, now: float, *, urgent: bool) -> None:
        if (
            urgent
            or self._frames_since >= WINDOW_FRAMES // 2
            or self._bytes_since >= self._half_window
        ):
            self.ack_at = now
        elif self.ack_at is None:
            self.ack_at = now + ACK_DELAY

    def acknowledgement(self) -> list[int]:
        """Return what has arrived, and note that it was said.

        Returns:
            The number below which all arrived, then ranges (first, last, …), the
            highest where there are too many.
        """
        self.ack_at = None
        self._bytes_since = self._frames_since = 0
        if not self._ahead:
            return [self.next]
        ranges: list[int] = []
        for number in sorted(self._ahead):
            if ranges and ranges[-1] + 1 == number:
                ranges[-1] = number
            else:
                ranges += (number, number)
        return [self.next, *ranges[-2 * MAX_RANGES :]]
