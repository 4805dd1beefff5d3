"""Private brokers for tests and benchmarks: real ones, on free loopback ports.

Each is a sync context manager with one or three nodes that can be killed, paused, started
again and cut off; nothing is left behind, whatever becomes of the test process. `base`
has what all share; each broker's file knows how that broker is run.
"""

from .base import LocalBroker
from .kafka import LocalKafka
from .nats import LocalNats
from .rabbitmq import LocalRabbitMQ

__all__ = ["LocalBroker", "LocalKafka", "LocalNats", "LocalRabbitMQ"]
