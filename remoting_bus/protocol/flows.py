"""One stream at the bulk half: what goes out, what comes in, and its credit.

Credit is absolute: "write up to this offset". It starts at `WINDOW`, rises as the
program reads, and the window doubles while a whole one is used up within two round
trips, as far as all windows of a session together allow. A limit says so again when it
is asked (law 2). It must not know envelopes or where an end lives.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

from .ends import BUFFER, Inlet, Outlet
from .pieces import Piece

__all__ = ["MAX_WINDOW", "WINDOW", "Incoming", "Outgoing"]

WINDOW = 256 * 1024
"""The first credit of a stream, known to both sides."""

MAX_WINDOW = 16 * 1024 * 1024
"""Of one stream, and of all streams of a session together."""

Closing = Literal["finish", "reset"]


class Outgoing:
    """Bytes out.

    Attributes:
        sent: Offset of the next byte to be put in a frame.
        credit: The peer takes bytes up to here.
        end: The end that lives at this half, if one does.
        closing: What is to be said once the pieces are out.
    """

    __slots__ = (
        "asked_at",
        "closing",
        "credit",
        "end",
        "listed",
        "log",
        "patience",
        "pieces",
        "queued",
        "reason",
        "sent",
        "stream",
        "told_room",
    )

    def __init__(self, stream: int, *, log: bool, end: Outlet | None) -> None:
        self.stream = stream
        self.log = log
        self.end = end
        self.pieces: deque[Piece] = deque()
        self.queued = 0
        self.sent = 0
        self.credit = WINDOW
        self.closing: Closing | None = None
        self.reason = ""
        self.told_room = BUFFER
        self.listed = False  # waits for its turn to be pulled
        self.asked_at: float | None = None
        self.patience = 0.5

    def write(self, piece: Piece) -> None:
        """Queue a piece; the writer's room bounds what waits."""
        self.pieces.append(piece)
        self.queued += len(piece)

    def give_up(self, reason: str) -> None:
        """Drop what waits and say so."""
        self.pieces.clear()
        self.queued = 0
        self.closing, self.reason = "reset", reason

    def ready(self) -> bool:
        """There is something that may go now."""
        if self.pieces:
            return self.sent < self.credit
        return self.closing is not None

    def blocked(self) -> bool:
        """It waits for credit alone."""
        return bool(self.pieces) and self.sent >= self.credit

    def cut(self, most: int) -> Piece:
        """Take at most so many bytes, and no more than there is credit for."""
        most = min(most, self.credit - self.sent)
        piece = self.pieces.popleft()
        if len(piece) > most:
            view = memoryview(piece)  # cutting bytes would copy both parts
            self.pieces.appendleft(view[most:])
            piece = view[:most]
        self.sent += len(piece)
        self.queued -= len(piece)
        return piece

    @property
    def room(self) -> int:
        """How far the writer may go."""
        return self.sent + BUFFER


class Incoming:
    """Bytes in.

    Attributes:
        arrived: In order, so far.
        consumed: Read by the program, so far.
        limit: The credit last granted.
        wanted: A held result waits for this offset.
    """

    __slots__ = (
        "arrived",
        "consumed",
        "end",
        "limit",
        "log",
        "raised_at",
        "stream",
        "told",
        "wanted",
        "window",
    )

    def __init__(self, stream: int, *, log: bool, end: Inlet | None) -> None:
        self.stream = stream
        self.log = log
        self.end = end
        self.arrived = 0
        self.consumed = 0
        self.window = WINDOW
        self.limit = WINDOW
        self.raised_at = 0.0
        self.wanted: int | None = None
        self.told = 0

    def accept(self, offset: int, piece: Piece) -> None:
        """Take what came.

        Raises:
            ValueError: It leaves a hole, or goes past the credit.
        """
        if offset != self.arrived:
            raise ValueError("bytes of a stream out of order")
        if self.arrived + len(piece) > self.limit:
            raise ValueError("more bytes of a stream than credit was given for")
        self.arrived += len(piece)

    def read(self, offset: int, now: float, trip: float, spare: int) -> int | None:
        """The program has read up to `offset`; return a new credit worth telling.

        Args:
            offset: Of the next byte to be read.
            now: The time.
            trip: The round trip, in seconds.
            spare: How much all windows together may still grow.
        """
        self.consumed = max(self.consumed, offset)
        wanted = self.consumed + self.window
        if wanted - self.limit < self.window // 4:
            return None
        if now - self.raised_at < 2 * trip and spare >= self.window:
            self.window = min(self.window * 2, MAX_WINDOW)
            wanted = self.consumed + self.window
        self.raised_at = now
        self.limit = max(self.limit, wanted)
        return self.limit
