"""What a command shows: a table or progress for people, lines when piped, or JSON.

Owns the one question of who reads. It must not know what is shown. Standard output holds
results only; everything else goes to standard error.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from .failures import Failure

__all__ = ["Output", "as_data", "as_text"]


class Output:
    """Where a command writes.

    Args:
        as_json: For programs: one JSON document a result.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json

    @property
    def on_terminal(self) -> bool:
        """Whether a person reads standard output."""
        return not self.as_json and sys.stdout.isatty()

    def data(self, value: Any) -> None:
        """Write a result as JSON; in a program's way only."""
        print(json.dumps(as_data(value), ensure_ascii=False), flush=True)

    def line(self, text: str) -> None:
        """Write a line of a result."""
        print(text, flush=True)

    def note(self, text: str) -> None:
        """Tell something that is no result; not to programs."""
        if not self.as_json:
            print(text, file=sys.stderr, flush=True)

    def rows(self, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write a table: ruled on a terminal, else tabs between and no titles."""
        if not self.on_terminal:
            for row in rows:
                self.line("\t".join(row))
            return
        from rich.console import Console
        from rich.table import Table

        table = Table(*titles, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*(_escaped(each) for each in row))
        Console().print(table)

    def failure(self, failure: Failure) -> None:
        """Write why it failed: one line, and for programs an object, too."""
        if self.as_json:
            self.data({"error": {"type": failure.kind, "message": str(failure)}})
        print(f"remoting-bus: {failure}", file=sys.stderr, flush=True)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def as_text(value: Any) -> str:
    """Return a value as a line for people: strings as they are, all else as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(as_data(value), ensure_ascii=False)


def as_data(value: Any) -> Any:
    """Return a value as JSON has it: bytes as base64, sets as lists, the rest as text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {_key(key): as_data(each) for key, each in value.items()}
    if isinstance(value, Collection):
        return [as_data(each) for each in value]
    return str(value)


def _key(key: Any) -> str:
    return key if isinstance(key, str) else as_text(key)
