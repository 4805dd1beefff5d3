"""A session that nobody uses ends, from the side that opened it; nothing is cut."""

from __future__ import annotations

import pytest

from remoting_bus.names import Lane
from remoting_bus.protocol.calls import IncomingCall, OutcomeKind, OutgoingCall
from remoting_bus.protocol.codec import decode, encode
from remoting_bus.protocol.ends import pipe
from remoting_bus.protocol.envelope import HEADER_BYTES, cut_trailer, read_header
from remoting_bus.protocol.outbox import STATE_REST, STATE_STAY
from remoting_bus.protocol.rest import AT_REST
from remoting_bus.protocol.session import Session
from remoting_bus.protocol.terms import Event, Phase, PhaseChanged, Stays, Terms
from remoting_bus.testing.world import Network, Peer, World

TERMS = Terms(heartbeat=1.0, grace=20.0)
ARGS = encode([[], {}])
IDLE = 8.0


class Pair:
    """`near` opened a session to `far`; each ends it after eight idle seconds."""

    def __init__(self, network: Network | None = None) -> None:
        self.world = World(1, network)
        self.alpha = self.world.peer("alpha", TERMS, idle=IDLE)
        self.beta = self.world.peer("beta", TERMS, idle=IDLE)
        self.came: list[IncomingCall] = []
        self.events: list[Event] = []
        self.alpha.on_event = lambda _, event: self._note(event)
        self.beta.on_event = lambda _, event: self._note(event)
        self.near = self.alpha.connect("beta")
        self.run(1)
        self.far: Session = self.beta.endpoint.current["alpha"]

    def _note(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, IncomingCall):
            self.came.append(event)

    def run(self, seconds: float) -> None:
        self.world.touch(self.alpha)
        self.world.touch(self.beta)
        self.world.run(seconds)

    def call(self, session: Session, **options: object) -> OutgoingCall:
        call = OutgoingCall("f", ARGS, **options)  # type: ignore[arg-type]
        session.start(call, self.world.now)
        return call

    def gone(self) -> bool:
        return self.near.over and self.far.over


def test_it_ends_when_nobody_used_it() -> None:
    """Not before its time, and not a quarter later; both sides forget it."""
    pair = Pair()
    pair.run(IDLE - 1.5)
    assert pair.near.phase is Phase.OPEN
    pair.run(IDLE / 4 + 2)
    assert pair.gone()
    assert not pair.alpha.endpoint.sessions
    assert not pair.beta.endpoint.sessions
    assert not pair.alpha.standbys
    assert not pair.beta.standbys
    reasons = [each.reason for each in pair.events if isinstance(each, PhaseChanged)]
    assert AT_REST in reasons


def test_a_call_makes_its_time_begin_anew() -> None:
    pair = Pair()
    for _ in range(4):
        pair.run(IDLE - 2)
        call = pair.call(pair.near)
        pair.run(0.5)
        pair.far.returned(pair.came[-1], encode(None), pair.world.now)
        pair.run(0.5)
        assert call.outcome is not None
    assert pair.near.phase is Phase.OPEN
    pair.run(IDLE * 1.25 + 1)
    assert pair.gone()


def test_the_side_that_did_not_open_it_leaves_it_alone() -> None:
    """The opener keeps it; the other side's own idle time is nothing to it."""
    pair = Pair()
    pair.near.rest.wake_at = None
    pair.run(100)
    assert pair.near.phase is Phase.OPEN


@pytest.mark.parametrize("caller", ["near", "far"])
def test_a_call_under_way_keeps_it(caller: str) -> None:
    """From either side, however long it runs."""
    pair = Pair()
    session = pair.near if caller == "near" else pair.far
    other = pair.far if caller == "near" else pair.near
    call = pair.call(session)
    pair.run(60)
    assert session.phase is Phase.OPEN
    other.returned(pair.came[-1], encode("late"), pair.world.now)
    pair.run(1)
    assert call.outcome is not None
    assert call.outcome.value == "late"
    pair.run(IDLE * 1.25 + 2)
    assert pair.gone()


@pytest.mark.parametrize("carrier", ["near", "far"])
def test_a_stream_keeps_it(carrier: str) -> None:
    """Its call has returned long ago, and its bytes are read slowly."""
    pair = Pair()
    reader, writer = pipe()
    session = pair.near if carrier == "near" else pair.far
    other = pair.far if carrier == "near" else pair.near
    pair.call(session, streams=[writer])
    pair.run(0.5)
    theirs = pair.came[-1].streams[0]
    pair.came[-1].keep_streams = True
    other.returned(pair.came[-1], encode(None), pair.world.now)
    pair.run(60)
    assert session.phase is Phase.OPEN
    assert theirs.write_nowait(b"still there")  # type: ignore[union-attr]
    theirs.finish()  # type: ignore[union-attr]
    pair.run(1)
    assert reader.read_nowait() == b"still there"
    pair.run(IDLE * 1.25 + 2)
    assert pair.gone()


def test_an_export_keeps_it() -> None:
    """An object that the peer may call is a use, until the peer gives it back."""
    pair = Pair()
    pair.call(pair.near, references=[7])
    pair.run(0.5)
    pair.far.returned(pair.came[-1], encode(None), pair.world.now)
    pair.run(60)
    assert pair.near.phase is Phase.OPEN
    pair.far.release(7, pair.world.now)
    pair.run(IDLE * 1.25 + 2)
    assert pair.gone()


@pytest.mark.parametrize("keeper", ["near", "far"])
def test_who_keeps_it_needs_no_frame(keeper: str) -> None:
    """A home, a job at the bulk side: the opener does not ask, its peer says no."""
    pair = Pair()
    session = pair.near if keeper == "near" else pair.far
    session.rest.kept += 1
    pair.run(60)
    assert pair.near.phase is Phase.OPEN
    stayed = any(isinstance(each, Stays) for each in pair.events)
    assert stayed is (keeper == "far")
    session.rest.kept -= 1
    pair.run(IDLE * 1.25 + 2)
    assert pair.gone()


def asks(pair: Pair) -> None:
    """Let time pass until the opener asks; nothing that it sends arrives yet."""
    pair.world.network.delay = 0.5
    assert pair.world.run(IDLE * 2, lambda: pair.near.rest.asking)


def test_a_call_that_crosses_the_question_is_not_cut() -> None:
    """The peer called in the moment in which it was asked: it says no."""
    pair = Pair()
    asks(pair)
    call = pair.call(pair.far)
    pair.run(1.5)
    assert pair.near.phase is Phase.OPEN
    assert not pair.near.rest.asking
    pair.near.returned(pair.came[-1], encode("heard"), pair.world.now)
    pair.run(2)
    assert call.outcome is not None
    assert call.outcome.value == "heard"


def test_a_call_waits_for_the_answer() -> None:
    """The opener starts one while it asks: it goes out once the peer said no."""
    pair = Pair()
    pair.far.rest.kept = 1
    asks(pair)
    pair.call(pair.near)
    pair.run(0.2)
    assert not pair.came
    pair.run(2)
    assert pair.came


def test_a_call_that_waited_in_vain_was_not_run() -> None:
    """The peer parts: what was never sent may be called again, and it is known."""
    pair = Pair()
    asks(pair)
    call = pair.call(pair.near)
    pair.run(5)
    assert call.outcome is not None
    assert call.outcome.kind is OutcomeKind.LOST
    assert call.outcome.executed == "no"
    assert not pair.came


def test_a_lost_question_is_asked_again() -> None:
    pair = Pair(Network(drop=0.0))
    asks(pair)
    pair.world.network.drop = 1.0
    pair.run(2)
    pair.world.network.drop = 0.0
    pair.run(3)
    assert pair.gone()


def state_of(envelope: bytes) -> dict[int, object]:
    """Return what an envelope says of the sender's state."""
    header = read_header(envelope)
    if header is None or header.lane is not Lane.CONTROL or header.kind != 0:
        return {}
    state: dict[int, object] = decode(cut_trailer(envelope)[HEADER_BYTES:-4])[3]
    return state


class Late(World):
    """A world that keeps the first question for later."""

    kept: tuple[Peer, str, str, bytes] | None = None

    def send(self, sender: Peer, kind: str, to: str, body: bytes) -> None:
        if self.kept is None and STATE_REST in state_of(body):
            self.kept = (sender, kind, to, body)
        else:
            super().send(sender, kind, to, body)


def test_a_question_that_comes_late_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was answered "no" meanwhile, and a call of the opener is on its way."""
    monkeypatch.setattr(f"{__name__}.World", Late)
    pair = Pair()
    world = pair.world
    assert isinstance(world, Late)
    pair.far.rest.kept = 1
    assert world.run(IDLE * 2, lambda: pair.near.rest.asking)
    assert world.run(5, lambda: not pair.near.rest.asking)
    pair.far.rest.kept = 0
    world.network.delay = 0.5
    call = pair.call(pair.near)
    assert world.kept is not None
    pair.beta.deliver("call", world.kept[3])
    pair.run(2)
    assert pair.far.phase is Phase.OPEN
    pair.far.returned(pair.came[-1], encode(1), world.now)
    pair.run(2)
    assert call.outcome is not None
    assert call.outcome.value == 1


def test_an_answer_to_an_older_question_is_nothing() -> None:
    pair = Pair()
    asks(pair)
    pair.near._take_state({STATE_STAY: 0})
    assert pair.near.rest.asking


def test_the_next_call_opens_another() -> None:
    """By the endpoint: its session is over, a new one is opened."""
    pair = Pair()
    pair.run(IDLE * 1.25 + 2)
    assert pair.gone()
    again = pair.alpha.connect("beta")
    assert again is not pair.near
    call = pair.call(again)
    pair.run(2)
    pair.beta.endpoint.current["alpha"].returned(
        pair.came[-1], encode("again"), pair.world.now
    )
    pair.run(1)
    assert call.outcome is not None
    assert call.outcome.value == "again"


def test_a_suspended_one_is_left_to_the_grace() -> None:
    """Whoever is away may still use it."""
    pair = Pair()
    pair.world.cut("beta", "call")
    pair.world.cut("beta", "bulk")
    pair.run(IDLE * 1.25 + 4)
    assert pair.near.phase is Phase.SUSPENDED
    assert not pair.near.rest.asking
