"""What waits on the CALL lane goes by priority, fairly, and in parts where it is large."""

from __future__ import annotations

from cbor2 import loads

from remoting_bus.names import Priority
from remoting_bus.protocol.frames import FrameKind
from remoting_bus.protocol.queue import ABANDONED, LAST, MAX_PARTIAL, CallQueue, Entry

URGENT, NORMAL, BACKGROUND = Priority.URGENT, Priority.NORMAL, Priority.BACKGROUND
LARGEST = 10_000


def filled(*entries: Entry) -> CallQueue:
    queue = CallQueue(LARGEST)
    for entry in entries:
        queue.add(entry)
    return queue


def small(text: bytes, priority: Priority = NORMAL) -> Entry:
    return Entry(text, priority)


def drained(queue: CallQueue, room: int = LARGEST) -> list[bytes]:
    taken: list[bytes] = []
    while (data := queue.take(room, len(taken) + 1)) is not None:
        taken.append(data)
    return taken


def test_urgent_goes_first_and_equals_keep_their_order() -> None:
    """A late urgent call overtakes all that waits."""
    queue = filled(small(b"b", BACKGROUND), small(b"1"), small(b"2"))
    queue.add(small(b"u", URGENT))
    assert drained(queue) == [b"u", b"1", b"2", b"b"]
    assert not queue


def test_background_gets_a_fifth_of_the_bytes() -> None:
    """Nothing starves, nothing takes over."""
    entries = [small(b"n" * 1000, NORMAL) for _ in range(2000)]
    entries += [small(b"b" * 1000, BACKGROUND) for _ in range(2000)]
    first = drained(filled(*entries))[:1000]
    share = sum(data[:1] == b"b" for data in first)
    assert 150 <= share <= 250


def test_what_went_alone_is_not_owed() -> None:
    """After a megabyte of normal calls alone, background gets no more than its share."""
    queue = filled(*(small(b"n" * 1000) for _ in range(1000)))
    drained(queue)
    for _ in range(1000):
        queue.add(small(b"n" * 1000, NORMAL))
        queue.add(small(b"b" * 1000, BACKGROUND))
    share = sum(data[:1] == b"b" for data in drained(queue)[:500])
    assert 70 <= share <= 130


def test_what_does_not_fit_the_room_waits() -> None:
    """For the next envelope."""
    queue = filled(small(b"x" * 100))
    assert queue.take(99, 1) is None
    assert queue.take(100, 1) == b"x" * 100


def test_what_was_pulled_learns_its_number() -> None:
    """Of the whole, or of the last part."""
    numbers: list[int] = []
    queue = filled(
        Entry(b"a", NORMAL, numbers.append),
        Entry(b"b" * 25_000, NORMAL, numbers.append),
    )
    assert len(drained(queue)) == 4
    assert numbers == [1, 4]


def test_a_frame_taken_back_is_never_pulled() -> None:
    """Law 4: nothing is sent then."""
    gone = small(b"gone")
    queue = filled(small(b"1"), gone, small(b"2"))
    assert queue.remove(gone)
    assert not queue.remove(gone)
    assert queue.waiting == 2
    assert drained(queue) == [b"1", b"2"]


def test_a_pulled_frame_cannot_be_taken_back() -> None:
    """It may have run."""
    entry = small(b"1")
    queue = filled(entry)
    drained(queue)
    assert not queue.remove(entry)


def test_a_large_frame_goes_in_parts_that_join() -> None:
    """The first part has no first; the others name it; the last says so."""
    data = bytes(range(256)) * 100
    parts = [loads(part) for part in drained(filled(Entry(data, NORMAL)))]
    assert all(len(part[3]) <= LARGEST for part in parts)
    assert {part[0] for part in parts} == {FrameKind.FRAGMENT}
    assert [part[1] for part in parts] == [0, 1, 1]
    assert [part[2] for part in parts] == [0, 0, LAST]
    assert b"".join(part[3] for part in parts) == data


def test_what_is_small_passes_between_the_parts() -> None:
    """Law 28: a large call does not stand in front of others, least of urgent ones."""
    queue = filled(Entry(b"L" * 95_000, NORMAL), small(b"n"))
    assert queue.take(LARGEST, 1) != b"n"
    queue.add(small(b"u", URGENT))
    assert queue.take(LARGEST, 2) == b"u"
    assert queue.take(LARGEST, 3) == b"n"


def test_two_large_frames_take_turns() -> None:
    """Part by part."""
    queue = filled(Entry(b"A" * 30_000, NORMAL), Entry(b"B" * 30_000, NORMAL))
    order = "".join(chr(loads(part)[3][0]) for part in drained(queue))
    assert order == "ABABABAB"


def test_few_frames_are_in_parts_at_a_time() -> None:
    """What the receiver puts together is bounded; small ones go on."""
    large = [Entry(b"L" * 35_000, NORMAL) for _ in range(MAX_PARTIAL + 3)]
    queue = filled(*large, small(b"n"))
    open_parts, most = set(), 0
    for number, data in enumerate(drained(queue), 1):
        if data == b"n":
            continue
        _, first, state, _ = loads(data)
        open_parts.add(first or number)
        most = max(most, len(open_parts))
        if state == LAST:
            open_parts.discard(first)
    assert most == MAX_PARTIAL
    assert not open_parts


def test_the_rest_of_a_large_frame_can_be_given_up() -> None:
    """One short part says so, and its number is nobody's."""
    numbers: list[int] = []
    entry = Entry(b"L" * 95_000, NORMAL, numbers.append)
    queue = filled(entry)
    queue.take(LARGEST, 7)
    assert not queue.remove(entry)
    entry.abandoned = True
    assert [loads(part) for part in drained(queue)] == [
        [FrameKind.FRAGMENT, 7, ABANDONED, b""]
    ]
    assert not numbers


def test_a_queue_that_is_cleared_is_empty() -> None:
    """A session that is over sends nothing."""
    queue = filled(small(b"1"), small(b"2", URGENT))
    queue.clear()
    assert not queue
    assert drained(queue) == []
