"""Audits of files that a test made up, inside this process and without any configuration."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from pathlib import Path

from esper_audit.core.report import AuditReport
from esper_audit.engine import CheckRequest, run
from esper_audit.reporters import render

NETWORK = """\
import torch
from torch import nn


class Policy(nn.Module):
    def __init__(self, size=8):
        super().__init__()
        self.lstm = nn.LSTM(4, size)
        self.head = nn.Linear(size, 2)

    def get_initial_hidden(self, batch):
        return torch.zeros(1, batch, 8)

    def forward(self, obs, mask=None, hidden=None):
        out, hidden = self.lstm(obs, hidden or self.get_initial_hidden(obs.shape[0]))
        logits = self.head(out).masked_fill(~mask, MASK)
        BODY
        return logits, hidden
"""


def network(body: str = "pass", *, mask: str = "-1e9", before: str = "", after: str = "") -> str:
    """A recurrent policy with something odd in it; `before` and `after` stand around it, `body` inside `forward`."""
    return before + NETWORK.replace("BODY", body).replace("MASK", mask) + after


def audited(files: Mapping[str, str | bytes]) -> AuditReport:
    """The audit of a project that holds these files."""
    with tempfile.TemporaryDirectory() as name:
        return audited_in(Path(name), files)


def audited_in(folder: Path, files: Mapping[str, str | bytes]) -> AuditReport:
    """The same in a folder of the caller's."""
    (folder / ".git").mkdir(exist_ok=True)
    for file, content in files.items():
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return run(CheckRequest(paths=(str(folder),), isolated=True))


def assert_survived(report: AuditReport) -> None:
    """No file, no rule and no worker fell over."""
    crashes = [f"{file.path}: {file.error}" for file in report.files if file.status == "crashed"]
    assert crashes == []


def as_json(report: AuditReport) -> str:
    """The report for programs."""
    page = io.StringIO()
    render("json", report, page)
    return page.getvalue()
