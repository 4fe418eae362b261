"""All checks in one command: `python tests/check.py`. It runs every one of them and fails when any has failed.

Words choose some: `python tests/check.py ruff mypy`.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
NETWORKS = Path("tests", "networks")
LINT_IMPORTS = "from importlinter.cli import lint_imports_command; lint_imports_command()"  # it has no `python -m`


class Check(NamedTuple):
    """One check: its title, the arguments of Python, the folder it runs in, and a module it cannot do without."""

    title: str
    words: tuple[str, ...]
    folder: Path = Path()
    needs: str = ""


CHECKS = {
    "ruff": Check("lint", ("-m", "ruff", "check", "--output-format", "concise", ".")),
    "format": Check("format", ("-m", "ruff", "format", "--check", "--output-format", "concise", ".")),
    "mypy": Check("types", ("-m", "mypy")),
    "imports": Check("import contracts", ("-c", LINT_IMPORTS)),
    "rules": Check("cases and pages of the rules", ("-m", "coverage", "run", "-m", "pytest", "tests/rules")),
    "coverage": Check("every branch of every rule", ("-m", "coverage", "report")),
    "tests": Check("all other tests", ("-m", "pytest", "--ignore=tests/rules")),
    "healthy": Check("a sound network does what it says", ("-m", "pytest"), NETWORKS / "healthy", "torch"),
    "fixed": Check("so does a cured one", ("-m", "pytest"), NETWORKS / "twin_fixed", "torch"),
}


def main(words: Sequence[str]) -> int:
    """Run the checks that `words` name, or all; 0 when none of them fails."""
    unknown = [word for word in words if word not in CHECKS]
    if unknown:
        print(f"no check is called {unknown[0]!r}; there are {', '.join(CHECKS)}", file=sys.stderr)
        return 2
    verdicts = {name: run(name) for name in words or CHECKS}
    print("\n== summary")
    for name, verdict in verdicts.items():
        print(f"{name:<9}{verdict}")
    return int(any(verdict.startswith("FAILED") for verdict in verdicts.values()))


def run(name: str) -> str:
    """Run one check, show what it prints, and return the verdict."""
    check = CHECKS[name]
    print(f"\n== {name}: {check.title}", flush=True)
    if check.needs and importlib.util.find_spec(check.needs) is None:
        print(f"left out: {check.needs} is not installed")
        return f"left out, {check.needs} is not installed"
    sources = [str(ROOT / folder) for folder in ("auditor", "rules", "reference_impl")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sources)}  # this checkout, whatever is installed
    start = time.monotonic()
    process = subprocess.run([sys.executable, *check.words], cwd=ROOT / check.folder, env=environment, check=False)
    return f"{'FAILED' if process.returncode else 'ok':<7}{time.monotonic() - start:6.1f} s"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
