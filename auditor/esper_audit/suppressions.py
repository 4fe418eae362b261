"""`# esper: ignore[ESP201] reason`: findings that a person has judged, and the audit's findings about such comments.

Decided in one place after all rules have spoken, so that a comment that silences nothing is seen as well. There is no
blanket form: a suppression names what it accepts.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from esper_audit.config import nearest
from esper_audit.core.errors import SourceError
from esper_audit.core.findings import Category, Confidence, Edit, Finding, Fix, Severity, Span
from esper_audit.core.report import RuleInfo
from esper_audit.selection import spelled
from esper_audit.semantics.source import Source

LINE_FORM = "# esper: ignore[ESP201] reason"
FILE_FORM = "# esper: file-ignore[ESP401] reason"

# A comment may carry several directives, other tools' among them. Only what asks for silence is one of ours: a project
# called Esper writes "esper: skip the first frame" and means just that.
_DIRECTIVE = re.compile(
    r"#\s*esper:\s*(?P<word>ignore-file|file-ignore|ignore|noqa|(?:disable|skip|suppress)(?=\s*(?:[\[=:(]|$)))\b",
    re.IGNORECASE,
)
_CODES = re.compile(r"\s*\[(?P<codes>[^\[\]]*)\](?P<reason>.*)", re.DOTALL)
_NEXT_COMMENT = re.compile(r"\s#\s")
_COOKIE = re.compile(r"coding[:=]")
_FAMILY = re.compile(r"(ALL|[A-Z]+\d*)")


@dataclass(frozen=True, slots=True)
class Suppression:
    """One comment: the codes or names it gives, why, where it stands and which lines it covers (None: the file).

    `whole` is what goes when all of it goes, `brackets` what stands between its brackets.
    """

    codes: tuple[str, ...]
    reason: str
    span: Span
    first_line: int | None
    last_line: int = 0
    whole: Span | None = None
    brackets: Span | None = None

    def covers(self, line: int) -> bool:
        """Whether a finding that begins on `line` is meant."""
        return self.first_line is None or self.first_line <= line <= self.last_line


@dataclass(frozen=True, slots=True)
class Malformed:
    """A comment that asks for silence in a form that does not exist."""

    span: Span
    message: str
    help: str


@dataclass(frozen=True, slots=True)
class Comments:
    """What the comments of one file say."""

    suppressions: tuple[Suppression, ...] = ()
    malformed: tuple[Malformed, ...] = ()


# --- reading the comments


@dataclass(slots=True)
class _Logical:
    """A logical line: a simple statement or the head of a compound one, with its first and last physical line."""

    first: int
    last: int
    decorator: bool


@dataclass(slots=True)
class _Scan:
    """The comments and logical lines of a file, as far as it can be split into tokens."""

    comments: list[tuple[tokenize.TokenInfo, int, bool]] = field(default_factory=list)  # token, logical line, indented
    logical: list[_Logical] = field(default_factory=list)


_LAYOUT = (tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER)


def _scan(text: str) -> _Scan:
    scan = _Scan()
    current: _Logical | None = None
    depth = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                alone = not token.line[: token.start[1]].strip() and current is None
                indented = token.start[1] > 0 if alone else depth > 0
                number = len(scan.logical) if current is None else len(scan.logical) - 1
                scan.comments.append((token, number, indented))
            elif token.type == tokenize.INDENT:
                depth += 1
            elif token.type == tokenize.DEDENT:
                depth -= 1
            elif token.type == tokenize.NEWLINE:
                if current is not None:
                    current.last = token.start[0]
                current = None
            elif token.type not in _LAYOUT:
                if current is None:
                    current = _Logical(token.start[0], token.end[0], token.string == "@")
                    scan.logical.append(current)
                current.last = token.end[0]
    except (tokenize.TokenError, SyntaxError, ValueError, RecursionError):
        pass  # such a file has no findings of its own; what was read so far still counts
    return scan


def read_comments(source: Source, path: str) -> Comments:
    """The suppressions in a file; none when its text cannot be read. Text inside strings is no comment."""
    try:
        text = "\n".join(source.lines)
    except SourceError:
        return Comments()
    scan = _scan(text)
    suppressions: list[Suppression] = []
    malformed: list[Malformed] = []
    for token, number, indented in scan.comments:
        for match in _DIRECTIVE.finditer(token.string):
            row, column = token.start
            end = _NEXT_COMMENT.search(token.string, match.end())
            stop = end.start() if end else len(token.string)
            text_of_it = token.string[match.start() : stop].rstrip()
            span = Span(path, row, column + match.start() + 1, row, column + match.start() + len(text_of_it) + 1)
            read = _directive(match["word"], token.string[match.end() : stop], span, indented=indented)
            if isinstance(read, Malformed):
                malformed.append(read)
                continue
            bracket = column + token.string.index("[", match.end()) + 2
            close = column + token.string.index("]", match.end()) + 1
            read = replace(
                read,
                whole=_whole(token, match.start(), stop, source.lines, path),
                brackets=Span(path, row, bracket, row, close),
            )
            if read.first_line is not None:
                first, last = _lines(scan.logical, number, row)
                read = replace(read, first_line=first, last_line=last)
            suppressions.append(read)
    return Comments(tuple(suppressions), tuple(malformed))


def _whole(token: tokenize.TokenInfo, start: int, stop: int, lines: Sequence[str], path: str) -> Span | None:
    """What goes with a directive: its line, the end of its line, or its part of a comment that holds more."""
    (row, column), text = token.start, token.string
    if row <= 2 and _COOKIE.search(text):
        return None
    if stop < len(text.rstrip()):  # another comment follows in the same one
        stop += len(text[stop:]) - len(text[stop:].lstrip())
        return Span(path, row, column + start + 1, row, column + stop + 1)
    before = (lines[row - 1][:column] + text[:start]).rstrip()
    if not before and row < len(lines):
        return Span(path, row, 1, row + 1, 1)
    return Span(path, row, len(before) + 1, row, column + len(text) + 1)


def _lines(logical: Sequence[_Logical], number: int, row: int) -> tuple[int, int]:
    """The lines of logical line `number`; from a decorator on, all lines to the head of what it decorates."""
    if number >= len(logical):
        return row, row  # the last comment of a file has no statement below
    first, last = logical[number].first, logical[number].last
    if first > row:  # above the statement: decorators belong to it
        while logical[number].decorator and number + 1 < len(logical):
            number += 1
            last = logical[number].last
    return first, last


def _directive(word: str, rest: str, span: Span, *, indented: bool) -> Suppression | Malformed:
    """One directive; line numbers are filled in by the caller (0 here, None for a whole file)."""
    help = f"write `{LINE_FORM}` on the line or above the statement, or `{FILE_FORM}` at file level"
    if word not in ("ignore", "file-ignore"):
        return Malformed(span, f"`{word}` is no suppression, so nothing is suppressed here", help)
    match = _CODES.match(rest)
    if match is None:
        problem = "its bracket is not closed" if rest.lstrip().startswith("[") else "there is no blanket form"
        return Malformed(span, f"this suppression names no code, so it suppresses nothing: {problem}", help)
    codes = tuple(dict.fromkeys(code for code in re.split(r"[,\s]+", match["codes"]) if code))
    if not codes:
        return Malformed(
            span, "this suppression names no code, so it suppresses nothing: there is no blanket form", help
        )
    if word == "file-ignore" and indented:
        return Malformed(
            span,
            "`file-ignore` inside a block suppresses nothing: it speaks for the whole file",
            f"move it to file level, unindented, or write `{LINE_FORM}` where the finding stands",
        )
    reason = match["reason"].strip().lstrip(":-\N{EN DASH}\N{EM DASH}").strip()
    return Suppression(codes, reason, span, None if word == "file-ignore" else 0)


# --- deciding


@dataclass(frozen=True, slots=True)
class Outcome:
    """The findings that stand, those that a comment suppresses, and the audit's own findings about the comments."""

    active: tuple[Finding, ...]
    suppressed: tuple[Finding, ...]
    own: tuple[Finding, ...]


def decide(
    findings: Iterable[Finding],
    comments: Mapping[str, Comments],
    *,
    known: Mapping[str, str],
    judged: Callable[[str, str], bool],
    named: Callable[[str], bool],
    require_reason: bool = False,
) -> Outcome:
    """Apply the comments of each file to its findings.

    `known` is code -> name of every rule; `judged(path, code)` says whether this run would have found the code in that
    file, so that silence means something; `named(path)` whether the file was asked for: a comment in a file that was
    only consulted is not criticised.
    """
    by_name = {name: code for code, name in known.items()}
    active: list[Finding] = []
    suppressed: list[Finding] = []
    used: set[tuple[Suppression, str]] = set()
    for finding in findings:
        fitting = [
            (suppression, word)
            for suppression in comments.get(finding.span.path, Comments()).suppressions
            if suppression.covers(finding.span.line)
            for word in suppression.codes
            if finding.code in (spelled(word), by_name.get(word))
        ]
        used.update(fitting)
        if fitting:
            suppressed.append(replace(finding, reason=next((s.reason for s, _ in fitting if s.reason), "")))
        else:
            active.append(finding)
    own: list[Finding] = []
    for path, said in comments.items():
        if not named(path):
            continue
        own.extend(_finding(INVALID, malformed.span, malformed.message, malformed.help) for malformed in said.malformed)
        for suppression in said.suppressions:
            own.extend(_judge(suppression, path, known, used, judged))
            if require_reason and not suppression.reason:
                own.append(_without_reason(suppression))
    return Outcome(tuple(active), tuple(suppressed), tuple(own))


def _judge(
    suppression: Suppression,
    path: str,
    known: Mapping[str, str],
    used: set[tuple[Suppression, str]],
    judged: Callable[[str, str], bool],
) -> Iterable[Finding]:
    """ESP901 or ESP903 for each word in the brackets that deserves it."""
    own_codes = {info.code for info in OWN_RULES}
    by_name = {name: code for code, name in known.items()}
    for word in suppression.codes:
        code = by_name.get(word, spelled(word))
        if code in own_codes:
            yield _finding(
                INVALID,
                suppression.span,
                f"{code} is about suppressions and cannot be suppressed by one",
                f'set `ignore = ["{code}"]` under [tool.esper-audit], or give --ignore {code}',
            )
        elif code not in known:
            yield _unknown(suppression, word, known)
        elif (suppression, word) not in used and judged(path, code):
            what = "file" if suppression.first_line is None else "line"
            rest = "delete the comment" if len(suppression.codes) == 1 else f"take {word} out of the brackets"
            found = _finding(UNUSED, suppression.span, f"nothing on this {what} raises {code} ({known[code]})", rest)
            yield replace(found, fix=_without(suppression, word))


def _without(suppression: Suppression, word: str) -> Fix | None:
    """The comment without a word, or no comment when it was the only one. A comment changes nothing when it goes."""
    others = [code for code in suppression.codes if code != word]
    if others and suppression.brackets is not None:
        return Fix(f"take {word} out of the brackets", True, (Edit(suppression.brackets, ", ".join(others)),))
    return Fix("delete the comment", True, (Edit(suppression.whole, ""),)) if suppression.whole is not None else None


def _unknown(suppression: Suppression, word: str, known: Mapping[str, str]) -> Finding:
    code = spelled(word)
    if _FAMILY.fullmatch(code) and (code == "ALL" or any(other.startswith(code) for other in known)):
        message = f"{word!r} stands for a whole family, and there is no blanket form: it suppresses nothing"
        return _finding(INVALID, suppression.span, message, f"name the codes one by one, as in `{LINE_FORM}`")
    message = f"no rule is called {word!r}, so it suppresses nothing{nearest(code, [*known, *known.values()])}"
    return _finding(INVALID, suppression.span, message, "`esper-audit list-rules` shows every code")


def _without_reason(suppression: Suppression) -> Finding:
    codes = ", ".join(suppression.codes)
    form = "file-ignore" if suppression.first_line is None else "ignore"
    message = f"the suppression of {codes} gives no reason"
    return _finding(REASONLESS, suppression.span, message, f"say why: `# esper: {form}[{codes}] reason`")


def _finding(rule: RuleInfo, span: Span, message: str, help: str) -> Finding:
    return Finding(rule.code, rule.name, rule.category, rule.severity, Confidence.HIGH, message, help, span)


def _info(code: str, name: str, summary: str, severity: Severity, page: str) -> RuleInfo:
    return RuleInfo(code, name, summary, Category.QUALITY, severity, None, "safe" if code == "ESP901" else None, page)


# The severities: what is left over harms nobody, so it does not fail a run by default. A comment whose author believes
# that it works, or a reason that the configuration demands, has to be looked at: both fail it.
UNUSED = _info(
    "ESP901",
    "unused-suppression",
    "A suppression comment that silences nothing",
    Severity.LOW,
    """\
## What it does

Reports a code in `# esper: ignore[...]` or `# esper: file-ignore[...]` that no finding of this run needed.

## Why it matters

The fault it excused is gone, or has moved. A comment that stays behind would silence the next fault of that kind
without anybody having looked at it.

## Example

```python
logits = logits.masked_fill(~mask, -1e4)  # esper: ignore[ESP201] measured, see notes
```

## Use instead

```python
logits = logits.masked_fill(~mask, -1e4)
```

## Fix

Safe: the comment goes, or the code is taken out of its brackets when others are left. Other comments on the line stay.

## When it stays silent

Only where silence means something: the rule was in force, and the file defines a network itself or the whole project
was audited. A finding can stand in a file because of a network in another one; as long as that one was not audited,
nobody knows whether the comment is still needed.
""",
)
REASONLESS = _info(
    "ESP902",
    "suppression-without-reason",
    "A suppression comment that does not say why",
    Severity.MEDIUM,
    """\
## What it does

Reports a suppression without a reason. It speaks only with `require-reason = true` under `[tool.esper-audit]`.

## Why it matters

The reason is what the next reader needs in order to know whether it still holds. Audit reports print it beside the
suppressed finding.

## Example

```python
hidden = torch.zeros(1, batch, size)  # esper: ignore[ESP201]
```

## Use instead

```python
hidden = torch.zeros(1, batch, size)  # esper: ignore[ESP201] this path runs on the CPU only
```
""",
)
INVALID = _info(
    "ESP903",
    "invalid-suppression",
    "A suppression comment that names an unknown code or has a form that does not exist",
    Severity.MEDIUM,
    """\
## What it does

Reports a suppression that cannot work: an unknown code or name, a family instead of a code, no brackets, a bracket that
is not closed, a word like `noqa` or `disable`, a `file-ignore` inside a block, or one of the audit's own codes.

## Why it matters

Its author believes that something is suppressed, and nothing is.

## Example

```python
hidden = torch.zeros(1, batch, size)  # esper: ignore
```

## Use instead

```python
hidden = torch.zeros(1, batch, size)  # esper: ignore[ESP201] this path runs on the CPU only
```

A suppression names its codes or rule names, several with commas between them. On its own line it covers the statement
below; `# esper: file-ignore[ESP401] reason` at file level covers the file. There is no blanket form.
""",
)
OWN_RULES = (UNUSED, REASONLESS, INVALID)
