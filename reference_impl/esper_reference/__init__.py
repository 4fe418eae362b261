"""The ground truth: a masked factored LSTM actor-critic that is right, in the torch that every probe runs on.

Read `network.py` first, then `distributions.py`, `rollout.py` and `ppo.py`; `tasks.py` shows that it learns. The four
need nothing but torch, and import nothing of the auditor: they are what its probes measure against.
"""
