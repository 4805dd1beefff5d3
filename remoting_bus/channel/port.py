"""A `Port`: one address on one line, and the way from an envelope to its half.

Owns the table from session to half, for what is consumed at an address; several may
share a line, even the two peers of one session. It must not know what a half is.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from remoting_bus._loop import clock
from remoting_bus.names import Address, Lane
from remoting_bus.protocol.crossing import Batch
from remoting_bus.protocol.envelope import EnvelopeKind, read_session
from remoting_bus.protocol.standby import Standby, opening_of

from .entry import Entry
from .freights import Jobs
from .line import Line

__all__ = ["BulkPort", "Port", "new_tag"]

_SEALED = int(EnvelopeKind.SEALED)
_KIND_AT = 2
"""The kind's place in an envelope; `protocol/envelope` has the layout."""

TAG_BYTES = 8

EARLY_MESSAGES = 8
EARLY_BYTES = 512 * 1024
"""What is kept of sessions that the other line has not told of yet. Both connections of
a new session race; its first bytes are at most 256 KiB (law 6), and without this they
would come again only after half a second."""

_logger = logging.getLogger("remoting_bus")
_tags = itertools.count(1)


def new_tag() -> bytes:
    """Return what tells the sessions of one address from those of another here."""
    return next(_tags).to_bytes(TAG_BYTES, "big")


class Port:
    """One address on the line of CONTROL and CALL.

    Args:
        tag: Stands before the ids of its sessions where lines name them.
        other: Takes what is of no session here: hellos and the like.
    """

    def __init__(
        self, line: Line, tag: bytes, other: Callable[[bytes, float], None]
    ) -> None:
        self.line = line
        self.tag = tag
        self.routes: dict[bytes, Entry] = {}
        self._other = other

    def deliver(self, body: bytes, lane: Lane) -> None:
        """Take a message from the bus."""
        line = self.line
        try:
            if line.inbound:
                line.take_crossing()
            now = clock()
            entry = self.routes.get(read_session(body))
            if entry is None or body[_KIND_AT] != _SEALED:
                self._other(body, now)
            else:
                half: Any = entry.half
                half.receive(body, now)
                line.touch(entry)
        except Exception:
            _logger.exception("a message could not be taken, and is dropped")


class BulkPort:
    """One address on the line of BULK and LOG; on that line's loop only.

    Attributes:
        jobs: What is to be run with the streams that live here.
    """

    def __init__(self, line: Line, tag: bytes, address: Address) -> None:
        self.line = line
        self.tag = tag
        self.jobs = Jobs(self._alive)
        self._address = address
        self._routes: dict[bytes, Entry] = {}
        self._early: deque[bytes] = deque()
        self._early_bytes = 0

    def opened(self, key: bytes, batch: Batch) -> Entry | None:
        """Make the half of a session that was opened on the other line."""
        opening = opening_of(batch)
        if opening is None:
            return None
        address = self._address
        standby = Standby(opening)
        entry = Entry(
            standby,
            key,
            Address(address.namespace, opening.peer, address.name),
            lambda: self._introduced(standby, key),
            lambda: self._over(entry),
        )
        entry.grace = opening.terms.grace
        standby.touched = lambda: self.line.touch(entry)
        self._routes[opening.session] = entry
        self.line.add(entry)
        for body in list(self._early):
            if read_session(body) == opening.session:
                self._early.remove(body)
                self._early_bytes -= len(body)
                standby.receive(body, clock())
        return entry

    def _alive(self, key: bytes) -> bool:
        if self.line.inbound:
            self.line.take_crossing()
        return key in self.line.entries

    def _keep_early(self, body: bytes) -> None:
        self._early.append(body)
        self._early_bytes += len(body)
        while len(self._early) > EARLY_MESSAGES or self._early_bytes > EARLY_BYTES:
            self._early_bytes -= len(self._early.popleft())

    def _introduced(self, standby: Standby, key: bytes) -> None:
        events, standby.events = standby.events, []
        for introduced in events:
            self.jobs.introduced(key, introduced)

    def _over(self, entry: Entry) -> None:
        self._routes.pop(entry.key[TAG_BYTES:], None)
        self.jobs.session_over(entry.key)

    def deliver(self, body: bytes, lane: Lane) -> None:
        """Take a message from the bus."""
        line = self.line
        try:
            if line.inbound:
                line.take_crossing()
            entry = self._routes.get(read_session(body))
            if entry is None:
                self._keep_early(body)
            else:
                half: Any = entry.half
                half.receive(body, clock())
                line.touch(entry)
        except Exception:
            _logger.exception("a message could not be taken, and is dropped")

    def close(self) -> None:
        """Forget its halves."""
        for entry in list(self._routes.values()):
            self.line.drop(entry)
            self.jobs.session_over(entry.key)
        self._routes.clear()
