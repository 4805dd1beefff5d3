"""Ends at the Session: what the caller's loop holds of each stream.

Everything a program does with an end here becomes a move or a number of the next batch
for the bulk half; everything that half tells becomes a change of an end. Ids of streams
are made of the number of the frame that introduced them, so nobody has to agree on them.
It must not know calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .crossing import Batch, Move, Number
from .ends import Carried, Inlet, Outlet, StreamEnd, StreamReset, attach
from .frames import StreamUse
from .pieces import Piece

__all__ = ["MAX_STREAMS_PER_FRAME", "Streams", "stream_id", "uses_of"]

MAX_STREAMS_PER_FRAME = 255

_TELL_AFTER = 64 * 1024
"""A quarter of the smallest window: whoever is at a limit has moved all of it."""


def stream_id(number: int, index: int, *, ours: bool) -> int:
    """Return the id of a stream by its introduction.

    On the wire the sender's own ids are even; a peer's id is ours with the last bit
    turned over.
    """
    return (number << 8 | index) << 1 | (0 if ours else 1)


def uses_of(handed: Sequence[StreamEnd]) -> list[int]:
    """Return what the introducer does with each stream whose end is handed over."""
    uses = []
    for end in handed:
        if isinstance(end, Carried):
            sends = end.direction == "send"
        else:
            sends = isinstance(end, Inlet)
        uses.append((0 if sends else 1) + (2 if end.log else 0))
    return uses


def _nothing() -> None:
    pass


class Streams:
    """The table of ends here; it is the home of those that are not carried.

    Attributes:
        touched: Called when a program did something with an end: there is a batch.
        used: A stream was ever introduced, so the bulk half has something to say.
        newest: The number of the newest frame of ours that introduced one.
    """

    __slots__ = ("_batch", "_ends", "_new_token", "_told", "newest", "touched", "used")

    def __init__(
        self, batch: Callable[[], Batch], new_token: Callable[[], int]
    ) -> None:
        self._batch = batch
        self._new_token = new_token
        self._ends: dict[int, StreamEnd] = {}
        self._told: dict[int, int] = {}
        self.touched: Callable[[], None] = _nothing
        self.used = False
        self.newest = 0

    def __len__(self) -> int:
        return len(self._ends)

    # -- introductions --

    def introduce_ours(
        self, number: int, handed: Sequence[StreamEnd]
    ) -> list[StreamEnd]:
        """Give the streams of a frame that was just pulled their ids.

        Returns:
            The ends that stay here.
        """
        self.used = True
        self.newest = number
        ends: list[StreamEnd] = []
        for index, (end, use) in enumerate(zip(handed, uses_of(handed), strict=True)):
            stream = stream_id(number, index, ours=True)
            if isinstance(end, Carried):
                self._batch().move(Move.INTRODUCE, stream, use, True, end.token)
                end.stream = stream
                stays: StreamEnd = end
            else:
                self._batch().move(Move.INTRODUCE, stream, use, True, None)
                assert end.partner is not None
                stays = end.partner
            self._ends[stream] = stays
            if not isinstance(end, Carried):
                attach(end, self, stream)
            ends.append(stays)
        return ends

    def introduce_theirs(
        self, number: int, uses: Sequence[int], *, carried: bool
    ) -> list[StreamEnd]:
        """Make our ends of the streams that a frame of the peer introduced."""
        if len(uses) > MAX_STREAMS_PER_FRAME:
            raise ValueError("too many streams in a frame")
        self.used = self.used or bool(uses)
        ends: list[StreamEnd] = []
        for index, value in enumerate(uses):
            use = StreamUse(value)
            stream = stream_id(number, index, ours=False)
            token = self._new_token() if carried else None
            self._batch().move(Move.INTRODUCE, stream, int(use), False, token)
            if token is not None:
                end: StreamEnd = Carried("receive" if use.sends else "send", token)
                end.stream = stream
            elif use.sends:
                end = Inlet(self, stream)
            else:
                end = Outlet(self, stream)
            self._ends[stream] = end
            ends.append(end)
        return ends

    def refuse_theirs(self, number: int, uses: Sequence[int], reason: str) -> None:
        """A frame never came to be a call: give up the streams it introduced."""
        for end in self.introduce_theirs(number, uses, carried=False):
            assert not isinstance(end, Carried)
            end.reset(reason)

    # -- Home: what programs do with their ends --

    def write(self, stream: int, piece: Piece) -> None:
        """Hand a piece to the bulk half."""
        self._batch().move(Move.PIECE, stream, piece)
        self.touched()

    def finish(self, stream: int) -> None:
        """Say that it is complete; the end is forgotten here."""
        self._batch().move(Move.FINISH, stream)
        self._forget(stream)
        self.touched()

    def reset(self, stream: int, reason: str) -> None:
        """Give it up; the end is forgotten here."""
        end = self._ends.get(stream)
        if end is not None:
            kind = Move.STOP if isinstance(end, Inlet) else Move.RESET
            self._batch().move(kind, stream, reason)
            self._forget(stream)
            self.touched()

    def consume(self, stream: int, offset: int) -> None:
        """Tell what was read, once that is worth telling."""
        if offset - self._told.get(stream, 0) >= _TELL_AFTER and stream in self._ends:
            self._told[stream] = offset
            self._batch().number(Number.CONSUMED, offset, stream)
            self.touched()

    def want(self, stream: int, offset: int) -> None:
        """Ask to be told when this much of a carried stream is here (law 5)."""
        self._batch().number(Number.WANTED, offset, stream)

    def give_up(self, end: StreamEnd, reason: str) -> None:
        """Reset an end that may be carried."""
        if not isinstance(end, Carried):
            end.reset(reason)
        elif end.stream is not None and end.error is None and not end.ended:
            end.error = StreamReset(reason)
            kind = Move.STOP if end.direction == "receive" else Move.RESET
            self._batch().move(kind, end.stream, reason)
            self._forget(end.stream)

    # -- what the bulk half tells --

    def apply(self, batch: Batch) -> None:
        """Take the moves and numbers of streams; moves first."""
        for kind, *arguments in batch.moves:
            if kind is Move.PIECE:
                end = self._ends.get(arguments[0])
                if isinstance(end, Inlet):
                    end.push(arguments[1])
            elif kind in (Move.FINISH, Move.RESET, Move.STOP):
                self._ended(kind, *arguments)
        for (number, stream), value in batch.numbers.items():
            end = self._ends.get(stream)
            if number is Number.ROOM and isinstance(end, Outlet):
                end.give_room(int(value))
            elif number is Number.ARRIVED and isinstance(end, Carried):
                end.arrived = max(end.arrived, int(value))

    def _ended(self, kind: Any, stream: int, reason: str = "") -> None:
        end = self._ends.get(stream)
        if end is None:
            return
        if kind is Move.FINISH:
            if isinstance(end, Carried):
                end.ended = True
            elif isinstance(end, Inlet):
                end.end()
        elif isinstance(end, Carried):
            end.error = end.error or StreamReset(reason)
        else:
            end.fail(StreamReset(reason))
        self._forget(stream)

    def _forget(self, stream: int) -> None:
        self._ends.pop(stream, None)
        self._told.pop(stream, None)

    def fail_all(self, error: BaseException) -> None:
        """The session is over: break every end, now."""
        ends, self._ends = list(self._ends.values()), {}
        self._told.clear()
        for end in ends:
            if isinstance(end, Carried):
                end.error = end.error or error
            else:
                end.home = None
                end.fail(error)
