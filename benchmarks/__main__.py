"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
from types import ModuleType

import benchmarks


def scenarios() -> dict[str, ModuleType]:
    """Return the scenarios by name: the modules here that have a `run`."""
    found = {}
    for info in pkgutil.iter_modules(benchmarks.__path__):
        if not info.name.startswith("_"):
            module = importlib.import_module(f"benchmarks.{info.name}")
            if hasattr(module, "run"):
                found[info.name] = module
    return found


def main() -> int:
    """List the scenarios, or run one; its own options follow its name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--json", action="store_true", help="one record a line")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the scenarios there are")
    running = commands.add_parser("run", help="run one", add_help=False)
    running.add_argument("name")
    options, rest = parser.parse_known_args()
    known = scenarios()
    if options.command == "list":
        for name, module in known.items():
            print(f"{name:12} {module.SUMMARY}")
        return 0
    if options.name not in known:
        print(f"no scenario {options.name!r}; there are: {', '.join(known)}")
        return 2
    for record in known[options.name].run(rest):
        if options.json:
            print(json.dumps(record))
        else:
            print("  ".join(f"{key}={value}" for key, value in record.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
