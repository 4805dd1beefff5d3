"""What the bulk connection keeps of every session: a name, beats, and perhaps a Freight.

An idle session costs no more than this object. The Freight is made by the first stream,
or the first sealed envelope; with no stream and nothing unacknowledged for a minute it
folds back to a few numbers. Beats ask "is anybody there?" when CONTROL has been silent:
they are answered here, where no user code runs, in numbers of their own (law 12).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cbor2 import dumps

from remoting_bus.names import Lane

from .codec import DecodeError, decode
from .crossing import Batch, Move, Number
from .delivery import ReplayWindow
from .envelope import (
    HEADER_BYTES,
    EnvelopeKind,
    Header,
    PlainSeal,
    Seal,
    SealBroken,
    pack_header,
    read_header,
)
from .freight import Freight, Introduced
from .terms import Opening

__all__ = ["FOLD_AFTER", "Standby", "opening_of"]

FOLD_AFTER = 60.0
"""Seconds without a stream after which the Freight folds."""


def opening_of(batch: Batch) -> Opening | None:
    """Return the opening in a batch for a session that this side does not know yet."""
    for kind, *arguments in batch.moves:
        if kind is Move.OPEN:
            opening: Opening = arguments[0]
            return opening
    return None


def _nothing() -> None:
    pass


class Standby:
    """A `Half` of the bulk connection.

    Attributes:
        freight: Once there was a stream.
        events: Carried streams whose jobs the shell is to start.
        over: The shell may forget it.
        touched: Called when a job did something with a carried end.
    """

    more = True

    __slots__ = (
        "_asks",
        "_beat_replay",
        "_beats",
        "_folded",
        "_link_up",
        "_number",
        "_opening",
        "_paused",
        "_probe",
        "_seal",
        "_up",
        "events",
        "freight",
        "over",
        "touched",
    )

    def __init__(self, opening: Opening, seal: Seal | None = None) -> None:
        self._opening = opening
        self._seal = seal or PlainSeal(opening.secret)
        self.freight: Freight | None = None
        self.events: list[Introduced] = []
        self.over = False
        self._folded: list[tuple[Lane, int, int, int, int]] | None = None
        self._link_up = True
        self._probe: float | None = None
        self._paused = False
        self._beats = 0  # questions asked
        self._number = 0  # of beats sent, questions and answers
        self._asks: list[bytes] = []
        self._beat_replay: ReplayWindow | None = None
        self._up = Batch()
        self.touched: Callable[[], None] = _nothing

    @property
    def id(self) -> bytes:
        """The session's id."""
        return self._opening.session

    @property
    def peer(self) -> str:
        """The peer's name."""
        return self._opening.peer

    def _unfold(self) -> Freight:
        freight = self.freight
        if freight is None:
            freight = self.freight = Freight(self._opening, self._seal)
            for lane, sent, received, number, highest in self._folded or ():
                state = freight.lanes[lane]
                state.sender.next = sent
                state.sender.acknowledged = sent - 1
                state.receiver.next = received
                state.number = number
                state.replay.all_seen(highest)
            self._folded = None
            freight.paused = self._paused
            freight.touched = self.touched
        return freight

    def _fold(self) -> None:
        freight = self.freight
        assert freight is not None
        self._folded = [
            (
                lane,
                state.sender.next,
                state.receiver.next,
                state.number,
                state.replay.highest,
            )
            for lane, state in freight.lanes.items()
        ]
        self.freight = None

    # -- Half --

    def receive(self, envelope: bytes, now: float) -> None:
        """Take an envelope of BULK or LOG, or a beat."""
        header = read_header(envelope)
        if header is None:
            return
        if header.kind is EnvelopeKind.SEALED:
            self._unfold().receive(envelope, now)
        elif header.kind in (EnvelopeKind.BEAT, EnvelopeKind.BEAT_ANSWER):
            self._take_beat(header, envelope, now)

    def _take_beat(self, header: Header, envelope: bytes, now: float) -> None:
        try:
            body = self._seal.open(envelope[:HEADER_BYTES], header.number, envelope)
            question = decode(body)
        except (SealBroken, DecodeError):
            return
        if header.kind is EnvelopeKind.BEAT_ANSWER:
            if question == self._beats:
                self._up.number(Number.HEARD, now)
            return
        if self._beat_replay is None:
            self._beat_replay = ReplayWindow()
        if self._beat_replay.is_new(header.number) and len(self._asks) < 4:
            self._beat_replay.mark(header.number)
            self._asks.append(self._beat(EnvelopeKind.BEAT_ANSWER, question))

    def _beat(self, kind: EnvelopeKind, question: Any) -> bytes:
        self._number += 1
        header = pack_header(kind, Lane.BULK, self.id, self._number)
        return self._seal.seal(header, self._number, dumps(question))

    def cross(self, batch: Batch, now: float) -> None:
        """Take what the Session tells."""
        probe = batch.numbers.pop((Number.PROBE, 0), None)
        if probe is not None:
            self._probe = probe
        over = any(move[0] is Move.OVER for move in batch.moves)
        if over:
            self.over = True
            if self.freight is not None:
                self.freight.cross(batch, now)
            return
        moves = [move for move in batch.moves if move[0] is not Move.OPEN]
        for move in moves:
            if move[0] is Move.PHASE:
                self._paused = move[1]
        only_phase = all(move[0] is Move.PHASE for move in moves)
        if self.freight is None and only_phase and self._folded is None:
            numbers = [key for key in batch.numbers if key[0] is not Number.FLIGHT]
            if not numbers:
                return  # nothing that a Freight would have to know
        if moves or batch.numbers:
            self._unfold().cross(batch, now)
            self._collect()

    def _collect(self) -> None:
        freight = self.freight
        if freight is not None and freight.events:
            self.events += freight.events
            freight.events.clear()

    def take_batch(self) -> Batch | None:
        """Return what the Session is to know."""
        if self.freight is not None:
            later = self.freight.take_batch()
            if later is not None:
                self._up.add(later)
        if not self._up:
            return None
        batch, self._up = self._up, Batch()
        return batch

    def next_envelope(self, now: float) -> bytes | None:
        """Return what is to be sent next: beats first."""
        if not self._link_up or self.over:
            return None
        if self._asks:
            return self._asks.pop(0)
        if self._probe is not None:
            self._probe = None
            self._beats += 1
            return self._beat(EnvelopeKind.BEAT, self._beats)
        if self.freight is not None:
            return self.freight.next_envelope(now)
        return None

    def link(self, up: bool, now: float, cause: str = "") -> None:
        """The bulk connection went down, or came back."""
        came_back = up and not self._link_up
        self._link_up = up
        if came_back and self.freight is not None:
            self.freight.link_back(now)

    def give_up_streams(self, reason: str) -> None:
        """The bulk link stayed down past the grace (law 22)."""
        if self.freight is not None:
            self.freight.give_up_streams(reason)

    def wake_at(self, now: float) -> float | None:
        """Return when `tick` has something to do; None for an idle session."""
        freight = self.freight
        if freight is None or not self._link_up:
            return None
        at = freight.wake_at(now)
        if freight.idle:
            fold = freight.touched_at + FOLD_AFTER
            at = fold if at is None else min(at, fold)
        return at

    def tick(self, now: float) -> None:
        """Do what is due."""
        freight = self.freight
        if freight is None or not self._link_up:
            return
        freight.tick(now)
        if freight.idle and now >= freight.touched_at + FOLD_AFTER:
            self._fold()

    def statistics(self) -> dict[str, Any]:
        """Return counts and sizes, for people and tests."""
        return {} if self.freight is None else self.freight.statistics()
