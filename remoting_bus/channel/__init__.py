"""The channel: sessions with their I/O, and the only package that knows a bus and a session.

`pair` opens a bus, `line` publishes and delivers on each of its connections, `node` is
one address with its links, `link` one session, `pool` runs the peers' calls, `streams`
are bytes as programs hold them. It must not know what a call means.
"""
