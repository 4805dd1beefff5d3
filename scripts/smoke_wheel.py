"""Build the wheel and try it as a user gets it: a clean environment, far from here.

Run by `make check`. The environment gets the pinned versions of exactly what the wheel
says it needs, so a dependency that is used but not declared fails here. First without
extras (import, version, the memory bus), then with `embedded` (the demo).
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
DISTRIBUTION = "remoting-bus"

IMPORTS = """import sys
import remoting_bus
assert "site-packages" in remoting_bus.__file__, remoting_bus.__file__
for name in remoting_bus.__all__:
    getattr(remoting_bus, name)
for name in ("backends", "tests", "benchmarks", "examples", "scripts"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{name} is importable where only the wheel is installed")
"""


def main() -> None:
    """Build, install, try; the first thing that fails ends it with its own status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-demo", action="store_true", help="stop before the demo")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="remoting-bus-wheel-") as folder:
        place = Path(folder)
        wheel = build(place)
        python = make_environment(place / "env")
        command = python.parent / "remoting-bus"
        install(python, place, wheel, extras=())
        say("import, and every public name, without extras")
        run(python, "-c", IMPORTS, at=place)
        say("remoting-bus --version")
        run(command, "--version", at=place)
        if options.no_demo:
            return
        install(python, place, wheel, extras=("embedded", "fast"))
        say("remoting-bus demo")
        run(command, "demo", at=place)


def build(place: Path) -> Path:
    """Build the wheel into `place`, with the build tools that are pinned here."""
    say("build the wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", place, at=ROOT)
    (wheel,) = place.glob("*.whl")
    return wheel


def make_environment(place: Path) -> Path:
    """Make an empty virtual environment and return its Python."""
    venv.create(place, with_pip=True)
    return place / "bin" / "python"


def install(python: Path, place: Path, wheel: Path, extras: Iterable[str]) -> None:
    """Install the wheel, and what it says it needs at the pinned versions."""
    names = required(wheel, extras)
    say(f"install with {', '.join(extras) or 'no extras'}: {len(names)} packages")
    pins = place / "pins.txt"
    pins.write_text(pinned(names), encoding="utf-8")
    pip = (python, "-m", "pip", "install", "--quiet")
    run(*pip, "--require-hashes", "-r", pins, at=place)
    run(*pip, "--no-deps", "--no-index", "--force-reinstall", wheel, at=place)


def required(wheel: Path, extras: Iterable[str]) -> set[str]:
    """Return all that the wheel needs with these extras, itself not among them."""
    stem = "-".join(wheel.name.split("-")[:2])
    inside = zipfile.Path(wheel, f"{stem}.dist-info/")
    seen: set[tuple[str, str]] = set()
    todo = [(DISTRIBUTION, extra) for extra in ("", *extras)]
    while todo:
        asked = todo.pop()
        if asked in seen:
            continue
        seen.add(asked)
        name, extra = asked
        own = metadata.PathDistribution(inside) if name == DISTRIBUTION else None
        for line in (own or metadata.distribution(name)).requires or []:
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                needed = canonicalize_name(need.name)
                todo += [(needed, wanted) for wanted in ("", *need.extras)]
    return {name for name, _ in seen} - {DISTRIBUTION}


def pinned(names: set[str]) -> str:
    """Return the part of constraints.txt that pins these packages, hashes and all."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = re.findall(r"^\S+==[^\n]*\\\n(?:    --hash=\S+(?: \\)?\n)+", text, re.M)
    found: dict[str, str] = {}
    for pin in pins:  # one package may have several pins, each with its marker
        name: str = canonicalize_name(pin.partition("==")[0])
        found[name] = found.get(name, "") + pin
    missing = names - found.keys()
    if missing:
        sys.exit(f"constraints.txt does not pin {sorted(missing)}: make constraints")
    return "".join(found[name] for name in sorted(names))


def run(*command: str | Path, at: Path) -> None:
    """Run a command to its end; a failure ends this program with its status."""
    # Nothing of the checkout or of its environment may leak into the clean one.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run([str(word) for word in command], cwd=at, env=environment)
    if done.returncode:
        words = " ".join(str(word) for word in command[1:3]).partition("\n")[0]
        said = f"wheel: {Path(command[0]).name} {words} ended with {done.returncode}"
        print(said.replace("  ", " "), file=sys.stderr)
        sys.exit(done.returncode)


def say(step: str) -> None:
    """Tell which step begins."""
    print(f"wheel: {step}", flush=True)


if __name__ == "__main__":
    main()
