"""Run many storms from plain seeds: `make storm N=10000`.

Each seed is one history of `tests/protocol/storm.py`. Seeds that fail are printed, and
the exit status is 1; `--seed S` runs one again with its traceback.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "protocol")]

import storm  # noqa: E402 - found by the path above


def one(seed: int) -> tuple[int, str]:
    """Run a seed; return what went wrong, or nothing."""
    try:
        storm.run(seed)
    except Exception:  # noqa: BLE001 - a failure is the finding
        return seed, traceback.format_exc()
    return seed, ""


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, help="run only this one")
    options = parser.parse_args()
    if options.seed is not None:
        storm.run(options.seed)
        return 0
    began, done, failed = time.monotonic(), 0, []
    seeds = range(options.start, options.start + options.seeds)
    with multiprocessing.Pool(options.jobs) as pool:
        for seed, wrong in pool.imap_unordered(one, seeds, chunksize=50):
            done += 1
            if wrong:
                failed.append(seed)
                print(f"seed {seed}:\n{wrong}", flush=True)
            if done % 5000 == 0:
                print(f"{done} of {options.seeds}, {len(failed)} failed", flush=True)
    spent = time.monotonic() - began
    print(f"{done} storms in {spent:.0f} s, {len(failed)} failed: {failed[:20]}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
