"""A storm: two peers that call, cancel, stream and restart over a bad network.

One seed is one history. After every step the laws are checked; at the end the weather
clears, everything must come to rest, and every table must be empty. Driven from plain
seeds by `scripts/storm.py` and under hypothesis by `test_storms.py`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from remoting_bus.errors import RemotingError
from remoting_bus.names import Lane, Priority
from remoting_bus.protocol.calls import (
    IncomingCall,
    Outcome,
    OutcomeKind,
    OutgoingCall,
    RefusalCode,
)
from remoting_bus.protocol.codec import encode
from remoting_bus.protocol.delivery import WINDOW_FRAMES
from remoting_bus.protocol.ends import Inlet, Outlet, pipe
from remoting_bus.protocol.flight import MAXIMUM
from remoting_bus.protocol.flows import MAX_WINDOW
from remoting_bus.protocol.rest import AT_REST
from remoting_bus.protocol.session import Session
from remoting_bus.protocol.terms import Event, Phase, PhaseChanged, Terms
from remoting_bus.testing.world import Network, Peer, World

__all__ = ["Storm", "run"]

NAMES = ("alpha", "beta")


@dataclass(eq=False)
class Reader:
    """Reads a stream to its end, some of the time, and checks what came."""

    inlet: Inlet
    expect: bytes
    got: int = 0
    done: bool = False

    def turn(self) -> None:
        while not self.done:
            try:
                piece = self.inlet.read_nowait()
            except RemotingError:
                self.done = True
                return
            if piece is None:
                return
            if piece == b"":
                assert self.got == len(self.expect), "a stream ended short"
                self.done = True
                return
            assert self.expect[self.got : self.got + len(piece)] == piece, "wrong bytes"
            self.got += len(piece)


@dataclass(eq=False)
class Writer:
    """Writes all of some bytes, as room allows."""

    outlet: Outlet
    data: bytes
    at: int = 0
    piece: int = 40_000
    done: bool = False

    def turn(self) -> None:
        while not self.done:
            try:
                if self.at >= len(self.data):
                    self.outlet.finish()
                    self.done = True
                elif self.outlet.write_nowait(
                    self.data[self.at : self.at + self.piece]
                ):
                    self.at += self.piece
                else:
                    return
            except RemotingError:
                self.done = True


@dataclass(eq=False)
class Made:
    """A call that one peer made."""

    call: OutgoingCall
    session: Session
    tag: int
    reader: Reader | None = None
    writer: Writer | None = None
    outcomes: list[Outcome] = field(default_factory=list)


def _bytes(tag: int, size: int) -> bytes:
    block = hashlib.sha256(str(tag).encode()).digest()
    return (block * (size // 32 + 1))[:size]


class Storm:
    """One history.

    Args:
        seed: Of everything.
    """

    def __init__(self, seed: int) -> None:
        self.world = World(seed)
        self.dice = self.world.dice
        self.terms = Terms(grace=60.0, heartbeat=2.0, max_envelope=32 * 1024)
        self.made: list[Made] = []
        self.runs: dict[tuple[int, int], int] = {}
        self.running: list[
            tuple[Peer, Session, IncomingCall, list[Reader | Writer]]
        ] = []
        self.tags = 0
        self.order: dict[tuple[int, int], int] = {}
        self.peers: dict[str, Peer] = {}
        for name in NAMES:
            self._start(name)
        self.steps = [
            (self.do_call, 8),
            (self.do_stream, 3),
            (self.do_cancel, 3),
            (self.do_forget, 1),
            (self.do_answer, 10),
            (self.do_pass_time, 10),
            (self.do_weather, 2),
            (self.do_cut, 1),
            (self.do_heal, 2),
            (self.do_restart, 0.25),
            (self.do_close, 0.15),
        ]

    def _start(self, name: str) -> None:
        peer = self.world.peer(
            name,
            self.terms,
            carried=lambda called: called.startswith("carried"),
            idle=2.0,
        )
        peer.on_event = lambda session, event: self._event(peer, session, event)
        self.peers[name] = peer

    # -- events --

    def _event(self, peer: Peer, session: Session, event: Event) -> None:
        if isinstance(event, IncomingCall):
            call = event
            tag, size = call.args[0]
            key = (tag, id(session))
            self.runs[key] = self.runs.get(key, 0) + 1
            assert self.runs[key] == 1, "a call ran twice in one session"
            parts: list[Reader | Writer] = []
            for end in call.streams:
                if isinstance(end, Inlet):
                    parts.append(Reader(end, _bytes(tag, size)))
                elif isinstance(end, Outlet):
                    parts.append(Writer(end, _bytes(tag, size)))
            if (
                call.priority is Priority.NORMAL
                and call.deadline is None
                and size < 20_000
            ):
                last = self.order.get((id(session), 0), -1)
                assert tag > last, "calls of one priority were released out of order"
                self.order[id(session), 0] = tag
            self.running.append((peer, session, call, parts))
        elif isinstance(event, PhaseChanged) and event.phase is Phase.OVER:
            self.running = [r for r in self.running if r[1] is not session]

    # -- steps --

    def _session(self, name: str) -> Session:
        other = NAMES[1 - NAMES.index(name)]
        return self.peers[name].connect(other)

    def _make(self, streams: bool) -> None:
        name = self.dice.choice(NAMES)
        session = self._session(name)
        self.tags += 1
        tag = self.tags
        size = self.dice.choice(
            [0, 10, 5000, 90_000] if not streams else [0, 7, 300_000, 900_000]
        )
        deadline = None
        if self.dice.random() < 0.3:
            deadline = self.world.now + self.dice.choice([0.001, 0.05, 1.0, 30.0])
        reader = writer = None
        ends: list[Inlet | Outlet] = []
        if streams:
            inlet, outlet = pipe()
            if self.dice.random() < 0.2:
                inlet.log = outlet.log = True
            if self.dice.random() < 0.5:
                ends.append(inlet)
                writer = Writer(outlet, _bytes(tag, size))
            else:
                ends.append(outlet)
                reader = Reader(inlet, _bytes(tag, size))
        call = OutgoingCall(
            "work",
            encode([[tag, size], {"pad": b"x" * (0 if streams else size)}]),
            streams=ends,
            priority=self.dice.choice(list(Priority)),
            deadline=deadline,
        )
        made = Made(call, session, tag, reader, writer)
        try:
            session.start(call, self.world.now)
        except RemotingError:
            assert session.phase in (Phase.CLOSING, Phase.OVER)
            return
        if call.outcome is None:
            call.wake = lambda: self._woken(made)
        else:
            made.outcomes.append(call.outcome)
        self.made.append(made)
        self.world.touch(self.peers[name])

    def _woken(self, made: Made) -> None:
        if made.call.outcome is not None:
            made.outcomes.append(made.call.outcome)
            assert len(made.outcomes) == 1, "a call ended twice"
            assert (
                AT_REST not in made.call.outcome.message
                or made.call.outcome.executed == "no"
            ), "a session that was used ended for want of use"

    def do_call(self) -> None:
        self._make(streams=False)

    def do_stream(self) -> None:
        self._make(streams=True)

    def _open(self) -> list[Made]:
        return [m for m in self.made if m.call.outcome is None]

    def do_cancel(self) -> None:
        waiting = self._open()
        if waiting:
            made = self.dice.choice(waiting)
            made.session.cancel(made.call, self.world.now)
            self._touch_all()

    def do_forget(self) -> None:
        waiting = self._open()
        if waiting:
            made = self.dice.choice(waiting)
            made.session.forget(made.call, self.world.now)
            assert made.call.outcome is not None
            self._touch_all()

    def do_answer(self) -> None:
        if not self.running:
            return
        index = self.dice.randrange(len(self.running))
        peer, session, call, parts = self.running[index]
        for part in parts:
            part.turn()
        kind = self.dice.random()
        now = self.world.now
        if call.cancelled is None and kind < 0.3:
            session.progress(call, encode(1), now)
            self.world.touch(peer)
            return
        if (
            call.cancelled is None
            and not all(part.done for part in parts)
            and kind < 0.9
        ):
            self.world.touch(peer)
            return
        del self.running[index]
        tag, size = call.args[0]
        if call.cancelled is not None:
            session.cancelled_done(call, now, ran=True, message="stopped")
        elif kind < 0.85 or all(part.done for part in parts):
            session.returned(call, encode([tag, "x" * min(size, 70_000)]), now)
        elif kind < 0.95:
            session.raised(call, encode({"tag": tag}), now)
        else:
            session.refused(call, RefusalCode.OTHER, "not today", now)
        self.world.touch(peer)

    def do_pass_time(self) -> None:
        self.world.run(self.dice.choice([0.001, 0.02, 0.02, 0.3, 3.0]))

    def do_weather(self) -> None:
        self.world.network.drop = self.dice.choice([0, 0, 0.02, 0.2])
        self.world.network.duplicate = self.dice.choice([0, 0, 0.1, 0.5])
        self.world.network.reorder = self.dice.choice([0, 0, 0.1, 0.5])
        self.world.network.delay = self.dice.choice([0.002, 0.01, 0.2])
        self.world.network.crossing_delay = self.dice.choice([0, 0, 0.005, 0.5])

    def do_cut(self) -> None:
        self.world.cut(self.dice.choice(NAMES), self.dice.choice(["call", "bulk"]))

    def do_heal(self) -> None:
        for name, kind in list(self.world.network.down):
            self.world.heal(name, kind)

    def do_restart(self) -> None:
        name = self.dice.choice(NAMES)
        old = self.peers[name]
        for kind in ("call", "bulk"):
            self.world.network.down.discard((name, kind))
        self.made = [m for m in self.made if m.session not in _sessions(old)]
        self.running = [r for r in self.running if r[0] is not old]
        self._start(name)

    def do_close(self) -> None:
        name = self.dice.choice(NAMES)
        for session in list(self.peers[name].endpoint.sessions.values()):
            session.close("enough", self.world.now)
        self.world.touch(self.peers[name])

    def _touch_all(self) -> None:
        for peer in self.peers.values():
            self.world.touch(peer)

    # -- the laws --

    def step(self) -> None:
        """Take one step, let the parts move, and check."""
        actions = [action for action, _ in self.steps]
        weights = [weight for _, weight in self.steps]
        self.dice.choices(actions, weights)[0]()
        self._move_parts()
        self.world.run(0)
        self.check()

    def _move_parts(self) -> None:
        for made in self.made:
            for part in (made.reader, made.writer):
                if part is not None and not part.done:
                    part.turn()
        for _, _, _, parts in self.running:
            if self.dice.random() < 0.7:
                for part in parts:
                    part.turn()
        self._touch_all()

    def check(self) -> None:
        """Everything that must hold at any time."""
        for peer in self.peers.values():
            for session in peer.endpoint.sessions.values():
                for lane, state in session._lanes.items():
                    sender = state.sender
                    assert len(sender.unacknowledged) <= WINDOW_FRAMES
                    assert sender.bytes_unacknowledged <= sender.window + 40_000, lane
                    assert state.receiver.ahead <= WINDOW_FRAMES
                assert len(session.serving._tombstones) <= 2 * WINDOW_FRAMES
                assert session.phase is Phase.OVER or session.cause is None
                self._no_fault(session)
            for session in peer.finished:
                self._no_fault(session)
            for standby in peer.standbys.values():
                freight = standby.freight
                if freight is not None:
                    assert freight.failed is None, freight.failed
                    assert freight._early_bytes <= 2 * 256 * 1024 + 65536
                    bulk = freight.lanes[Lane.BULK].sender
                    assert bulk.bytes_unacknowledged <= MAXIMUM + 256 * 1024
                    windows = sum(each.window for each in freight._in.values())
                    assert windows <= 2 * MAX_WINDOW

    def _no_fault(self, session: Session) -> None:
        assert "broke the protocol" not in str(session.cause), session.cause

    def finish(self) -> None:
        """The weather clears: everything must end, and every table be empty."""
        self.world.network = Network(delay=0.005, down=self.world.network.down)
        self.do_heal()
        for _ in range(600):
            self._move_parts()
            for peer, session, call, parts in list(self.running):
                for part in parts:
                    part.turn()
                if call.cancelled is not None or all(part.done for part in parts):
                    self.running = [r for r in self.running if r[2] is not call]
                    if call.cancelled is not None:
                        session.cancelled_done(call, self.world.now, ran=True)
                    else:
                        session.returned(call, encode(call.args[0]), self.world.now)
                    self.world.touch(peer)
            self.world.run(0.25)
            self.check()
            if self._at_rest():
                break
        self._check_rest()

    def _at_rest(self) -> bool:
        return not self._open() and not self.running and not self._left()

    def _left(self) -> list[str]:
        left = []
        for peer in self.peers.values():
            for session in peer.endpoint.sessions.values():
                stats = session.statistics()
                left += [
                    f"{peer.name}: {what} {stats[what]}"
                    for what in ("queued", "calls_out", "calls_in", "streams")
                    if stats[what]
                ]
                if session.calling._held or (
                    session.calling._deadlines and session.calling.wake_at()
                ):
                    left.append(f"{peer.name}: held")
            for standby in peer.standbys.values():
                freight = standby.freight
                if freight is not None and (
                    freight._out or freight._in or freight._early
                ):
                    left.append(
                        f"{peer.name}: freight {len(freight._out)} {len(freight._in)} "
                        f"{len(freight._early)}"
                    )
            if len(peer.standbys) > len(peer.endpoint.sessions):
                left.append(f"{peer.name}: standbys {len(peer.standbys)}")
        return left

    def _check_rest(self) -> None:
        assert not self._open(), f"{len(self._open())} calls never ended"
        assert not self.running, "a call is running that nobody stops"
        assert not self._left(), self._left()
        for made in self.made:
            assert len(made.outcomes) <= 1
            outcome = made.call.outcome
            assert outcome is not None
            if outcome.kind is OutcomeKind.RETURNED:
                assert outcome.value[0] == made.tag, "the result of another call"
                if made.reader is not None:
                    made.reader.turn()
                    assert made.reader.done, "a result came before its bytes"


def _sessions(peer: Peer) -> list[Session]:
    return [*peer.endpoint.sessions.values(), *peer._opening, *peer.finished]


def run(seed: int, steps: int = 60) -> None:
    """Run one history."""
    storm = Storm(seed)
    for _ in range(steps):
        storm.step()
    storm.finish()
