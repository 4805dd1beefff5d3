"""The endpoint of an address as a line sees it: a half that writes to many peers.

Owns nothing but the fit. Next: `protocol/endpoint`, `node`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from remoting_bus.names import Address
from remoting_bus.protocol.crossing import Batch
from remoting_bus.protocol.endpoint import Endpoint

from .entry import Entry

__all__ = ["EndpointHalf"]


class EndpointHalf:
    """The endpoint as a line sees it: a half that writes to many peers."""

    over = False
    more = True

    def __init__(
        self,
        endpoint: Endpoint,
        key: bytes,
        address: Address,
        ticked: Callable[[], None],
    ) -> None:
        self._endpoint = endpoint
        self._address = address
        self._ticked = ticked
        self.events: list[Any] = []
        self.entry = Entry(self, key, address, _nothing, _nothing)

    def cross(self, batch: Batch, now: float) -> None:
        """It has no other half."""

    def next_envelope(self, now: float) -> bytes | None:
        """Return what is to be sent next, and set where it goes."""
        out = self._endpoint.next_envelope(now)
        if out is None:
            return None
        address = self._address
        self.entry.to = Address(address.namespace, out[0], address.name)
        return out[1]

    def take_batch(self) -> Batch | None:
        """It has no other half."""
        return None

    def tick(self, now: float) -> None:
        """Do what is due."""
        self._endpoint.tick(now)
        self._ticked()

    def wake_at(self, now: float) -> float | None:
        """Return when something is due."""
        return self._endpoint.wake_at(now)

    def link(self, up: bool, now: float, cause: str = "") -> None:
        """Its messages are repeated by time."""


def _nothing() -> None:
    pass
