"""Deadlines cross between clocks that agree on nothing."""

from __future__ import annotations

from remoting_bus.protocol.clocks import Clocks


def test_nothing_is_known_before_an_envelope_came() -> None:
    """An instant of the peer's cannot be told then."""
    assert Clocks().instant(5.0) is None


def test_the_fastest_way_tells_the_difference() -> None:
    """What lay in a queue has less time left: only the smallest difference counts."""
    clocks = Clocks()
    clocks.observe(theirs=100.0, now=1000.5)  # half a second on its way
    clocks.observe(theirs=101.0, now=1001.01)
    clocks.observe(theirs=102.0, now=1022.0)  # twenty seconds in a queue
    instant = clocks.instant(110.0)
    assert instant is not None
    assert abs(instant - 1010.01) < 1e-9


def test_a_believable_round_trip_makes_sure() -> None:
    """Both minimums together are the smallest round trip."""
    clocks = Clocks()
    clocks.observe(theirs=100.0, now=1000.01)
    clocks.compare(-899.99)  # theirs: ten milliseconds, too
    assert clocks.sure
    assert clocks.minimum is not None


def test_a_clock_that_stood_still_is_forgotten() -> None:
    """Below zero or over a second, no way can be that short or that long.

    What came with the word that made it absurd is the first sample anew.
    """
    for theirs in (-901.0, -898.0):
        clocks = Clocks()
        clocks.observe(theirs=100.0, now=1000.01)
        clocks.observe(theirs=101.0, now=1021.01)
        clocks.compare(theirs)
        assert not clocks.sure
        assert clocks.instant(102.0) == 1022.01


def test_comparing_before_an_envelope_came_does_nothing() -> None:
    """There is nothing to forget."""
    clocks = Clocks()
    clocks.compare(1.0)
    assert not clocks.sure
