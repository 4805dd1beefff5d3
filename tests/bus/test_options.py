"""Options of bus URLs, as every driver reads them."""

from __future__ import annotations

from typing import Any

import pytest

from remoting_bus.bus import options
from remoting_bus.bus.urls import parse_url
from remoting_bus.errors import ConnectionFailed
from remoting_bus_nats import NatsBackend

KNOWN: dict[str, options.Option] = {
    "wait": (options.seconds, "seconds above 0"),
    "size": (options.count, "a number above 0"),
    "kind": (options.one_of("a", "b"), "a or b"),
    "tls_cert": (options.text, "a file"),
    "tls_key": (options.text, "a file"),
    "on": (options.switch, "0 or 1"),
}


def read(query: str) -> dict[str, Any]:
    return options.read_options(parse_url(f"x://h?{query}"), KNOWN, ["other"])


def test_each_is_converted() -> None:
    """What is read elsewhere is left out."""
    found = read("wait=0.5&size=3&kind=b&on=1&other=7")
    assert found == {"wait": 0.5, "size": 3, "kind": "b", "on": True}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("wait=0", "option 'wait' of x:// wants seconds above 0"),
        ("wait=inf", "wants seconds above 0"),
        ("wait=nan", "wants seconds above 0"),
        ("size=-1", "wants a number above 0"),
        ("size=1.5", "wants a number above 0"),
        ("kind=c", "wants a or b"),
        ("on=yes", "wants 0 or 1"),
        ("tls_cert=", "wants a file"),
        ("tls_key=k", "needs 'tls_cert'"),
        ("what=1", "has no option 'what'"),
    ],
)
def test_a_wrong_one_is_named(query: str, said: str) -> None:
    """With what is wanted, and never with its value."""
    with pytest.raises(ValueError, match=said):
        read(query)


def test_a_missing_tls_file_is_final() -> None:
    """Nobody waits for it: whoever wrote the URL is told."""
    with pytest.raises(ConnectionFailed, match="/no/such/ca") as caught:
        options.tls_context("/no/such/ca", None, None)
    assert caught.value.final


@pytest.mark.parametrize(
    "query", ["nkey=/no/such", "creds=/no/such", "tls_ca=/no/such"]
)
@pytest.mark.asyncio
async def test_nats_does_not_wait_for_a_file(query: str) -> None:
    """It is said at once, though no server is there either."""
    with pytest.raises(ConnectionFailed, match="/no/such") as caught:
        async with NatsBackend().open(f"nats://127.0.0.1:9?{query}"):
            pass
    assert caught.value.final
