"""What the documentation says of the wire, and of names, is what the code does."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from remoting_bus import errors
from remoting_bus.names import Lane
from remoting_bus.protocol import freight, session
from remoting_bus.protocol.calls import RefusalCode
from remoting_bus.protocol.envelope import HEADER_BYTES, EnvelopeKind
from remoting_bus.protocol.frames import FRAMES
from remoting_bus.protocol.terms import VERSION, Terms

ROOT = Path(__file__).resolve().parent.parent
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")


def table(name: str) -> list[list[str]]:
    """Return the rows of the table between `<!-- name -->` and `<!-- end -->`."""
    match = re.search(rf"<!-- {name} -->\n(.*?)<!-- end -->", PROTOCOL, re.S)
    assert match is not None, f"docs/protocol.md has no table {name!r}"
    lines = match[1].strip().splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_frames_stand_in_the_specification() -> None:
    """Each kind of frame, its number, lanes, fields and meaning; and no other."""
    assert table("frames") == [
        [
            str(int(kind)),
            kind.name,
            ", ".join(lane.name for lane in frame.lanes),
            ", ".join(frame.fields),
            frame.meaning,
        ]
        for kind, frame in FRAMES.items()
    ]


def test_lanes_stand_in_the_specification() -> None:
    """The four lanes and their numbers."""
    rows = [row[:2] for row in table("lanes")]
    assert rows == [[str(int(lane)), lane.name] for lane in Lane]


def test_envelopes_stand_in_the_specification() -> None:
    """Each kind of envelope and its number, and how long the header is."""
    rows = [row[:2] for row in table("envelopes")]
    assert rows == [[str(int(kind)), kind.name] for kind in EnvelopeKind]
    assert f"a header of {HEADER_BYTES} bytes" in PROTOCOL


def test_refusals_stand_in_the_specification() -> None:
    """Each reason why a call did not run."""
    rows = [row[:2] for row in table("refusals")]
    assert rows == [[str(int(code)), code.name] for code in RefusalCode]


def test_terms_stand_in_the_specification() -> None:
    """What two peers agree on, and the version of all this."""
    assert [row[0] for row in table("terms")] == list(Terms.__dataclass_fields__)
    assert PROTOCOL.startswith(f"# The protocol, version {VERSION}\n")


def test_state_stands_in_the_specification() -> None:
    """Each key of the map that travels unacknowledged."""
    keys = sorted(
        value
        for module in (session, freight)
        for name, value in vars(module).items()
        if name.startswith("STATE_")
    )
    assert [int(row[0]) for row in table("state")] == keys


def test_limits_stand_in_the_specification() -> None:
    """Each limit by its name and value, and none of those with a public name is left out."""
    rows = {row[0]: float(row[1]) for row in table("limits")}
    for name, value in rows.items():
        module, _, constant = name.partition(".")
        found = importlib.import_module(f"remoting_bus.protocol.{module}")
        assert getattr(found, constant) == value, name
    limits = {
        f"{path.stem}.{name}"
        for path in (ROOT / "remoting_bus" / "protocol").glob("*.py")
        for name in re.findall(r"^(MAX_\w+)(?=.*=)", path.read_text("utf-8"), re.M)
    }
    # How much a program writes at once is nothing of the wire's.
    assert limits - {"ends.MAX_PIECE"} <= rows.keys()


def test_the_tree_of_errors_is_whole() -> None:
    """The picture in concepts.md has every error, each below its base."""
    text = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    match = re.search(r"```\nRemotingError\n(.*?)```", text, re.S)
    assert match is not None
    drawn = {"RemotingError": ""}
    path = ["RemotingError"]
    for line in match[1].splitlines():
        branch = re.match(r"([│ ]*[├└]── )(\w+)", line)
        assert branch is not None, line
        depth = len(branch[1]) // 4
        drawn[branch[2]] = path[depth - 1]
        path[depth:] = [branch[2]]
    classes = {n: getattr(errors, n) for n in errors.__all__ if n != "Executed"}
    assert drawn.keys() == classes.keys()
    for name, base in drawn.items():
        if base:
            assert classes[name].__bases__[0].__name__ == base


@pytest.mark.parametrize(
    "page",
    ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"],
)
def test_links_to_files_lead_somewhere(page: str) -> None:
    """A page beside the code links to files that exist (mkdocs checks its own)."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (ROOT / target).exists(), target


def test_fenced_programs_are_python() -> None:
    """Every Python example in the pages parses."""
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for block in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S):
            # `await` at top level is how a fragment of an async function is shown.
            body = "".join(f"    {line}\n" for line in block.splitlines())
            compile(f"async def shown():\n{body}", str(page), "exec")
