"""What the two halves of a session tell each other.

A crossing is treated like the network: a half has output that is pulled, a `Batch`.
A batch is moves, in order, and numbers, of which only the newest counts (law 2).
Batches that were not taken yet merge. It must not know threads or loops.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any

__all__ = ["Batch", "Move", "Number"]


class Move(Enum):
    """What happens once, in order. Its arguments stand behind it."""

    OPEN = auto()  # down: Opening; makes the Standby
    PHASE = auto()  # down: paused (bool)
    INTRODUCE = auto()  # down: stream, use, ours (bool), token or None
    PIECE = auto()  # both: stream, bytes
    FINISH = auto()  # both: stream
    RESET = auto()  # both: stream, reason; of the writer
    STOP = auto()  # both: stream, reason; of the reader
    CLOSING = auto()  # down
    EXPECT = auto()  # down: last bulk number, last log number
    LAST = auto()  # up: last bulk number, last log number
    ALL_IN = auto()  # up
    OVER = auto()  # down: reason
    FAILED = auto()  # up: reason
    UNKNOWN = auto()  # up: the kind of a frame that is not known


class Number(Enum):
    """What only counts as newest; keyed with a stream where it has one (else 0)."""

    ROOM = auto()  # up, stream: the writer may go up to here
    ARRIVED = auto()  # up, stream: in order, at an end whose home is the bulk half
    CONSUMED = auto()  # down, stream: the reader has read up to here
    WANTED = auto()  # down, stream: a held result waits for this offset
    THERE = auto()  # down: the highest stream whose introduction was acknowledged
    FLIGHT = auto()  # down: bytes in flight allowed
    PROBE = auto()  # down: when a beat was last wanted
    HEARD = auto()  # up: when a beat was last answered


class Batch:
    """Moves and numbers, not taken yet."""

    __slots__ = ("moves", "numbers")

    def __init__(self) -> None:
        self.moves: list[tuple[Any, ...]] = []
        self.numbers: dict[tuple[Number, int], float] = {}

    def __bool__(self) -> bool:
        return bool(self.moves or self.numbers)

    def move(self, kind: Move, *arguments: Any) -> None:
        """Add a move behind the others."""
        self.moves.append((kind, *arguments))

    def number(self, kind: Number, value: float, stream: int = 0) -> None:
        """Set a number; an older one is overwritten."""
        self.numbers[kind, stream] = value

    def add(self, later: Batch) -> None:
        """Merge a batch that was made after this one."""
        self.moves += later.moves
        self.numbers.update(later.numbers)
