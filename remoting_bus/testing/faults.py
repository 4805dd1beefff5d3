"""Faults for tests of programs, aimed at kinds of frames: what `remoting_faults` is.

Owns the rules, and how a message is recognised; `faulty` does the damage. The protocol
underneath is the real one, so a test sees what a bad network does to its program.

    remoting_faults.drop("returned", times=1)      # the next answer is lost, once
    remoting_faults.delay(0.2, "call")             # every call is late
    remoting_faults.duplicate(chance=0.3)          # anything, now and then
    remoting_faults.cut(); ...; remoting_faults.heal()
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Literal

from remoting_bus.bus import Backend
from remoting_bus.names import Address, Lane
from remoting_bus.protocol.codec import DecodeError, decode
from remoting_bus.protocol.envelope import (
    HEADER_BYTES,
    EnvelopeKind,
    cut_trailer,
    read_header,
)
from remoting_bus.protocol.frames import FrameKind

from .faulty import Faults, FaultyBackend

__all__ = ["KINDS", "RemotingFaults", "kinds_of"]

CHECKSUM_BYTES = 4
"""What `PlainSeal` appends."""

Fault = Literal["drop", "duplicate", "reorder", "delay"]
_FAULTS: tuple[Fault, ...] = ("drop", "duplicate", "reorder", "delay")

KINDS = frozenset(kind.name.lower() for kind in FrameKind) | {
    kind.name.lower() for kind in EnvelopeKind if kind is not EnvelopeKind.SEALED
}
"""The names by which rules aim: frames ("call", "returned", "cancel", "data" …) and
envelopes without any ("hello", "welcome", "beat" …)."""


def kinds_of(body: bytes) -> set[str]:
    """Return the kinds of what is in a bus message; nothing for state alone."""
    header = read_header(body)
    if header is None:
        return set()
    if header.kind is not EnvelopeKind.SEALED:
        return {header.kind.name.lower()}
    try:
        sealed = cut_trailer(body) if header.lane is Lane.CONTROL else body
        # The seal of today is a checksum at the end: what stands before it is in clear.
        _, _, _, _, _, *frames = decode(sealed[HEADER_BYTES:-CHECKSUM_BYTES])
        return {FrameKind(frame[0]).name.lower() for frame in frames}
    except (DecodeError, ValueError, TypeError, IndexError):
        return set()


class _Rule:
    """Aims one fault; rolls dice of its own, so that `times` counts what was hit."""

    def __init__(
        self,
        kinds: tuple[str, ...],
        chance: float,
        times: int | None,
        sender: str | None,
        dice: random.Random,
    ) -> None:
        unknown = sorted(set(kinds) - KINDS)
        if unknown:
            raise ValueError(
                f"no frame is called {', '.join(map(repr, unknown))}; "
                f"there are: {', '.join(sorted(KINDS))}"
            )
        if not 0 <= chance <= 1:
            raise ValueError(f"chance is {chance}: from 0 to 1")
        self.kinds = frozenset(kinds)
        self.chance = chance
        self.left = times
        self.sender = sender
        self.dice = dice

    def chooses(self, to: Address, lane: Lane, body: bytes) -> bool:
        if self.left == 0 or (self.sender is not None and to.sender != self.sender):
            return False
        if self.kinds and not self.kinds & kinds_of(body):
            return False
        if self.dice.random() >= self.chance:
            return False
        if self.left is not None:
            self.left -= 1
        return True


def _nobody(to: Address, lane: Lane, body: bytes) -> bool:
    return False


class RemotingFaults:
    """Switches for the network between the programs of a test.

    Each of the four methods of messages takes kinds from `KINDS` (none: all messages)
    and replaces what was said of its fault before.

    Args:
        seed: Of the dice.
    """

    def __init__(self, seed: int = 0) -> None:
        self._dice = random.Random(seed)  # noqa: S311 - dice of a test
        self._counts: Counter[str] = Counter()
        self._faults = {
            name: Faults(seed=seed, only=_nobody, counts=self._counts)
            for name in _FAULTS
        }

    def drop(
        self,
        *kinds: str,
        chance: float = 1.0,
        times: int | None = None,
        sender: str | None = None,
    ) -> None:
        """Lose messages.

        Args:
            kinds: Only messages with one of these in them.
            chance: That one of them is hit.
            times: How many are hit at most; None: no limit.
            sender: Only what this program sends.
        """
        rule = _Rule(kinds, chance, times, sender, self._dice)
        self._aim("drop", rule).drop = 1.0

    def duplicate(
        self,
        *kinds: str,
        chance: float = 1.0,
        times: int | None = None,
        sender: str | None = None,
    ) -> None:
        """Let messages come twice; see `drop`."""
        rule = _Rule(kinds, chance, times, sender, self._dice)
        self._aim("duplicate", rule).duplicate = 1.0

    def reorder(
        self,
        *kinds: str,
        chance: float = 1.0,
        times: int | None = None,
        sender: str | None = None,
    ) -> None:
        """Let later messages overtake; see `drop`."""
        rule = _Rule(kinds, chance, times, sender, self._dice)
        self._aim("reorder", rule).reorder = 1.0

    def delay(
        self,
        seconds: float,
        *kinds: str,
        chance: float = 1.0,
        times: int | None = None,
        sender: str | None = None,
    ) -> None:
        """Let messages be late, in their order; see `drop`."""
        rule = _Rule(kinds, chance, times, sender, self._dice)
        self._aim("delay", rule).delay = seconds

    def _aim(self, name: Fault, rule: _Rule) -> Faults:
        faults = self._faults[name]
        faults.only = rule.chooses
        return faults

    def calm(self) -> None:
        """Take all rules back; what is held still comes."""
        for faults in self._faults.values():
            faults.only = _nobody
            faults.calm()

    def cut(self, cause: str = "cut by a test") -> None:
        """Take the links of all programs down."""
        self._faults["drop"].cut(cause)

    def heal(self) -> None:
        """Bring them up again."""
        self._faults["drop"].heal()

    @property
    def counts(self) -> Counter[str]:
        """What was done: "dropped", "duplicated", "reordered", "delayed", "cut"."""
        return self._counts.copy()

    def wrap(self, backend: Backend) -> Backend:
        """Return a driver with these faults."""
        wrapped: Callable[[Backend, Faults], Backend] = FaultyBackend
        # The link's switch is innermost: what is held outside it waits, and is not lost.
        for name in _FAULTS:
            backend = wrapped(backend, self._faults[name])
        return backend
