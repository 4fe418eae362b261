"""Renews what README.md and docs/probes.md quote: `python tests/readme.py`. A test compares, so that it is current.

A quoted part begins with `<!-- output: COMMAND -->`, `<!-- table: rules -->` or `<!-- table: probes -->` and ends with
`<!-- end -->`.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from esper_audit.engine import Catalogue
from esper_audit.probes.contract import probes
from esper_audit.rulekit.pages import table

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = (README, ROOT / "docs" / "probes.md")
COMMAND = "python tests/readme.py"
_QUOTED = re.compile(r"<!-- (?P<kind>output|table): (?P<what>.+?) -->\n.*?<!-- end -->", re.DOTALL)


def renewed(text: str) -> str:
    """The text with every quoted part as it would be now."""
    return _QUOTED.sub(lambda match: f"<!-- {match['kind']}: {match['what']} -->\n{_quote(match)}<!-- end -->", text)


def quoted(text: str) -> list[str]:
    """What is quoted: commands and tables."""
    return [match["what"] for match in _QUOTED.finditer(text)]


def _quote(match: re.Match[str]) -> str:
    if match["kind"] == "output":
        return f"```console\n$ {match['what']}\n{output(match['what'])}```\n"
    rows = experiments() if match["what"] == "probes" else table(list(Catalogue().infos.values()), "docs/rules/")
    return "\n".join(["", *rows]) + "\n\n"


def experiments() -> list[str]:
    """A table of all experiments: what each claims of a right network, and the code of its findings."""
    rows = [
        f"| `{probe.id}` | {probe.claim} | {probe.code}{'' if probe.convicts else ' (asks)'} |"
        for probe in sorted(probes().values(), key=lambda probe: (probe.group, probe.id))
    ]
    return ["| experiment | claim | code |", "|---|---|---|", *rows]


def output(command: str) -> str:
    """What `esper-audit ...` prints into a pipe when it is run in the root of the repository."""
    program, *words = shlex.split(command)
    if program != "esper-audit":
        message = f"only esper-audit is quoted, not {program!r}"
        raise ValueError(message)
    left_out = ("COLUMNS", "FORCE_COLOR", "PYTHONWARNINGS")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment["PYTHONPATH"] = os.pathsep.join(str(ROOT / folder) for folder in ("auditor", "rules"))
    run = subprocess.run(
        [sys.executable, "-m", "esper_audit", *words],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=False,
    )
    return run.stdout


def main() -> int:
    """Rewrite the pages and say which changed."""
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = renewed(before)
        page.write_text(after, encoding="utf-8")
        print(f"{page.name} is renewed" if after != before else f"{page.name} was current")
    return 0


if __name__ == "__main__":
    sys.exit(main())
