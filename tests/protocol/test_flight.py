"""Bytes in flight grow while nobody is hurt, and shrink at once when calls wait."""

from __future__ import annotations

from remoting_bus.protocol.delivery import RoundTrip
from remoting_bus.protocol.flight import MAXIMUM, MINIMUM, Flight


def trip(smoothed: float, minimum: float) -> RoundTrip:
    made = RoundTrip()
    made.smoothed, made.minimum = smoothed, minimum
    return made


def test_nothing_changes_before_a_round_trip_is_known() -> None:
    """It begins low."""
    flight = Flight()
    assert flight.sample(RoundTrip(), 1.0, busy={}) is None
    assert flight.allowed == MINIMUM


def test_it_grows_to_its_maximum_while_the_path_is_quiet() -> None:
    """Once a round trip, so that the last change can be seen first."""
    flight, now = Flight(), 1.0
    quiet = trip(0.01, 0.01)
    assert flight.sample(quiet, now, busy={1}) == MINIMUM * 5 // 4
    assert flight.sample(quiet, now + 0.001, busy={1}) is None
    for _ in range(100):
        now += 0.011
        flight.sample(quiet, now, busy={1})
    assert flight.allowed == MAXIMUM


def test_it_shrinks_at_once_when_calls_wait() -> None:
    """Halved with each sample, down to the minimum; without calls nobody is hurt."""
    flight = Flight()
    flight.allowed = MAXIMUM
    slow = trip(0.1, 0.01)
    assert flight.sample(slow, 1.0, busy={1}) == MAXIMUM // 2
    for _ in range(10):
        flight.sample(slow, 1.0, busy={1})
    assert flight.allowed == MINIMUM
    assert flight.sample(slow, 2.0, busy={}) == MINIMUM * 5 // 4
