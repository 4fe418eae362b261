"""The commands, each from a request to an exit code. The words that ask for them belong to `cli` and `__main__`."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from esper_audit.collect import STDIN, display_path
from esper_audit.config import nearest
from esper_audit.console import (
    check_writable,
    deliver,
    deliver_text,
    guarded,
    is_terminal,
    system_reason,
    tell,
    wants_color,
    width_of,
    write_file,
)
from esper_audit.core.errors import SourceError, UsageError
from esper_audit.core.findings import Confidence, Severity, Verdict
from esper_audit.core.report import AuditReport, RuleInfo
from esper_audit.engine import (
    Catalogue,
    CheckRequest,
    Plan,
    audit,
    catalogue_of,
    current_folder,
    exit_code,
    prepare,
    read_standard_input,
    settings_for,
)
from esper_audit.reporters import FORMATS, RenderOptions, render
from esper_audit.selection import Selection, names_rules, spelled

if TYPE_CHECKING:
    from esper_audit import fixes
    from esper_audit.baseline import Baseline

DEFAULT_FORMAT = "full"
_CERTAIN = {".sarif.json": "sarif", ".sarif": "sarif", ".xml": "junit", ".md": "markdown", ".markdown": "markdown"}
_SUFFIXES = {**_CERTAIN, ".txt": "full", ".json": "json"}  # these two may be of any format, if `--format` says so
_SAYS_FAILURES = ("full", "concise", "github")  # these formats tell which files could not be audited
_CHECKOUTS = ("GITHUB_WORKSPACE", "CI_PROJECT_DIR")  # where GitHub and GitLab keep the root of the checkout


# --- check


@dataclass(frozen=True, slots=True)
class Output:
    """A report that goes to a file."""

    format: str
    name: str
    path: Path


def check(request: CheckRequest) -> int:
    """Audit, report, and say with the exit code whether something was found."""
    return guarded(lambda: _check(request), verbose=request.verbose)


def _check(request: CheckRequest) -> int:
    if request.quiet and request.verbose:
        raise UsageError("-q and -v exclude each other")
    if request.unsafe_fixes and not (request.fix or request.diff):
        raise UsageError("--unsafe-fixes says which fixes to make: it needs --fix or --diff")
    shown, outputs = destinations(request)
    plan = prepare(request)
    for problem in plan.problems:
        tell("error", problem)
    read = functools.cache(read_standard_input)
    report = _audited(plan, read)
    if request.fix or request.diff:
        return _fix(plan, report, shown, outputs, read)
    _tell(plan, report, failures=shown not in _SAYS_FAILURES)
    failed = _write_all(plan, shown, outputs, report) | _show(shown, outputs, report, request)
    return failed or exit_code(report, plan)


def _fix(
    plan: Plan,
    report: AuditReport,
    shown: str | None,
    outputs: tuple[Output, ...],
    read: Callable[[], bytes],
) -> int:
    """Make the fixes and report what remains; or show them as a patch, and report to files alone."""
    from esper_audit import fixes

    request = plan.request
    outcome = fixes.fix(plan, report, unsafe=request.unsafe_fixes, stdin=read)
    failed = _deliver_fixes(plan, outcome, read)
    if request.diff:
        _tell(plan, report, failures=True)
        failed |= _write_all(plan, shown, outputs, report)
        code = exit_code(report, plan)
        return failed or (code if code > 1 else int(bool(outcome.changes) and not request.exit_zero))
    report = _audited(plan, read) if plan.probes and outcome.changes else outcome.report
    _tell(plan, report, failures=shown not in _SAYS_FAILURES)
    failed |= _write_all(plan, shown, outputs, report)
    failed |= _show(shown, outputs, report, request, aside=_reads_stdin(plan))
    return failed or exit_code(report, plan)


def _tell(plan: Plan, report: AuditReport, *, failures: bool) -> None:
    """Notes, and files that could not be audited where the format has no place for them."""
    for file in report.files if failures else ():
        if file.error:
            place = f"{file.path}:{file.error_line}" if file.error_line else file.path
            tell("error", f"{place}: {' '.join(file.error.split())}")
    for note in (*report.notes, *_about_baseline(plan, report)) if not plan.request.quiet else ():
        tell("note", note)


def _about_baseline(plan: Plan, report: AuditReport) -> Iterator[str]:
    if plan.baseline is None:
        return
    from esper_audit.reporters.words import count

    if back := sum(bool(finding.reason) for finding in report.active):
        yield f"{plan.baseline.name}: {count(back, 'known finding')} confirmed by an experiment, and not held back"
    if gone := sum(report.gone.values()):
        yield (
            f"{plan.baseline.name}: {count(gone, 'known finding')} not found any more;"
            " `esper-audit baseline --prune PATH...` takes out what is gone"
        )


def _reads_stdin(plan: Plan) -> bool:
    return any(target.stdin for target in plan.collection.targets)


def _deliver_fixes(plan: Plan, outcome: fixes.Outcome, read: Callable[[], bytes]) -> int:
    """Write what was fixed, or show it as a patch. What came through standard input goes to standard output, fixed."""
    from esper_audit import fixes

    failed = 0
    if plan.request.diff:
        for change in outcome.changes:
            failed |= _deliver_bytes(fixes.unified_diff(change), plain=is_terminal(sys.stdout))
    else:
        for problem in fixes.write(outcome.changes):
            tell("error", problem)
            failed = 3
        if _reads_stdin(plan):
            with contextlib.suppress(SourceError):  # nothing was read, and the report says so
                fixed = [change.after for change in outcome.changes if change.target.stdin]
                failed |= _deliver_bytes(fixed[0] if fixed else read())
    if not plan.request.quiet:
        for note in outcome.notes:
            tell("note", note)
        words = fixes.summary(outcome, written=not plan.request.diff)
        if words:
            tell("note", words)
    return failed


def _deliver_bytes(data: bytes, *, plain: bool = False) -> int:
    """Bytes as they are, for a program to read; `plain` spells out what a terminal would obey."""

    def write(sink: TextIO) -> None:
        if plain:
            from esper_audit.reporters.escape import visible

            lines = data.decode("utf-8", "backslashreplace").split("\n")[:-1]
            sink.writelines(visible(line.removesuffix("\r")) + "\n" for line in lines)
        elif hasattr(sink, "buffer"):
            sink.flush()
            sink.buffer.write(data)
        else:
            sink.write(data.decode("utf-8", "backslashreplace"))

    return deliver(write)


def _audited(plan: Plan, stdin: Callable[[], bytes] = read_standard_input) -> AuditReport:
    if plan.probes:
        import importlib.util

        if importlib.util.find_spec("torch") is None:
            raise UsageError("--probe needs torch: pip install 'esper-audit[probe]'")
    if plan.request.quiet or not is_terminal(sys.stderr):
        return audit(plan, stdin=stdin)
    from esper_audit.progress import ProgressBar

    bar = ProgressBar()
    try:
        return audit(plan, progress=bar, tell=bar.say, stdin=stdin)
    finally:
        bar.close()


# --- baseline


def baseline(request: CheckRequest, *, file: str | None = None, prune: bool = False) -> int:
    """Write down the findings there are, or take out of the baseline those that are no more."""
    return guarded(lambda: _write_baseline(request, file, prune=prune))


def _write_baseline(request: CheckRequest, file: str | None, *, prune: bool) -> int:
    from esper_audit import baseline as kept

    if file == "":
        raise UsageError("--baseline names no file")
    if STDIN in request.paths:
        raise UsageError("a baseline is about files; standard input is none")
    cwd = current_folder()
    settings = settings_for(request, cwd)
    configured = settings.root / (settings.baseline or kept.FILE_NAME)
    path = configured if file is None else cwd / file
    name = display_path(path, cwd)
    check_writable(path, name)
    exists = os.path.lexists(path)
    if prune and not exists:
        raise UsageError(f"there is no {name!r} to prune; {kept.AGAIN} writes one")
    old = kept.read(path, name) if exists else kept.Baseline(path, name)
    # Reading alone: what an experiment confirms would not be held back, and what it refutes fails no run.
    plan = prepare(
        replace(request, probe=False, baseline="", min_severity=Severity.INFO, min_confidence=Confidence.LOW)
    )
    plan = replace(plan, baseline=old)
    report = _audited(plan)
    _tell_troubles(plan, report)
    new = replace(old, entries=old.renewed(report.baselined, () if prune else report.findings, report.gone, cwd))
    if new.entries != old.entries or not exists:
        try:
            write_file(path, lambda sink: sink.write(kept.page(new.entries)))
        except OSError as error:
            tell("error", f"cannot write to {name!r}: {system_reason(error)}")
            return 3
    if not request.quiet:
        read_by_audits = bool(settings.baseline) and configured.resolve() == path.resolve()
        _tell_baseline(new, report, prune=prune, read_by_audits=read_by_audits)
    code = exit_code(report, plan)
    return code if code > 1 else 0


def _tell_troubles(plan: Plan, report: AuditReport) -> None:
    """What was wrong on the way to a report that itself is not shown."""
    for problem in plan.problems:
        tell("error", problem)
    for file in report.files:
        if file.error:
            tell("error", f"{file.path}: {' '.join(file.error.split())}")
    if not plan.request.quiet:
        for note in report.notes:
            tell("note", note)


def _tell_baseline(new: Baseline, report: AuditReport, *, prune: bool, read_by_audits: bool) -> None:
    from esper_audit.reporters.words import count

    files = len({path for path, _ in new.entries})
    gone = sum(report.gone.values())
    news = f"{gone} taken out" if prune else f"{len(report.findings)} new, {gone} taken out"
    deliver_text(f"{new.name}: {count(len(new), 'finding')} in {count(files, 'file')}; {news}\n")
    if not read_by_audits:
        tell("note", "audits read it when `baseline` under [tool.esper-audit] names it, or with --baseline")


# --- probe


def probe(
    word: str,
    *,
    timeout: float | None = None,
    config: str | None = None,
    isolated: bool = False,
    color: str = "auto",
) -> int:
    """Run the experiments on the networks of a path and tell every number."""
    return guarded(lambda: _probe(word, timeout, config, color, isolated=isolated))


def _probe(word: str, timeout: float | None, config: str | None, color: str, *, isolated: bool) -> int:
    path, _, network = word.partition("::")
    request = CheckRequest(
        paths=(path,),
        probe=True,
        everything=True,
        probe_timeout=timeout,
        network=network,
        config=config,
        isolated=isolated,
        color=color,
    )
    plan = prepare(request)
    report = _audited(plan)
    _tell_troubles(plan, report)
    names = sorted({card.name for file in report.files if file.status == "audited" for card in file.networks})
    if network and network not in names:
        raise UsageError(f"{path} defines no network {network!r}{nearest(network, names)}")
    from esper_audit.reporters import render_experiments

    options = _options(request, color=wants_color(color, sys.stdout), width=width_of(sys.stdout))
    failed = deliver(lambda sink: render_experiments(report, sink, options=options))
    broken = any(file.status in ("crashed", "unparsable") for file in report.files)
    faults = any(result.verdict is Verdict.REFUTED and result.decisive for result in report.probes)
    return failed or (3 if broken else int(faults))


def destinations(request: CheckRequest) -> tuple[str | None, tuple[Output, ...]]:
    """The format that standard output gets, None for a mere summary, and the reports that go to files.

    `-o FILE` without a format of its own takes that of `--format`, which then is not shown twice, unless its suffix
    stands for another one; without `--format`, the suffix of the file decides and standard output shows the findings
    as usual.
    """
    if request.format is not None and request.format not in FORMATS:
        raise UsageError(f"unknown format {request.format!r}, there are {', '.join(FORMATS)}")
    shown = request.format or DEFAULT_FORMAT
    spent = False
    outputs = []
    cwd = current_folder() if request.outputs else Path()
    for word in request.outputs:
        prefix, colon, rest = word.partition(":")
        suffix = next((suffix for suffix in _SUFFIXES if word.lower().endswith(suffix)), "")
        if colon and prefix in FORMATS:
            format, name = prefix, rest
        elif colon and prefix.isidentifier() and "/" not in prefix and len(prefix) > 1:
            raise UsageError(f"unknown format {prefix!r} in -o {word!r}, there are {', '.join(FORMATS)}")
        elif request.format and _CERTAIN.get(suffix, request.format) == request.format:
            format, name, spent = request.format, word, True
        elif suffix:
            format, name = _SUFFIXES[suffix], word
        else:
            raise UsageError(f"-o {word!r} does not say its format: write FORMAT:FILE, with {', '.join(FORMATS)}")
        if name in ("", "-"):
            raise UsageError(f"-o {word!r} names no file; --format says what standard output gets")
        check_writable(cwd / name, name)
        outputs.append(Output(format, name, cwd / name))
    return (None if spent else shown), tuple(outputs)


def _options(request: CheckRequest, *, color: bool, width: int) -> RenderOptions:
    import time

    return RenderOptions(
        color=color,
        width=width,
        show_suppressed=request.show_suppressed,
        show_baselined=request.show_baselined,
        statistics=request.statistics,
        quiet=request.quiet,
        reproducible=request.reproducible,
        show_refuted=request.show_refuted,
        date="" if request.reproducible else time.strftime("%Y-%m-%d"),
        folder=_folder_of_checkout(),
    )


def _folder_of_checkout() -> str:
    """The current folder below the checkout of a CI job; empty at its root and outside of CI."""
    for variable in _CHECKOUTS:
        root = os.environ.get(variable)
        if root:
            try:
                folder = current_folder().resolve().relative_to(Path(root).resolve()).as_posix()
            except (OSError, ValueError):
                continue
            return "" if folder == "." else folder
    return ""


def _write_all(plan: Plan, shown: str | None, outputs: tuple[Output, ...], report: AuditReport) -> int:
    options = _options(plan.request, color=False, width=100)
    failed = 0
    for output in outputs:
        try:
            write_file(output.path, functools.partial(render, output.format, report, options=options))
        except OSError as error:
            tell("error", f"cannot write to {output.name!r}: {system_reason(error)}")
            failed = 3
    if "github" in (shown, *(output.format for output in outputs)):
        failed |= _step_summary(report)
    return failed


def _show(
    shown: str | None, outputs: tuple[Output, ...], report: AuditReport, request: CheckRequest, *, aside: bool = False
) -> int:
    """The report on standard output, or on standard error (`aside`) when that has taken a fixed source."""
    sink = sys.stderr if aside else sys.stdout
    if shown is not None:
        options = _options(request, color=wants_color(request.color, sink), width=width_of(sink))
        if aside:
            with contextlib.suppress(OSError, ValueError):
                render(shown, report, sink, options=options)
            return 0
        return deliver(lambda sink: render(shown, report, sink, options=options))
    if request.quiet or aside:
        return 0
    from esper_audit.reporters.words import summary

    names = ", ".join(output.name for output in outputs)
    return deliver_text(f"{names}: {summary(report)}\n")


def _step_summary(report: AuditReport) -> int:
    """Append the audit in short to the summary of the step, where GitHub asks for one."""
    name = os.environ.get("GITHUB_STEP_SUMMARY")
    if not name:
        return 0
    from esper_audit.reporters.github import SUMMARY_LIMIT, step_summary

    path = Path(name)
    try:
        written = path.stat().st_size if path.exists() else 0
        page = step_summary(report, room=SUMMARY_LIMIT - written)
        with path.open("ab") as sink:
            sink.write(page.encode("utf-8", "backslashreplace"))
    except OSError as error:
        tell("error", f"cannot write to $GITHUB_STEP_SUMMARY: {system_reason(error)}")
        return 3
    return 0


# --- the commands that tell about the tool


def _catalogue(config: str | None, *, isolated: bool) -> tuple[Catalogue, CheckRequest]:
    request = CheckRequest(config=config, isolated=isolated)
    cwd = current_folder()
    return catalogue_of(settings_for(request, cwd), cwd), request


def explain(word: str, *, config: str | None = None, isolated: bool = False, color: str = "auto") -> int:
    """Print the page of a rule, given its code or its name."""
    return guarded(lambda: _explain(word, config, color, isolated=isolated))


def _explain(word: str, config: str | None, color: str, *, isolated: bool) -> int:
    catalogue, _ = _catalogue(config, isolated=isolated)
    infos = catalogue.infos
    info = infos.get(spelled(word)) or next((info for info in infos.values() if info.name == word.lower()), None)
    if info is None:
        words = [*infos, *(info.name for info in infos.values())]
        raise UsageError(f"unknown rule {word!r}{nearest(spelled(word), words)}")
    text = page(info)
    if not (wants_color(color, sys.stdout) and is_terminal(sys.stdout)):
        return deliver_text(text)

    def write(sink: TextIO) -> None:
        from rich.console import Console
        from rich.markdown import Markdown

        Console(file=sink, width=min(width_of(sink), 100)).print(Markdown(text))

    return deliver(write)


def page(info: RuleInfo) -> str:
    """The page of a rule as markdown, under a heading with what the tables say about it."""
    facts = [f"severity {info.severity.value}", f"category {info.category.value}"]
    if info.probe:
        facts.append(f"probe {info.probe}")
    if info.fixable:
        facts.append(f"fix: {info.fixable}")
    return f"# {info.code} {info.name}\n\n{info.summary.rstrip('.')}. ({', '.join(facts)})\n\n{info.page.strip()}\n"


def list_rules(format: str = "table", *, config: str | None = None, isolated: bool = False, color: str = "auto") -> int:
    """Print code, name, severity, fix and probe of every rule."""
    return guarded(lambda: _list_rules(format, config, color, isolated=isolated))


def _list_rules(format: str, config: str | None, color: str, *, isolated: bool) -> int:
    catalogue, _ = _catalogue(config, isolated=isolated)
    infos = list(catalogue.infos.values())
    if format == "json":
        import json

        rows = [
            {
                "code": info.code,
                "name": info.name,
                "summary": info.summary,
                "category": info.category.value,
                "severity": info.severity.value,
                "fixable": info.fixable,
                "probe": info.probe,
            }
            for info in infos
        ]
        return deliver_text(json.dumps(rows, indent=2) + "\n")
    cells = [
        (info.code, info.name, info.severity.value, info.fixable or "-", info.probe or "-", info.summary)
        for info in infos
    ]
    head = ("code", "name", "severity", "fix", "probe", "summary")
    if not (wants_color(color, sys.stdout) and is_terminal(sys.stdout)):
        widths = [max(len(row[column]) for row in (head, *cells)) for column in range(len(head) - 1)]
        lines = [
            "  ".join([*(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)), row[-1]])
            for row in (head, *cells)
        ]
        return deliver_text("\n".join(lines) + "\n")

    def write(sink: TextIO) -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*head, box=None, header_style="bold", pad_edge=False)
        for row in cells:
            table.add_row(*(Text(cell) for cell in row))
        Console(file=sink).print(table)

    return deliver(write)


def show_config(path: str, *, config: str | None = None, isolated: bool = False) -> int:
    """Print the settings in force for a path and where each came from."""
    return guarded(lambda: _show_config(path, config, isolated=isolated))


def _show_config(path: str, config: str | None, *, isolated: bool) -> int:
    from esper_audit.collect import missing

    cwd = current_folder()
    if path != "-" and not (cwd / path).exists():
        raise UsageError(missing(path, cwd / path))
    settings = settings_for(CheckRequest(paths=(path,), config=config, isolated=isolated), cwd)
    if names_rules(settings):
        Selection(settings, catalogue_of(settings, current_folder()).names)
    for note in settings.notes:
        tell("note", note)
    rows = [(f"{key} = {value}", origin) for key, value, origin in settings.rows()]
    width = max(len(text) for text, _ in rows)
    found = settings.file_name or ("none read (--isolated)" if isolated else "none found")
    lines = [f"# settings for {path}; configuration file: {found}"]
    lines += [f"{text:<{width}}  # {origin}" for text, origin in rows]
    return deliver_text("\n".join(lines) + "\n")


# --- init


def init(word: str, *, yes: bool = False, color: str = "auto") -> int:
    """Show what would be written into a project, ask, and write it."""
    return guarded(lambda: _init(word, color, yes=yes))


def _init(word: str, color: str, *, yes: bool) -> int:
    from esper_audit.init import diff, plan, write

    plan_ = plan(word, current_folder())
    failed = deliver_text(diff(plan_.changes, color=wants_color(color, sys.stdout)))
    for note in plan_.notes:
        tell("note", note)
    if failed or not plan_.changes:
        return failed
    files = "this file" if len(plan_.changes) == 1 else f"these {len(plan_.changes)} files"
    if not yes:
        if not (is_terminal(sys.stdin) and is_terminal(sys.stdout)):
            tell("note", f"nothing is written: there is no terminal to ask on; --yes writes {files}")
            return 0
        try:
            answer = input(f"Write {files}? [y/N] ")
        except EOFError:
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            tell("note", "nothing is written")
            return 0
    for change in plan_.changes:
        try:
            write(change)
        except OSError as error:
            tell("error", f"cannot write to {change.name!r}: {system_reason(error)}")
            failed = 3
        else:
            failed |= deliver_text(f"wrote {change.name}\n")
    return failed
