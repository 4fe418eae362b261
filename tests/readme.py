"""Renews what the README quotes: `python tests/readme.py`. A test compares, so that it shows what the tool says now.

A quoted part begins with `<!-- output: COMMAND -->` or `<!-- table: rules -->` and ends with `<!-- end -->`.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from esper_audit.engine import Catalogue
from esper_audit.rulekit.pages import table

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
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
    return "\n".join(["", *table(list(Catalogue().infos.values()), "docs/rules/")]) + "\n\n"


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
    """Rewrite the README and say whether it changed."""
    before = README.read_text(encoding="utf-8")
    after = renewed(before)
    README.write_text(after, encoding="utf-8")
    print("README.md is renewed" if after != before else "README.md was current")
    return 0


if __name__ == "__main__":
    sys.exit(main())
