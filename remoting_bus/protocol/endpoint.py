"""Who is who at one address: hellos, answers, fencing, lookups (laws 13 to 15).

Theory. A session becomes current for the opener with the answer to its hello, and for
the answerer with the first sealed envelope; so a replayed hello fences nobody. There is
one session per peer's name. A new incarnation, once proved, fences the old one at once:
its calls end. Who was fenced is told under the old session; if it answers, two living
machines have one name, and from then on newcomers are refused "name in use" until the
current one leaves or falls silent. Nobody can end a session by saying "unknown": that
only makes us ask.

It must not know what a session carries.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from remoting_bus.errors import (
    ChannelBroken,
    PeerLost,
    RemoteProtocolError,
)
from remoting_bus.names import Lane, check_name

from .envelope import EnvelopeKind, Header, read_header, read_trailer
from .handshake import Greeting, HelloRefused, Refusal, RefusalReason, pack, unpack
from .liveness import heartbeat_of
from .session import Session
from .terms import FLOOR, VERSION, Phase, Terms, agree

__all__ = [
    "MASTERS",
    "Accepted",
    "Endpoint",
    "FencedOut",
    "Found",
    "Settings",
]

MASTERS = "_masters"
"""The address at which every master of a namespace answers lookups."""

_HALF_OPEN_FOR = 30.0
_HALF_OPEN_PER_NAME = 4
_HALF_OPEN_AT_ALL = 10_000
"""Hellos answered and not yet proved: seconds, and how many (law 13)."""

_REMEMBERED = 10_000
"""Incarnations never admitted again, and sessions that ended; the oldest are forgotten
past it."""

_RATE = 200
"""Answers a second to envelopes of unknown sessions, and to lookups (law 15)."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What an endpoint is.

    Attributes:
        name: Of this peer.
        incarnation: 16 random bytes, per start of the process.
        info: What it says of itself in each handshake.
        random: Gives so many random bytes.
        answers: What lookups are answered with; None where it answers none.
        idle: Seconds without use after which a session that this side opened ends;
            None: never.
        is_carried: Tells by a function's name whether its streams live at the bulk
            half.
    """

    name: str
    incarnation: bytes
    terms: Terms
    info: dict[str, Any]
    random: Callable[[int], bytes]
    new_token: Callable[[], int]
    answers: dict[str, Any] | None = None
    is_carried: Callable[[str], bool] = lambda name: False
    idle: float | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """A session became current, opened from either side."""

    session: Session
    by_us: bool


@dataclass(frozen=True, slots=True)
class FencedOut:
    """We were fenced: somebody else has our name now.

    Attributes:
        peer: Who fenced us.
        by: What the newcomer said of itself.
    """

    peer: str
    by: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """A master answered a lookup."""

    name: str
    info: dict[str, Any]


EndpointEvent = Accepted | FencedOut | Found


class _Opening:
    """A hello of ours under way."""

    __slots__ = ("asks", "due", "session", "tries")

    def __init__(self, session: Session, now: float, asks: bytes = b"") -> None:
        self.session = session
        self.asks = asks
        self.due = now
        self.tries = 0


class _HalfOpen:
    """A hello that we answered, and that is not proved yet."""

    __slots__ = ("answer", "greeting", "session", "until")

    def __init__(
        self, session: Session, greeting: Greeting, answer: bytes, until: float
    ) -> None:
        self.session = session
        self.greeting = greeting
        self.answer = answer
        self.until = until


class Endpoint:
    """All sessions at one address.

    Attributes:
        sessions: Those that envelopes are routed to, by id; the shell reads it.
        current: The one session of each peer's name.
        events: What happened; the shell takes them after each input.
        dropped: Envelopes that were nobody's.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.sessions: dict[bytes, Session] = {}
        self.current: dict[str, Session] = {}
        self.events: list[EndpointEvent] = []
        self.dropped = 0
        self._opening: dict[str, _Opening] = {}
        self._half_open: dict[bytes, _HalfOpen] = {}
        self._fenced: OrderedDict[bytes, None] = OrderedDict()
        self._ended: OrderedDict[bytes, None] = OrderedDict()
        self._contested: dict[str, bytes] = {}
        self._notices: dict[bytes, tuple[str, bytes, int, float]] = {}
        self._out: list[tuple[str, bytes]] = []
        self._number = 0
        self._tokens = float(_RATE)
        self._tokens_at = 0.0
        self._query: bytes | None = None
        self._leaving = False

    # -- opening --

    def connect(self, peer: str, now: float) -> Session:
        """Return the session with `peer`: the current one, or one being opened."""
        current = self.current.get(peer)
        if current is not None and current.phase is not Phase.OVER:
            return current
        opening = self._opening.get(peer)
        if opening is not None:
            return opening.session
        for half in self._half_open.values():
            # A hello that asks for another session may have been meant for another
            # program of our name, and then nobody goes on with our answer to it.
            if half.session.peer == peer and not half.greeting.asks:
                return half.session  # no own hello while half-open
        session = self._new_session(self.settings.random(16), peer)
        self._opening[peer] = _Opening(session, now)
        return session

    def abandon(self, session: Session, cause: BaseException, now: float) -> None:
        """Give up a session that has not opened yet."""
        opening = self._opening.get(session.peer)
        if opening is not None and opening.session is session:
            del self._opening[session.peer]
        session.end(cause, now, kind="refused")

    def _new_session(self, session: bytes, peer: str) -> Session:
        settings = self.settings
        terms = settings.terms
        wanted = heartbeat_of(len(self.sessions), terms.heartbeat)
        return Session(
            session,
            peer,
            # Ours, said in this handshake; agreed on, they are the session's.
            terms if wanted == terms.heartbeat else replace(terms, heartbeat=wanted),
            is_carried=settings.is_carried,
            new_token=settings.new_token,
            local=settings.name,
        )

    def look_up(self) -> None:
        """Ask the namespace who its masters are; answers come as `Found`."""
        self._query = self.settings.random(16)
        body = {"name": self.settings.name, "versions": [FLOOR, VERSION]}
        self._send(MASTERS, EnvelopeKind.LOOKUP, self._query, body)

    def _send(self, to: str, kind: EnvelopeKind, session: bytes, body: Any) -> bytes:
        self._number += 1
        envelope = pack(kind, session, self._number, body)
        self._out.append((to, envelope))
        return envelope

    # -- in --

    def receive(self, envelope: bytes, now: float) -> None:
        """Take an envelope that is not of a current session of ours."""
        header = read_header(envelope)
        if header is None:
            self.dropped += 1
            return
        try:
            if header.kind is EnvelopeKind.SEALED:
                self._take_sealed(header, envelope, now)
                return
            body = unpack(header, envelope)
            match header.kind:
                case EnvelopeKind.HELLO:
                    self._take_hello(header.session, body, now)
                case EnvelopeKind.WELCOME:
                    self._take_welcome(header.session, body, now)
                case EnvelopeKind.REFUSED:
                    self._take_refusal(header.session, body, now)
                case EnvelopeKind.UNKNOWN:
                    self._take_unknown(header.session, now)
                case EnvelopeKind.LOOKUP:
                    self._take_lookup(header.session, body, now)
                case EnvelopeKind.FOUND:
                    self._take_found(header.session, body)
                case EnvelopeKind.FENCED:
                    self._take_fenced(header.session, body, now)
                case EnvelopeKind.FENCED_TOO:
                    self._take_fenced_too(header.session)
                case _:
                    self.dropped += 1
        except (ValueError, KeyError, TypeError, AttributeError):
            self.dropped += 1  # anybody can write here; it is counted, not believed

    def _take_sealed(self, header: Header, envelope: bytes, now: float) -> None:
        half = self._half_open.get(header.session)
        if half is not None:
            session = half.session
            if not session.proved_by(envelope):
                self.dropped += 1  # of another handshake: a restart lies between
                return
            self._become_current(session, half.greeting, now, by_us=False)
            session.receive(envelope, now)
            return
        self.dropped += 1
        if header.lane is Lane.CONTROL and self._allowed(now):
            sender = check_name(read_trailer(envelope))
            self._send(sender, EnvelopeKind.UNKNOWN, header.session, {})

    def _allowed(self, now: float) -> bool:
        self._tokens = min(
            _RATE, self._tokens + max(0.0, now - self._tokens_at) * _RATE
        )
        self._tokens_at = now
        if self._tokens < 1:
            self.dropped += 1
            return False
        self._tokens -= 1
        return True

    # -- hello and its answers --

    def _take_hello(self, session: bytes, hello: Greeting, now: float) -> None:
        if self._leaving:
            return  # it is repeated, and perhaps answered by our successor
        half = self._half_open.get(session)
        if half is not None:
            self._out.append((hello.name, half.answer))  # the same hello again
            return
        if session in self.sessions or session in self._ended:
            return  # proved long ago; a hello never touches an existing session
        known = self.sessions.get(hello.asks)
        if known is not None and known.peer == hello.name:
            self._answer_known(session, hello)
            return
        refusal = self._refuse(hello, now)
        if refusal is not None:
            self._send(hello.name, EnvelopeKind.REFUSED, session, refusal)
            return
        opening = self._opening.get(hello.name)
        if opening is not None and self.settings.name < hello.name:
            return  # hellos crossed: theirs gives way to ours
        if opening is not None and not hello.asks:
            del self._opening[hello.name]
            own = opening.session
            own.renumber(session)
        else:
            own = self._new_session(session, hello.name)
        self._answer(own, hello, now)

    def _answer(self, own: Session, hello: Greeting, now: float) -> None:
        terms = agree(own.terms, hello.terms, min(VERSION, hello.version))
        greeting = Greeting(
            self.settings.name,
            self.settings.incarnation,
            terms,
            self.settings.info,
            floor=terms.version,
            version=terms.version,
        )
        own.secure(self._secret(hello))
        answer = self._send(hello.name, EnvelopeKind.WELCOME, own.id, greeting)
        mine = [h for h in self._half_open.values() if h.session.peer == hello.name]
        if len(mine) >= _HALF_OPEN_PER_NAME:
            oldest = mine[0]
            del self._half_open[oldest.session.id]
            self._lost_half(oldest, now)
        if len(self._half_open) < _HALF_OPEN_AT_ALL:
            self._half_open[own.id] = _HalfOpen(
                own, hello, answer, now + _HALF_OPEN_FOR
            )

    def _answer_known(self, session: bytes, hello: Greeting) -> None:
        greeting = Greeting(
            self.settings.name,
            self.settings.incarnation,
            self.settings.terms,
            self.settings.info,
            asks=hello.asks,
            knows=True,
        )
        self._send(hello.name, EnvelopeKind.WELCOME, session, greeting)

    def _refuse(self, hello: Greeting, now: float) -> Refusal | None:
        if hello.version < FLOOR or hello.floor > VERSION:
            return Refusal(
                self.settings.name,
                RefusalReason.VERSION,
                f"{self.settings.name!r} speaks versions {FLOOR} to {VERSION} of the "
                f"protocol, {hello.name!r} {hello.floor} to {hello.version}: upgrade "
                "the older one",
            )
        if hello.incarnation in self._fenced:
            return Refusal(
                self.settings.name,
                RefusalReason.FENCED,
                f"another program has taken the name {hello.name!r}",
            )
        if self._in_use(hello.name, hello.incarnation):
            return Refusal(
                self.settings.name,
                RefusalReason.NAME_IN_USE,
                f"the name {hello.name!r} is in use by a living program; two were "
                "seen under it. Stop one, or give it another name",
            )
        return None

    def _in_use(self, name: str, incarnation: bytes) -> bool:
        holder = self._contested.get(name)
        if holder is None or holder == incarnation:
            return False
        current = self.current.get(name)
        if current is not None and current.phase is Phase.OPEN:
            return current.peer_incarnation != incarnation
        del self._contested[name]
        return False

    def _take_welcome(self, session: bytes, welcome: Greeting, now: float) -> None:
        opening = self._opening.get(welcome.name)
        if opening is None or opening.session.id != session:
            return
        if welcome.knows:
            self._take_known(opening, welcome, now)
            return
        if welcome.incarnation in self._fenced:
            return  # law 14: never again, whoever asked
        if self._in_use(welcome.name, welcome.incarnation):
            return
        if not FLOOR <= welcome.version <= VERSION:
            self.abandon(
                opening.session,
                RemoteProtocolError(
                    f"{welcome.name!r} chose version {welcome.version} of the "
                    f"protocol; this side speaks {FLOOR} to {VERSION}"
                ),
                now,
            )
            return
        opening.session.secure(self._secret(welcome))
        self._become_current(opening.session, welcome, now, by_us=True)

    def _secret(self, theirs: Greeting) -> bytes:
        """Return what both sides of this handshake know, and no earlier process."""
        return b"".join(sorted((self.settings.incarnation, theirs.incarnation)))

    def _take_known(self, opening: _Opening, welcome: Greeting, now: float) -> None:
        """The peer still has the session we asked for: nothing is replaced."""
        if not opening.asks or welcome.asks != opening.asks:
            return
        known = self.sessions.get(opening.asks)
        if (known is None or known.phase is Phase.OVER) and len(
            opening.session.calling
        ):
            # It ended meanwhile, and calls wait for a new one: ask for that.
            opening.asks = b""
            opening.due = now
            opening.session.renumber(self.settings.random(16))
            return
        cause = ChannelBroken(f"the session with {welcome.name!r} goes on")
        self.abandon(opening.session, cause, now)

    def _take_refusal(self, session: bytes, refusal: Refusal, now: float) -> None:
        opening = self._opening.get(refusal.name)
        leaves = refusal.code == RefusalReason.LEAVING
        if opening is None or opening.session.id != session:
            if leaves:
                self._take_leaving(session, refusal, now)
            return
        error = HelloRefused(refusal.message, refusal.code)
        self.abandon(opening.session, _left(refusal) if leaves else error, now)
        if opening.asks:
            return
        if refusal.code == RefusalReason.FENCED:
            self.events.append(FencedOut(refusal.name, {}))

    def _take_leaving(self, session: bytes, refusal: Refusal, now: float) -> None:
        """The peer leaves, and never had the session that its answer opened here.

        It is no proof. But who could forge it could have kept the answer away as well,
        and a session in which the peer has sealed something is not ended by it.
        """
        current = self.current.get(refusal.name)
        if current is not None and current.id == session and not current.heard:
            current.end(_left(refusal), now, kind="closed")

    def _become_current(
        self, session: Session, theirs: Greeting, now: float, *, by_us: bool
    ) -> None:
        """The peer is proved: drop other handshakes of its name, fence the old."""
        name = session.peer
        opening = self._opening.pop(name, None)
        for each in [h for h in self._half_open.values() if h.session.peer == name]:
            del self._half_open[each.session.id]
            if each.session is not session:
                self._lost_half(each, now)
        if opening is not None and opening.session is not session:
            opening.session.end(
                ChannelBroken(f"a newer session with {name!r} has replaced this one"),
                now,
                kind="refused",
            )
        old = self.current.get(name)
        if old is not None and old is not session:
            self._replace(old, theirs, now)
        self.sessions[session.id] = session
        self.current[name] = session
        terms = agree(session.terms, theirs.terms, min(VERSION, theirs.version))
        session.opened(terms, theirs.info, theirs.incarnation, now)
        if by_us and self.settings.idle is not None:
            session.rest.begin(now, self.settings.idle)
        self.events.append(Accepted(session, by_us))

    def _replace(self, old: Session, theirs: Greeting, now: float) -> None:
        restarted = old.peer_incarnation != theirs.incarnation
        if restarted and old.phase is not Phase.OVER:
            self._fence(old, theirs, now)
        old.end(
            PeerLost(
                f"{old.peer!r} came back as a new process"
                if restarted
                else f"{old.peer!r} has lost the session and opened a new one"
            ),
            now,
            kind="fenced" if restarted else "lost",
        )

    def _fence(self, old: Session, theirs: Greeting, now: float) -> None:
        _remember(self._fenced, old.peer_incarnation)
        body = {"incarnation": theirs.incarnation, "info": theirs.info}
        envelope = self._send(old.peer, EnvelopeKind.FENCED, old.id, body)
        self._notices[old.id] = (old.peer, envelope, 3, now + 1.0)

    def _lost_half(self, half: _HalfOpen, now: float) -> None:
        half.session.end(
            ChannelBroken(f"{half.session.peer!r} did not go on with its hello"),
            now,
            kind="refused",
        )

    def leave(self, now: float) -> None:
        """Refuse what is half-open, and be as one who is not there to newcomers."""
        self._leaving = True
        halves, self._half_open = list(self._half_open.values()), {}
        message = f"{self.settings.name!r} has left before the session was open"
        refusal = Refusal(self.settings.name, RefusalReason.LEAVING, message)
        for half in halves:
            self._send(
                half.session.peer, EnvelopeKind.REFUSED, half.session.id, refusal
            )
            self._lost_half(half, now)

    # -- fenced, unknown, lookups --

    def _take_fenced(self, session: bytes, body: dict[str, Any], now: float) -> None:
        current = self.sessions.get(session)
        if current is None or body["incarnation"] == self.settings.incarnation:
            return
        self._send(current.peer, EnvelopeKind.FENCED_TOO, session, {})
        if current.phase is Phase.OVER:
            return
        info = body["info"] if type(body["info"]) is dict else {}
        current.end(
            PeerLost(f"another program has taken the name {self.settings.name!r}"),
            now,
            kind="fenced",
        )
        self.events.append(FencedOut(current.peer, info))

    def _take_fenced_too(self, session: bytes) -> None:
        notice = self._notices.pop(session, None)
        if notice is None:
            return
        current = self.current.get(notice[0])
        if current is not None:
            self._contested[notice[0]] = current.peer_incarnation

    def _take_unknown(self, session: bytes, now: float) -> None:
        known = self.sessions.get(session)
        if known is None:
            return
        if known.phase is Phase.CLOSING:
            known.parted(now)
            return
        if known.phase is Phase.OVER or known.peer in self._opening:
            return
        if any(half.session.peer == known.peer for half in self._half_open.values()):
            return
        fresh = self._new_session(self.settings.random(16), known.peer)
        self._opening[known.peer] = _Opening(fresh, now, asks=session)

    def _take_lookup(self, query: bytes, body: dict[str, Any], now: float) -> None:
        answers = self.settings.answers
        if answers is None or self._leaving or not self._allowed(now):
            return
        name = check_name(body["name"])
        reply = {
            "name": self.settings.name,
            "info": answers,
            "versions": [FLOOR, VERSION],
        }
        self._send(name, EnvelopeKind.FOUND, query, reply)

    def _take_found(self, query: bytes, body: dict[str, Any]) -> None:
        if query == self._query and type(body["info"]) is dict:
            self.events.append(Found(check_name(body["name"]), body["info"]))

    # -- out and time --

    @property
    def unsaid(self) -> bool:
        """Something waits to be pulled."""
        return bool(self._out)

    def next_envelope(self, now: float) -> tuple[str, bytes] | None:
        """Return what is to be sent next, with the peer it goes to."""
        for peer, opening in self._opening.items():
            if opening.due <= now:
                opening.tries += 1
                self._number += 1
                # 0.25 s to 5 s, and never the same in two processes.
                pause = min(0.125 * 2**opening.tries, 5.0)
                jitter = self.settings.random(1)[0] / 256
                opening.due = now + pause * (0.75 + jitter / 2)
                return peer, self._hello(opening)
        for session, (peer, envelope, left, due) in list(self._notices.items()):
            if due <= now:
                if left <= 0:
                    del self._notices[session]
                    continue
                self._notices[session] = (peer, envelope, left - 1, now + 1.0)
                return peer, envelope
        return self._out.pop(0) if self._out else None

    def _hello(self, opening: _Opening) -> bytes:
        settings = self.settings
        greeting = Greeting(
            settings.name,
            settings.incarnation,
            opening.session.terms,
            settings.info,
            asks=opening.asks,
        )
        return pack(EnvelopeKind.HELLO, opening.session.id, self._number, greeting)

    def wake_at(self, now: float) -> float | None:
        """Return when `next_envelope` or `tick` has something to do."""
        if self._out:
            return now
        times = [opening.due for opening in self._opening.values()]
        times += [half.until for half in self._half_open.values()]
        times += [notice[3] for notice in self._notices.values()]
        return min(times, default=None)

    def tick(self, now: float) -> None:
        """Drop hellos that were never proved; ask ourselves where somebody waits."""
        for key, half in list(self._half_open.items()):
            if half.until > now:
                continue
            del self._half_open[key]
            session = half.session
            if len(session.calling) and session.peer not in self._opening:
                session.renumber(self.settings.random(16))
                self._opening[session.peer] = _Opening(session, now)
            else:
                self._lost_half(half, now)

    def forget(self, session: Session) -> None:
        """The shell is done with a session that is over.

        Its id is remembered, so that a late copy of its hello does not begin it anew.
        """
        _remember(self._ended, session.id)
        if self.sessions.get(session.id) is session:
            del self.sessions[session.id]
        if self.current.get(session.peer) is session:
            del self.current[session.peer]


def _left(refusal: Refusal) -> PeerLost:
    return PeerLost(refusal.message, executed="no")


def _remember(table: OrderedDict[bytes, None], key: bytes) -> None:
    table[key] = None
    while len(table) > _REMEMBERED:
        table.popitem(last=False)
