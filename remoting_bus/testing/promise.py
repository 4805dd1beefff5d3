"""What a promise is, and the table of all: `promises` and `log_promises` fill it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from .probe import Probe

__all__ = ["PROMISES", "Check", "Promise", "promise"]

Check = Callable[[Probe], Awaitable[None]]
"""Raises AssertionError where the promise is broken, or does not end."""


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise.

    Attributes:
        name: Short, for reports.
        text: The contract's words.
        check: Tries it.
    """

    name: str
    text: str
    check: Check


PROMISES: dict[str, Promise] = {}
"""All promises by name, in the order in which they are tried."""


def promise(name: str, text: str) -> Callable[[Check], Check]:
    """Enter the decorated check into the table."""

    def enter(check: Check) -> Check:
        PROMISES[name] = Promise(name, text, check)
        return check

    return enter
