"""What comes from the server: small messages for nats-py's parser, large ones around it.

The parser copies a message four times and looks at its buffer again for each part that
comes. Of a large one only the control line is the parser's affair here: the rest is read
from the kernel into one buffer, and leaves it as the message's body (messages of 256 KiB
take 0.17 ms of CPU per MiB instead of 0.29, and a copy by the event loop is spared).
Whatever is not a large message, or comes while the parser is behind, goes the ordinary
way, so order is kept.

It must not know sockets, nor what a message means.
"""

from __future__ import annotations

from collections.abc import Callable

from nats.protocol import parser as nats_parser
from nats.protocol.parser import MSG_RE, Parser

__all__ = ["READ", "Arrivals", "Take"]

LARGE = 32 * 1024
"""Bytes of a message that goes around the parser; below, the way round costs as much."""

READ = 64 * 1024
"""Bytes of one read of whatever comes. Of a large message that begins in it so much, at
most, is copied once more."""

_NEXT_READ = 4 * 1024
"""Bytes of one read after a large message: another one is likely, so only a line."""

_END = len(b"\r\n")

Take = Callable[[str, str, bytes, dict[str, str] | None], bool]
"""Subject, reply subject, body and headers of a message; True if it was the driver's."""


class Arrivals:
    """Bytes that came, until the client's reader takes them.

    Attributes:
        parser: Of the client that reads here; until it is set all goes the ordinary way.
        take: Gets large messages.
        unread: Bytes that wait for the client's reader.
    """

    def __init__(self, take: Take) -> None:
        self.take = take
        self.parser: Parser | None = None
        self.unread = 0
        self._chunks: list[bytes] = []
        self._buffer = memoryview(bytearray(READ))
        self._most = READ
        self._large = memoryview(b"")  # kept from one large message to the next
        self._line: bytes | None = None  # of the one that comes; empty if parsed
        self._at = 0
        self._size = 0  # 0: none comes

    def buffer(self) -> memoryview:
        """Return where the next bytes are to be put."""
        if not self._size and not self._chunks:
            self._look_at_parser()
        if self._size:
            return self._large[self._at : self._size]
        return self._buffer[: self._most]

    def filled(self, count: int) -> bool:
        """Take so many bytes in the buffer; return whether the reader is to be woken."""
        if self._size:
            self._at += count
            return self._at == self._size and self._finish()
        return self.add(bytes(self._buffer[:count]))

    def add(self, data: bytes) -> bool:
        """Take bytes; return whether the reader is to be woken."""
        if self._begins_large(data):
            return False
        self._most = READ
        self._chunks.append(data)
        self.unread += len(data)
        return True

    def get(self) -> bytes:
        """Return all that waits for the client's reader."""
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._chunks = []
        self.unread = 0
        return data

    def get_line(self) -> bytes | None:
        """Return one line, or None where there is none; what came after it stays."""
        line, newline, rest = self.get().partition(b"\n")
        self._chunks = [rest if newline else line]
        self.unread = len(self._chunks[0])
        if not self.unread:
            self._chunks = []
        return line + newline if newline else None

    def _begins_large(self, data: bytes) -> bool:
        parser = self.parser
        if (
            parser is None
            or self._chunks
            or parser.buf
            or parser.state != nats_parser.AWAITING_CONTROL_LINE
            or (match := MSG_RE.match(data)) is None
            or int(match[5]) < LARGE
        ):
            return False
        body = memoryview(data)[match.end() :]
        if len(body) > int(match[5]) + _END:
            return False  # more came behind it
        self._expect(data[: match.end()], int(match[5]), body)
        if self._at == self._size:
            return not self._finish()
        return True

    def _look_at_parser(self) -> None:
        """It may wait for the rest of a large message."""
        parser = self.parser
        if (
            parser is not None
            and parser.state == nats_parser.AWAITING_MSG_PAYLOAD
            and parser.needed >= LARGE
            and not parser.header_needed
            and len(parser.buf) < parser.needed + _END
        ):
            came, parser.buf = parser.buf, bytearray()
            self._expect(b"", parser.needed, came)

    def _expect(
        self, line: bytes, length: int, came: bytes | bytearray | memoryview
    ) -> None:
        self._line, self._size, self._at = line, length + _END, len(came)
        if len(self._large) < self._size:
            self._large = memoryview(bytearray(self._size))
        self._large[: self._at] = came
        self._most = _NEXT_READ

    def _finish(self) -> bool:
        """The message is all here: give it away, or else to the parser."""
        line, self._line = self._line, None
        body = bytes(self._large[: self._size - _END])
        self._size = 0
        parser = self.parser
        assert parser is not None
        if line:
            match = MSG_RE.match(line)
            assert match is not None
            subject, reply = match[1], match[4] or b""
        else:
            subject, reply = parser.msg_arg["subject"], parser.msg_arg["reply"]
        if self.take(subject.decode(), reply.decode(), body, None):
            if not line:
                parser.state = nats_parser.AWAITING_CONTROL_LINE
            return False
        self._chunks += (line or b"", body, b"\r\n")
        self.unread = len(self._chunks[0]) + len(body) + _END
        return True
