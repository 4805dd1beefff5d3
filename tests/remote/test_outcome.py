"""How calls ended, as values."""

from __future__ import annotations

import pytest

from remoting_bus._remote.outcome import Outcome, failed, returned
from remoting_bus.errors import (
    CallCancelled,
    CallRefused,
    CallTimeout,
    Overloaded,
    PeerLost,
)


def test_a_value_is_given() -> None:
    outcome = returned(3)
    assert (outcome.state, outcome.error, outcome.value) == ("returned", None, 3)


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ValueError(), "raised"),
        (CallCancelled(""), "cancelled"),
        (CallTimeout(""), "cancelled"),
        (CallRefused(""), "refused"),
        (Overloaded(""), "refused"),
        (PeerLost("", executed="no"), "refused"),
        (PeerLost(""), "unknown"),
    ],
)
def test_a_failure_is_told_and_raised_by_its_value(
    error: Exception, state: str
) -> None:
    outcome: Outcome[int] = failed(error)
    assert outcome.state == state
    assert outcome.error is error
    with pytest.raises(type(error)):
        _ = outcome.value


@pytest.mark.parametrize("state", ["running", "unknown"])
def test_without_a_result_there_is_no_value(state: str) -> None:
    with pytest.raises(LookupError, match=state):
        _ = Outcome(state).value  # type: ignore[arg-type]
