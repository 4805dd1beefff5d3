"""Where the bus is found, and in which order it is looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from remoting_bus._cli.failures import Wrong
from remoting_bus._cli.places import Place, find
from remoting_bus._cli.record import Record, published
from remoting_bus._remote.join import JoinToken

TOKEN = str(JoinToken(("nats://token:1",), "fleet"))


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return {}


def write_config(tmp_path: Path, text: str) -> dict[str, str]:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return {"REMOTING_BUS_CONFIG": str(path)}


def test_the_nearest_word_decides(environment: dict[str, str], tmp_path: Path) -> None:
    record = Record(("nats://record:1",), "fleet", "m", 1)
    with published(record):
        assert find(None, None, {}).urls == ("nats://record:1",)
        config = write_config(tmp_path, 'url = ["nats://a:1", "nats://b:1"]')
        assert find(None, None, config).urls == ("nats://a:1", "nats://b:1")
        both = {**config, "REMOTING_BUS_URL": "nats://variable:1"}
        assert find(None, None, both).urls == ("nats://variable:1",)
        assert find("nats://option:1", None, both).urls == ("nats://option:1",)


def test_a_token_brings_its_namespace(environment: dict[str, str]) -> None:
    assert find(TOKEN, None, {}) == Place(("nats://token:1",), "fleet", "--url")
    assert find(TOKEN, "other", {}).namespace == "other"
    assert find("nats://a:1", None, {}).namespace == "default"


def test_a_namespace_comes_from_the_variable_and_the_file(
    environment: dict[str, str], tmp_path: Path
) -> None:
    config = write_config(tmp_path, 'url = "nats://a:1"\nnamespace = "file"')
    assert find(None, None, config).namespace == "file"
    config["REMOTING_BUS_NAMESPACE"] = "variable"
    assert find(None, None, config).namespace == "variable"


def test_nothing_known_says_what_to_do(environment: dict[str, str]) -> None:
    with pytest.raises(Wrong, match="remoting-bus master"):
        find(None, None, {})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("url = ", "cannot be read"),
        ("url = 7", "must be a string or a list"),
        ('url = "a"\nnamespace = 7', "namespace"),
        ('url = "word"', "neither a URL nor a join token"),
    ],
)
def test_a_file_that_is_wrong_is_named(
    environment: dict[str, str], tmp_path: Path, text: str, says: str
) -> None:
    with pytest.raises(Wrong, match=says):
        find(None, None, write_config(tmp_path, text))


def test_a_file_that_was_named_has_to_be_there(environment: dict[str, str]) -> None:
    with pytest.raises(Wrong, match="no such file"):
        find(None, None, {"REMOTING_BUS_CONFIG": "/no/such/file"})
