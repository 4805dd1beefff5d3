"""What happened, told to hooks."""

from __future__ import annotations

import logging

import pytest

from remoting_bus import observe


def test_hooks_are_told_until_undone() -> None:
    """All of them, in the order they came."""
    told: list[tuple[int, observe.Happening]] = []
    assert not observe.observed()
    undo_first = observe.observe(lambda happening: told.append((1, happening)))
    undo_second = observe.observe(lambda happening: told.append((2, happening)))
    assert observe.observed()
    taken = observe.NameTaken("a", "m")
    observe.tell(taken)
    undo_first()
    undo_first()
    observe.tell(taken)
    undo_second()
    observe.tell(taken)
    assert told == [(1, taken), (2, taken), (2, taken)]


def test_a_hook_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """And harms neither the library nor the other hooks."""
    told: list[observe.Happening] = []

    def broken(happening: observe.Happening) -> None:
        raise LookupError("a broken hook")

    undo_broken, undo = observe.observe(broken), observe.observe(told.append)
    try:
        with caplog.at_level(logging.ERROR, "remoting_bus"):
            observe.tell(observe.NameTaken("a", "m"))
    finally:
        undo_broken()
        undo()
    assert len(told) == 1
    assert "a broken hook" in caplog.text
