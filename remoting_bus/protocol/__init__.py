"""The protocol: pure state, without I/O, clock, randomness or logging.

Where to begin: `session` is the law of one conversation (CONTROL and CALL), `freight`
that of its bytes (BULK and LOG), `endpoint` that of who is who. `docs/protocol.md`
describes what stands on the wire. It must not know what a broker or a loop is: time is
handed in (`now`), output is pulled (`next_envelope`), and state is changed by calls.
"""
