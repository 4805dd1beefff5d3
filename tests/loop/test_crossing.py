"""What crosses between two loops."""

from __future__ import annotations

from typing import Any

from remoting_bus._loop import Crossing


class Words:
    """A batch: words, in order."""

    def __init__(self, *words: str) -> None:
        self.words = list(words)

    def add(self, later: Any, /) -> None:
        self.words += later.words


def test_batches_merge_and_wake_once() -> None:
    """Until they are taken; then the next one wakes again."""
    wakes: list[int] = []
    crossing: Crossing[Words] = Crossing(lambda: wakes.append(1))
    assert not crossing
    crossing.put(b"one", Words("a"))
    crossing.put(b"two", Words("x"))
    crossing.put(b"one", Words("b"))
    assert crossing
    assert len(wakes) == 1
    assert {key: batch.words for key, batch in crossing.take().items()} == {
        b"one": ["a", "b"],
        b"two": ["x"],
    }
    assert crossing.take() == {}
    crossing.put(b"one", Words("c"))
    assert len(wakes) == 2


def test_a_closed_one_drops_what_is_put() -> None:
    """And wakes the taker once, to see the cause."""
    wakes: list[int] = []
    crossing: Crossing[Words] = Crossing(lambda: wakes.append(1))
    cause = RuntimeError("the other side is gone")
    crossing.close(cause)
    crossing.close(None)
    crossing.put(b"one", Words("a"))
    assert wakes == [1]
    assert crossing.cause is cause
    assert not crossing
