"""How often findings on code that nobody here wrote are true, by hand-made judgements that are kept as data.

    python tests/corpus/score.py FOLDER [FOLDER ...]

Each folder holds checkouts, named as the repositories in `judged.jsonl` are without their owner, at the commits that
stand there. A line of that file is one finding with a verdict, and why: `true` (what is said is so, and it matters),
`harmless` (it is so, but cannot hurt there; it counts as false) or `false`. Told are, for each rule, how many judged
findings are true and still reported, what is reported at `--min-severity` and above and was never judged, and what was
judged and is reported no more. The exit code is 1 when a rule is below 90 %, or all of them below 95 %.

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
Key = tuple[str, str, int, str]  # repository, path, line, code


def judgements() -> dict[Key, dict[str, Any]]:
    """The verdicts, by what they are about."""
    lines = JUDGED.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line]
    return {(row["repository"], row["path"], row["line"], row["code"]): row for row in rows}


def found(repository: str, checkout: Path, severity: str) -> set[Key]:
    """What esper-audit reports of a checkout."""
    command = [sys.executable, "-m", "esper_audit", ".", "--isolated", "--no-cache", "--exit-zero", "--format", "json"]
    command += ["--min-severity", severity]
    report = json.loads(subprocess.run(command, cwd=checkout, check=True, capture_output=True, text=True).stdout)
    return {(repository, each["path"], each["line"], each["code"]) for each in report["findings"]}


def head(checkout: Path) -> str:
    """The commit of a checkout."""
    command = ["git", "rev-parse", "HEAD"]
    return subprocess.run(command, cwd=checkout, check=True, capture_output=True, text=True).stdout


def main() -> int:
    """Score the findings."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--min-severity", default="medium")
    options = parser.parse_args()
    judged = judgements()
    reported: set[Key] = set()
    scored: set[str] = set()
    for repository, commit in sorted({(row["repository"], row["commit"]) for row in judged.values()}):
        places = [folder / repository.partition("/")[2] for folder in options.folders]
        checkout = next((place for place in places if place.is_dir()), None)
        if checkout is None or not head(checkout).startswith(commit):
            print(f"left out: there is no checkout of {repository} at {commit}")
            continue
        scored.add(repository)
        reported |= found(repository, checkout, options.min_severity)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for key in sorted(reported):
        row = judged.get(key)
        counts[key[3]][row["verdict"] if row else "unjudged"] += 1
        if row is None or row["verdict"] != "true":
            verdict, why = (row["verdict"], row["why"]) if row else ("unjudged", "")
            print(f"{verdict}: {key[0]} {key[1]}:{key[2]} {key[3]} {why}")
    for key, row in sorted(judged.items()):
        if key not in reported and row["repository"] in scored and row["verdict"] == "true":
            print(f"gone: {key[0]} {key[1]}:{key[2]} {key[3]} {row['why']}")
    shares = {}
    for code, tally in sorted(counts.items()):
        decided = tally["true"] + tally["false"] + tally["harmless"]
        shares[code] = tally["true"] / decided if decided else 1.0
        print(f"{code}: {tally['true']} of {decided} true ({100 * shares[code]:.0f} %), {tally['unjudged']} not judged")
    true = sum(tally["true"] for tally in counts.values())
    decided = sum(tally["true"] + tally["false"] + tally["harmless"] for tally in counts.values())
    print(f"all: {true} of {decided} true ({100 * true / max(decided, 1):.1f} %)")
    return int(true < 0.95 * decided or min(shares.values(), default=1) < 0.9)


if __name__ == "__main__":
    sys.exit(main())
