"""The header is what the specification says, and nothing opens that was changed."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from remoting_bus.names import Lane
from remoting_bus.protocol.envelope import (
    HEADER_BYTES,
    EnvelopeKind,
    PlainSeal,
    SealBroken,
    cut_trailer,
    pack_header,
    pack_trailer,
    read_header,
    read_session,
    read_trailer,
)

SESSION = bytes(range(16))


def test_the_header_has_29_bytes_in_this_order() -> None:
    """Magic, kind, lane, epoch, session, number."""
    header = pack_header(EnvelopeKind.WELCOME, Lane.LOG, SESSION, 2**63, epoch=7)
    assert header == b"RB\x02\x03\x07" + SESSION + b"\x80" + bytes(7)
    assert len(header) == HEADER_BYTES
    read = read_header(header)
    assert read is not None
    assert (read.kind, read.lane, read.epoch) == (EnvelopeKind.WELCOME, Lane.LOG, 7)
    assert (read.session, read.number) == (SESSION, 2**63)
    assert read_session(header) == SESSION


@pytest.mark.parametrize(
    "data",
    [b"", b"RB", b"XX" + bytes(27), b"RB\xff" + bytes(26), b"RB\x00\x09" + bytes(25)],
)
def test_what_is_no_header_is_none(data: bytes) -> None:
    """Too short, another magic, an unknown kind, an unknown lane."""
    assert read_header(data) is None


@given(st.binary(max_size=64))
def test_garbage_is_read_without_an_error(data: bytes) -> None:
    """Anybody can write to an address."""
    read_header(data)
    read_session(data)


def sealed(body: bytes = b"body") -> bytes:
    header = pack_header(EnvelopeKind.SEALED, Lane.CALL, SESSION, 1)
    return PlainSeal(b"secret").seal(header, 1, body)


def opened(envelope: bytes, secret: bytes = b"secret") -> bytes:
    return PlainSeal(secret).open(envelope[:HEADER_BYTES], 1, envelope)


def test_a_sealed_body_opens() -> None:
    """With the secret it was made with."""
    assert opened(sealed()) == b"body"
    assert opened(sealed(b"")) == b""


def test_each_changed_byte_breaks_the_seal() -> None:
    """Of the header as of the body."""
    whole = sealed()
    for index in range(len(whole)):
        changed = bytearray(whole)
        changed[index] ^= 1
        with pytest.raises(SealBroken):
            opened(bytes(changed))


def test_a_cut_envelope_does_not_open() -> None:
    """Wherever it is cut."""
    whole = sealed()
    for length in range(len(whole)):
        with pytest.raises(SealBroken):
            opened(whole[:length])


def test_the_secret_of_another_handshake_does_not_open() -> None:
    """A peer that restarted is another one."""
    with pytest.raises(SealBroken):
        opened(sealed(), b"another")


def test_a_trailer_names_the_sender() -> None:
    """It is cut off before the seal is opened."""
    whole = sealed() + pack_trailer("web-1")
    assert read_trailer(whole) == "web-1"
    assert opened(cut_trailer(whole)) == b"body"
