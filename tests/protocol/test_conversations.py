"""Two peers in virtual time: what one of them does, and what both then know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
from cbor2 import dumps

from remoting_bus.errors import (
    ChannelBroken,
    ChannelClosed,
    LimitExceeded,
    PeerLost,
    RemoteProtocolError,
)
from remoting_bus.names import Lane, Priority
from remoting_bus.protocol.calls import (
    IncomingCall,
    Outcome,
    OutcomeKind,
    OutgoingCall,
    RefusalCode,
)
from remoting_bus.protocol.codec import decode, encode
from remoting_bus.protocol.ends import (
    Inlet,
    Outlet,
    StreamEnd,
    StreamReset,
    pipe,
)
from remoting_bus.protocol.envelope import (
    HEADER_BYTES,
    EnvelopeKind,
    cut_trailer,
    read_header,
)
from remoting_bus.protocol.freight import BULK_ENVELOPE, EARLY
from remoting_bus.protocol.goodbye import GOODBYE_PATIENCE
from remoting_bus.protocol.session import Session
from remoting_bus.protocol.terms import Event, Phase, PhaseChanged, Terms
from remoting_bus.testing.world import Network, Peer, World

TERMS = Terms(heartbeat=1.0, grace=20.0)
ARGS = encode([[], {}])
MIB = 1024 * 1024


class Wire(World):
    """A world whose messages are kept, and may be held back or lost by a rule."""

    def __init__(self, network: Network | None) -> None:
        super().__init__(1, network)
        self.log: list[tuple[str, bytes]] = []
        self.loses: Callable[[str, str, bytes], bool] = lambda *_: False
        self.held: list[tuple[Peer, str, str, bytes]] | None = None
        self.holds: Callable[[str, str, bytes], bool] = lambda *_: False

    def send(self, sender: Peer, kind: str, to: str, body: bytes) -> None:
        self.log.append((sender.name, body))
        if self.holds(sender.name, kind, body):
            self.held = [*(self.held or []), (sender, kind, to, body)]
        elif not self.loses(sender.name, kind, body):
            super().send(sender, kind, to, body)

    def let_go(self) -> None:
        """Deliver what was held back."""
        self.holds = lambda *_: False
        for sender, kind, to, body in self.held or []:
            super().send(sender, kind, to, body)
        self.held = None


class Duo:
    """`near` calls, `far` runs: two open sessions of one conversation."""

    def __init__(
        self,
        terms: Terms = TERMS,
        network: Network | None = None,
        far_terms: Terms | None = None,
    ) -> None:
        self.world = Wire(network)
        self.alpha = self.world.peer("alpha", terms)
        self.beta = self.world.peer("beta", far_terms or terms)
        self.came: list[IncomingCall] = []
        self.phases: dict[str, list[str]] = {"alpha": [], "beta": []}
        self.alpha.on_event = lambda _, event: self._note("alpha", event)
        self.beta.on_event = lambda _, event: self._note("beta", event)
        self.near = self.alpha.connect("beta")
        assert self.world.run(5, lambda: "alpha" in self.beta.endpoint.current)
        self.far: Session = self.beta.endpoint.current["alpha"]
        self.run(1)

    def _note(self, name: str, event: Event) -> None:
        if isinstance(event, IncomingCall):
            self.came.append(event)
        elif isinstance(event, PhaseChanged):
            self.phases[name].append(event.kind)

    @property
    def now(self) -> float:
        return self.world.now

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        self.world.touch(self.alpha)
        self.world.touch(self.beta)
        return self.world.run(seconds, until)

    def start(
        self, name: str = "f", args: bytes = ARGS, **options: Any
    ) -> OutgoingCall:
        call = OutgoingCall(name, args, **options)
        self.near.start(call, self.now)
        return call

    def arrived(
        self, name: str = "f", **options: Any
    ) -> tuple[OutgoingCall, IncomingCall]:
        """Return a call that runs at the far side."""
        call, count = self.start(name, **options), len(self.came)
        assert self.run(5, lambda: len(self.came) > count)
        return call, self.came[-1]

    def returns(self, call: IncomingCall, value: object = None) -> None:
        self.far.returned(call, encode(value), self.now)

    def outcome(self, call: OutgoingCall, seconds: float = 10) -> Outcome:
        assert self.run(seconds, lambda: call.outcome is not None), "it never ended"
        assert call.outcome is not None
        return call.outcome

    def frames_of(self, name: str, lane: Lane, since: int = 0) -> list[Any]:
        """Return the frames that a side has put on a lane, repeated ones included."""
        found: list[Any] = []
        for sender, envelope in self.world.log[since:]:
            header = read_header(envelope)
            assert header is not None
            if sender == name and header.lane is lane and header.kind == 0:
                body = cut_trailer(envelope) if lane is Lane.CONTROL else envelope
                found += decode(body[HEADER_BYTES:-4])[5:]
        return found

    def all_empty(self) -> None:
        """Nothing of any call or stream is left on either side."""
        for session in (self.near, self.far):
            stats = session.statistics()
            left = {k: stats[k] for k in ("queued", "calls_out", "calls_in", "streams")}
            assert not any(left.values()), left


def read_all(inlet: StreamEnd) -> bytes:
    assert isinstance(inlet, Inlet)
    data = b""
    while piece := inlet.read_nowait():
        data += piece
    return data


def write(outlet: StreamEnd, *pieces: bytes) -> None:
    assert isinstance(outlet, Outlet)
    for piece in pieces:
        assert outlet.write_nowait(piece)


# -- calls --


def test_a_call_returns_its_value() -> None:
    """Once, with what it was called with."""
    duo = Duo()
    call, came = duo.arrived("add", args=encode([[1, 2], {"c": 3}]))
    assert (came.name, came.args) == ("add", [[1, 2], {"c": 3}])
    duo.returns(came, 6)
    outcome = duo.outcome(call)
    assert (outcome.kind, outcome.value) == (OutcomeKind.RETURNED, 6)
    duo.all_empty()


def test_a_call_raises_and_is_refused() -> None:
    """The error's value arrives; a refusal's code and words do."""
    duo = Duo()
    call, came = duo.arrived()
    duo.far.raised(came, encode({"type": "ValueError"}), duo.now)
    outcome = duo.outcome(call)
    assert (outcome.kind, outcome.value) == (OutcomeKind.RAISED, {"type": "ValueError"})
    call, came = duo.arrived()
    duo.far.refused(came, RefusalCode.UNKNOWN, "no such function", duo.now)
    outcome = duo.outcome(call)
    assert (outcome.code, outcome.message) == (RefusalCode.UNKNOWN, "no such function")
    assert outcome.executed == "no"
    duo.all_empty()


def test_a_second_answer_does_nothing() -> None:
    """A call ends once, whatever its handler does."""
    duo = Duo()
    call, came = duo.arrived()
    duo.returns(came, 1)
    duo.returns(came, 2)
    duo.far.raised(came, encode("late"), duo.now)
    assert duo.outcome(call).value == 1
    duo.run(1)
    assert duo.near.phase is Phase.OPEN


def test_calls_go_both_ways() -> None:
    """The far side calls back while the first call runs."""
    duo = Duo()
    back = OutgoingCall("g", ARGS, on_behalf=True)
    seen: list[IncomingCall] = []
    duo.alpha.on_event = lambda _, event: (
        seen.append(event) if isinstance(event, IncomingCall) else None
    )
    call, came = duo.arrived()
    duo.far.start(back, duo.now)
    assert duo.run(1, lambda: bool(seen))
    duo.near.returned(seen[0], encode("home"), duo.now)
    duo.returns(came, "done")
    assert duo.outcome(back).value == "home"
    assert duo.outcome(call).value == "done"


def test_progress_is_conflated_and_never_after_the_result() -> None:
    """Law 7: of a thousand reports few travel, the newest arrives, the result ends it."""
    duo = Duo()
    call, came = duo.arrived()
    seen: list[object] = []
    call.wake = lambda: seen.append(call.progress)
    for step in range(1000):
        duo.far.progress(came, encode(step), duo.now)
    duo.run(1)
    assert seen == [999]
    duo.far.progress(came, encode("unsaid"), duo.now)
    duo.returns(came)
    duo.outcome(call)
    assert call.progress == 999


# -- cancelling (law 4) --


def test_a_call_not_yet_sent_is_taken_back() -> None:
    """Nothing of it is sent, and it did not run."""
    duo = Duo()
    before = len(duo.frames_of("alpha", Lane.CALL))
    call = duo.start()
    duo.near.cancel(call, duo.now)
    assert call.outcome is not None
    assert call.outcome.executed == "no"
    duo.run(1)
    assert len(duo.frames_of("alpha", Lane.CALL)) == before
    assert not duo.came


def test_a_cancel_reaches_the_handler_and_its_answer_comes_back() -> None:
    """Once; the answer says that it had started."""
    duo = Duo()
    call, came = duo.arrived()
    told: list[str | None] = []
    came.on_cancel = lambda: told.append(came.cancelled)
    duo.near.cancel(call, duo.now)
    duo.near.cancel(call, duo.now)
    duo.run(1)
    assert told == ["cancelled"]
    assert call.outcome is None
    duo.far.cancelled_done(came, duo.now, ran=True, message="stopped at step 3")
    outcome = duo.outcome(call)
    assert (outcome.kind, outcome.executed) == (OutcomeKind.CANCELLED, "unknown")
    assert outcome.message == "stopped at step 3"


def test_a_cancel_that_overtakes_its_call_stops_it() -> None:
    """A tombstone waits: the call is never started, and its streams are reset."""
    duo = Duo()
    _, outlet = handed = pipe()
    duo.world.holds = lambda sender, _, body: sender == "alpha" and body[3] == Lane.CALL
    call = duo.start(streams=[handed[0]])
    duo.run(0.01)
    assert call.number is not None
    duo.near.cancel(call, duo.now)
    duo.run(0.2)
    duo.world.let_go()
    outcome = duo.outcome(call)
    assert (outcome.kind, outcome.executed) == (OutcomeKind.CANCELLED, "no")
    assert not duo.came
    duo.run(1)
    assert isinstance(outlet.error, StreamReset)
    duo.all_empty()


def test_nobody_waits_for_a_call_that_was_forgotten() -> None:
    """It ends here at once; what its answer carries is given back (law 21)."""
    duo = Duo()
    call, came = duo.arrived()
    duo.near.forget(call, duo.now)
    assert call.outcome is not None
    inlet, outlet = pipe()
    duo.far.returned(came, encode(None), duo.now, streams=[inlet], references=[5])
    duo.run(2)
    assert isinstance(outlet.error, StreamReset)
    assert not duo.far.references.exported
    duo.all_empty()


# -- streams and calls (laws 5 and 6) --


def test_bytes_flow_both_ways() -> None:
    """What the caller writes is read there, and the other way round."""
    duo = Duo()
    (there, out), (back, home) = pipe(), pipe()
    call, came = duo.arrived(streams=[there, home])
    write(out, b"question")
    out.finish()
    duo.run(1)
    assert read_all(came.streams[0]) == b"question"
    write(came.streams[1], b"answer")
    duo.returns(came)
    duo.outcome(call)
    assert read_all(back) == b"answer"
    duo.run(1)
    duo.all_empty()


def test_a_result_waits_for_the_bytes_its_call_wrote() -> None:
    """Law 5: BULK is held back; the result is there, and is not given out."""
    duo = Duo()
    inlet, outlet = pipe()
    call, came = duo.arrived(streams=[outlet])
    duo.world.holds = lambda sender, kind, _: kind == "bulk" and sender == "beta"
    write(came.streams[0], b"x" * 1000)
    duo.returns(came, "done")
    assert not duo.run(3, lambda: call.outcome is not None)
    duo.world.let_go()
    assert duo.outcome(call).value == "done"
    assert read_all(inlet) == b"x" * 1000


def test_a_held_result_can_be_cancelled_without_a_word() -> None:
    """Nothing is sent; its streams are reset."""
    duo = Duo()
    inlet, outlet = pipe()
    call, came = duo.arrived(streams=[outlet])
    duo.world.holds = lambda sender, kind, _: kind == "bulk" and sender == "beta"
    write(came.streams[0], b"x" * 1000)
    duo.returns(came, "done")
    duo.run(1)
    before = len(duo.frames_of("alpha", Lane.CONTROL))
    duo.near.cancel(call, duo.now)
    assert call.outcome is not None
    assert call.outcome.kind is OutcomeKind.CANCELLED
    assert isinstance(inlet.error, StreamReset)
    duo.world.let_go()
    duo.run(2)
    assert len(duo.frames_of("alpha", Lane.CONTROL)) == before
    duo.all_empty()


def test_a_result_does_not_wait_for_a_stream_that_broke() -> None:
    """The reader gave it up: no byte of it will ever come."""
    duo = Duo()
    inlet, outlet = pipe()
    call, came = duo.arrived(streams=[outlet])
    duo.world.holds = lambda sender, kind, _: kind == "bulk" and sender == "beta"
    write(came.streams[0], b"x" * 1000)
    duo.returns(came, "done")
    duo.run(1)
    inlet.reset("not interested")
    duo.near.cross(type(duo.near._batch)(), duo.now)
    assert duo.outcome(call).value == "done"


def test_bytes_may_come_before_their_stream() -> None:
    """Law 6: at most 256 KiB go ahead, and all are read once the call has come."""
    duo = Duo()
    inlet, outlet = pipe()
    duo.world.holds = lambda sender, kind, body: (
        sender == "alpha" and body[3] == Lane.CALL
    )
    duo.start(streams=[inlet])
    duo.run(0.001)
    data = bytes(range(256)) * 1024
    written = 0

    def pump() -> bool:
        nonlocal written
        while written < 4 * len(data) and outlet.write_nowait(data):
            written += len(data)
            duo.world.touch(duo.alpha)
        return False

    duo.run(1, pump)
    ahead = [f for f in duo.frames_of("alpha", Lane.BULK) if f[0] == 20]
    assert ahead
    assert 0 < len({f[2]: f[3] for f in ahead}) * 64 * 1024 <= EARLY
    freight = duo.beta.standbys[duo.far.id].freight
    assert freight is not None
    assert 0 < freight.statistics()["early_bytes"] <= EARLY
    duo.world.let_go()
    got = b""

    def all_read() -> bool:
        nonlocal got
        pump()
        if duo.came:
            end = duo.came[0].streams[0]
            assert isinstance(end, Inlet)
            while piece := end.read_nowait():
                got += piece
                duo.world.touch(duo.beta)
        return len(got) >= 4 * len(data)

    assert duo.run(10, all_read)
    assert got == data * 4


def test_bytes_for_one_that_leaves_are_nobodys() -> None:
    """It takes what introduces them no more: they are dropped, and break no rule."""
    duo = Duo()
    # Its goodbye stays on the way, so the other one goes on as if nothing were; its
    # acknowledgements arrive.
    duo.world.holds = lambda sender, kind, body: (
        sender == "beta"
        and (body[2], body[3]) == (EnvelopeKind.SEALED, Lane.CONTROL)
        and len(decode(cut_trailer(body)[HEADER_BYTES:-4])) > 5
    )
    duo.beta.endpoint.current["alpha"].close("bye", duo.now)
    outlets: list[Outlet] = []
    for _ in range(3):
        inlet, outlet = pipe()
        duo.start(streams=[inlet])
        outlets.append(outlet)

    def pump() -> bool:
        for each in outlets:
            while each.write_nowait(bytes(64 * 1024)):
                duo.world.touch(duo.alpha)
        return False

    duo.run(2, pump)
    sent = {f[1:3] for f in map(tuple, duo.frames_of("alpha", Lane.BULK)) if f[0] == 20}
    assert len(sent) * 64 * 1024 > EARLY + BULK_ENVELOPE  # else this shows nothing
    assert duo.far.cause is None
    duo.world.let_go()
    assert duo.run(10, lambda: duo.near.phase is Phase.OVER)
    assert "has left" in str(duo.near.cause)


def test_a_slow_reader_stops_its_writer_and_no_other() -> None:
    """One stream unread holds its window; another one, and calls, go on."""
    duo = Duo()
    (in_slow, slow), (in_fast, fast) = pipe(), pipe()
    _, came = duo.arrived(streams=[in_slow, in_fast])
    piece = bytes(64 * 1024)
    slow_bytes = fast_bytes = 0
    reader = came.streams[1]
    assert isinstance(reader, Inlet)

    def pump() -> bool:
        nonlocal slow_bytes, fast_bytes
        if slow.write_nowait(piece):
            slow_bytes += len(piece)
            duo.world.touch(duo.alpha)
        if fast.write_nowait(piece):
            duo.world.touch(duo.alpha)
        while got := reader.read_nowait():
            fast_bytes += len(got)
            duo.world.touch(duo.beta)
        return fast_bytes > 8 * MIB

    assert duo.run(60, pump)
    assert slow_bytes <= MIB
    call, other = duo.arrived()
    duo.returns(other, "still here")
    assert duo.outcome(call, 1).value == "still here"


def test_on_a_lossless_bus_next_to_nothing_is_repeated() -> None:
    """Law 11: saturated bulk, delays that vary, and under one frame in a hundred."""
    duo = Duo(network=Network(delay=0.02))
    inlet, outlet = pipe()
    _, came = duo.arrived(streams=[inlet])
    reader = came.streams[0]
    assert isinstance(reader, Inlet)
    got = 0

    def pump() -> bool:
        nonlocal got
        if outlet.write_nowait(bytes(64 * 1024)):
            duo.world.touch(duo.alpha)
        while piece := reader.read_nowait():
            got += len(piece)
            duo.world.touch(duo.beta)
        return got > 32 * MIB

    assert duo.run(120, pump)
    freight = duo.alpha.standbys[duo.near.id].freight
    assert freight is not None
    bulk = freight.statistics()["lanes"]["BULK"]
    assert bulk["frames_sent"] > 500
    assert bulk["retransmits"] < bulk["frames_sent"] / 100


# -- deadlines (law 10) --


def shift_clock(duo: Duo, seconds: float) -> None:
    """Give beta a clock of its own, so many seconds ahead."""
    far, standbys = duo.far, duo.beta.standbys
    receive, tick, pull = far.receive, far.tick, far.next_envelope
    assert not standbys[far.id].freight
    wake_at = far.wake_at

    def later(now: float) -> float | None:
        at = wake_at(now + seconds)
        return None if at is None else at - seconds

    shifted = cast("Any", far)
    shifted.receive = lambda body, now: receive(body, now + seconds)
    shifted.tick = lambda now: tick(now + seconds)
    shifted.next_envelope = lambda now: pull(now + seconds)
    shifted.wake_at = later


@pytest.mark.parametrize("ahead", [0.0, 1e6, -900.0])
def test_a_deadline_is_the_same_instant_on_another_clock(ahead: float) -> None:
    """However far the clocks are apart the handler is told to stop in time."""
    duo = Duo()
    shift_clock(duo, ahead)
    duo.far.clocks.minimum = duo.near.clocks.minimum = None
    duo.run(3)
    began = duo.now
    call, came = duo.arrived(deadline=began + 2)
    stopped: list[float] = []
    came.on_cancel = lambda: stopped.append(duo.now)
    outcome = duo.outcome(call)
    assert outcome.kind is OutcomeKind.TIMED_OUT
    assert duo.now == pytest.approx(began + 2, abs=0.01)
    duo.run(1)
    assert stopped == [pytest.approx(began + 2, abs=0.1)]
    assert came.cancelled == "timed out"


def test_a_call_that_lay_too_long_never_runs() -> None:
    """It was held up past its deadline: the far side does not start it."""
    duo = Duo()
    duo.world.holds = lambda sender, _, body: sender == "alpha" and body[3] == Lane.CALL
    call = duo.start(deadline=duo.now + 1)
    outcome = duo.outcome(call, 3)
    assert (outcome.kind, outcome.executed) == (OutcomeKind.TIMED_OUT, "unknown")
    duo.world.let_go()
    duo.run(3)
    assert not duo.came
    duo.all_empty()


def test_a_deadline_that_is_over_sends_nothing() -> None:
    """It times out at once, and did not run."""
    duo = Duo()
    call = duo.start(deadline=duo.now)
    assert call.outcome is not None
    assert call.outcome.kind is OutcomeKind.TIMED_OUT
    assert call.outcome.executed == "no"


@pytest.mark.parametrize("jump", [20.0, -20.0])
def test_a_clock_that_stood_still_is_found_out(jump: float) -> None:
    """Some heartbeats later deadlines are right again, and calls are not held to be late."""
    duo = Duo()
    assert duo.far.clocks.sure
    shift_clock(duo, jump)
    duo.run(3 * TERMS.heartbeat)
    began = duo.now
    call, came = duo.arrived(deadline=began + 2)
    stopped: list[float] = []
    came.on_cancel = lambda: stopped.append(duo.now)
    assert duo.outcome(call).kind is OutcomeKind.TIMED_OUT
    duo.run(1)
    assert stopped == [pytest.approx(began + 2, abs=0.1)]


def is_word_of(name: str) -> Callable[[str, str, bytes], bool]:
    """Match CONTROL envelopes of a peer that hold state and no frame."""

    def matches(sender: str, _: str, body: bytes) -> bool:
        if sender != name or body[3] != Lane.CONTROL:
            return False
        return len(decode(cut_trailer(body)[HEADER_BYTES:-4])) == 5

    return matches


def unclear(duo: Duo, **options: Any) -> OutgoingCall:
    """Start a call while the far side must compare the clocks, whose answer is held."""
    duo.far.clocks.sure = False
    duo.world.holds = is_word_of("alpha")
    call = duo.start(**options)
    duo.run(0.5)
    assert duo.far.serving.running
    assert not duo.came
    return call


def test_a_call_with_a_deadline_waits_for_the_clocks() -> None:
    """Those without one do not; with the answer it starts, and has its own deadline."""
    duo = Duo()
    began = duo.now
    call = unclear(duo, deadline=began + 3)
    duo.arrived()
    assert len(duo.came) == 1
    duo.world.let_go()
    assert duo.run(0.5, lambda: len(duo.came) == 2)
    assert duo.came[1].deadline == pytest.approx(began + 3, abs=0.1)
    duo.returns(duo.came[1], "in time")
    assert duo.outcome(call).value == "in time"


def test_a_call_that_waits_for_the_clocks_may_be_cancelled() -> None:
    """It never starts, and its caller learns that."""
    duo = Duo()
    call = unclear(duo, deadline=duo.now + 9)
    duo.near.cancel(call, duo.now)
    outcome = duo.outcome(call)
    assert (outcome.kind, outcome.executed) == (OutcomeKind.CANCELLED, "no")
    duo.world.let_go()
    duo.run(3)
    assert not duo.came
    duo.all_empty()


def test_a_call_whose_time_is_over_before_the_clocks_are_known() -> None:
    """It is answered "timed out", and was not run."""
    duo = Duo()
    call = unclear(duo, deadline=duo.now + 1)
    assert duo.outcome(call).kind is OutcomeKind.TIMED_OUT
    duo.run(1)
    duo.world.let_go()
    duo.run(3)
    assert not duo.came
    duo.all_empty()


def test_a_call_that_waits_ends_with_its_session() -> None:
    duo = Duo()
    call = unclear(duo, deadline=duo.now + 9)
    duo.near.close("enough", duo.now)
    duo.run(0.5)
    assert call.outcome is not None
    assert duo.far.phase is Phase.OVER
    duo.world.let_go()
    duo.run(3)
    assert not duo.came
    duo.all_empty()


def test_a_way_too_long_to_believe_holds_a_call_up_once() -> None:
    """With three seconds there and back no two clocks are ever sure; calls run all the same."""
    duo = Duo(terms=Terms(heartbeat=10.0), network=Network(delay=1.5))
    duo.run(10)
    assert not duo.far.clocks.sure
    call, came = duo.arrived(deadline=duo.now + 20)
    duo.returns(came)
    assert duo.outcome(call).kind is OutcomeKind.RETURNED


def test_the_first_call_of_all_waits_for_the_first_answer() -> None:
    """What opens a session may have lain in a queue: its sample alone tells nothing."""
    world = World(1)
    alpha, beta = world.peer("alpha"), world.peer("beta")
    came: list[IncomingCall] = []
    beta.on_event = lambda _, event: (
        came.append(event) if isinstance(event, IncomingCall) else None
    )
    session = alpha.connect("beta")
    session.start(OutgoingCall("f", ARGS, deadline=world.now + 5), world.now)
    assert world.run(1, lambda: bool(came))
    assert beta.endpoint.current["alpha"].clocks.sure
    assert came[0].deadline == pytest.approx(1005.0, abs=0.1)


# -- silence (law 12) --


def test_an_idle_session_stays_open() -> None:
    """One question and answer an interval and side, and none on the bulk connection."""
    duo = Duo()
    duo.run(600)
    assert duo.phases == {"alpha": ["open"], "beta": ["open"]}
    assert len(duo.world.log) < 4.2 * 600
    lanes = {header.lane for _, body in duo.world.log if (header := read_header(body))}
    assert lanes == {Lane.CONTROL}


def test_a_peer_that_answers_beats_alone_is_slow() -> None:
    """Its loop is blocked, its machine is not: the session stays open, calls wait."""
    duo = Duo()
    duo.world.loses = lambda sender, kind, _: sender == "beta" and kind == "call"
    assert duo.run(10, lambda: "peer slow" in duo.phases["alpha"])
    call = duo.start()
    duo.run(30)
    assert duo.near.phase is Phase.OPEN
    assert duo.phases["alpha"] == ["open", "peer slow"]
    duo.world.loses = lambda *_: False
    assert duo.run(10, lambda: bool(duo.came))
    duo.returns(duo.came[0], 1)
    assert duo.outcome(call).value == 1
    assert duo.phases["alpha"] == ["open", "peer slow", "resumed"]


def test_a_peer_silent_on_both_connections_suspends_and_resumes() -> None:
    """The same call finishes afterwards, and ran once."""
    duo = Duo()
    duo.world.loses = lambda *_: True
    assert duo.run(10, lambda: duo.near.phase is Phase.SUSPENDED)
    assert duo.phases["alpha"][-1] == "peer silent"
    call = duo.start()
    duo.run(5)
    duo.world.loses = lambda *_: False
    assert duo.run(10, lambda: bool(duo.came))
    duo.returns(duo.came[0], 1)
    assert duo.outcome(call).value == 1
    assert duo.phases["alpha"] == ["open", "peer silent", "resumed"]
    assert len(duo.came) == 1


def test_a_link_that_is_down_is_named_so() -> None:
    """At once, and it resumes with the link."""
    duo = Duo()
    call, came = duo.arrived()
    duo.world.cut("alpha", "call")
    duo.run(0.1)
    assert duo.phases["alpha"][-1] == "link down"
    duo.returns(came, 1)
    duo.run(10)
    duo.world.heal("alpha", "call")
    assert duo.outcome(call).value == 1
    assert duo.phases["alpha"] == ["open", "link down", "resumed"]


def test_the_bulk_link_alone_suspends_nothing() -> None:
    """Law 22: streams pause, calls go on."""
    duo = Duo()
    inlet, outlet = pipe()
    _, came = duo.arrived(streams=[inlet])
    duo.world.cut("alpha", "bulk")
    write(outlet, b"later")
    call, other = duo.arrived()
    duo.returns(other, 1)
    assert duo.outcome(call, 1).value == 1
    assert read_all(came.streams[0]) == b""
    duo.world.heal("alpha", "bulk")
    reader = came.streams[0]
    assert isinstance(reader, Inlet)
    assert duo.run(5, lambda: reader.arrived == 5)


def test_past_the_grace_the_peer_is_lost() -> None:
    """Law 18: what was sent may have run, what was never sent did not."""
    duo = Duo()
    sent, came = duo.arrived()
    stopped: list[bool] = []
    came.on_cancel = lambda: stopped.append(True)
    duo.world.loses = lambda *_: True
    assert duo.run(10, lambda: duo.near.phase is Phase.SUSPENDED)
    unsent = duo.start()
    duo.run(TERMS.grace + 10)
    for call, executed in ((sent, "unknown"), (unsent, "no")):
        assert call.outcome is not None
        assert call.outcome.kind is OutcomeKind.LOST
        assert call.outcome.executed == executed
    assert isinstance(duo.near.cause, PeerLost)
    assert stopped == [True]
    with pytest.raises(PeerLost) as caught:
        duo.start()
    assert caught.value.executed == "no"


# -- goodbye (law 9) --


def test_goodbye_ends_both_sides_without_waiting() -> None:
    """Within a round trip, not after five seconds; both forget the session."""
    duo = Duo()
    duo.near.close("done", duo.now)
    assert duo.run(0.5, lambda: duo.near.over and duo.far.over)
    assert isinstance(duo.near.cause, ChannelClosed)
    assert isinstance(duo.far.cause, PeerLost)
    assert "done" in str(duo.far.cause)
    assert duo.phases["beta"][-1] == "closed"


def test_goodbye_is_acted_on_after_all_that_was_said_before() -> None:
    """A result that went before it arrives, with its bytes, on whatever lane is late."""
    duo = Duo()
    inlet, outlet = pipe()
    call, came = duo.arrived(streams=[outlet])
    duo.world.holds = lambda sender, kind, body: (
        sender == "beta" and (kind == "bulk" or body[3] == Lane.CALL)
    )
    write(came.streams[0], b"all of it")
    duo.returns(came, "done")
    duo.run(0.1)
    duo.far.close("leaving", duo.now)
    duo.run(0.5)
    assert call.outcome is None
    duo.world.let_go()
    assert duo.outcome(call).value == "done"
    assert read_all(inlet) == b"all of it"
    assert duo.run(1, lambda: duo.near.over and duo.far.over)


def test_goodbye_cancels_what_has_not_ended() -> None:
    """On both sides, and nothing new is taken."""
    duo = Duo()
    call, came = duo.arrived()
    duo.near.close("done", duo.now)
    assert call.outcome is not None
    assert call.outcome.kind is OutcomeKind.CANCELLED
    with pytest.raises(ChannelClosed):
        duo.start()
    duo.run(1)
    assert came.cancelled == "lost"


def test_nobody_waits_for_a_goodbye_for_ever() -> None:
    """Five seconds, if the peer does not answer."""
    duo = Duo()
    duo.world.loses = lambda *_: True
    began = duo.now
    duo.near.close("done", began)
    assert duo.run(60, lambda: duo.near.over)
    assert duo.now == pytest.approx(began + GOODBYE_PATIENCE, abs=0.1)


def test_goodbye_survives_a_lossy_network() -> None:
    """It is a message: numbered, acknowledged, sent again."""
    for lost in range(6):
        duo = Duo()
        count = 0

        def loses(*_: object) -> bool:
            nonlocal count
            count += 1
            return count <= lost  # noqa: B023 - of this round

        duo.world.loses = loses
        duo.near.close("done", duo.now)
        assert duo.run(60, lambda: duo.far.over), f"{lost} lost"  # noqa: B023
        assert isinstance(duo.far.cause, PeerLost)


def test_draining_refuses_new_calls_and_lets_old_ones_end() -> None:
    """By a code of its own."""
    duo = Duo()
    old, came = duo.arrived()
    duo.far.drain()
    new = duo.start()
    outcome = duo.outcome(new)
    assert (outcome.code, outcome.executed) == (RefusalCode.ENDING, "no")
    duo.returns(came, 1)
    assert duo.outcome(old).value == 1


# -- limits (laws 20, 24, 28) --


def test_urgent_calls_pass_a_large_one() -> None:
    """Fragments interleave: the small call is there long before the large one."""
    duo = Duo(Terms(heartbeat=1.0, grace=20.0, max_envelope=16 * 1024))
    duo.start("large", args=encode([[b"x" * 3 * MIB], {}]))
    duo.start("soon", priority=Priority.URGENT)
    assert duo.run(60, lambda: len(duo.came) == 2)
    assert [call.name for call in duo.came] == ["soon", "large"]
    assert duo.came[1].args == [[b"x" * 3 * MIB], {}]


def test_a_large_call_can_be_taken_back_in_the_middle() -> None:
    """The rest of its parts need not travel; it never runs, and the lane goes on."""
    duo = Duo()
    call = duo.start("large", args=encode([[b"x" * 12 * MIB], {}]))
    duo.run(0.001)
    duo.near.cancel(call, duo.now)
    assert call.outcome is not None
    assert call.outcome.kind is OutcomeKind.CANCELLED
    assert call.outcome.executed == "no"
    after, came = duo.arrived("small")
    assert [each.name for each in duo.came] == ["small"]
    assert not duo.far.serving._partials
    duo.returns(came)
    duo.outcome(after)
    duo.all_empty()


def test_a_large_call_that_was_sent_in_part_may_have_run() -> None:
    """Law 18: something of it was handed to the bus before the peer was lost."""
    duo = Duo()
    call = duo.start("large", args=encode([[b"x" * 12 * MIB], {}]))
    duo.run(0.001)
    duo.near.end(PeerLost("gone"), duo.now)
    assert call.outcome is not None
    assert call.outcome.kind is OutcomeKind.LOST
    assert call.outcome.executed == "unknown"


def test_no_envelope_is_larger_than_the_smaller_bus_carries() -> None:
    """Whatever travels: calls, results, bytes."""
    small = Terms(heartbeat=1.0, grace=20.0, max_envelope=16 * 1024)
    duo = Duo(TERMS, far_terms=small)
    inlet, outlet = pipe()
    call, came = duo.arrived(args=encode([[b"x" * MIB], {}]), streams=[inlet])
    write(outlet, bytes(200_000))
    duo.returns(came, b"y" * MIB)
    assert duo.outcome(call).value == b"y" * MIB
    sizes = [len(body) for _, body in duo.world.log]
    assert 12_000 < max(sizes) <= small.max_envelope


def test_arguments_too_large_are_refused_before_they_are_sent() -> None:
    """The error names the limit, its value, and what was asked."""
    duo = Duo(Terms(max_message=100_000))
    with pytest.raises(LimitExceeded, match="max_message") as caught:
        duo.start(args=encode([[b"x" * 100_000], {}]))
    assert (caught.value.limit, caught.value.value) == ("max_message", 100_000)


def test_a_result_too_large_becomes_an_error_that_names_the_limit() -> None:
    """The call has run; its caller learns what to do instead."""
    duo = Duo(Terms(max_message=100_000))
    call, came = duo.arrived()
    duo.returns(came, b"x" * 100_000)
    outcome = duo.outcome(call)
    assert (outcome.kind, outcome.code) == (OutcomeKind.REFUSED, RefusalCode.TOO_LARGE)
    assert outcome.executed == "unknown"
    assert "max_message" in outcome.message
    assert "100000" in outcome.message
    duo.all_empty()


def test_too_many_calls_are_refused_as_overload() -> None:
    """The bound never stops the lane: those past it are refused, later ones are taken."""
    duo = Duo(Terms(max_calls=3))
    calls = [duo.start() for _ in range(5)]
    duo.run(1)
    assert len(duo.came) == 3
    for call in calls[3:]:
        outcome = duo.outcome(call)
        assert (outcome.code, outcome.executed) == (RefusalCode.OVERLOADED, "no")
        assert "max_calls is 3" in outcome.message
    back = duo.start(on_behalf=True)  # call-backs have room of their own
    duo.run(1)
    assert len(duo.came) == 4
    assert back.outcome is None
    duo.returns(duo.came[0])
    duo.arrived()


# -- what a peer says wrongly --


def speak(duo: Duo, lane: Lane, *frames: object) -> None:
    """Let alpha send frames that its own code would not make."""
    envelope = duo.near._lanes.build(lane, _giving(frames), None, duo.now, 60_000)
    assert envelope is not None
    duo.world.send(duo.alpha, "call", "beta", envelope)


def speak_bytes(duo: Duo, lane: Lane, *frames: object) -> None:
    """The same on the bulk connection, where alpha has a stream under way."""
    freight = duo.alpha.standbys[duo.near.id].freight
    assert freight is not None
    envelope = freight.lanes.build(lane, _giving(frames), None, duo.now, 60_000)
    assert envelope is not None
    duo.world.send(duo.alpha, "bulk", "beta", envelope)


def _giving(frames: Sequence[object]) -> Callable[[int, int], bytes | None]:
    left = [dumps(frame) for frame in frames]
    return lambda room, number: left.pop(0) if left else None


@pytest.mark.parametrize("lane", [Lane.CONTROL, Lane.CALL])
def test_an_unknown_frame_is_answered_and_both_go_on(lane: Lane) -> None:
    """Unimplemented, by its kind; what comes behind it is taken."""
    duo = Duo()
    speak(duo, lane, [99, "from the future", {}])
    call, came = duo.arrived()
    duo.returns(came, 1)
    assert duo.outcome(call).value == 1
    assert [3, 99] in duo.frames_of("beta", Lane.CONTROL)
    assert duo.near.phase is duo.far.phase is Phase.OPEN


@pytest.mark.parametrize("lane", [Lane.BULK, Lane.LOG])
def test_an_unknown_frame_among_bytes_is_answered_too(lane: Lane) -> None:
    """By CONTROL, as it is no stream's; the bytes around it arrive."""
    duo = Duo()
    inlet, outlet = pipe()
    _, came = duo.arrived(streams=[inlet])
    assert outlet.write_nowait(b"before, ")
    duo.run(0.5)
    speak_bytes(duo, lane, [99, "from the future"], ["a word"])
    assert outlet.write_nowait(b"after")
    outlet.finish()
    duo.run(0.5)
    theirs = came.streams[0]
    assert isinstance(theirs, Inlet)
    assert read_all(theirs) == b"before, after"
    answers = duo.frames_of("beta", Lane.CONTROL)
    assert [3, 99] in answers
    assert [3, -1] in answers
    assert duo.near.phase is duo.far.phase is Phase.OPEN


def test_garbage_and_cut_envelopes_are_counted_and_dropped() -> None:
    """And what they were copies of still arrives."""
    duo = Duo()
    before = duo.far.statistics()["dropped"]
    call = duo.start()
    duo.world.loses = lambda sender, _, body: sender == "alpha"
    duo.run(0.1)
    envelope = next(body for name, body in reversed(duo.world.log) if name == "alpha")
    wrong = [envelope[:length] for length in range(HEADER_BYTES, len(envelope), 7)] + [
        envelope[:HEADER_BYTES] + bytes(100),
        envelope[:-1] + b"\x00",
    ]
    for body in wrong:
        duo.beta.deliver("call", body)
    assert duo.far.statistics()["dropped"] == before + len(wrong)
    assert not duo.came
    duo.world.loses = lambda *_: False
    assert duo.run(5, lambda: bool(duo.came))
    duo.returns(duo.came[0], 1)
    assert duo.outcome(call).value == 1


def test_an_envelope_that_comes_again_is_dropped() -> None:
    """However often the broker repeats it, the call runs once."""
    duo = Duo(network=Network(duplicate=1.0))
    calls = [duo.start() for _ in range(20)]
    duo.run(2)
    assert len(duo.came) == len(calls)


@pytest.mark.parametrize(
    "frame",
    [
        [11, 77, [], [], [], None],  # an answer to no call
        [10, "f"],  # a call without arguments
        [10, 7, 1, None, None, 0, [], [], []],  # a name that is none
        [10, "f", 1, None, None, 0, [9], [], []],  # a stream of no use
        [10, "f", 1, None, None, 0, [], [-5], []],  # our object, never exported
        [16, 3, 1],  # a release of what never travelled
        [17, 55, 0, b"part"],  # a part of nothing
        7,
        [],
    ],
)
def test_a_peer_that_breaks_the_protocol_is_left(frame: object) -> None:
    """The session ends and names the peer; calls end, nothing is believed."""
    duo = Duo()
    call = OutgoingCall("f", ARGS)
    duo.far.start(call, duo.now)
    speak(duo, Lane.CALL, frame)
    assert duo.run(2, lambda: duo.far.phase is Phase.OVER)
    assert isinstance(duo.far.cause, RemoteProtocolError)
    assert "'alpha' broke the protocol" in str(duo.far.cause)
    assert call.outcome is not None
    assert call.outcome.kind is OutcomeKind.LOST
    with pytest.raises(ChannelBroken):
        duo.far.start(OutgoingCall("f", ARGS), duo.now)


# -- references (law 8) --


def test_a_reference_is_released_after_its_last_use() -> None:
    """The call that sends it home is there before the release."""
    duo = Duo()
    call, came = duo.arrived(references=[4])
    assert came.references == [4]
    home = OutgoingCall("use", ARGS, references=[-1 - 4])
    duo.far.start(home, duo.now)
    duo.far.release(4, duo.now)
    duo.returns(came)
    duo.outcome(call)
    duo.run(1)
    kinds = [frame[0] for frame in duo.frames_of("beta", Lane.CALL)]
    assert kinds.index(10) < kinds.index(16)
    assert not duo.near.references.exported
    assert duo.near.phase is Phase.OPEN
