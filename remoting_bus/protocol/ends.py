"""The two ends of a byte stream, as a program holds them: `Outlet` and `Inlet`.

An end has a home, the half of the session that carries its bytes; the classes are the
same whichever half that is. Everything here is synchronous and belongs to one loop.
`channel/streams` puts waiting on top. It must not know which half is home.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal, Protocol

from remoting_bus.errors import LocalProtocolError, RemotingError

from .pieces import Piece

__all__ = [
    "BUFFER",
    "MAX_PIECE",
    "Carried",
    "Home",
    "Inlet",
    "Outlet",
    "StreamEnd",
    "StreamReset",
    "pipe",
]

MAX_PIECE = 256 * 1024
"""The largest piece written at once: one bulk envelope (speed.md, bulk)."""

BUFFER = 256 * 1024
"""Bytes that a writer may be ahead of the wire."""


class StreamReset(RemotingError):
    """The far end gave the stream up; the message is its reason."""


class Home(Protocol):
    """Where an end is attached. All four are sync, never fail and never wait."""

    def write(self, stream: int, piece: Piece) -> None:
        """Take a piece to send."""

    def finish(self, stream: int) -> None:
        """No more will be written."""

    def reset(self, stream: int, reason: str) -> None:
        """Give this end up, whichever it is."""

    def consume(self, stream: int, offset: int) -> None:
        """The program has read up to `offset`."""


def _nothing() -> None:
    pass


class Outlet:
    """Bytes out.

    Attributes:
        wake: Called when there is room again, or the stream broke.
        written: Bytes taken so far.
        room: `written` may go past this by at most one piece.
        error: What broke it.
        finished: `finish` was called.
        moved: It was handed to a peer and cannot be used here.
        log: Handed to a peer, its bytes travel on the LOG lane.
    """

    __slots__ = (
        "error",
        "finished",
        "home",
        "log",
        "moved",
        "partner",
        "room",
        "stream",
        "wake",
        "written",
    )

    def __init__(self, home: Home | None = None, stream: int = 0) -> None:
        self.home = home
        self.stream = stream
        self.wake: Callable[[], None] = _nothing
        self.written = 0
        self.room = BUFFER
        self.error: BaseException | None = None
        self.finished = False
        self.moved = False
        self.partner: Inlet | None = None
        self.log = False

    def write_nowait(self, piece: Piece) -> bool:
        """Take `piece`, or return False where there is no room now.

        Args:
            piece: 1 to `MAX_PIECE` bytes; not copied, so nobody may change them.

        Raises:
            StreamReset: The reader gave it up, or what else broke the stream.
            LocalProtocolError: It was finished, or handed to a peer.
        """
        if self.error is not None:
            raise self.error
        home = self.home
        if self.finished or self.moved or home is None:
            raise LocalProtocolError(
                "this end of the stream was finished or handed to a peer"
            )
        if self.written >= self.room:
            return False
        if piece:
            self.written += len(piece)
            home.write(self.stream, piece)
        return True

    def finish(self) -> None:
        """Say that no more will come. Again, or after an error, it does nothing."""
        if self.finished or self.moved or self.error is not None:
            return
        self.finished = True
        if self.home is not None:
            self.home.finish(self.stream)

    def reset(self, reason: str) -> None:
        """Give the stream up: the reader gets `StreamReset(reason)`."""
        if self.finished or self.moved or self.error is not None:
            return
        self.error = StreamReset(reason)
        if self.home is not None:
            self.home.reset(self.stream, reason)
        self.wake()

    # -- for the home --

    def give_room(self, room: int) -> None:
        """Let the writer go up to `room`."""
        if room > self.room:
            self.room = room
            self.wake()

    def fail(self, error: BaseException) -> None:
        """Break it; the writer finds the error."""
        if self.error is None:
            self.error = error
            self.wake()


class Inlet:
    """Bytes in.

    Attributes:
        wake: Called when something arrived, or the stream ended or broke.
        arrived: Bytes here so far, read or not, since the end has its home.
        consumed: Bytes that the program has read of them.
        ended: The writer finished; what was not read yet is still there.
        error: What broke it; raised after what had arrived was read.
        moved: It was handed to a peer and cannot be used here.
        log: Handed to a peer, its bytes travel on the LOG lane.
    """

    __slots__ = (
        "arrived",
        "consumed",
        "ended",
        "error",
        "home",
        "log",
        "moved",
        "partner",
        "pieces",
        "stream",
        "wake",
    )

    def __init__(self, home: Home | None = None, stream: int = 0) -> None:
        self.home = home
        self.stream = stream
        self.wake: Callable[[], None] = _nothing
        self.pieces: deque[Piece] = deque()
        self.arrived = 0
        self.consumed = 0
        self.ended = False
        self.error: BaseException | None = None
        self.moved = False
        self.partner: Outlet | None = None
        self.log = False

    def read_nowait(self) -> Piece | None:
        """Return the next piece, b"" at the end, or None where nothing is here yet.

        A piece that is a view keeps the message in memory that it came in.

        Raises:
            StreamReset: The writer gave it up, or what else broke the stream.
            LocalProtocolError: It was handed to a peer.
        """
        if self.moved:
            raise LocalProtocolError("this end of the stream was handed to a peer")
        if self.pieces:
            piece = self.pieces.popleft()
            self.consumed += len(piece)
            # Below zero: bytes written before the pipe moved; no peer counts them.
            if self.home is not None and self.consumed > 0:
                self.home.consume(self.stream, self.consumed)
            return piece
        if self.error is not None:
            raise self.error
        return b"" if self.ended else None

    def unread(self, rest: Piece) -> None:
        """Put back what was not wanted of a piece just read."""
        self.pieces.appendleft(rest)
        self.consumed -= len(rest)

    def reset(self, reason: str) -> None:
        """Give the stream up: the writer gets `StreamReset(reason)`."""
        if self.moved or self.error is not None or self.complete:
            return
        self.error = StreamReset(reason)
        self.pieces.clear()
        if self.home is not None:
            self.home.reset(self.stream, reason)
        self.wake()

    @property
    def complete(self) -> bool:
        """The end has come and everything was read."""
        return self.ended and not self.pieces

    # -- for the home --

    def push(self, piece: Piece) -> None:
        """Put bytes that came in order."""
        if self.error is None and not self.ended:
            self.arrived += len(piece)
            self.pieces.append(piece)
            self.wake()

    def end(self) -> None:
        """The writer has finished: after what is here comes the end."""
        if not self.ended:
            self.ended = True
            self.wake()

    def fail(self, error: BaseException) -> None:
        """Break it; the reader finds the error after what had arrived."""
        if self.error is None and not self.ended:
            self.error = error
            self.wake()


class Carried:
    """An end whose home is the bulk half: its bytes never cross to this loop.

    Attributes:
        direction: What this side does with it.
        token: The shell's name for it, never used again in this process.
        stream: Set once it is introduced.
        arrived: Bytes that came in order, or that the job has written.
    """

    __slots__ = ("arrived", "direction", "ended", "error", "log", "stream", "token")

    def __init__(self, direction: Literal["send", "receive"], token: int) -> None:
        self.direction = direction
        self.token = token
        self.log = False
        self.ended = False
        self.stream: int | None = None
        self.arrived = 0
        self.error: BaseException | None = None


StreamEnd = Inlet | Outlet | Carried


class _LocalHome:
    """Both ends here: what is written is there to be read at once."""

    __slots__ = ("inlet", "outlet")

    def __init__(self, inlet: Inlet, outlet: Outlet) -> None:
        self.inlet = inlet
        self.outlet = outlet

    def write(self, stream: int, piece: Piece) -> None:
        self.inlet.push(piece)

    def finish(self, stream: int) -> None:
        self.inlet.end()

    def reset(self, stream: int, reason: str) -> None:
        error = StreamReset(reason)
        self.inlet.fail(error)
        self.outlet.fail(error)

    def consume(self, stream: int, offset: int) -> None:
        self.outlet.give_room(offset + BUFFER)


def pipe() -> tuple[Inlet, Outlet]:
    """Make a pipe with both ends here; either may be handed to a peer in a call."""
    inlet, outlet = Inlet(), Outlet()
    home = _LocalHome(inlet, outlet)
    inlet.home = outlet.home = home
    inlet.partner, outlet.partner = outlet, inlet
    return inlet, outlet


def check_movable(end: StreamEnd) -> None:
    """Raise LocalProtocolError unless `end` may be handed to a peer."""
    if isinstance(end, Carried):
        if end.stream is not None:
            raise LocalProtocolError("this stream was handed to a peer before")
        return
    if end.moved or end.partner is None or not isinstance(end.home, _LocalHome):
        raise LocalProtocolError(
            "only an end of a pipe of this program can be handed to a peer, and once"
        )


def attach(end: Inlet | Outlet, home: Home, stream: int) -> None:
    """Hand `end` over: its partner stays here and gets `home` for its bytes."""
    partner = end.partner
    assert partner is not None
    end.moved = True
    end.home = None
    end.wake()
    partner.home, partner.stream, partner.partner = home, stream, None
    if isinstance(partner, Inlet):
        partner.arrived = 0
        partner.consumed = -sum(map(len, partner.pieces))
        if partner.error is not None:
            home.reset(stream, str(partner.error))
        return
    assert isinstance(end, Inlet)
    waiting = list(end.pieces)
    end.pieces.clear()
    partner.written = 0
    partner.room = BUFFER
    for piece in waiting:
        partner.written += len(piece)
        home.write(stream, piece)
    if partner.error is not None:
        home.reset(stream, str(partner.error))
    elif partner.finished:
        home.finish(stream)
    partner.wake()
