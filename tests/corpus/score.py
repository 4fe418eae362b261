"""How often findings on code that nobody here wrote are true, by hand-made judgements that are kept as data.

    python tests/corpus/score.py FOLDER [FOLDER ...]

Each folder holds checkouts at the commits that stand in `judged.jsonl`, whatever they are called; others are scored,
too, under the names of their folders. A line of that file is one finding with a verdict, and why: `true` (what is said
is so, and it matters), `harmless` (it is so, but cannot hurt there; it counts as false) or `false`. Told are, for each
rule, how many judged findings are true and still reported, what is reported at `--min-severity` and above and was never
judged, and what was judged and is reported no more. The exit code is 1 when a rule is below 90 %, or all of them below
95 %.

This is run by hand, and is no test: it needs the checkouts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

JUDGED = Path(__file__).with_name("judged.jsonl")
Key = tuple[str, str, str, int, str]  # repository, commit, path, line, code


def judgements() -> dict[Key, dict[str, Any]]:
    """The verdicts, by what they are about."""
    lines = JUDGED.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line]
    return {(row["repository"], row["commit"], row["path"], row["line"], row["code"]): row for row in rows}


def found(repository: str, commit: str, checkout: Path, severity: str) -> tuple[set[Key], int]:
    """What esper-audit reports of a checkout, and how many files it read."""
    command = [sys.executable, "-m", "esper_audit", ".", "--isolated", "--no-cache", "--exit-zero", "--format", "json"]
    command += ["--min-severity", severity]
    report = json.loads(subprocess.run(command, cwd=checkout, check=True, capture_output=True, text=True).stdout)
    keys = {(repository, commit, each["path"], each["line"], each["code"]) for each in report["findings"]}
    return keys, len(report["files"])


def head(checkout: Path) -> str:
    """The commit of a checkout."""
    command = ["git", "rev-parse", "HEAD"]
    return subprocess.run(command, cwd=checkout, check=True, capture_output=True, text=True).stdout.strip()


def main() -> int:
    """Score the findings."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--min-severity", default="medium")
    options = parser.parse_args()
    judged = judgements()
    reported: set[Key] = set()
    names = {row["commit"]: row["repository"] for row in judged.values()}
    scored: set[str] = set()
    files = 0
    for checkout in sorted(path.parent for folder in options.folders for path in folder.glob("*/.git")):
        commit = head(checkout)[:12]
        scored.add(commit)
        keys, read = found(names.get(commit, checkout.name), commit, checkout, options.min_severity)
        reported |= keys
        files += read
    for commit in sorted(names.keys() - scored):
        print(f"left out: there is no checkout of {names[commit]} at {commit}")
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for key in sorted(reported):
        row = judged.get(key)
        counts[key[4]][row["verdict"] if row else "unjudged"] += 1
        if row is None or row["verdict"] != "true":
            verdict, why = (row["verdict"], row["why"]) if row else ("unjudged", "")
            print(f"{verdict}: {key[0]} {key[2]}:{key[3]} {key[4]} {why}")
    for key, row in sorted(judged.items()):
        if key not in reported and row["commit"] in scored and row["verdict"] == "true":
            print(f"gone: {key[0]} {key[2]}:{key[3]} {key[4]} {row['why']}")
    shares = {}
    for code, tally in sorted(counts.items()):
        decided = tally["true"] + tally["false"] + tally["harmless"]
        shares[code] = tally["true"] / decided if decided else 1.0
        print(f"{code}: {tally['true']} of {decided} true ({100 * shares[code]:.0f} %), {tally['unjudged']} not judged")
    true = sum(tally["true"] for tally in counts.values())
    decided = sum(tally["true"] + tally["false"] + tally["harmless"] for tally in counts.values())
    share = 100 * true / max(decided, 1)
    print(f"all: {true} of {decided} true ({share:.1f} %), in {len(scored)} checkouts and {files} files")
    return int(true < 0.95 * decided or min(shares.values(), default=1) < 0.9)


if __name__ == "__main__":
    sys.exit(main())
