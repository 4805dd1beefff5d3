"""The NATS driver of remoting_bus: `nats://`, and `embedded://` in `embedded`.

It knows NATS and the bus contract, and must not know what the messages mean. `backend`
holds the driver, `topology` the names, `settings` what a URL may say.
"""

from remoting_bus_nats.backend import NatsBackend

__all__ = ["NatsBackend"]
