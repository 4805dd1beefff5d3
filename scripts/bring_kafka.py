"""Bring what a private Kafka is made of, pinned by version and checksum, by Maven.

    python scripts/bring_kafka.py

It says in one line where Kafka is, or what is missing to bring it, and does nothing if it
is there. `make brokers` runs it.
"""

from __future__ import annotations

import sys

from remoting_bus.testing.brokers.kafka_files import KAFKA_VERSION, bring_kafka


def main() -> int:
    """Bring it; 0 if it is there then."""
    try:
        folder = bring_kafka()
    except (OSError, RuntimeError) as error:
        print(f"Kafka {KAFKA_VERSION}: {error}", file=sys.stderr)
        return 1
    print(f"Kafka {KAFKA_VERSION} is in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
