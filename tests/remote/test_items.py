"""Items of generators on their stream, whole however the bytes are cut."""

from __future__ import annotations

import random

import pytest

from remoting_bus._remote import items
from remoting_bus._remote.items import ItemReader, frame_item
from remoting_bus.errors import RemoteProtocolError
from remoting_bus.protocol.codec import EncodeError


@pytest.mark.parametrize("seed", range(20))
def test_items_come_whole_however_the_bytes_are_cut(seed: int) -> None:
    dice = random.Random(seed)
    sent = [["x" * dice.randrange(300), n, {"k": None}] for n in range(50)]
    data = b"".join(frame_item(each) for each in sent)
    reader = ItemReader()
    while data:
        cut = dice.choice([1, 2, 5, 100, 5000])
        reader.feed(data[:cut])
        data = data[cut:]
    assert list(reader.items) == sent
    assert reader.complete


def test_an_item_cut_short_is_seen() -> None:
    reader = ItemReader()
    reader.feed(frame_item("abc")[:-1])
    assert not reader.items
    assert not reader.complete


def test_an_item_over_the_limit_is_refused_by_both_sides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = frame_item("x" * 200)
    monkeypatch.setattr(items, "MAX_ITEM", 100)
    with pytest.raises(
        EncodeError, match=r"takes 202 bytes; the limit max_item is 100"
    ):
        frame_item("x" * 200)
    with pytest.raises(RemoteProtocolError, match="max_item is 100"):
        ItemReader().feed(data)


def test_garbage_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="not a value"):
        ItemReader().feed(b"\0\0\0\1\xff")
