"""What a line asks of a half, and what it keeps of it.

A half is the pure part of a session for one connection, or the endpoint of an address.
Owns no behaviour. Next: `line`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from remoting_bus.names import Address
from remoting_bus.protocol.crossing import Batch

__all__ = ["Entry", "Half"]


class Half(Protocol):
    """All that a Line needs of the pure part of a session for one connection."""

    over: bool
    events: list[Any]
    more: bool
    """After `next_envelope` gave one: there may be another one now."""

    def cross(self, batch: Batch, now: float) -> None:
        """Take what the other half tells."""

    def next_envelope(self, now: float) -> bytes | None:
        """Return what is to be sent next."""

    def take_batch(self) -> Batch | None:
        """Return what the other half is to know."""

    def tick(self, now: float) -> None:
        """Do what is due."""

    def wake_at(self, now: float) -> float | None:
        """Return when `tick` has something to do."""

    def link(self, up: bool, now: float, cause: str = "") -> None:
        """The connection went down, or came back."""


class Entry:
    """What a line keeps of a half.

    Attributes:
        key: Its name in the crossing.
        to: Where its envelopes go.
        notify: Called when `half.events` is not empty.
        on_over: Called once when the half is over, and forgotten here.
        grace: Seconds without a link after which its streams are given up (law 22);
            None where the half itself judges that.
    """

    __slots__ = (
        "armed",
        "dirty",
        "grace",
        "half",
        "key",
        "notify",
        "on_over",
        "publishing",
        "queued",
        "ticked",
        "to",
        "touched",
    )

    def __init__(
        self,
        half: Half,
        key: bytes,
        to: Address,
        notify: Callable[[], None],
        on_over: Callable[[], None],
    ) -> None:
        self.half = half
        self.key = key
        self.to = to
        self.notify = notify
        self.on_over = on_over
        self.grace: float | None = None
        self.touched = False  # it is looked at in the coming turn
        self.dirty = False  # it may have an envelope
        self.queued = False  # it stands among those that are pulled next
        self.publishing = 0  # publishes under way
        self.ticked = 0.0  # when its timer fired last
        self.armed: float | None = None  # when its timer fires, at the latest
