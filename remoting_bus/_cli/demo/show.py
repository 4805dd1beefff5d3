"""How the demo tells what it does: lines for people, a document for programs.

Owns what a step gives back, and its looks. It must not know any step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from remoting_bus._cli.output import Output
from remoting_bus._remote.context import Progress

__all__ = ["Done", "Show", "Skipped", "Unexpected", "expect"]


class Unexpected(Exception):
    """A step saw something else than it should."""


class Skipped(Exception):
    """A step cannot be done here; the message says why."""


def expect(truth: object, otherwise: str) -> None:
    """Check what a step saw.

    Raises:
        Unexpected: It is not so.
    """
    if not truth:
        raise Unexpected(otherwise)


@dataclass(frozen=True, slots=True)
class Done:
    """What a step did, and what it measured.

    Attributes:
        did: One sentence, with the figures that matter.
        measured: The same figures by name, units in the names.
    """

    did: str
    measured: dict[str, Any] = field(default_factory=dict)


class Show:
    """Tells of the steps as they go."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._steps: list[dict[str, Any]] = []

    @property
    def failed(self) -> bool:
        """Whether a step was not as expected."""
        return any(each["ok"] is False for each in self._steps)

    def say(self, text: str) -> None:
        """Tell what is about to be done, or what came."""
        if not self._output.as_json:
            self._output.line(text)

    def done(self, name: str, done: Done) -> None:
        """A step is as expected."""
        self._add(name, True, done.did, done.measured)
        self.say(f"  {self._mark('ok', 'green')} {done.did}")

    def skipped(self, name: str, why: str) -> None:
        """A step could not be done here."""
        self._add(name, None, f"skipped: {why}", {})
        self.say(f"  {self._mark('skipped', 'yellow')}: {why}")

    def failure(self, name: str, why: str) -> None:
        """A step is not as expected."""
        self._add(name, False, why, {})
        self.say(f"  {self._mark('FAILED', 'red')}: {why}")

    def end(self, seconds: float) -> None:
        """All is over, and what was started is gone."""
        if self._output.as_json:
            result = {"ok": not self.failed, "seconds": seconds, "steps": self._steps}
            self._output.data(result)
        elif self.failed:
            self.say(f"Not as expected, after {seconds:.0f} s.")
        else:
            self.say(f"All as expected, in {seconds:.0f} s. Nothing is left behind.")

    @contextmanager
    def bar(self, title: str) -> Iterator[Callable[[Progress], None] | None]:
        """Show a progress bar while entered; where nobody sees it, nothing."""
        if not self._output.on_terminal:
            yield None
            return
        from remoting_bus._cli.bar import shown_bar

        with shown_bar(title) as report:
            yield report

    def _add(
        self, name: str, ok: bool | None, did: str, measured: dict[str, Any]
    ) -> None:
        self._steps.append({"step": name, "ok": ok, "did": did, "measured": measured})

    def _mark(self, word: str, colour: str) -> str:
        if not self._output.on_terminal:
            return word
        codes = {"green": 32, "yellow": 33, "red": 31}
        return f"\x1b[{codes[colour]}m{word}\x1b[0m"
