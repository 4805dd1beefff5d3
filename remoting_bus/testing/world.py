"""Peers in virtual time over a network that loses, repeats, reorders, delays and cuts.

Everything a session consists of, without I/O: endpoints, sessions, their bulk halves and
the crossings between. One seed gives one history. `tests/protocol/test_storms.py` and
`scripts/storm.py` drive it; it must not know what they check.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from remoting_bus.protocol.crossing import Batch
from remoting_bus.protocol.endpoint import Endpoint, EndpointEvent, Settings
from remoting_bus.protocol.envelope import EnvelopeKind, read_header, read_session
from remoting_bus.protocol.session import Session
from remoting_bus.protocol.standby import Standby, opening_of
from remoting_bus.protocol.terms import Event, Terms

__all__ = ["Network", "Peer", "World"]


@dataclass
class Network:
    """What the network does to a message.

    Attributes:
        drop, duplicate, reorder: Probabilities, of each message.
        delay: Seconds, the longest; half of it is the shortest.
        down: Names of connections that are cut: (peer, "call" or "bulk").
    """

    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    delay: float = 0.01
    crossing_delay: float = 0.0
    down: set[tuple[str, str]] = field(default_factory=set)


class Peer:
    """One peer: its endpoint, the halves of its sessions, and its crossings.

    Attributes:
        events: Called with each event of a session, or of the endpoint.
    """

    def __init__(
        self,
        world: World,
        name: str,
        terms: Terms,
        carried: Callable[[str], bool],
        idle: float | None,
    ) -> None:
        self.world = world
        self.name = name
        dice = random.Random(world.dice.random())  # noqa: S311 - one seed, one history
        tokens = itertools.count(1)
        self.endpoint = Endpoint(
            Settings(
                name=name,
                incarnation=dice.randbytes(16),
                terms=terms,
                info={"name": name},
                random=dice.randbytes,
                new_token=lambda: next(tokens),
                is_carried=carried,
                idle=idle,
            )
        )
        self.standbys: dict[bytes, Standby] = {}
        self.finished: list[Session] = []
        self.on_event: Callable[[Session, Event], None] = lambda session, event: None
        self.on_endpoint: Callable[[EndpointEvent], None] = lambda event: None
        self._down: list[tuple[float, bytes, Batch]] = []
        self._up: list[tuple[float, bytes, Batch]] = []
        self._opening: list[Session] = []

    def connect(self, peer: str) -> Session:
        """Return the session with a peer, opening it where there is none."""
        session = self.endpoint.connect(peer, self.world.now)
        if session not in self._opening:
            self._opening.append(session)
        self.world.touch(self)
        return session

    # -- in --

    def deliver(self, kind: str, body: bytes) -> None:
        """Take a message from one of the two connections."""
        now = self.world.now
        if kind == "call":
            self._take_up(force=True)
            session = self.endpoint.sessions.get(read_session(body))
            header = read_header(body)
            if session is not None and header and header.kind is EnvelopeKind.SEALED:
                session.receive(body, now)
            else:
                self.endpoint.receive(body, now)
        else:
            self._take_down(force=True)
            standby = self.standbys.get(read_session(body))
            if standby is not None:
                standby.receive(body, now)

    def link(self, kind: str, up: bool) -> None:
        """Tell the halves of a connection that it went down or came back."""
        halves: list[Session | Standby]
        if kind == "call":
            halves = [*self.endpoint.sessions.values()]
        else:
            halves = [*self.standbys.values()]
        for half in halves:
            half.link(up, self.world.now)

    # -- a turn --

    def turn(self) -> None:
        """Do all that can be done now."""
        now = self.world.now
        for _ in range(10_000):
            busy = self._take_down() | self._take_up()
            self.endpoint.tick(now)
            for session in self._sessions():
                self._tick(session)
            for standby in self.standbys.values():
                self._tick(standby)
            busy |= self._drain() | self._pull()
            if not busy:
                return
        raise AssertionError(f"{self.name} never comes to rest")

    def _sessions(self) -> list[Session]:
        self._opening = [
            each
            for each in self._opening
            if each.id not in self.endpoint.sessions and not each.over
        ]
        return [*self.endpoint.sessions.values(), *self._opening]

    def _tick(self, half: Session | Standby) -> None:
        at = half.wake_at(self.world.now)
        if at is not None and at <= self.world.now:
            half.tick(self.world.now)

    def _drain(self) -> bool:
        busy = False
        for session in self._sessions():
            while session.events:
                event = session.events.pop(0)
                self.on_event(session, event)
                busy = True
        while self.endpoint.events:
            self.on_endpoint(self.endpoint.events.pop(0))
            busy = True
        return busy

    def _pull(self) -> bool:
        now, busy = self.world.now, False
        while (out := self.endpoint.next_envelope(now)) is not None:
            self.world.send(self, "call", out[0], out[1])
            busy = True
        for session in self._sessions():
            while True:
                envelope = session.next_envelope(now)
                busy |= self._put(session.take_batch(), session.id, self._down)
                if envelope is None:
                    break
                busy = True
                self.world.send(self, "call", session.peer, envelope)
            if session.over and not session.events:
                self.endpoint.forget(session)
                self.finished.append(session)
        for standby in list(self.standbys.values()):
            while True:
                envelope = standby.next_envelope(now)
                busy |= self._put(standby.take_batch(), standby.id, self._up)
                if envelope is None:
                    break
                busy = True
                self.world.send(self, "bulk", standby.peer, envelope)
            if standby.over:
                del self.standbys[standby.id]
        return busy

    def _put(
        self,
        batch: Batch | None,
        session: bytes,
        crossing: list[tuple[float, bytes, Batch]],
    ) -> bool:
        if batch is None:
            return False
        network = self.world.network
        delay = self.world.dice.random() * network.crossing_delay
        at = max(self.world.now + delay, crossing[-1][0] if crossing else 0.0)
        crossing.append((at, session, batch))
        self.world.at(at, self)
        return True

    def _take_down(self, force: bool = False) -> bool:
        busy = False
        while self._down and (force or self._down[0][0] <= self.world.now):
            _, session, batch = self._down.pop(0)
            busy = True
            standby = self.standbys.get(session)
            if standby is None:
                opening = opening_of(batch)
                if opening is None:
                    continue
                standby = self.standbys[session] = Standby(opening)
            standby.cross(batch, self.world.now)
        return busy

    def _take_up(self, force: bool = False) -> bool:
        busy = False
        while self._up and (force or self._up[0][0] <= self.world.now):
            _, session, batch = self._up.pop(0)
            busy = True
            half = self.endpoint.sessions.get(session)
            if half is not None:
                half.cross(batch, self.world.now)
        return busy

    def wake_at(self) -> float | None:
        """Return when something is due here."""
        now = self.world.now
        halves: list[Session | Standby] = [*self._sessions(), *self.standbys.values()]
        times = [half.wake_at(now) for half in halves]
        times.append(self.endpoint.wake_at(now))
        return min((at for at in times if at is not None), default=None)


class World:
    """All peers, the network and the clock.

    Args:
        seed: Gives the history.
        network: What happens to messages; may be changed at any time.
    """

    def __init__(self, seed: int, network: Network | None = None) -> None:
        self.dice = random.Random(seed)  # noqa: S311 - one seed, one history
        self.network = network or Network()
        self.now = 1000.0
        self.peers: dict[str, Peer] = {}
        self.sent = 0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._tie = itertools.count()
        self._last: dict[tuple[str, str, str], float] = {}
        self._touched: set[str] = set()

    def peer(
        self,
        name: str,
        terms: Terms | None = None,
        carried: Callable[[str], bool] = lambda name: False,
        idle: float | None = None,
    ) -> Peer:
        """Add a peer, or restart one: the old process is gone without a word."""
        peer = Peer(self, name, terms or Terms(), carried, idle)
        self.peers[name] = peer
        return peer

    def touch(self, peer: Peer) -> None:
        """Give a peer a turn."""
        self.at(self.now, peer)

    def at(self, when: float, peer: Peer) -> None:
        """Give a peer a turn then."""
        heapq.heappush(self._queue, (when, next(self._tie), lambda: self._turn(peer)))

    def _turn(self, peer: Peer) -> None:
        if self.peers.get(peer.name) is peer:
            peer.turn()

    def send(self, sender: Peer, kind: str, to: str, body: bytes) -> None:
        """Hand a message to the network."""
        self.sent += 1
        network, dice = self.network, self.dice
        if dice.random() < network.drop:
            return
        for _ in range(2 if dice.random() < network.duplicate else 1):
            at = self.now + network.delay * (0.5 + dice.random() / 2)
            way = (sender.name, to, kind)
            if dice.random() >= network.reorder:
                at = max(at, self._last.get(way, 0.0))
                self._last[way] = at
            else:
                at += network.delay * 3 * dice.random()
            item = (at, next(self._tie), self._arrival(sender.name, kind, to, body))
            heapq.heappush(self._queue, item)

    def _arrival(
        self, sender: str, kind: str, to: str, body: bytes
    ) -> Callable[[], None]:
        def arrive() -> None:
            down = self.network.down
            peer = self.peers.get(to)
            if peer is None or (to, kind) in down or (sender, kind) in down:
                return
            peer.deliver(kind, body)
            peer.turn()

        return arrive

    def cut(self, peer: str, kind: str) -> None:
        """Take a connection of a peer down; its driver notices."""
        if (peer, kind) not in self.network.down:
            self.network.down.add((peer, kind))
            self.peers[peer].link(kind, False)
            self.touch(self.peers[peer])

    def heal(self, peer: str, kind: str) -> None:
        """Bring it back."""
        if (peer, kind) in self.network.down:
            self.network.down.discard((peer, kind))
            self.peers[peer].link(kind, True)
            self.touch(self.peers[peer])

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass, until something is true.

        Returns:
            Whether it became true.
        """
        end = self.now + seconds
        for _ in range(1_000_000):
            if until():
                return True
            due = [at for p in self.peers.values() if (at := p.wake_at()) is not None]
            following = self._queue[0][0] if self._queue else None
            nearest = min(due, default=None)
            if following is None and nearest is None:
                break
            if nearest is None or (following is not None and following <= nearest):
                assert following is not None
                if following > end:
                    break
                when, _, action = heapq.heappop(self._queue)
                self.now = max(self.now, when)
                action()
            else:
                if nearest > end:
                    break
                self.now = max(self.now, nearest)
                for peer in list(self.peers.values()):
                    at = peer.wake_at()
                    if at is not None and at <= self.now:
                        peer.turn()
                        after = peer.wake_at()
                        if after is not None and after <= self.now:
                            self.now += 1e-4  # a timer that fires just now again
        else:
            raise AssertionError("a million events without rest")
        self.now = max(self.now, end)
        return until()
