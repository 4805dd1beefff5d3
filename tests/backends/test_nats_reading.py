"""Large messages go around nats-py's parser, and nobody can tell."""

from __future__ import annotations

import random

import pytest
from nats.protocol.parser import Parser

from remoting_bus_nats.reading import LARGE, Arrivals

Message = tuple[str, str, bytes]


class Client:
    """What the parser needs of nats-py's client; and a reader that runs when it is let."""

    def __init__(self, ours: str = "rb.") -> None:
        self.got: list[Message] = []
        self.around = 0
        self.ours = ours
        self.parser = Parser(self)
        self.arrivals = Arrivals(self.take)
        self.arrivals.parser = self.parser

    def take(
        self, subject: str, reply: str, body: bytes, headers: dict[str, str] | None
    ) -> bool:
        if not subject.startswith(self.ours):
            return False
        self.around += 1
        self.got.append((subject, reply, body))
        return True

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        assert sid == 7
        self.got.append((subject.decode(), reply.decode(), data))

    async def _process_pong(self) -> None:
        self.got.append(("PONG", "", b""))

    def put(self, data: bytes) -> int:
        """One read of the kernel; return how much of `data` it took."""
        into = self.arrivals.buffer()
        count = min(len(into), len(data))
        into[:count] = data[:count]
        self.arrivals.filled(count)
        return count

    def read(self) -> None:
        """The client's reader has its turn."""
        if self.arrivals.unread:
            parsing = self.parser.parse(self.arrivals.get())
            with pytest.raises(StopIteration):
                parsing.send(None)


def wire(*messages: Message, sid: int = 7) -> bytes:
    """The bytes as a server sends them."""
    out: list[bytes] = []
    for subject, reply, body in messages:
        to = f"{subject} {sid} {reply} " if reply else f"{subject} {sid} "
        out += (f"MSG {to}{len(body)}\r\n".encode(), body, b"\r\n")
    return b"".join(out)


def body(size: int) -> bytes:
    return random.Random(size).randbytes(size)


BIG = body(5 * LARGE + 3)
MIXED: list[Message] = [
    ("rb.a", "", b"small"),
    ("rb.b", "", BIG),
    ("rb.b", "", BIG[:LARGE]),
    ("other", "inbox.1", BIG[1:]),
    ("rb.c", "inbox.2", b""),
    ("rb.b", "inbox.3", BIG[2:]),
    ("other", "", b"small, too"),
    ("rb.b", "", BIG[3:]),
    ("rb.b", "", BIG[: LARGE - 1]),
]


@pytest.mark.parametrize("seed", range(40))
def test_all_come_once_and_in_order(seed: int) -> None:
    """However the kernel cuts them, and whenever the reader has its turn."""
    dice = random.Random(seed)
    client = Client()
    left = memoryview(wire(*MIXED))
    most = dice.choice([1000, 10_000, 100_000, 1_000_000])
    turns = dice.choice([0.1, 0.5, 1.0])
    while left:
        left = left[client.put(bytes(left[: dice.randint(1, most)])) :]
        if dice.random() < turns:
            client.read()
    client.read()
    assert client.got == MIXED


def test_large_ones_in_a_row_go_around_the_parser() -> None:
    """All but none of it is the parser's, from the first one that begins a read."""
    client = Client()
    left = memoryview(wire(*[("rb.b", "", BIG)] * 5))
    while left:
        left = left[client.put(bytes(left)) :]
        client.read()
    assert (len(client.got), client.around) == (5, 5)
    assert not client.parser.buf


def test_a_large_one_behind_a_small_one_goes_around_too() -> None:
    """The parser knows its line; the rest comes into the same buffer."""
    client = Client()
    left = memoryview(wire(("rb.a", "", b"small"), ("rb.b", "r", BIG)) + b"PONG\r\n")
    while left:
        left = left[client.put(bytes(left)) :]
        client.read()
    assert client.around == 1
    assert [message[0] for message in client.got] == ["rb.a", "rb.b", "PONG"]


def test_headers_are_the_parsers_affair() -> None:
    """They are counted in another way."""
    client = Client()
    headers = b"NATS/1.0\r\n\r\n"
    line = f"HMSG rb.b 7 {len(headers)} {len(headers) + len(BIG)}\r\n".encode()
    left = memoryview(line + headers + BIG + b"\r\n" + wire(MIXED[1]))
    while left:
        left = left[client.put(bytes(left)) :]
        client.read()
    assert client.got == [("rb.b", "", BIG), MIXED[1]]


def test_the_greeting_is_one_line() -> None:
    """What came with it stays."""
    arrivals = Arrivals(lambda *message: True)
    arrivals.add(b"INFO {}")
    assert arrivals.get_line() is None
    assert arrivals.unread == 7
    arrivals.add(b"\r\nPING\r\n")
    assert arrivals.get_line() == b"INFO {}\r\n"
    assert arrivals.get() == b"PING\r\n"
    assert arrivals.get_line() is None
