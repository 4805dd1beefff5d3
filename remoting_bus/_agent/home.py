"""How an agent finds its master, and stays with it.

It asks the namespace who its masters are, keeps one session with one of them, its home,
and asks again when that is over. Which one is decided by a hash of both names, so that a
fleet spreads evenly over its masters and comes back to the same ones. A home that is
silent is waited for; only where another master answers a lookup and the home does not,
again and again, is it left for that one. Owns the pauses between tries: with jitter, so
that a fleet does not knock all at once. It must not know what an agent serves.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Callable, Iterable
from typing import Any

import anyio

from remoting_bus._loop import current_loop
from remoting_bus._remote.fleet import HOME, SETTLE
from remoting_bus.channel.link import Link
from remoting_bus.channel.node import Node
from remoting_bus.errors import CallRefused, NameTaken, RemotingError
from remoting_bus.protocol.calls import OutcomeKind, OutgoingCall
from remoting_bus.protocol.codec import encode
from remoting_bus.protocol.handshake import HelloRefused
from remoting_bus.protocol.terms import Phase, PhaseChanged

__all__ = ["Home"]

LOOKUP_TIMEOUT = 1.0
"""Seconds in which masters answer; a round trip of a slow broker, with room."""

SETTLE_TIMEOUT = 10.0
"""Seconds that a master which answered a lookup has for the handshake."""

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 5.0
"""Seconds between lookups, doubled each time; each is drawn from its upper half."""

SILENCE = 10.0
"""Seconds that a home is silent, beyond what suspends a session, before others are
asked for."""

SILENT_LOOKUPS = 3
"""Lookups in a row that others answer and the home does not, before it is left."""

LAST_WORD = 1.0
"""Seconds that a fenced agent stays, so that its acknowledgement is out: that is what
shows its master two living programs, and keeps them from taking turns (law 14)."""

_logger = logging.getLogger("remoting_bus")


class Home:
    """The home of one agent, while it runs.

    Args:
        name: The agent's.
        node: Its node.
        on_home: Called each time that a home was found.
        dice: For the pauses.

    Attributes:
        link: The session with the home; None while there is none.
        last: The name of the home, or of the last one.
    """

    def __init__(
        self,
        name: str,
        node: Node,
        on_home: Callable[[Link], None],
        dice: random.Random,
    ) -> None:
        self._name = name
        self._node = node
        # What it says of itself in each handshake from now on.
        self._info = node.endpoint.settings.info
        self._on_home = on_home
        self._dice = dice
        self.last = ""
        self._changed = current_loop().signal()
        self.link: Link | None = None

    def changed(self, link: Link, change: PhaseChanged) -> None:
        """A session's phase changed: for the node."""
        if link is self.link:
            self._changed.set()

    async def keep(self) -> None:
        """Find a home, stay, find one again; for ever.

        Raises:
            NameTaken: Our home says that another program runs under our name (law 14).
            ChannelBroken: The bus is gone for good.
        """
        pause = FIRST_PAUSE
        while True:
            link = await self._find()
            if link is None:
                await anyio.sleep(self._dice.uniform(pause / 2, pause))
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            pause = FIRST_PAUSE
            self.link, self.last = link, link.peer
            link.keep()
            _logger.info("agent %s: master %s is home", self._name, link.peer)
            self._on_home(link)
            await self._stay(link)
            self.link, self._info[HOME] = None, ""
            link.let_go()
            await self._check_fenced(link)
            # All agents of a master that has gone notice within a moment.
            await anyio.sleep(self._dice.uniform(0.0, FIRST_PAUSE))

    async def _check_fenced(self, link: Link) -> None:
        fenced = self._node.fenced
        if link.phase is Phase.OVER and fenced is not None and fenced.peer == link.peer:
            await anyio.sleep(LAST_WORD)
            by = _described(fenced.by)
            raise NameTaken(
                f"agent {self._name!r} has stopped: another program has taken its name "
                f"at master {link.peer!r}: {by}. Give one of them another name; starting "
                "this one again would end the other",
                name=self._name,
                by=by,
            )

    # -- finding --

    async def _find(self) -> Link | None:
        names = [
            found.name for found in await self._node.look_up(timeout=LOOKUP_TIMEOUT)
        ]
        if not names:
            _logger.info("agent %s: no master answers", self._name)
            return None
        return await self._settle(self._choose(names))

    def _choose(self, names: Iterable[str]) -> str:
        """Return the last home if it answers, else the one of the highest hash."""
        return max(names, key=lambda name: (name == self.last, _rank(self._name, name)))

    async def _settle(self, master: str) -> Link | None:
        """Open the session with a master as our home, or say why not."""
        self._info[HOME] = master
        try:
            link = await self._node.connect(master, timeout=SETTLE_TIMEOUT)
            await self._announce(link)
        except CallRefused as refused:
            if isinstance(refused, HelloRefused) and refused.about_our_name:
                raise NameTaken(
                    f"master {master!r} refuses agent {self._name!r}: {refused}",
                    name=self._name,
                ) from refused
            _logger.warning("agent %s: %s", self._name, refused)
        except RemotingError as error:
            self._node.pair.check()  # raises, if it is the bus that is gone for good
            _logger.info("agent %s: master %s: %s", self._name, master, error)
        else:
            return link
        self._info[HOME] = ""
        return None

    async def _announce(self, link: Link) -> None:
        """Tell a master that it is our home, so that it knows us when we say "joined"."""
        call = OutgoingCall(SETTLE, encode([[], {}]))
        with anyio.fail_after(SETTLE_TIMEOUT):
            link.start(call)
            try:
                outcome = await link.wait(call)
            except BaseException:
                link.forget(call)
                raise
        if outcome.kind is not OutcomeKind.RETURNED:
            raise CallRefused(f"{link.peer!r} is no home: {outcome.message}")

    # -- staying --

    async def _stay(self, link: Link) -> None:
        """Return when the session is over, or the home is silent and another is not."""
        missed = 0
        while link.phase is not Phase.OVER:
            if link.phase is not Phase.SUSPENDED:
                missed = 0
                await self._changed.wait()
                continue
            with anyio.move_on_after(self._dice.uniform(SILENCE / 2, SILENCE)):
                await self._changed.wait()
                continue
            found = await self._node.look_up(timeout=LOOKUP_TIMEOUT)
            names = {each.name for each in found}
            missed = missed + 1 if names and link.peer not in names else 0
            if missed >= SILENT_LOOKUPS and link.phase is Phase.SUSPENDED:
                _logger.warning(
                    "agent %s: master %s is silent, and %s answers: leaving it",
                    self._name,
                    link.peer,
                    ", ".join(sorted(names)),
                )
                return


def _rank(agent: str, master: str) -> bytes:
    return hashlib.blake2b(f"{agent}|{master}".encode(), digest_size=8).digest()


def _described(info: dict[str, Any]) -> str:
    """Return what a newcomer said of itself, as a person reads it."""
    if not info:
        return "a program that says nothing of itself"
    host, pid, version = (
        str(info.get(key, "?"))[:255] for key in ("host", "pid", "version")
    )
    return f"process {pid} on {host} (remoting-bus {version or '?'})"
