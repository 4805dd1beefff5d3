"""Who is who at an address: one session per name, and nobody can end it by a forgery."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from remoting_bus.errors import CallRefused, PeerLost
from remoting_bus.names import Lane
from remoting_bus.protocol.calls import OutcomeKind, OutgoingCall
from remoting_bus.protocol.codec import encode
from remoting_bus.protocol.endpoint import (
    MASTERS,
    Accepted,
    Endpoint,
    EndpointEvent,
    FencedOut,
    Found,
    Settings,
)
from remoting_bus.protocol.envelope import (
    EnvelopeKind,
    PlainSeal,
    pack_header,
    pack_trailer,
    read_header,
)
from remoting_bus.protocol.handshake import (
    Greeting,
    HelloRefused,
    Refusal,
    RefusalReason,
    pack,
    unpack,
)
from remoting_bus.protocol.session import Session
from remoting_bus.protocol.terms import Event, Phase, PhaseChanged, Terms
from remoting_bus.testing.world import Peer, World

TERMS = Terms(heartbeat=1.0, grace=20.0)
HELLO, WELCOME, REFUSED = EnvelopeKind.HELLO, EnvelopeKind.WELCOME, EnvelopeKind.REFUSED
UNKNOWN, SEALED = EnvelopeKind.UNKNOWN, EnvelopeKind.SEALED


class Town(World):
    """A world that keeps what was sent, and in which two programs may have one name."""

    def __init__(self) -> None:
        super().__init__(1)
        self.sent_log: list[tuple[str, str, bytes]] = []
        self.lost: set[EnvelopeKind] = set()

    def send(self, sender: Peer, kind: str, to: str, body: bytes) -> None:
        self.sent_log.append((sender.name, to, body))
        header = read_header(body)
        if header is None or header.kind not in self.lost:
            super().send(sender, kind, to, body)

    def _turn(self, peer: Peer) -> None:
        if peer in self.peers.values():
            peer.turn()

    def _arrival(
        self, sender: str, kind: str, to: str, body: bytes
    ) -> Callable[[], None]:
        def arrive() -> None:
            down = self.network.down
            if (sender, kind) in down or (to, kind) in down:
                return
            # The eldest hears first: it is the one whose answers do harm.
            for peer in [p for p in reversed(self.peers.values()) if p.name == to]:
                peer.deliver(kind, body)
                peer.turn()

        return arrive

    def program(self, name: str) -> Program:
        return Program(self, name)

    def inject(self, to: Program, body: bytes) -> None:
        """Let an envelope arrive that somebody made or kept."""
        to.peer.deliver("call", body)
        to.peer.turn()

    def of(self, sender: str, kind: EnvelopeKind) -> list[bytes]:
        """Return the envelopes of a kind that a name has sent."""
        return [
            body
            for name, _, body in self.sent_log
            if name == sender and (head := read_header(body)) and head.kind is kind
        ]


class Program:
    """A peer, and what happened to it."""

    def __init__(self, town: Town, name: str) -> None:
        earlier = town.peers.get(name)
        self.town = town
        self.peer = town.peer(name, TERMS)
        if earlier is not None:
            town.peers[f"{name}, earlier, {len(town.peers)}"] = earlier
        self.events: list[EndpointEvent] = []
        self.phases: list[tuple[Session, PhaseChanged]] = []
        self.peer.on_endpoint = self.events.append
        self.peer.on_event = self._note

    def _note(self, session: Session, event: Event) -> None:
        if isinstance(event, PhaseChanged):
            self.phases.append((session, event))

    @property
    def endpoint(self) -> Endpoint:
        return self.peer.endpoint

    def current(self, peer: str) -> Session:
        return self.endpoint.current[peer]

    def dies(self) -> None:
        """It is gone without a word."""
        peers = self.town.peers
        for key in [key for key, peer in peers.items() if peer is self.peer]:
            del peers[key]

    def fenced(self) -> list[FencedOut]:
        return [each for each in self.events if isinstance(each, FencedOut)]


def joined(town: Town) -> tuple[Program, Program]:
    """Return a master and an agent that have a session."""
    master, agent = town.program("control"), town.program("web-1")
    agent.peer.connect("control")
    assert town.run(5, lambda: "web-1" in master.endpoint.current)
    return master, agent


def read(envelope: bytes) -> object:
    header = read_header(envelope)
    assert header is not None
    return unpack(header, envelope)


def hello(
    name: str = "web-1", session: bytes = b"z" * 16, floor: int = 1, version: int = 1
) -> bytes:
    greeting = Greeting(name, b"n" * 16, TERMS, {}, floor, version)
    return pack(HELLO, session, 1, greeting)


def sealed(session: bytes, sender: str) -> bytes:
    header = pack_header(SEALED, Lane.CONTROL, session, 1)
    return PlainSeal(b"?").seal(header, 1, b"\x80") + pack_trailer(sender)


# -- becoming current (law 13) --


def test_a_hello_makes_a_session_on_both_sides() -> None:
    """Each side learns it once, and who opened it."""
    town = Town()
    master, agent = joined(town)
    town.run(1)
    ours, theirs = agent.current("control"), master.current("web-1")
    assert ours.id == theirs.id
    assert ours.phase is theirs.phase is Phase.OPEN
    assert agent.events == [Accepted(ours, by_us=True)]
    assert master.events == [Accepted(theirs, by_us=False)]
    assert theirs.peer_info == {"name": "web-1"}


@pytest.mark.parametrize("seed", range(10))
def test_hellos_that_cross_make_one_session(seed: int) -> None:
    """That of the lower name; calls that waited on either side go over it."""
    town = Town()
    town.dice.seed(seed)
    master, agent = town.program("control"), town.program("web-1")
    sessions = [agent.peer.connect("control"), master.peer.connect("web-1")]
    calls = [OutgoingCall("f", encode([[], {}])) for _ in sessions]
    for session, call in zip(sessions, calls, strict=True):
        session.start(call, town.now)
    town.run(1)
    assert agent.current("control").id == master.current("web-1").id
    assert [call.number for call in calls] == [1, 1]
    assert len(agent.endpoint.sessions) == len(master.endpoint.sessions) == 1


def test_the_same_hello_gets_the_same_answer() -> None:
    """One that came twice opens nothing more."""
    town = Town()
    master = town.program("control")
    for _ in range(3):
        town.inject(master, hello())
    answers = town.of("control", WELCOME)
    assert len(answers) == 3
    assert len(set(answers)) == 1


def test_nobody_there_is_asked_again_ever_more_seldom() -> None:
    """From a quarter of a second to five; no flood, no giving up."""
    town = Town()
    agent = town.program("web-1")
    session = agent.peer.connect("control")
    town.run(60)
    assert 12 <= len(town.of("web-1", HELLO)) <= 25
    assert session.phase is Phase.OPENING
    town.program("control")
    assert town.run(10, lambda: session.phase is Phase.OPEN)


def test_few_hellos_of_a_name_are_half_open() -> None:
    """Four, for thirty seconds; whoever sends more pushes out its own."""
    town = Town()
    master = town.program("control")
    for index in range(10):
        town.inject(master, hello(session=bytes([index]) * 16))
    assert len(master.endpoint._half_open) == 4
    town.run(31)
    assert not master.endpoint._half_open
    assert not master.endpoint.sessions


def test_a_replayed_hello_fences_nobody() -> None:
    """Old or forged, it is answered and never proved; the session goes on."""
    town = Town()
    master, agent = joined(town)
    session = master.current("web-1")
    for envelope in (*town.of("web-1", HELLO), hello()):
        town.inject(master, envelope)
    town.run(60)
    assert master.current("web-1") is session
    assert session.phase is Phase.OPEN
    assert agent.current("control").phase is Phase.OPEN
    assert not agent.fenced()


def test_a_hello_of_a_session_that_ended_begins_nothing() -> None:
    """A late copy, once the session is over and forgotten."""
    town = Town()
    master, agent = joined(town)
    agent.current("control").close("done", town.now)
    town.touch(agent.peer)
    assert town.run(10, lambda: not master.endpoint.sessions)
    for envelope in town.of("web-1", HELLO):
        town.inject(master, envelope)
    assert not master.endpoint._half_open


# -- a new incarnation (law 14) --


def test_a_restarted_peer_fences_its_old_session_at_once() -> None:
    """Its calls end now, long before silence or grace."""
    town = Town()
    master, old = joined(town)
    session = master.current("web-1")
    call = OutgoingCall("f", encode([[], {}]))
    session.start(call, town.now)
    town.touch(master.peer)
    town.run(0.1)
    old.dies()
    new = town.program("web-1")
    new.peer.connect("control")
    assert town.run(0.5, lambda: call.outcome is not None)
    assert call.outcome is not None
    assert call.outcome.kind is OutcomeKind.LOST
    assert isinstance(session.cause, PeerLost)
    kinds = [event.kind for each, event in master.phases if each is session]
    assert kinds == ["open", "fenced"]
    assert master.current("web-1") is not session


def test_the_fenced_program_is_told_and_never_admitted_again() -> None:
    """It lives, its name has gone to another: it says so and is refused."""
    town = Town()
    _, first = joined(town)
    second = town.program("web-1")
    second.peer.connect("control")
    town.run(2)
    assert first.fenced() == [FencedOut("control", {"name": "web-1"})]
    assert not second.fenced()
    assert "control" not in first.endpoint.current

    def refused() -> bool:
        session = first.peer.connect("control")
        town.run(2)
        return isinstance(session.cause, CallRefused)

    assert any(refused() for _ in range(30))
    assert len(first.fenced()) > 1
    assert second.current("control").phase is Phase.OPEN


def test_a_fenced_program_cannot_come_back_by_answering() -> None:
    """Nor by the answer to a hello that the master sent to find out who is there."""
    town = Town()
    town.lost = {EnvelopeKind.FENCED_TOO}
    master, first = joined(town)
    second = town.program("web-1")
    second.peer.connect("control")
    town.run(60)
    assert first.fenced()
    assert not second.fenced()
    assert master.current("web-1").id == second.current("control").id


def test_two_living_programs_never_take_turns() -> None:
    """Once a fencing was acknowledged newcomers are refused: the name is in use."""
    town = Town()
    master, _ = joined(town)
    second = town.program("web-1")
    second.peer.connect("control")
    town.run(2)
    for _ in range(3):  # a supervisor starts it again and again
        third = town.program("web-1")
        session = third.peer.connect("control")
        town.run(5)
        assert isinstance(session.cause, CallRefused)
        assert isinstance(session.cause, HelloRefused)
        assert session.cause.about_our_name
        third.dies()
    assert second.current("control").phase is Phase.OPEN
    second.current("control").close("maintenance", town.now)
    town.touch(second.peer)
    town.run(1)
    town.program("web-1").peer.connect("control")
    assert town.run(5, lambda: "web-1" in master.endpoint.current)


def test_a_name_in_use_is_free_again_once_its_holder_is_silent() -> None:
    """A machine that died does not keep its name."""
    town = Town()
    master, _ = joined(town)
    second = town.program("web-1")
    second.peer.connect("control")
    town.run(2)
    second.dies()
    town.run(6 * TERMS.heartbeat)
    third = town.program("web-1")
    third.peer.connect("control")
    assert town.run(5, lambda: third.endpoint.current.get("control") is not None)
    assert master.current("web-1").phase is Phase.OPEN


def asked_by_one_who_went(town: Town) -> tuple[Program, Program]:
    """Return a restarted master, which a dead agent's hello asks for an old session.

    It has answered that it does not know it, and nobody goes on with that.
    """
    first, agent = joined(town)
    town.run(1)
    first.dies()
    master = town.program("control")
    town.sent_log.clear()
    town.lost.add(WELCOME)
    town.inject(master, sealed(agent.current("control").id, "web-1"))
    assert town.run(5, lambda: bool(town.of("control", WELCOME)))
    asked = read(town.of("web-1", HELLO)[-1])
    assert isinstance(asked, Greeting)
    assert asked.asks
    agent.dies()
    town.lost.clear()
    return master, agent


def test_a_hello_that_asks_blocks_no_hello_of_ours() -> None:
    """A newcomer of its name is reached at once, not when the asker was given up."""
    town = Town()
    master, _ = asked_by_one_who_went(town)
    town.program("web-1")
    session = master.peer.connect("web-1")
    assert town.run(2, lambda: session.phase is Phase.OPEN)


def test_a_hello_that_asks_blocks_no_hello_of_a_newcomer() -> None:
    town = Town()
    master, _ = asked_by_one_who_went(town)
    newcomer = town.program("web-1")
    session = newcomer.peer.connect("control")
    assert town.run(2, lambda: session.phase is Phase.OPEN)
    town.run(1)
    assert master.current("web-1").peer_incarnation == (
        newcomer.endpoint.settings.incarnation
    )


def test_a_hello_that_asks_leaves_ours_to_itself() -> None:
    """Both at once, from a program that asks and one that does not: each goes on."""
    town = Town()
    first, agent = joined(town)
    town.run(1)
    old = agent.current("control")
    first.dies()
    master = town.program("control")
    session = master.peer.connect("web-1")
    town.inject(master, sealed(old.id, "web-1"))
    assert town.run(3, lambda: session.phase is Phase.OPEN)
    town.run(1)
    assert old.phase is Phase.OVER
    assert agent.current("control").id == session.id


def test_a_hello_that_asks_does_not_take_the_place_of_ours() -> None:
    """It comes from one who then dies: ours is repeated until a newcomer answers it."""
    town = Town()
    first, agent = joined(town)
    town.run(1)
    old = first.current("web-1")
    agent.dies()
    restarted = town.program("web-1")
    town.lost |= {WELCOME, HELLO}
    session = restarted.peer.connect("control")
    town.run(0.1)
    town.lost.remove(HELLO)
    town.inject(restarted, sealed(old.id, "control"))
    assert town.run(5, lambda: bool(town.of("web-1", WELCOME)))
    first.dies()
    town.lost.clear()
    town.program("control")
    assert town.run(6, lambda: session.phase is Phase.OPEN)


# -- leaving --


def half_open(town: Town) -> tuple[Program, Program, OutgoingCall]:
    """Return a master whose answer has opened a session at an agent, and a call in it.

    Nothing sealed has come to the master.
    """
    master, agent = town.program("control"), town.program("web-1")
    town.lost.add(SEALED)
    session = agent.peer.connect("control")
    call = OutgoingCall("f", encode([[], {}]))
    session.start(call, town.now)
    assert town.run(5, lambda: session.phase is Phase.OPEN)
    town.run(0.5)
    assert call.number is not None
    assert not master.endpoint.current
    return master, agent, call


def leaves(town: Town, program: Program) -> None:
    program.endpoint.leave(town.now)
    town.touch(program.peer)


def test_who_leaves_refuses_what_is_half_open() -> None:
    """The peer learns it at once, and that its call has not run."""
    town = Town()
    master, agent, call = half_open(town)
    session = agent.current("control")
    leaves(town, master)
    town.run(0.1)
    assert session.phase is Phase.OVER
    assert isinstance(session.cause, PeerLost)
    assert call.outcome is not None
    assert call.outcome.kind is OutcomeKind.LOST
    assert call.outcome.executed == "no"
    assert agent.phases[-1][1].kind == "closed"
    assert master.endpoint.wake_at(town.now) is None


def test_who_leaves_refuses_an_opener_that_has_no_answer_yet() -> None:
    """The answer was lost; the refusal comes: nobody waits for a session."""
    town = Town()
    master, agent = town.program("control"), town.program("web-1")
    town.lost.add(WELCOME)
    session = agent.peer.connect("control")
    town.run(0.1)
    leaves(town, master)
    town.run(0.1)
    assert session.phase is Phase.OVER
    assert isinstance(session.cause, PeerLost)
    assert session.cause.executed == "no"


def test_who_leaves_is_not_there_for_newcomers() -> None:
    """No hello and no lookup is answered: a successor may be there already."""
    town = Town()
    master = town.program("control")
    leaves(town, master)
    agent = town.program("web-1")
    session = agent.peer.connect("control")
    town.run(2)
    assert session.phase is Phase.OPENING
    assert not town.of("control", WELCOME)
    assert not town.of("control", REFUSED)
    successor = town.program("control")
    assert town.run(6, lambda: "web-1" in successor.endpoint.current)


def test_a_forged_leaving_ends_no_session_that_was_heard() -> None:
    """Once the peer has sealed something, only a goodbye under the seal does."""
    town = Town()
    _, agent = joined(town)
    town.run(1)
    session = agent.current("control")
    forged = Refusal("control", RefusalReason.LEAVING, "says somebody")
    town.inject(agent, pack(REFUSED, session.id, 1, forged))
    town.inject(agent, pack(REFUSED, b"?" * 16, 1, forged))
    town.run(1)
    assert agent.current("control") is session
    assert session.phase is Phase.OPEN


# -- unknown sessions (law 15) --


def test_a_forged_unknown_ends_nothing() -> None:
    """It only makes the other side ask; the answer is that the session is known."""
    town = Town()
    master, agent = joined(town)
    ours, theirs = agent.current("control"), master.current("web-1")
    town.inject(agent, pack(UNKNOWN, ours.id, 1, {}))
    town.run(5)
    asked = read(town.of("web-1", HELLO)[-1])
    answer = read(town.of("control", WELCOME)[-1])
    assert isinstance(asked, Greeting)
    assert isinstance(answer, Greeting)
    assert asked.asks == ours.id
    assert answer.knows
    assert agent.current("control") is ours
    assert master.current("web-1") is theirs
    assert ours.phase is theirs.phase is Phase.OPEN


def test_a_peer_that_lost_its_memory_is_met_anew() -> None:
    """It does not know the session; the other side asks, and opens a new one."""
    town = Town()
    master, agent = joined(town)
    old = agent.current("control")
    master.dies()
    again = town.program("control")
    assert town.run(10, lambda: agent.endpoint.current.get("control") is not old)
    town.run(1)
    assert isinstance(old.cause, PeerLost)
    assert agent.current("control").phase is Phase.OPEN
    assert again.current("web-1").id == agent.current("control").id


def test_unknown_is_answered_at_a_bounded_rate() -> None:
    """A flood of strangers' envelopes does not become a flood of answers."""
    town = Town()
    master = town.program("control")
    for index in range(1000):
        town.inject(master, sealed(index.to_bytes(16, "big"), "mallory"))
    assert len(town.of("control", UNKNOWN)) == 200
    assert master.endpoint.dropped >= 1000


def test_unknown_is_never_answered_with_unknown() -> None:
    """Else two peers that forgot each other would never stop."""
    town = Town()
    master = town.program("control")
    town.inject(master, pack(UNKNOWN, b"x" * 16, 1, {}))
    town.run(5)
    assert not town.sent_log


# -- versions, lookups, garbage --


def test_a_version_too_new_is_refused_by_name() -> None:
    """The answer says which versions are spoken, and by whom."""
    town = Town()
    master = town.program("control")
    town.inject(master, hello(floor=7, version=9))
    refusal = read(town.of("control", REFUSED)[0])
    assert isinstance(refusal, Refusal)
    assert refusal.code == "version"
    assert "7 to 9" in refusal.message
    assert not master.endpoint._half_open


def test_the_highest_common_version_is_chosen() -> None:
    """A newer peer that still speaks ours is welcome."""
    town = Town()
    master = town.program("control")
    town.inject(master, hello(floor=1, version=9))
    welcome = read(town.of("control", WELCOME)[0])
    assert isinstance(welcome, Greeting)
    assert (welcome.floor, welcome.version) == (1, 1)


def test_an_opener_that_is_refused_learns_why() -> None:
    """Its session ends with the refusal's words; calls that waited never ran."""
    town = Town()
    agent = town.program("web-1")
    session = agent.peer.connect("control")
    call = OutgoingCall("f", encode([[], {}]))
    session.start(call, town.now)
    town.run(0.1)
    refusal = Refusal("control", "version", "upgrade the older one")
    town.inject(agent, pack(REFUSED, session.id, 1, refusal))
    assert session.phase is Phase.OVER
    assert str(session.cause) == "upgrade the older one"
    assert call.outcome is not None
    assert call.outcome.executed == "no"


def test_a_lookup_finds_the_masters() -> None:
    """Whoever answers lookups says what it is; others, and strangers, do not count."""

    def endpoint(name: str, answers: dict[str, object] | None) -> Endpoint:
        tokens = iter(range(100))
        return Endpoint(
            Settings(
                name=name,
                incarnation=name.encode().ljust(16),
                terms=TERMS,
                info={},
                random=lambda count: b"r" * count,
                new_token=lambda: next(tokens),
                answers=answers,
            )
        )

    agent = endpoint("web-1", None)
    agent.look_up()
    out = agent.next_envelope(1.0)
    assert out is not None
    assert out[0] == MASTERS
    master, other = endpoint("control", {"release": "1.0"}), endpoint("web-2", None)
    for each in (master, other):
        each.receive(out[1], 1.0)
    assert other.next_envelope(1.0) is None
    answer = master.next_envelope(1.0)
    assert answer is not None
    assert answer[0] == "web-1"
    agent.receive(answer[1], 1.0)
    assert agent.events == [Found("control", {"release": "1.0"})]
    stranger = endpoint("web-1", None)
    stranger.receive(answer[1], 1.0)
    assert not stranger.events


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"garbage",
        hello()[:-1],
        hello()[:40],
        pack(HELLO, b"x" * 16, 1, {"name": "web-1"}),
        pack(EnvelopeKind.FENCED, b"x" * 16, 1, []),
        pack(EnvelopeKind.BEAT, b"x" * 16, 1, 5),
        sealed(b"x" * 16, "a.b"),
        sealed(b"x" * 16, "") + b"\xff",
    ],
)
def test_garbage_is_counted_and_dropped(body: bytes) -> None:
    """It is answered by nothing and changes nothing."""
    town = Town()
    master = town.program("control")
    town.inject(master, body)
    assert master.endpoint.dropped >= 1
    assert not town.sent_log
    assert not master.endpoint.sessions
