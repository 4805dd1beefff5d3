"""What peers say before they have a session is checked before it is believed."""

from __future__ import annotations

from typing import Any

import pytest
from cbor2 import dumps

from remoting_bus.names import Lane
from remoting_bus.protocol.envelope import (
    EnvelopeKind,
    Header,
    PlainSeal,
    pack_header,
    read_header,
)
from remoting_bus.protocol.handshake import MAX_INFO, Greeting, Refusal, pack, unpack
from remoting_bus.protocol.terms import Terms, agree

GREETING = Greeting("web-1", b"i" * 16, Terms(), {"role": "agent"}, 1, 3, b"s" * 16)


def read(envelope: bytes) -> Any:
    header = read_header(envelope)
    assert header is not None
    return unpack(header, envelope)


def raw(content: object, kind: EnvelopeKind = EnvelopeKind.HELLO) -> bytes:
    header = pack_header(kind, Lane.CONTROL, b"s" * 16, 1)
    return PlainSeal().seal(header, 1, dumps(content))


def body(**changed: object) -> dict[str, object]:
    terms = {name: getattr(Terms(), name) for name in Terms.__dataclass_fields__}
    return {
        "name": "web-1",
        "incarnation": b"i" * 16,
        "terms": terms,
        "info": {},
        "versions": [1, 1],
        "asks": b"",
        "knows": False,
    } | changed


def test_a_greeting_comes_back_as_it_was() -> None:
    """Hello and welcome have one form."""
    for kind in (EnvelopeKind.HELLO, EnvelopeKind.WELCOME):
        assert read(pack(kind, b"s" * 16, 1, GREETING)) == GREETING


def test_a_refusal_comes_back_as_it_was() -> None:
    """Its code is for programs, its message for people."""
    refusal = Refusal("control", "name in use", "stop one of them")
    assert read(pack(EnvelopeKind.REFUSED, b"s" * 16, 1, refusal)) == refusal


def test_other_bodies_are_mappings() -> None:
    """A lookup is no more than that."""
    envelope = pack(EnvelopeKind.LOOKUP, b"q" * 16, 1, {"name": "web-1"})
    assert read(envelope) == {"name": "web-1"}


def test_what_a_newer_peer_adds_is_ignored() -> None:
    """Fields and terms that are not known are no error."""
    assert read(raw(body(shoe_size=43))).name == "web-1"
    terms = body()["terms"]
    assert isinstance(terms, dict)
    assert read(raw(body(terms=terms | {"colour": "red"}))).terms == Terms()


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        body(name="a/b"),
        body(name=7),
        body(incarnation=b"short"),
        body(incarnation="i" * 16),
        body(info=[]),
        body(asks=None),
        body(versions=[1]),
        body(terms={}),
        body(terms=dict.fromkeys(Terms.__dataclass_fields__, 0)),
        body(terms=dict.fromkeys(Terms.__dataclass_fields__, "1")),
        body(terms=dict.fromkeys(Terms.__dataclass_fields__, float("nan"))),
        body(terms=dict.fromkeys(Terms.__dataclass_fields__, 2**50)),
    ],
)
def test_what_is_no_greeting_is_refused(content: object) -> None:
    """A bad name, incarnation, version or limit never gets further."""
    with pytest.raises(ValueError, match=r".+"):
        read(raw(content))


def test_a_changed_greeting_is_refused() -> None:
    """Accidents on the way are found."""
    envelope = bytearray(raw(body()))
    envelope[-10] ^= 1
    with pytest.raises(ValueError, match="not a handshake"):
        read(bytes(envelope))


def test_a_greeting_is_limited_before_it_is_read() -> None:
    """It comes from anybody."""
    header = Header(EnvelopeKind.HELLO, Lane.CONTROL, 0, b"s" * 16, 1)
    with pytest.raises(ValueError, match="larger"):
        unpack(header, bytes(MAX_INFO + 5000))


def test_both_keep_the_terms_that_both_can() -> None:
    """The smaller of each limit, the larger of the heartbeats."""
    ours = Terms(max_envelope=100, max_message=50, max_calls=9, grace=10, heartbeat=1)
    theirs = Terms(max_envelope=90, max_message=60, max_calls=8, grace=20, heartbeat=2)
    assert agree(ours, theirs, 1) == agree(theirs, ours, 1)
    assert agree(ours, theirs, 1) == Terms(1, 90, 50, 8, 10, 2)
