"""Join tokens: what is read back, and what a bad one says."""

from __future__ import annotations

import base64
import zlib

import pytest

from remoting_bus._agent import Agent
from remoting_bus._remote.join import JoinToken
from remoting_bus.protocol.codec import encode

TOKEN = JoinToken(("nats://a:4222", "nats://b:4222"), "blue")


def made(version: int, value: object) -> str:
    payload = encode(value)
    sealed = payload + zlib.crc32(payload).to_bytes(4, "big")
    return f"rb{version}." + base64.urlsafe_b64encode(sealed).decode().rstrip("=")


def test_a_token_is_read_back_as_it_was() -> None:
    text = str(TOKEN)
    assert text.startswith("rb1.")
    assert text.isascii()
    assert " " not in text
    assert JoinToken.parse(f"  {text}\n") == TOKEN


def test_a_later_release_may_add_to_a_token() -> None:
    value = {"urls": ["nats://a"], "namespace": "blue", "key": b"later"}
    assert JoinToken.parse(made(1, value)) == JoinToken(("nats://a",), "blue")


@pytest.mark.parametrize("text", ["", "nats://a:4222", "rb.abc", "rb1abc", "rbx.abc"])
def test_what_is_no_token_is_told_apart(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a join token.*rb1\."):
        JoinToken.parse(text)


def test_a_newer_token_says_to_upgrade() -> None:
    with pytest.raises(ValueError, match=r"version 2, .* reads version 1: upgrade"):
        JoinToken.parse(made(2, {"urls": ["nats://a"], "namespace": "blue"}))


@pytest.mark.parametrize(
    "text",
    [
        str(TOKEN)[:-1],
        str(TOKEN)[:-5],
        str(TOKEN)[:20] + "A" + str(TOKEN)[21:],
        "rb1.",
        "rb1.AAAA",
        "rb1.ä",
        "rb1." + "A" * 10_000,
        "rb1.!!!!",
        made(1, 7),
        made(1, {}),
        made(1, {"urls": [], "namespace": "blue"}),
        made(1, {"urls": [7], "namespace": "blue"}),
        made(1, {"urls": ["nats://a"]}),
    ],
)
def test_a_damaged_token_says_so(text: str) -> None:
    if text == str(TOKEN)[:20] + "A" + str(TOKEN)[21:] == str(TOKEN):
        pytest.fail("nothing was changed")
    with pytest.raises(ValueError, match="damaged"):
        JoinToken.parse(text)


def test_a_namespace_in_a_token_obeys_the_rule_for_names() -> None:
    with pytest.raises(ValueError, match=r"namespace 'a\.b' is not allowed"):
        JoinToken.parse(made(1, {"urls": ["nats://a"], "namespace": "a.b"}))


def test_an_agent_takes_its_place_from_a_token() -> None:
    agent = Agent(join=str(TOKEN), name="a", offers={"commands"})
    assert agent.namespace == "blue"
    with pytest.raises(ValueError, match="for namespace 'blue', not 'green'"):
        Agent(join=str(TOKEN), name="a", namespace="green", offers={"commands"})


def test_an_agent_needs_a_place_and_only_one() -> None:
    with pytest.raises(TypeError, match="either a URL or join="):
        Agent(name="a")
    with pytest.raises(TypeError, match="either a URL or join="):
        Agent("nats://a", join=str(TOKEN), name="a")
