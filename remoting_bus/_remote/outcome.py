"""How a call ended, as a value: for many calls at once, where failure is no surprise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, cast

from remoting_bus.errors import (
    CallCancelled,
    CallRefused,
    CallTimeout,
    PeerLost,
)

__all__ = ["Outcome", "OutcomeState", "failed", "returned"]

R = TypeVar("R")

OutcomeState = Literal[
    "unknown", "running", "returned", "raised", "cancelled", "refused"
]


@dataclass(frozen=True, slots=True)
class Outcome(Generic[R]):
    """How a call ended, or that it has not.

    Attributes:
        state: "returned"; "raised"; "cancelled" (a time-out too); "refused": it never
            ran; "running"; "unknown": it may have run.
        error: What the call would have raised; None if it returned, runs or is unknown
            without a reason.
    """

    state: OutcomeState
    error: Exception | None = None
    _value: R | None = None

    @property
    def value(self) -> R:
        """The result. Raises `error` if there is none.

        Raises:
            LookupError: It is running, or nothing is known of it.
        """
        if self.state == "returned":
            return cast(R, self._value)
        if self.error is not None:
            raise self.error
        raise LookupError(f"the call has no result: it is {self.state}")


def returned(value: R) -> Outcome[R]:
    """Return the outcome of a call that returned `value`."""
    return Outcome("returned", None, value)


def failed(error: Exception) -> Outcome[R]:
    """Return the outcome of a call that raised `error` at its caller."""
    state: OutcomeState
    match error:
        case CallTimeout() | CallCancelled():
            state = "cancelled"
        case PeerLost():
            state = "refused" if error.executed == "no" else "unknown"
        case CallRefused():
            state = "refused"
        case _:
            state = "raised"
    return Outcome(state, error)
