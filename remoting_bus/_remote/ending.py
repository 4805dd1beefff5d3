"""How a call ended, as what its caller gets: the value, or the one exception.

Maps the outcomes of the protocol to the tree of errors, and results to annotations. It
must not know who waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from remoting_bus.errors import (
    CallCancelled,
    CallRefused,
    CallTimeout,
    ChannelClosed,
    NotGranted,
    Overloaded,
    PeerLost,
    Revoked,
)
from remoting_bus.protocol.calls import Outcome, OutcomeKind, RefusalCode
from remoting_bus.protocol.ends import Carried

from .faults import rebuild
from .marshal import as_stream, insert_streams
from .shapes import BadValue

if TYPE_CHECKING:
    from .targets import Target

__all__ = ["error_of", "release_result", "value_of"]

_REFUSALS: dict[RefusalCode, type[CallRefused]] = {
    RefusalCode.OVERLOADED: Overloaded,
    RefusalCode.NOT_GRANTED: NotGranted,
    RefusalCode.REVOKED: Revoked,
}


def value_of(outcome: Outcome, target: Target) -> Any:
    """Return the result of a call that returned.

    Raises:
        CallRefused: It is not what the function's annotation says. The call ran.
    """
    value = outcome.value
    try:
        if outcome.streams:
            streams = [as_stream(end) for end in outcome.streams]
            value = insert_streams(value, streams, set())
        if target.result is not None:
            value = target.result(value)
    except BadValue as bad:
        release_result(outcome)
        raise CallRefused(
            f"{target.name}: result{bad.path}: {bad.reason}. The call ran"
        ) from None
    except ValueError as error:
        release_result(outcome)
        raise CallRefused(f"{target.name}: its result: {error}. The call ran") from None
    return value


def release_result(outcome: Outcome) -> None:
    """Give up the streams of a result that nobody takes."""
    for end in outcome.streams:
        if not isinstance(end, Carried):
            end.reset("nobody takes the result")


def error_of(outcome: Outcome, target: Target, peer: str) -> Exception:
    """Return what a call that did not return raises at its caller."""
    message = outcome.message
    called = f"{target.name} on {peer!r}"
    match outcome.kind:
        case OutcomeKind.RAISED:
            return rebuild(outcome.value, peer=peer, module=target.module)
        case OutcomeKind.CANCELLED:
            if isinstance(outcome.cause, ChannelClosed):
                return ChannelClosed(f"{called}: {message}")
            return CallCancelled(f"{called} was cancelled: {message}")
        case OutcomeKind.TIMED_OUT:
            return CallTimeout(
                f"{called} timed out: {message or 'no answer by its deadline'}",
                executed=outcome.executed,
            )
        case OutcomeKind.REFUSED:
            kind = _REFUSALS.get(outcome.code, CallRefused)
            return kind(f"{called} was refused: {message}")
        case OutcomeKind.LOST:
            lost = PeerLost(f"{called}: {message}", executed=outcome.executed)
            lost.__cause__ = outcome.cause
            return lost
        case OutcomeKind.RETURNED:
            raise AssertionError("it returned")
