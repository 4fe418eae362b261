"""The pages of the rules as files, for readers of the repository.

`python -m esper_audit.rulekit.pages docs/rules` writes them; a test compares, so that no page falls behind its rule.
A command for this project and no part of the kit: rules never import it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from esper_audit.core.findings import Confidence
from esper_audit.core.report import RuleInfo
from esper_audit.engine import Catalogue
from esper_audit.probes.contract import probes

COMMAND = "python -m esper_audit.rulekit.pages docs/rules"
INDEX = "README.md"
_PAGE_NAME = re.compile(r"[A-Z]+\d+-[\w-]+\.md")
_FENCE = re.compile(r"\s*(```|~~~)")
_NOTE = f"<!-- Written by `{COMMAND}` from the rule itself. Edit the rule, not this page. -->"
_FAMILIES = {
    "1": "Compilation",
    "2": "Device and dtype",
    "3": "Gradient flow and numerics",
    "4": "Memory",
    "5": "Integration contracts",
    "6": "Code quality and initialisation",
    "9": "The audit's own",
}


def file_name(info: RuleInfo) -> str:
    """The file of a rule's page."""
    return f"{info.code}-{info.name}.md"


def page(info: RuleInfo, rule: Any) -> str:
    """One page: what the tables say about a rule, then its docstring. `rule` is None for the audit's own codes."""
    confidence: Confidence = getattr(rule, "confidence", Confidence.HIGH)
    cells = {
        "severity": info.severity.value,
        "confidence": confidence.value,
        "category": info.category.value,
        "fix": info.fixable or "none",
        "probe": f"`{info.probe}`" if info.probe else "none",
    }
    lines = [
        _NOTE,
        "",
        f"# {info.code} {info.name}",
        "",
        f"{_sentence(info.summary)}",
        "",
        f"| {' | '.join(cells)} |",
        f"|{'---|' * len(cells)}",
        f"| {' | '.join(cells.values())} |",
        "",
        *_spaced(info.page.strip()),
        "",
        *_source(info, rule),
    ]
    return "\n".join(lines).rstrip() + "\n"


def index(infos: Sequence[RuleInfo]) -> str:
    """The table of all rules, by family."""
    lines = [
        _NOTE,
        "",
        "# Rules",
        "",
        "Each page says what a rule reports, why it matters, what to write instead, and what the statement rests on.",
        "`esper-audit explain CODE` prints the same page in a terminal.",
        "",
        "The severity is the usual one; where a single finding can be worse or milder, the page says when. *Praise*",
        "marks rules that report no faults: they tell of good patterns. The probe column names the experiment that",
        "decides a finding under `--probe`; the codes from ESPx70 to ESPx89 are those of experiments alone.",
        "",
    ]
    for digit, title in _FAMILIES.items():
        family = [info for info in infos if info.code.startswith(f"ESP{digit}")]
        if not family:
            continue
        lines += [f"## ESP{digit}: {title}", "", *table(family, ""), ""]
    return "\n".join(lines).rstrip() + "\n"


def table(infos: Sequence[RuleInfo], folder: str) -> list[str]:
    """Rules with links to their pages; `folder` is the way there, with its slash."""
    head = ["| code | name | severity | probe | summary |", "|---|---|---|---|---|"]
    return [*head, *(_row(info, folder) for info in infos)]


def _row(info: RuleInfo, folder: str) -> str:
    severity = "praise" if is_praise(info) else info.severity.value
    probe = f"`{info.probe}`" if info.probe else ""
    summary = info.summary.removeprefix("praise only: ").replace("|", "\\|")
    return f"| [{info.code}]({folder}{file_name(info)}) | {info.name} | {severity} | {probe} | {summary} |"


def is_praise(info: RuleInfo) -> bool:
    """Whether a rule reports no faults (docs/decisions/0003)."""
    return re.fullmatch(r"ESP\d9\d", info.code) is not None


def pages(catalogue: Catalogue | None = None) -> dict[str, str]:
    """File name -> text, for every rule and the index."""
    catalogue = catalogue or Catalogue()
    infos = catalogue.infos
    texts = {file_name(info): page(info, catalogue.rules.get(code)) for code, info in infos.items()}
    return {INDEX: index(list(infos.values())), **texts}


def stale(folder: Path) -> list[str]:
    """The files in `folder` that are missing, differ from their rule, or belong to no rule."""
    wanted = pages()
    found = {path.name for path in folder.glob("*.md") if path.name == INDEX or _PAGE_NAME.fullmatch(path.name)}
    differ = {name for name in found & wanted.keys() if (folder / name).read_text(encoding="utf-8") != wanted[name]}
    return sorted(differ | (found ^ wanted.keys()))


def write(folder: Path) -> list[str]:
    """Bring `folder` up to date; returns the names of the files that changed."""
    changed = stale(folder)
    wanted = pages()
    folder.mkdir(parents=True, exist_ok=True)
    for name in changed:
        if name in wanted:
            (folder / name).write_text(wanted[name], encoding="utf-8")
        else:
            (folder / name).unlink()
    return changed


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _spaced(text: str) -> list[str]:
    """The lines of a page with one empty line around headings and blocks; what is inside a block stays as it is."""
    lines: list[str] = []
    in_code = False
    for line in text.split("\n"):
        fence = _FENCE.match(line) is not None
        if in_code:
            lines += [line, ""] if fence else [line]
        elif fence or line.startswith("#") or (lines and not lines[-1]):
            while lines and not lines[-1]:
                lines.pop()
            lines += ["", line] if fence or not line.startswith("#") else ["", line, ""]
        else:
            lines.append(line)
        in_code ^= fence
    return lines[1:] if lines[:1] == [""] else lines


def _source(info: RuleInfo, rule: Any) -> list[str]:
    if rule is not None:
        module = type(rule).__module__
    else:
        module = type(probes()[info.probe]).__module__ if info.probe else "esper_audit.suppressions"
    root = {"esper_audit": "auditor", "esper_rules": "rules"}.get(module.partition(".")[0])
    if root is None:
        return []
    path = f"{root}/{module.replace('.', '/')}.py"
    return [f"Source{' and cases' if rule is not None else ''}: [`{path}`](../../{path})"]


def main(words: Sequence[str]) -> int:
    """`pages FOLDER` writes the pages and says what changed."""
    if len(words) != 1 or words[0].startswith("-"):
        sys.stderr.write(f"usage: {COMMAND}\n")
        return 2
    folder = Path(words[0])
    changed = write(folder)
    for name in changed:
        sys.stdout.write(f"{folder / name}\n")
    sys.stdout.write(f"{len(changed)} pages changed\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
