"""Functions called over a channel: names, values, errors, and the two sides of a call.

`registry` and `dispatch` run what a peer calls; `caller` calls; `marshal` and `faults`
say what travels. It must not know which program (`_agent`, `_master`) uses it, nor how
frames travel. Start with `caller`, then `dispatch`.
"""
