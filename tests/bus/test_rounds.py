"""The order in which hosts are tried again."""

from __future__ import annotations

import itertools

from remoting_bus.bus.rounds import FIRST_PAUSE, LONGEST_PAUSE, rounds


def test_the_next_host_comes_first_and_at_once() -> None:
    """Then the others, and the lost one after a pause."""
    tries = list(itertools.islice(rounds("abc", "b"), 6))
    assert [host for _, host in tries] == ["c", "a", "b", "c", "a", "b"]
    pauses = [pause for pause, _ in tries]
    assert [bool(each) for each in pauses] == [False, False, True, False, False, True]


def test_a_single_host_is_never_hammered() -> None:
    """Pauses grow to their bound, and differ from one client to the next."""
    pauses = [pause for pause, _ in itertools.islice(rounds(["a"], "a"), 40)]
    assert FIRST_PAUSE / 10 <= pauses[0] <= FIRST_PAUSE
    assert all(LONGEST_PAUSE / 10 <= each <= LONGEST_PAUSE for each in pauses[10:])
    assert len(set(pauses)) == 40
