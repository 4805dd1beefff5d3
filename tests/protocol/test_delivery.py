"""Frames of a lane arrive once, in order, and are sent again only where one is lost."""

from __future__ import annotations

import random
from typing import Any

import pytest

from remoting_bus.protocol.delivery import (
    ACK_DELAY,
    MAX_RANGES,
    WINDOW_FRAMES,
    Receiver,
    ReplayWindow,
    RoundTrip,
    Sender,
    Take,
)

WINDOW = 64 * 1024


def frames(*texts: str) -> Take:
    left = [text.encode() for text in texts]

    def take(room: int, number: int) -> bytes | None:
        return left.pop(0) if left and len(left[0]) <= room else None

    return take


def nothing(room: int, number: int) -> bytes | None:
    return None


def trip(seconds: float = 0.1) -> RoundTrip:
    made = RoundTrip()
    made.sample(seconds)
    return made


def five_sent(sender: Sender, now: float = 1.0) -> None:
    """Pull frames 1 to 5, each in an envelope of its own."""
    for number in range(1, 6):
        runs, _ = sender.pull(1000, now, number, frames(f"f{number}"))
        assert runs == [number, 1]


# -- sending --


def test_frames_are_numbered_from_one_without_holes() -> None:
    """Runs say so in two numbers, however many frames there are."""
    sender = Sender(WINDOW)
    assert sender.pull(100, 1.0, 1, frames("a", "b")) == ([1, 2], [b"a", b"b"])
    assert sender.pull(100, 1.0, 2, frames("c")) == ([3, 1], [b"c"])


def test_a_frame_that_does_not_fit_waits() -> None:
    """The budget of an envelope is never passed."""
    sender = Sender(WINDOW)
    assert sender.pull(5, 1.0, 1, frames("four", "four")) == ([1, 1], [b"four"])


def test_bytes_unacknowledged_are_bounded() -> None:
    """Past the window nothing new is pulled until something was acknowledged."""
    sender = Sender(4)
    sender.pull(100, 1.0, 1, frames("four"))
    assert sender.pull(100, 1.0, 2, frames("more")) == ([], [])
    assert sender.acknowledge(2, [], 1.1, trip())
    assert sender.bytes_unacknowledged == 0
    assert sender.pull(100, 1.2, 3, frames("more")) == ([2, 1], [b"more"])


def test_frames_unacknowledged_are_bounded_from_the_oldest() -> None:
    """One frame that never arrives stops the lane at the receiver's bound."""
    sender = Sender(WINDOW)

    def endless(room: int, number: int) -> bytes | None:
        return b"x"

    runs, _ = sender.pull(10**6, 1.0, 1, endless)
    assert runs == [1, WINDOW_FRAMES]
    sender.acknowledge(1, [2, WINDOW_FRAMES], 1.1, trip())
    assert len(sender.unacknowledged) == 1
    assert sender.pull(10**6, 5.0, 2, endless) == ([], [])


@pytest.mark.parametrize(("upto", "ranges"), [(4, []), (1, [2, 3]), (1, [9, 9])])
def test_what_was_never_sent_cannot_be_acknowledged(
    upto: int, ranges: list[int]
) -> None:
    """A peer that names it breaks the protocol."""
    sender = Sender(WINDOW)
    sender.pull(100, 1.0, 1, frames("a", "b"))
    with pytest.raises(ValueError, match="never sent"):
        sender.acknowledge(upto, ranges, 1.1, trip())


def test_an_old_acknowledgement_changes_nothing() -> None:
    """State may come late and twice."""
    sender = Sender(WINDOW)
    five_sent(sender)
    assert sender.acknowledge(6, [], 1.1, trip())
    assert not sender.acknowledge(3, [], 1.2, trip())
    assert not sender.acknowledge(6, [], 1.3, trip())
    assert sender.acknowledged == 5


# -- sending again (law 11) --


def test_a_gap_is_filled_once_something_later_arrived() -> None:
    """RACK: frame 2 is lost, for frame 5 was sent after it and is there."""
    sender = Sender(WINDOW)
    five_sent(sender)
    sender.acknowledge(2, [3, 5], 1.5, trip(0.1))
    assert sender.pull(1000, 1.5, 6, nothing) == ([2, 1], [b"f2"])
    assert sender.pull(1000, 1.5, 7, nothing) == ([], [])
    assert sender.repeated == 1


def test_what_was_sent_last_is_not_taken_for_lost() -> None:
    """Nothing sent after it has arrived: it may still be on its way."""
    sender = Sender(WINDOW)
    five_sent(sender)
    sender.acknowledge(4, [], 1.5, trip(0.1))
    assert not sender.lost


def test_a_gap_waits_a_quarter_of_a_round_trip_for_reordering() -> None:
    """Too early is not lost; the sender wakes for it."""
    sender, way = Sender(WINDOW), trip(0.1)
    five_sent(sender)
    sender.acknowledge(2, [3, 5], 1.1, way)
    assert not sender.lost
    due = sender.wake_at(way, 5.0)
    assert due == pytest.approx(1.125)
    sender.tick(1.126, way, 5.0)
    assert list(sender.lost) == [2]


def test_a_repeated_frame_is_judged_by_its_last_sending() -> None:
    """An acknowledgement of what went before it says nothing of it."""
    sender, way = Sender(WINDOW), trip(0.1)
    five_sent(sender)
    sender.acknowledge(2, [3, 4], 1.5, way)
    sender.pull(1000, 1.5, 6, nothing)
    sender.acknowledge(2, [3, 5], 1.7, way)
    assert not sender.lost


def test_silence_is_probed_with_the_oldest_and_backs_off() -> None:
    """RFC 9002: one frame a time-out, doubling, up to the ceiling."""
    sender, way = Sender(WINDOW), trip(0.1)
    five_sent(sender)
    now, waits = 1.0, []
    for envelope in range(6, 16):
        due = sender.wake_at(way, 3.0)
        assert due is not None
        waits.append(due - now)
        now = due
        sender.tick(now, way, 3.0)
        runs, _ = sender.pull(1000, now, envelope, nothing)
        assert runs[1:] == [1]
    assert waits[0] == pytest.approx(way.probe_timeout)
    assert waits[1] == pytest.approx(2 * way.probe_timeout)
    assert waits[-1] == pytest.approx(3.0)


def test_a_link_that_came_back_gets_all_again_at_once() -> None:
    """In the order of their numbers."""
    sender = Sender(WINDOW)
    five_sent(sender)
    sender.acknowledge(3, [4, 4], 1.1, trip())
    sender.everything_lost()
    runs, again = sender.pull(1000, 2.0, 9, nothing)
    assert (runs, again) == ([3, 1, 5, 1], [b"f3", b"f5"])


def test_what_arrived_meanwhile_is_not_sent_again() -> None:
    """It was marked, and then acknowledged."""
    sender = Sender(WINDOW)
    five_sent(sender)
    sender.everything_lost()
    sender.acknowledge(5, [], 1.2, trip())
    assert sender.pull(1000, 2.0, 9, nothing) == ([5, 1], [b"f5"])


def test_an_empty_sender_needs_no_timer() -> None:
    """An idle session costs nothing."""
    sender = Sender(WINDOW)
    assert sender.wake_at(trip(), 5.0) is None
    five_sent(sender)
    sender.acknowledge(6, [], 1.1, trip())
    assert sender.wake_at(trip(), 5.0) is None


# -- receiving --


def accept(receiver: Receiver, runs: list[int], now: float = 1.0) -> list[int]:
    """Give frames whose content is their number; return what was released."""
    names = [
        number
        for first, count in zip(runs[::2], runs[1::2], strict=True)
        for number in range(first, first + count)
    ]
    released: list[tuple[int, Any]] = []
    receiver.accept(runs, list(names), 10 * len(names), now, released)
    assert all(number == frame for number, frame in released)
    return [number for number, _ in released]


def test_frames_are_released_in_their_order() -> None:
    """What comes too early is kept; what closes the gap releases it."""
    receiver = Receiver(WINDOW)
    assert accept(receiver, [2, 2]) == []
    assert receiver.ahead == 2
    assert receiver.ahead_bytes == 20
    assert accept(receiver, [1, 1]) == [1, 2, 3]
    assert receiver.ahead == receiver.ahead_bytes == 0


def test_a_frame_is_released_once() -> None:
    """However often it comes; each repetition makes an acknowledgement due at once."""
    receiver = Receiver(WINDOW)
    assert accept(receiver, [1, 2]) == [1, 2]
    assert receiver.ack_at == 1.0 + ACK_DELAY
    assert accept(receiver, [1, 2], 1.01) == []
    assert accept(receiver, [4, 1], 1.01) == []
    assert accept(receiver, [4, 1], 1.01) == []
    assert receiver.duplicates == 3
    assert receiver.ack_at == 1.01


def test_an_acknowledgement_names_ranges() -> None:
    """And having been said it is due no more."""
    receiver = Receiver(WINDOW)
    accept(receiver, [1, 2, 5, 2, 9, 1])
    assert receiver.acknowledgement() == [3, 5, 6, 9, 9]
    assert receiver.ack_at is None


def test_too_many_ranges_are_cut_from_the_bottom() -> None:
    """What is not named is not acknowledged; the highest ones are."""
    receiver = Receiver(WINDOW)
    for number in range(2, 200, 2):
        accept(receiver, [number, 1])
    upto, *ranges = receiver.acknowledgement()
    assert upto == 1
    assert len(ranges) == 2 * MAX_RANGES
    assert ranges[-1] == 198


def test_half_a_window_is_acknowledged_at_once() -> None:
    """The sender would else stand still."""
    receiver = Receiver(100)
    accept(receiver, [1, 4])
    assert receiver.ack_at == 1.0 + ACK_DELAY
    accept(receiver, [5, 1])
    assert receiver.ack_at == 1.0


@pytest.mark.parametrize(
    ("runs", "count"),
    [
        ([1], 1),
        ([1, 2], 1),
        ([0, 1], 1),
        ([1, 0, 1, 1], 1),
        ([-4, 1], 1),
        ([2 * WINDOW_FRAMES + 5, 1], 1),
    ],
)
def test_runs_that_cannot_be_are_refused(runs: list[int], count: int) -> None:
    """They do not fit the frames, or go past the window."""
    with pytest.raises(ValueError, match="frame"):
        Receiver(WINDOW).accept(runs, ["f"] * count, 10, 1.0, [])


def test_any_order_of_any_loss_ends_with_everything_once() -> None:
    """Sender and receiver together, over a bad way, for a hundred histories."""
    for seed in range(100):
        dice, way = random.Random(seed), trip(0.05)
        sender, receiver, now = Sender(200), Receiver(200), 1.0
        waiting = [f"frame {n}" for n in range(40)]
        released: list[tuple[int, Any]] = []
        for envelope in range(1, 5000):
            now += 0.01
            sender.tick(now, way, 1.0)
            runs, sent = sender.pull(
                dice.randrange(10, 60), now, envelope, frames(*waiting)
            )
            del waiting[: sender.next - 1 - (40 - len(waiting))]
            if sent and dice.random() > 0.3:
                receiver.accept(runs, sent, sum(map(len, sent)), now, released)
            if dice.random() > 0.3:
                upto, *ranges = receiver.acknowledgement()
                sender.acknowledge(upto, ranges, now, way)
            if not waiting and not sender.unacknowledged:
                break
        assert [text for _, text in released] == [
            f"frame {n}".encode() for n in range(40)
        ]


# -- envelopes and time --


def test_an_envelope_number_is_taken_once() -> None:
    """In any order, within the window; what is too old is not taken."""
    window = ReplayWindow()
    assert window.is_new(5)
    window.mark(5)
    assert not window.is_new(5)
    assert window.is_new(4)
    window.mark(4)
    assert not window.is_new(4)
    window.mark(5000)
    assert not window.is_new(5000 - 2048)
    assert window.is_new(5000 - 2047)


def test_a_window_that_was_folded_takes_nothing_old() -> None:
    """Only the highest number is remembered then."""
    window = ReplayWindow()
    window.all_seen(70)
    assert not window.is_new(70)
    assert not window.is_new(1)
    assert window.is_new(71)


def test_the_probe_timeout_follows_the_round_trip() -> None:
    """Half a second before the first sample; then by RFC 6298."""
    way = RoundTrip()
    assert way.probe_timeout == 0.5
    for _ in range(200):
        way.sample(0.2)
    assert way.smoothed == pytest.approx(0.2)
    assert 0.2 < way.probe_timeout < 0.4
    way.sample(-1.0)  # an echo of a clock that was set
    assert way.minimum > 0
