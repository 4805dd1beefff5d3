"""The Kafka driver of remoting_bus: `kafka://`.

It knows Kafka and the bus contract, and must not know what the messages mean. `backend`
holds the driver, `topology` the names, `settings` what a URL may say.
"""

from remoting_bus_kafka.backend import KafkaBackend

__all__ = ["KafkaBackend"]
