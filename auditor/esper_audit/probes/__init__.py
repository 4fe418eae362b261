"""Experiments on networks: a suspicion is put on trial in a subprocess, and comes back with a number.

`orders` says what is to be tried, `launch` starts a worker and survives it, `worker` builds the network and runs the
`experiments`, `court` brings the verdicts back onto the findings. User code runs in the worker and nowhere else.
"""
