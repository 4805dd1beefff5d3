"""Where the bus is found, and in which order it is looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from remoting_bus._cli.failures import Wrong
from remoting_bus._cli.places import Place, find, nearest
from remoting_bus._cli.record import Record, published
from remoting_bus._cli.settings import Said
from remoting_bus._remote.join import JoinToken

TOKEN = str(JoinToken(("nats://token:1",), "fleet"))


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_the_nearest_word_decides() -> None:
    option, variable, file = (
        Said.by(f"nats://{source}:1", source, rank)
        for rank, source in enumerate(["--url", "REMOTING_BUS_URL", "config.toml"])
    )
    record = Record(("nats://record:1",), "fleet", "m", 1)
    with published(record):
        assert find(nearest(None, None), None).urls == ("nats://record:1",)
        assert find(nearest(None, file), None).urls == ("nats://config.toml:1",)
        assert nearest(file, variable) == variable
        assert nearest(file, option, variable) == option
    with pytest.raises(Wrong, match="--url and --join both name the bus"):
        nearest(option, Said.by(TOKEN, "--join"))


def test_a_token_brings_its_namespace() -> None:
    assert find(TOKEN, None) == Place(("nats://token:1",), "fleet", "--url")
    assert find(TOKEN, "other").namespace == "other"
    assert find("nats://a:1", None).namespace == "default"


def test_a_namespace_that_was_said_further_off_does_not_change_a_token() -> None:
    """A token was made for one fleet; who wants another one says so beside it."""
    variable = Said.by("other", "REMOTING_BUS_NAMESPACE", 2)
    assert find(TOKEN, variable).namespace == "fleet"
    assert find(Said.by(TOKEN, "REMOTING_BUS_URL", 2), variable).namespace == "other"
    assert find("nats://a:1", variable).namespace == "other"


def test_nothing_known_says_what_to_do() -> None:
    with pytest.raises(Wrong, match="remoting-bus master"):
        find(None, None)


def test_what_cannot_be_understood_is_named_by_who_said_it() -> None:
    for source in ("--join", "REMOTING_BUS_URL", "url in config.toml"):
        with pytest.raises(Wrong, match=f"{source} is neither a URL nor a join token"):
            find(Said.by("word", source), None)
