"""The command line, `remoting-bus`.

`main` is the entry point and turns every failure into one line and an exit status;
`app` names the commands, each of which has a file of its own, imported when it is asked
for. `places` finds the bus, `record` is how a master on this machine is found, `output`
shows things to people and to programs. Nothing below imports any of this.
"""
