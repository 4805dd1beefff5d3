"""`urls`: one reading of URLs, and what is said of those that are none."""

from __future__ import annotations

import pytest

from remoting_bus.bus.opening import normalise, split_option
from remoting_bus.bus.urls import Host, parse_url, without_secrets


@pytest.mark.parametrize(
    ("given", "one"),
    [
        ("nats://a", "nats://a"),
        ("NATS://a:4222", "nats://a:4222"),
        ("nats://a,b", "nats://a,b"),
        ("nats://a,nats://b", "nats://a,b"),
        (["nats://a", "nats://b"], "nats://a,b"),
        (("nats://a,b", "nats://c"), "nats://a,b,c"),
        (["nats://a", "nats://a"], "nats://a"),
        (["amqp://u:p@a/v", "amqp://u:p@b"], "amqp://u:p@a,u:p@b/v"),
        (["nats://a?x=1", "nats://b?x=1&y=2"], "nats://a,b?x=1&y=2"),
        ("nats://a?x=1,nats://b", "nats://a,b?x=1"),
        ("nats://[::1]:4222,[::2]", "nats://[::1]:4222,[::2]"),
        ("memory://test", "memory://test"),
        ("embedded://", "embedded://"),
        ("embedded:///var/lib/bus?port=1", "embedded:///var/lib/bus?port=1"),
        (" nats://a ", "nats://a"),
    ],
)
def test_one_url_stands_for_all_ways_to_write_it(
    given: str | list[str], one: str
) -> None:
    assert normalise(given) == one
    assert normalise(one) == one


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("", "a URL is empty"),
        ([], "no URL is given"),
        ("localhost:4222", "it must begin with SCHEME://"),
        ("nats:/a", "it must begin with SCHEME://"),
        ("nats://a#b", "'#' is not allowed"),
        ("nats://a:port", "a port must be a number from 1 to 65535"),
        ("nats://a:0", "a port must be"),
        ("nats://a:65536", "a port must be"),
        ("nats://a:", "a port must be"),
        ("nats://a:42:22", "a port must be"),
        ("nats://::1", "a host is empty"),
        ("nats://a,,b", "a host is empty"),
        ("nats://:4222", "a host is empty"),
        ("nats://u:p@", "a host is empty"),
        ("nats://a b", "a host is not understood"),
        ("nats://[::1", "a host is not understood"),
        ("nats://a?x", "NAME=VALUE"),
        ("nats://a?x=1&x=2", "option 'x' has two values"),
        (["nats://a?x=1", "nats://b?x=2"], "option 'x' has two values"),
        (["amqp://a/v", "amqp://b/w"], "its path differs"),
        (["nats://a", "amqp://b"], "one scheme, not nats:// and amqp://"),
        ("nats://a,amqp://b", "one scheme, not nats:// and amqp://"),
        (["nats://a", "nats://"], "one of several URLs names no host"),
    ],
)
def test_what_is_no_url_is_refused_with_the_reason(
    given: str | list[str], why: str
) -> None:
    with pytest.raises(ValueError) as refused:
        normalise(given)
    assert why in str(refused.value)


@pytest.mark.parametrize(
    "given", [b"nats://a", 4222, None, [b"nats://a"], [["nats://a"]]]
)
def test_what_is_no_text_is_a_type_error(given: object) -> None:
    with pytest.raises(TypeError, match="a URL must be a str"):
        normalise(given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given",
    [
        "nats://me:hush@a:port",
        "nats://a,me:hush@b:port",
        "nats://me:hu,sh@a",
        "me:hush@a",
        "nats://me:hush/@a",
        "nats://me:hush?@a",
        "nats://a?token=hush&token",
    ],
)
def test_no_password_stands_in_an_error(given: str) -> None:
    with pytest.raises(ValueError) as refused:
        normalise(given)
    assert "hush" not in str(refused.value)
    assert "hu,sh" not in str(refused.value)


def test_a_url_is_taken_apart() -> None:
    parsed = parse_url("amqp://me:p%40ss%2C@a:1,[::1]:2,b/my%2Fhost?x=%26&y=")
    assert parsed.scheme == "amqp"
    assert parsed.hosts == (
        Host("a", 1, "me", "p@ss,"),
        Host("::1", 2),
        Host("b"),
    )
    assert parsed.path == "my/host"
    assert parsed.options == {"x": "&", "y": ""}
    assert "p@ss" not in repr(parsed)


def test_percent_encoding_outlives_normalising() -> None:
    url = "amqp://me:p%40ss%2C@a/my%2Fhost?x=%26%3D%25"
    assert parse_url(normalise([url, "amqp://b"])).hosts[0].password == "p@ss,"
    assert parse_url(normalise(url)).options == {"x": "&=%"}


def test_a_driver_that_needs_a_host_gets_one() -> None:
    assert parse_url("embedded://", needs_host=False).hosts == ()
    with pytest.raises(ValueError, match=r"names no host; write nats://HOST"):
        parse_url("nats://?x=1")


def test_an_option_of_the_core_is_taken_out() -> None:
    assert split_option("nats://a,b?loops=1&x=2", "loops") == ("nats://a,b?x=2", "1")
    assert split_option("nats://a?loops=2", "loops") == ("nats://a", "2")
    assert split_option("nats://a?x=2", "loops") == ("nats://a?x=2", None)


def test_options_are_checked_for_a_driver() -> None:
    parsed = parse_url("nats://a?size=10&bad=x")
    parsed.check_options({"size", "bad"})
    with pytest.raises(ValueError, match="no option 'bad'; its options are: size"):
        parsed.check_options({"size"})
    assert parsed.int_option("size", 5) == 10
    assert parsed.int_option("other", 5) == 5
    for name in ("bad", "size"):
        with pytest.raises(ValueError, match=f"option {name}=.* at least 11"):
            parsed.int_option(name, 5, minimum=11)


def test_a_url_can_be_shown() -> None:
    assert (
        without_secrets("nats://me:hush@a:1,b/x?token=hush") == "nats://***@a:1,b/x?***"
    )
    assert without_secrets("nats://a:1,b/x") == "nats://a:1,b/x"
