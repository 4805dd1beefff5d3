"""The RabbitMQ driver of remoting_bus: `amqp://` and `amqps://`.

It knows AMQP 0-9-1 and the bus contract, and must not know what the messages mean.
`backend` holds the driver, `topology` the names, `settings` what a URL may say.
"""

from remoting_bus_amqp.backend import AmqpBackend

__all__ = ["AmqpBackend"]
