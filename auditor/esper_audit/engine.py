"""From paths to a report: the only place that knows the order of the stages.

collect -> "torch" in the bytes? -> audit each file -> one finding per fault -> severities -> suppressions -> thresholds
-> AuditReport. `prepare` settles what can be wrong with a request before anything is audited; `audit` does the work.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from esper_audit.cache import Cache, Entry, Trace
from esper_audit.collect import STDIN, Collection, Patterns, Target, collect, display_path
from esper_audit.config import Selectors, Settings, load
from esper_audit.core.errors import ConfigError, SourceError, UsageError
from esper_audit.core.findings import Confidence, Finding, Highlight, Severity, fingerprinted
from esper_audit.core.report import AuditReport, FileReport, LazyRules, RuleInfo
from esper_audit.selection import Selection, names_rules
from esper_audit.semantics.project import Project, project_root
from esper_audit.semantics.source import MAX_BYTES, Source

if TYPE_CHECKING:
    from esper_audit.audit import FileResult, NetworkAudit
    from esper_audit.baseline import Baseline
    from esper_audit.changes import Changes
    from esper_audit.probes.contract import Order
    from esper_audit.probes.court import Case, Tell, Trial

_SUPPRESSION_MARK = b"esper:"
_WORTH_A_PROCESS = 1_000_000  # bytes of files with torch in them
_PORTION = 150_000  # bytes of files with networks that a process audits before it is asked for what it found
COMMANDS = ("check", "probe", "explain", "list-rules", "baseline", "show-config", "init")


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """What one `check` asks for. The defaults of the command line live here and nowhere else.

    None stands for "not said": then the configuration decides, and after it the defaults in `config.Settings`.
    """

    paths: tuple[str, ...] = ()
    format: str | None = None
    outputs: tuple[str, ...] = ()
    select: tuple[str, ...] | None = None
    extend_select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    fail_on: Severity | None = None
    min_severity: Severity | None = None
    min_confidence: Confidence | None = None
    baseline: str | None = None  # "": none, whatever the configuration says
    diff_base: str | None = None
    config: str | None = None
    isolated: bool = False
    stdin_filename: str = "<stdin>"
    force_exclude: bool = False
    statistics: bool = False
    show_suppressed: bool = False
    show_baselined: bool = False
    quiet: bool = False
    verbose: bool = False
    color: str = "auto"
    exit_zero: bool = False
    reproducible: bool = False
    probe: bool | None = None
    probe_timeout: float | None = None
    show_refuted: bool = False
    network: str = ""  # of the `probe` command: only the class of this name
    fix: bool = False
    unsafe_fixes: bool = False
    diff: bool = False
    cache: bool = True
    cache_dir: str | None = None
    jobs: int | None = 1  # None: as many processes as pay, which a program must not start without being asked
    everything: bool = False  # of the `probe` command: experiments that decide no finding, too


class AnyRule(Protocol):
    """As much of a rule as the engine handles."""

    @property
    def name(self) -> str:
        """The rule's name."""

    def info(self) -> RuleInfo:
        """The rule as reports know it."""


class AnyAuditor(Protocol):
    """Whatever turns one file into a result; `audit.Auditor` outside the tests."""

    def audit_file(self, path: Path, data: bytes | None = None) -> FileResult:
        """The result for one file; never raises for a bad file."""

    def cases(self, path: Path) -> list[Case]:
        """The networks of a file that was audited, ready for the court."""

    def defines_networks(self, path: Path, data: bytes) -> bool:
        """Whether networks stand in a file."""

    def network_audits(self, path: Path, data: bytes) -> Mapping[str, NetworkAudit]:
        """The audits of a file's networks, for another process to take."""

    def take(self, path: Path, audits: Mapping[str, NetworkAudit]) -> None:
        """Let the audits that another process made stand."""

    def hold(self, path: Path, data: bytes) -> None:
        """Take `data` for the content of a file, whoever looks into it."""

    @property
    def projects(self) -> Sequence[Project]:
        """The projects that were looked into, with the footprints of what was found."""


RuleLoader = Callable[[Sequence[str]], Mapping[str, AnyRule]]
AuditorMaker = Callable[[Sequence[Any], Callable[[Path], str], Mapping[str, str]], AnyAuditor]
Progress = Callable[[int, int, str], None]


def load_rules(plugins: Sequence[str]) -> Mapping[str, AnyRule]:
    """The shipped rules and those of the plugins. Costs the import of libcst."""
    from esper_audit.rulekit.registry import load_rules

    return load_rules(plugins)


def make_auditor(rules: Sequence[Any], display: Callable[[Path], str], roles: Mapping[str, str]) -> AnyAuditor:
    """The real auditor."""
    from esper_audit.audit import Auditor

    return Auditor(rules, display=display, roles=roles)


class Catalogue:
    """The rules, loaded when somebody needs them: a run over files without torch never does."""

    def __init__(self, plugins: Sequence[str] = (), load: RuleLoader = load_rules) -> None:
        self._plugins = plugins
        self._load = load
        self.loaded = False
        self.remembered: Mapping[str, str] = {}  # code -> name as an earlier run of the same rules knew them

    @cached_property
    def rules(self) -> Mapping[str, AnyRule]:
        """Code -> rule, the audit's own codes not among them."""
        self.loaded = True
        return self._load(self._plugins)

    @cached_property
    def infos(self) -> Mapping[str, RuleInfo]:
        """Code -> what is told about a rule, for every code there is."""
        from esper_audit.probes.codes import own_rules

        return dict(sorted({**self.static_infos, **{info.code: info for info in own_rules()}}.items()))

    @cached_property
    def static_infos(self) -> Mapping[str, RuleInfo]:
        """The same without the codes that only experiments report: forty modules fewer to load."""
        from esper_audit.suppressions import OWN_RULES

        infos = {code: rule.info() for code, rule in self.rules.items()}
        infos.update({info.code: info for info in OWN_RULES})
        return dict(sorted(infos.items()))

    @cached_property
    def names(self) -> Mapping[str, str]:
        """Code -> name."""
        if self.remembered:
            return self.remembered
        from esper_audit.probes.codes import own_rules
        from esper_audit.suppressions import OWN_RULES

        names = {code: rule.name for code, rule in self.rules.items()}
        names.update({info.code: info.name for info in (*own_rules(), *OWN_RULES)})
        return dict(sorted(names.items()))


def catalogue_of(settings: Settings, cwd: Path, load: RuleLoader = load_rules) -> Catalogue:
    """The rules in force. Plugins may lie beside the configuration that names them, which is the caller's own."""
    if settings.plugins and "plugins" in settings.origin:
        beside = str((cwd / settings.origin["plugins"]).resolve().parent)
        if beside not in sys.path:
            sys.path.append(beside)  # last, so that it hides nothing that is installed
    return Catalogue(settings.plugins, load)


@dataclass(frozen=True, slots=True)
class Plan:
    """A request made definite: settings in force, files to read, and what to tell about the way there."""

    request: CheckRequest
    settings: Settings
    collection: Collection
    catalogue: Catalogue
    cwd: Path
    baseline: Baseline | None = None
    changes: Changes | None = None
    cache: Cache | None = None

    @property
    def probes(self) -> bool:
        """Whether networks are to be built and tried: the command line has the last word."""
        return _wants_probes(self.request, self.settings)

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with the command line although the rest of the run goes on."""
        return self.collection.problems


def _wants_probes(request: CheckRequest, settings: Settings) -> bool:
    return request.probe if request.probe is not None else settings.probe is True


def settings_for(request: CheckRequest, cwd: Path) -> Settings:
    """The settings in force for a request: defaults, configuration, command line."""
    word = next(iter(request.paths), ".")
    first = cwd / (request.stdin_filename if word == "-" else word)
    settings = load(first.absolute(), cwd=cwd, config=request.config, isolated=request.isolated)
    return settings.with_command_line(
        Selectors(request.select, request.extend_select, request.ignore),
        fail_on=request.fail_on,
        min_severity=request.min_severity,
        min_confidence=request.min_confidence,
    )


def current_folder() -> Path:
    """The current folder, or one line when it has been deleted under us."""
    try:
        return Path.cwd()
    except OSError:
        raise UsageError("the current folder does not exist any more") from None


def prepare(request: CheckRequest, *, rules: RuleLoader = load_rules) -> Plan:
    """Settle settings, selectors and files. Raises UsageError when nothing can be audited at all."""
    cwd = current_folder()
    settings = settings_for(request, cwd)
    catalogue = catalogue_of(settings, cwd, rules)
    # An experiment needs the networks themselves, fixes are audited before they are on the disk, and what standard
    # input says about a file never is.
    live = _wants_probes(request, settings) or request.fix or request.diff or STDIN in request.paths
    cached = request.cache and not live and rules is load_rules
    cache = Cache.open(settings, cwd, request.cache_dir) if cached else None
    if cache is not None:
        catalogue.remembered = cache.names
    if names_rules(settings):
        # An unknown code is an error even where no file needs the rules, and so is a choice that leaves none: a green
        # run in which nothing was looked for is worse than a red one.
        selection = Selection(settings, catalogue.names)
        if not any(selection.enabled(code) for code in catalogue.names):
            raise UsageError(
                "the selected and ignored rules leave none to look with; `esper-audit list-rules` lists them"
            )
    collection = collect(
        request.paths,
        cwd=cwd,
        exclude=Patterns(settings.exclude, settings.root, f"{settings.file_name}: 'exclude'"),
        force_exclude=request.force_exclude,
        stdin_filename=request.stdin_filename,
        commands=COMMANDS,
    )
    if collection.problems and len(collection.problems) == len(request.paths):
        raise UsageError("\n".join(collection.problems))
    return Plan(
        request,
        settings,
        collection,
        catalogue,
        cwd,
        baseline=_baseline(request, settings, cwd),
        changes=_changes(request, collection),
        cache=cache,
    )


def _baseline(request: CheckRequest, settings: Settings, cwd: Path) -> Baseline | None:
    """The baseline of the command line, else that of the configuration, which begins at its own folder."""
    named = request.baseline if request.baseline is not None else settings.baseline
    if not named:
        return None
    from esper_audit.baseline import AGAIN, read

    path = (cwd if request.baseline is not None else settings.root) / named
    name = display_path(path, cwd)
    if not os.path.lexists(path):
        origin = "--baseline" if request.baseline is not None else f"{settings.file_name}: 'baseline'"
        raise ConfigError(f"{origin}: there is no {name!r} yet: run {AGAIN}")
    return read(path, name)


def _changes(request: CheckRequest, collection: Collection) -> Changes | None:
    if request.diff_base is None:
        return None
    from esper_audit.changes import Changes

    changes = Changes(request.diff_base)
    changes.check(target.path for target in collection.targets)
    return changes


def run(request: CheckRequest, *, rules: RuleLoader = load_rules, auditor: AuditorMaker = make_auditor) -> AuditReport:
    """`prepare` and `audit` in one go, for programs that only want the report."""
    return audit(prepare(request, rules=rules), auditor=auditor)


def read_standard_input() -> bytes:
    """All bytes of standard input; a SourceError when there is none."""
    if sys.stdin is None:
        raise SourceError("cannot be read: standard input is closed")
    try:
        data = sys.stdin.buffer.read(MAX_BYTES + 1)
    except OSError as error:
        raise SourceError(f"cannot be read: {(error.strerror or str(error)).lower()}") from None
    if len(data) > MAX_BYTES:
        raise SourceError(f"cannot be read: it is larger than {MAX_BYTES / 1e6:.0f} MB")
    return data


def audit(
    plan: Plan,
    *,
    auditor: AuditorMaker = make_auditor,
    progress: Progress | None = None,
    tell: Tell | None = None,
    stdin: Callable[[], bytes] = read_standard_input,
    overlay: Mapping[Path, bytes] | None = None,
) -> AuditReport:
    """Audit every file of the plan. A file that is broken, or breaks a rule, is reported and the run goes on.

    `progress` is called with the number of files that are done, the number there are, and the name of one that is being
    looked at; `tell` with a line of words before each experiment. `overlay` holds contents that files do not have yet:
    what a fix would make of them is audited before it is written.
    """
    run = _Run(plan, auditor, stdin, overlay or {}, progress or (lambda *_: None))
    run.look_at_all()
    if plan.probes:
        run.put_on_trial(tell or (lambda _: None))
    run.save()
    return run.report()


@dataclass(slots=True)
class _Result:
    """One file's share of the report, before anything is decided."""

    report: FileReport
    findings: Sequence[Finding] = ()
    highlights: Sequence[Highlight] = ()
    consulted: Sequence[Path] = ()


def _selection(settings: Settings, catalogue: Catalogue) -> Selection:
    # Where the settings name no rule, nothing has to be known about those of experiments.
    return Selection(settings, catalogue.names if names_rules(settings) else {})


def _auditor(settings: Settings, catalogue: Catalogue, cwd: Path, make: AuditorMaker) -> AnyAuditor:
    selection = _selection(settings, catalogue)
    rules = [rule for code, rule in catalogue.rules.items() if selection.enabled(code)]
    return make(rules, partial(display_path, cwd=cwd), settings.roles)


class _Elsewhere:
    """What another process audits with: the same auditor, made there from the settings."""

    def __init__(self, settings: Settings, cwd: Path, *, traced: bool) -> None:
        self.auditor = _auditor(settings, catalogue_of(settings, cwd), cwd, make_auditor)
        self.traced = traced

    def __call__(self, files: Sequence[tuple[Path, bytes]]) -> tuple[list[Mapping[str, NetworkAudit]], list[Trace]]:
        """The audits of the files' networks, and what was looked up in their projects for them."""
        audits = [self.auditor.network_audits(*file) for file in files]
        return audits, [Trace.of(project) for project in self.auditor.projects] if self.traced else []


@dataclass
class _Run:
    """The state of one audit."""

    plan: Plan
    make_auditor: AuditorMaker
    read_stdin: Callable[[], bytes]
    overlay: Mapping[Path, bytes]
    progress: Progress
    results: dict[str, _Result] = field(default_factory=dict)
    sources: dict[str, Source | None] = field(default_factory=dict)
    details: list[str] = field(default_factory=list)
    audited: bool = False  # whether a file was audited, now or before
    ahead: set[str] = field(default_factory=set)  # files whose networks another process has audited
    traces: list[Trace] = field(default_factory=list)  # of what other processes looked up
    trial: Trial | None = None

    # --- reading files

    @cached_property
    def selection(self) -> Selection:
        return _selection(self.plan.settings, self.plan.catalogue)

    @cached_property
    def auditor(self) -> AnyAuditor:
        auditor = _auditor(self.plan.settings, self.plan.catalogue, self.plan.cwd, self.make_auditor)
        for path, data in self.overlay.items():
            auditor.hold(path, data)
        return auditor

    def read(self, path: Path, *, pipes: bool = False) -> Source:
        data = self.overlay.get(path)
        return Source.read(path, pipes=pipes) if data is None else Source(path, data)

    def display(self, path: Path) -> str:
        return display_path(path, self.plan.cwd)

    def look_at_all(self) -> None:
        """Audit every file."""
        waiting: list[tuple[Target, Source]] = []
        for target in self.plan.collection.targets:
            self._step(target)
            source = self._opened(target)
            if source is not None:
                waiting.append((target, source))
        self._audit_ahead(waiting)
        for target, source in waiting:
            self._step(target)
            result = self._audited(target, source)
            self.ahead.discard(target.display)
            self._keep(target, source, result)

    def _opened(self, target: Target) -> Source | None:
        """The file where it has to be audited; where it need not be, its result is settled."""
        cache = self.plan.cache
        entry = cache.get(target.path, explicit=target.explicit) if cache is not None else None
        if entry is not None:
            self._take(target, entry)
            return None
        try:
            source = (
                Source(target.path, self.read_stdin())
                if target.stdin
                else self.read(target.path, pipes=target.explicit)
            )
        except SourceError as error:
            self.results[target.display] = _unparsable(target, error)
            return None
        if b"torch" in source.data:
            return source
        self._keep(target, source, self._dismissed(target, source))
        return None

    def _keep(self, target: Target, source: Source, result: _Result) -> None:
        """Enter what became of a file that was read."""
        self.results[target.display] = result
        marked = _SUPPRESSION_MARK in source.data
        if result.findings or result.highlights or target.stdin or marked:
            self.sources[target.display] = source
        cache = self.plan.cache
        if cache is not None:
            root = str(project_root(target.path)) if result.report.status != "skipped" else ""
            consulted = tuple(map(str, result.consulted))
            found, praised = tuple(result.findings), tuple(result.highlights)
            cache.put(target.path, Entry(root, target.explicit, marked, result.report, found, praised, consulted))

    def _take(self, target: Target, entry: Entry) -> None:
        """Let an earlier run's result stand."""
        report = replace(entry.report, path=target.display)
        consulted = tuple(map(Path, entry.consulted))
        self.results[target.display] = _Result(report, entry.findings, entry.highlights, consulted)
        if entry.root:
            self.audited = True
        else:
            self.details.append(_without_torch(target))
        if entry.findings or entry.highlights or entry.marked:
            self._source(target.display)

    def save(self) -> None:
        """Keep the results for the next run."""
        cache = self.plan.cache
        if cache is None:
            return
        here = self.auditor.projects if self.plan.catalogue.loaded else ()
        named = "names" in vars(self.plan.catalogue)  # else nothing asked for them, and they cost forty modules
        traces = [*self.traces, *map(Trace.of, here)]
        cache.save(traces, self.plan.catalogue.names if named else None)
        self.details.append(f"cache: {cache.hits} of {len(self.results)} files as before; {cache.path or 'none kept'}")
        if cache.trouble:
            self.details.append(cache.trouble)

    def _audit_ahead(self, waiting: Sequence[tuple[Target, Source]]) -> None:
        """Have networks audited by other processes, where that pays; what is tried or held in memory, is audited here.

        A file without networks waits for the audits of the networks around it, so those are what can be shared out.
        """
        asked = self.plan.request.jobs
        at_hand = self.plan.probes or self.overlay or any(target.stdin for target, _ in waiting)
        if asked == 1 or at_hand or self.make_auditor is not make_auditor:
            return
        size = sum(len(source.data) for _, source in waiting)
        if asked is None and size < 2 * _WORTH_A_PROCESS:
            return
        from esper_audit.workers import portions, processors, spread

        jobs = min(len(waiting), asked or min(processors(), size // _WORTH_A_PROCESS))
        if jobs < 2:
            return
        defines = self.auditor.defines_networks
        files = (each for each in waiting if defines(each[0].path, each[1].data))  # read while others audit already
        shares: list[Sequence[tuple[Target, Source]]] = []

        def work() -> Iterator[list[tuple[Path, bytes]]]:
            for share in portions(files, lambda each: len(each[1].data), min(_PORTION, size // (2 * jobs))):
                shares.append(share)
                yield [(target.path, source.data) for target, source in share]

        begin = partial(_Elsewhere, self.plan.settings, self.plan.cwd, traced=self.plan.cache is not None)
        for audits, traces in spread(work(), begin, jobs, tell=self.details.append):
            share = shares.pop(0)
            self.traces += traces
            for (target, _), networks in zip(share, audits, strict=True):
                if networks:
                    self.auditor.take(target.path, networks)
                    self.ahead.add(target.display)
            self._step(share[-1][0])

    def _step(self, target: Target) -> None:
        done = len(self.results) + len(self.ahead)
        self.progress(done, len(self.plan.collection.targets), target.display)

    def _audited(self, target: Target, source: Source) -> _Result:
        auditor = self.auditor  # outside the try: a plugin that cannot be loaded is no fault of this file
        try:
            result = auditor.audit_file(target.path, source.data)
        except Exception as error:  # noqa: BLE001 - the auditor guards its rules, this guards the run against it
            words = str(error).partition("\n")[0]
            return _Result(
                FileReport(target.display, "crashed", error=f"the audit failed: {type(error).__name__}: {words}")
            )
        report = replace(result.report, path=target.display)
        return _Result(report, result.findings, result.highlights, result.consulted)

    def _dismissed(self, target: Target, source: Source) -> _Result:
        """A file that never says torch. Who named it still hears when it is no Python."""
        if target.explicit:
            try:
                source.ast  # noqa: B018 - parsed for its errors
            except SourceError as error:
                return _unparsable(target, error)
        self.details.append(_without_torch(target))
        return _Result(FileReport(target.display, "skipped"))

    # --- experiments

    def put_on_trial(self, tell: Tell) -> None:
        """Build every network of the files that were asked for, and try it."""
        from esper_audit.probes.court import TIMEOUT, trial
        from esper_audit.probes.orders import configured

        cases = [
            replace(case, order=configured(case.order, self.plan.settings))
            for target in self.plan.collection.targets
            if not target.stdin and self.results[target.display].report.networks
            for case in self.auditor.cases(target.path)
            if self.plan.request.network in ("", case.card.name)
        ]
        self.trial = trial(
            cases,
            list(self._each_once()),
            self.plan.catalogue.infos,
            enabled=self.selection.enabled,
            reference=self._reference(),
            everything=self.plan.request.everything,
            timeout=self.plan.request.probe_timeout or TIMEOUT,
            tell=tell,
        )

    def _reference(self) -> Order | None:
        """The reference implementation, found and not imported: it is tried like a stranger's code."""
        from importlib.util import find_spec

        spec = find_spec("esper_reference")
        if spec is None or spec.origin is None:
            return None
        path = Path(spec.origin).with_name("network.py")
        self.auditor.audit_file(path)
        return next((case.order for case in self.auditor.cases(path)), None)

    # --- the report

    def report(self) -> AuditReport:
        settings = self.plan.settings
        findings = [
            replace(finding, severity=self.selection.severity(finding))
            for finding in (self._each_once() if self.trial is None else self.trial.findings)
            if not self.selection.ignored_in(self.plan.cwd / finding.span.path, finding.code)
        ]
        findings = fingerprinted(findings, self._line_texts(findings))
        judged, suppressed = self._decided(findings)
        standing, baselined, gone = self._held_against_baseline(judged)
        changed = [finding for finding in standing if self._changed(finding)]
        shown = [finding for finding in changed if self._shown(finding)]
        unchanged, hidden, active = len(standing) - len(changed), len(changed) - len(shown), shown
        suppressed = [finding for finding in suppressed if self._shown(finding)]
        baselined = [finding for finding in baselined if self._shown(finding)]
        highlights = self._highlights()
        told = (*active, *suppressed, *baselined)
        paths = {finding.span.path for finding in told}
        paths.update(related.span.path for finding in told for related in finding.related)
        paths.update(highlight.path for highlight in highlights)
        files = self._files()
        details = (*self.plan.collection.details, *self.details) if self.plan.request.verbose else ()
        return AuditReport(
            files=files,
            findings=tuple(sorted(active, key=lambda finding: finding.sort_key)),
            highlights=highlights,
            suppressed=tuple(sorted(suppressed, key=lambda finding: finding.sort_key)),
            baselined=tuple(sorted(baselined, key=lambda finding: finding.sort_key)),
            hidden=hidden,
            unchanged=unchanged,
            gone=gone,
            notes=(
                *settings.notes,
                *self.plan.collection.notes,
                *self._idle_ignores(),
                *_nothing_found(files),
                *details,
            ),
            rules=self._rule_infos(),
            probes=tuple(self.trial.probes) if self.trial is not None else (),
            torch_version=self.trial.torch_version if self.trial is not None else "",
            sources={path: lines for path in sorted(paths) if (lines := self._lines(path))},
        )

    def _each_once(self) -> Iterable[Finding]:
        """Every finding once. A file's own audit has the first word on it, then the others in order of their paths."""
        seen: dict[tuple[str, object], str] = {}
        exact: set[tuple[object, ...]] = set()
        results = sorted(self.results.items())
        for own in (True, False):
            for path, result in results:
                for finding in sorted(result.findings, key=lambda finding: finding.sort_key):
                    if (finding.span.path == path) is not own:
                        continue
                    first = seen.setdefault((finding.code, finding.span), path)
                    words = (finding.code, finding.span, finding.message)
                    if first == path and words not in exact:
                        exact.add(words)
                        yield finding

    def _decided(self, findings: Sequence[Finding]) -> tuple[list[Finding], list[Finding]]:
        """What stands and what a comment suppresses; findings about the comments are added to what stands."""
        paths = {finding.span.path for finding in findings}
        paths.update(path for path, result in self.results.items() if result.report.status in ("audited", "crashed"))
        marked = {
            path: source
            for path in sorted(paths)
            if (path not in self.results or path in self.sources) and (source := self._source(path)) is not None
            if _SUPPRESSION_MARK in source.data
        }
        if not marked:
            return list(findings), []
        from esper_audit.suppressions import decide, read_comments

        comments = {path: read_comments(source, path) for path, source in marked.items()}
        outcome = decide(
            findings,
            comments,
            known=self.plan.catalogue.names,
            judged=self._judged,
            named=self.results.__contains__,
            require_reason=self.plan.settings.require_reason,
        )
        own = [
            replace(finding, severity=self.selection.severity(finding))
            for finding in outcome.own
            if self.selection.enabled(finding.code)
            and not self.selection.ignored_in(self.plan.cwd / finding.span.path, finding.code)
        ]
        return [*outcome.active, *fingerprinted(own, self._line_texts(own))], list(outcome.suppressed)

    def _held_against_baseline(
        self, findings: Sequence[Finding]
    ) -> tuple[Sequence[Finding], Sequence[Finding], Mapping[tuple[str, str], int]]:
        """What stands, what the baseline holds back, and which of its entries are no more."""
        baseline, cwd = self.plan.baseline, self.plan.cwd
        if baseline is None:
            return findings, (), {}
        from esper_audit.baseline import gone

        match = baseline.match(findings, cwd)
        left = gone(
            baseline,
            match.left,
            judged=lambda path, code: self.display(path) in self.results and self._judged(self.display(path), code),
            walked=self.plan.collection.walked,
            wanted=lambda path, code: self.selection.enabled(code) and not self.selection.ignored_in(path, code),
        )
        return match.stands, match.held, left

    def _changed(self, finding: Finding) -> bool:
        changes, path = self.plan.changes, finding.span.path
        return changes is None or changes.touch(finding, self.plan.cwd / path, self._source(path))

    def _idle_ignores(self) -> Iterable[str]:
        """Patterns that no file matches, where every file they can mean was at hand."""
        settings, collection = self.plan.settings, self.plan.collection
        root = settings.root.resolve()
        if not settings.per_file_ignores or not any(root.is_relative_to(folder) for folder in collection.walked):
            return
        files = [target.path for target in collection.targets]
        for pattern in self.selection.idle_patterns(files):
            yield f"{settings.file_name}: 'per-file-ignores': no file matches {pattern!r}"

    def _judged(self, path: str, code: str) -> bool:
        """Whether this run would have found `code` in the file, if it were there."""
        result = self.results[path]
        if result.report.status != "audited" or not self.selection.enabled(code):
            return False
        absolute = self.plan.cwd / path
        if self.selection.ignored_in(absolute, code):
            return False
        if result.report.networks:
            return True
        root = project_root(absolute)
        return any(root == folder or folder in root.parents for folder in self.plan.collection.walked)

    def _shown(self, finding: Finding) -> bool:
        settings = self.plan.settings
        return finding.severity.at_least(settings.min_severity) and finding.confidence.at_least(settings.min_confidence)

    def _highlights(self) -> tuple[Highlight, ...]:
        highlights = {highlight for result in self.results.values() for highlight in result.highlights}
        return tuple(sorted(highlights, key=lambda highlight: highlight.sort_key))

    def _files(self) -> tuple[FileReport, ...]:
        files = {path: result.report for path, result in self.results.items()}
        for path in self.plan.collection.excluded:
            files.setdefault(path, FileReport(path, "skipped"))
        for result in self.results.values():
            for path in map(self.display, result.consulted):
                files.setdefault(path, FileReport(path, "consulted"))
        return tuple(report for _, report in sorted(files.items()))

    def _rule_infos(self) -> Sequence[RuleInfo]:
        catalogue = self.plan.catalogue
        if not catalogue.loaded:
            return LazyRules(self._selected_rules) if self.audited else ()
        return self._selected_rules()

    def _selected_rules(self) -> tuple[RuleInfo, ...]:
        catalogue = self.plan.catalogue
        infos = catalogue.static_infos if self.trial is None else catalogue.infos  # without a trial, nobody looked
        return tuple(info for code, info in infos.items() if self.selection.enabled(code))

    def _source(self, path: str) -> Source | None:
        """The source of any file the report speaks of."""
        if path not in self.sources:
            try:
                self.sources[path] = self.read(self.plan.cwd / path)
            except SourceError:
                self.sources[path] = None
        return self.sources[path]

    def _lines(self, path: str) -> tuple[str, ...]:
        source = self._source(path)
        try:
            return source.lines if source is not None else ()
        except SourceError:
            return ()

    def _line_texts(self, findings: Iterable[Finding]) -> dict[tuple[str, int], str]:
        texts = {}
        for finding in findings:
            lines = self._lines(finding.span.path)
            if 0 < finding.span.line <= len(lines):
                texts[finding.span.path, finding.span.line] = lines[finding.span.line - 1]
        return texts


def _without_torch(target: Target) -> str:
    return f"{target.display}: skipped, torch does not occur in it"


def _unparsable(target: Target, error: SourceError) -> _Result:
    return _Result(FileReport(target.display, "unparsable", error=str(error), error_line=error.line))


def _nothing_found(files: Sequence[FileReport]) -> tuple[str, ...]:
    """A word for those who would take "no findings" for praise when there was no network to look at."""
    looked_at = [file for file in files if file.status != "consulted"]
    if not looked_at or any(file.networks or file.error for file in looked_at):
        return ()
    if len(looked_at) == 1:
        return (f"{looked_at[0].path} defines no PyTorch network",)
    return (f"none of the {len(looked_at)} files defines a PyTorch network",)


def exit_code(report: AuditReport, plan: Plan) -> int:
    """0 nothing to fail on, 1 findings, 2 wrong use, 3 the audit itself failed.

    A file that does not parse fails the audit when it was named itself; one that a folder brought along does not, since
    trees hold templates and Python 2 leftovers that are nobody's network.
    """
    if plan.problems:
        return 2
    named = {target.display for target in plan.collection.targets if target.explicit}
    for file in report.files:
        if file.status == "crashed" or (file.status == "unparsable" and file.path in named):
            return 3
    if plan.request.exit_zero:
        return 0
    return int(any(finding.severity.at_least(plan.settings.fail_on) for finding in report.active))
