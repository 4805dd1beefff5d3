"""What happened, as data, told to whoever asked; else nothing is made of it.

Owns the records and the registry of hooks. The shells tell; `logging` (the logger
`remoting_bus`) is told by them, too. It must not know who listens, nor any loop: a hook
is called in the thread in which the thing happened.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "BusChanged",
    "CallServed",
    "Happening",
    "LinkChanged",
    "NameTaken",
    "observe",
    "observed",
    "tell",
]

_logger = logging.getLogger("remoting_bus")


@dataclass(frozen=True, slots=True)
class BusChanged:
    """A connection to the broker came up, went down, or lost messages.

    Attributes:
        side: Which connection: that of calls, or that of bulk data.
        state: As the driver told it.
        cause: In words for an operator.
    """

    side: Literal["calls", "bulk"]
    state: str
    cause: str


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """A session changed its phase, or its peer is slow.

    Attributes:
        local: This side's name.
        peer: The other's.
        session: The session's id, in hexadecimal.
        phase: What it is in now.
        kind: What brought it there.
        reason: In words, where there are any.
    """

    local: str
    peer: str
    session: str
    phase: str
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class CallServed:
    """A peer's call has ended at this side.

    Attributes:
        name: Of the function.
        waited: Seconds until a worker was free.
        took: Seconds in which it ran.
        cancelled: Why it was stopped, if it was.
    """

    local: str
    peer: str
    name: str
    waited: float
    took: float
    cancelled: str | None


@dataclass(frozen=True, slots=True)
class NameTaken:
    """Another program has taken this one's name."""

    local: str
    peer: str


Happening = BusChanged | LinkChanged | CallServed | NameTaken
Hook = Callable[[Happening], None]

_hooks: list[Hook] = []


def observed() -> bool:
    """Tell whether anybody listens, before a record is made."""
    return bool(_hooks)


def observe(hook: Hook) -> Callable[[], None]:
    """Call `hook` with everything that happens in this process, until undone.

    It is called where the thing happens, perhaps in another thread; it must be quick and
    must not wait. What it raises is logged and goes no further.

    Returns:
        What undoes it.
    """
    _hooks.append(hook)

    def undo() -> None:
        if hook in _hooks:
            _hooks.remove(hook)

    return undo


def tell(happening: Happening) -> None:
    """Tell all hooks."""
    for hook in _hooks:
        try:
            hook(happening)
        except Exception:
            _logger.exception("a hook of remoting_bus.observe failed")
