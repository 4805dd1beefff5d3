"""The main job, shown for real: a bus, a master and three agents, each a process.

`stage` starts and ends them, `work` is what agents run, `calls`, `bulk` and `faults`
are the steps, `show` tells of them, and `script` plays them in order. A step does
something, checks it, and gives what it measured; what is not as expected fails the demo.
"""
