"""What the tests feed to the tool, and the environment they start it in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

NETWORK = """\
import torch
from torch import nn


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, obs):
        return self.head(obs)
"""
# A suppression that has no form is a finding of medium severity, whatever rules there are.
FAULTY = NETWORK.replace("self.head(obs)", "self.head(obs)  # esper: ignore")

Esper = Callable[..., "subprocess.CompletedProcess[str]"]


def environment(**extra: str) -> dict[str, str]:
    """The environment of the tests, without what would change the output."""
    kept = {
        key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TERM")
    }
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
    return {**kept, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", "TERM": "xterm", "COLUMNS": "100", **extra}


def started(*words: str, cwd: Path) -> subprocess.Popen[bytes]:
    """The tool in a process that hears interrupts.

    A suite that was started with `nohup`, or in the background of a shell, passes on that they are ignored.
    """
    wake = "import signal, runpy; signal.signal(signal.SIGINT, signal.default_int_handler)"
    return subprocess.Popen(
        [sys.executable, "-c", f"{wake}; runpy.run_module('esper_audit', run_name='__main__')", *words],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
