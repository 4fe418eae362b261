"""From one file to its findings: dismiss, parse, find facts, ask the rules, place the hits.

A file that defines no network is dismissed by the standard `ast`; only then is libcst imported. Networks are audited
once per run, whichever named file led to them.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from esper_audit.core.errors import SourceError
from esper_audit.core.findings import Finding, Fix, Highlight, Related, Span
from esper_audit.core.report import FileReport, HeadCard, MethodCard, NetworkCard
from esper_audit.semantics.project import Project, project_root

if TYPE_CHECKING:
    import libcst as cst

    from esper_audit.probes.court import Case
    from esper_audit.rulekit.rule import Hit, Praise, Rule
    from esper_audit.semantics.flow import Interpreter
    from esper_audit.semantics.model import Models, ModuleModel
    from esper_audit.semantics.network import NetworkClass

_RECURSION_LIMIT = 6000  # the parser accepts some 3,000 levels; the walk takes two frames for each


@dataclass(frozen=True, slots=True)
class FileResult:
    """What the audit of one file gave. Findings may stand in another file of the project than the audited one."""

    report: FileReport
    findings: tuple[Finding, ...] = ()
    highlights: tuple[Highlight, ...] = ()
    consulted: tuple[Path, ...] = ()


@dataclass(slots=True)
class NetworkAudit:
    """The audit of one network class; `net` is missing where another process made it."""

    card: NetworkCard
    net: NetworkClass | None
    findings: list[Finding] = field(default_factory=list)
    highlights: list[Highlight] = field(default_factory=list)
    consulted: set[Path] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)


class _Workshop:
    """Everything that is shared by the networks of one project."""

    def __init__(self, root: Path, roles: Mapping[str, str]) -> None:
        self.project = Project(root)
        self.roles = dict(roles)
        self._models: Models | None = None
        self._interpreter: Interpreter | None = None
        self.audits: dict[Path, dict[str, NetworkAudit]] = {}

    @property
    def models(self) -> Models:
        """Parsed files; importing libcst happens here and not before."""
        if self._models is None:
            from esper_audit.semantics.model import Models

            self._models = Models(self.project)
        return self._models

    @property
    def interpreter(self) -> Interpreter:
        """The abstract interpreter of the project."""
        if self._interpreter is None:
            from esper_audit.semantics.flow import Interpreter

            self._interpreter = Interpreter(self.models, self.roles)
        return self._interpreter


class Auditor:
    """Audits files one by one and remembers what they share."""

    def __init__(
        self, rules: Sequence[Rule], *, display: Callable[[Path], str], roles: Mapping[str, str] | None = None
    ) -> None:
        self.rules = tuple(rules)
        self.display = display
        self.roles = dict(roles or {})
        self._workshops: dict[Path, _Workshop] = {}

    def audit_file(self, path: Path, data: bytes | None = None) -> FileResult:
        """Audit one file; never raises for what is in it. `data` stands for the content, as with standard input."""
        shown = self.display(path)
        workshop = self._workshop(path)
        path = workshop.project.same(path)
        if data is not None and not workshop.project.holds(path, data):
            if workshop.project.has_read(path):  # it was changed meanwhile: what was found in it holds no more
                workshop = self._workshops[workshop.project.root] = _Workshop(workshop.project.root, self.roles)
                path = workshop.project.same(path)
            workshop.project.add_source(path, data)
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(max(limit, _RECURSION_LIMIT))
        try:
            with workshop.project.finding(workshop.project.targets, path):
                return self._audit(path, shown, workshop)
        except SourceError as error:
            return FileResult(FileReport(shown, "unparsable", error=str(error), error_line=error.line))
        except RecursionError:
            return FileResult(FileReport(shown, "unparsable", error="is nested too deeply to audit"))
        finally:
            sys.setrecursionlimit(limit)

    def hold(self, path: Path, data: bytes) -> None:
        """Take `data` for the content of a file, whoever looks into it."""
        project = self._workshop(path).project
        project.add_source(project.same(path), data)

    def cases(self, path: Path) -> list[Case]:
        """The networks of a file that was audited, ready for the court."""
        from esper_audit.probes.court import Case
        from esper_audit.probes.orders import order_for

        workshop = self._workshop(path)
        audits = workshop.audits.get(workshop.project.same(path), {})
        return [Case(order_for(audit.net), audit.card) for audit in audits.values() if audit.net is not None]

    # --- sharing the work with other processes

    def defines_networks(self, path: Path, data: bytes) -> bool:
        """Whether networks stand in a file that was not audited yet; most of the work is for those."""
        self.hold(path, data)
        project = self._workshop(path).project
        try:
            return bool(project.network_names(project.same(path)))
        except (SourceError, RecursionError):
            return False

    def network_audits(self, path: Path, data: bytes) -> Mapping[str, NetworkAudit]:
        """The audits of a file's networks for `take` of another process; none where `audit_file` would fail."""
        if self.audit_file(path, data).report.status == "unparsable":
            return {}
        workshop = self._workshop(path)
        audits = workshop.audits.get(workshop.project.same(path), {})
        return {name: replace(audit, net=None) for name, audit in audits.items()}

    def take(self, path: Path, audits: Mapping[str, NetworkAudit]) -> None:
        """Let the audits that another process made stand."""
        workshop = self._workshop(path)
        workshop.audits[workshop.project.same(path)] = dict(audits)

    @property
    def projects(self) -> list[Project]:
        """The projects that the audited files belong to, with the footprints of what was found."""
        return [workshop.project for workshop in self._workshops.values()]

    def _workshop(self, path: Path) -> _Workshop:
        root = project_root(path)
        if root not in self._workshops:
            self._workshops[root] = _Workshop(root, self.roles)
        return self._workshops[root]

    def _audit(self, path: Path, shown: str, workshop: _Workshop) -> FileResult:
        project = workshop.project
        if b"torch" not in project.source(path).data:
            return FileResult(FileReport(shown, "skipped"))
        project.source(path).ast  # noqa: B018  # a file that was named must parse
        names = project.network_names(path)
        if not names:
            return self._audit_elsewhere(path, shown, workshop)
        if path not in workshop.audits:
            workshop.models.parse_named(path)
        audits = list(self._networks(workshop, path).values())
        errors = [error for audit in audits for error in audit.errors]
        return FileResult(
            FileReport(
                shown, "crashed" if errors else "audited", tuple(a.card for a in audits), error="; ".join(errors)
            ),
            tuple(finding for audit in audits for finding in audit.findings),
            tuple(highlight for audit in audits for highlight in audit.highlights),
            tuple(sorted({consulted for audit in audits for consulted in audit.consulted} - {path})),
        )

    def _audit_elsewhere(self, path: Path, shown: str, workshop: _Workshop) -> FileResult:
        """A file without networks: what the audits of the networks around it say about this file."""
        findings: list[Finding] = []
        highlights: list[Highlight] = []
        consulted: set[Path] = set()
        for network_path, name in self._networks_around(path, workshop):
            audit = self._networks(workshop, network_path).get(name)
            if audit is None:
                continue
            here = [finding for finding in audit.findings if finding.span.path == shown]
            praised = [highlight for highlight in audit.highlights if highlight.path == shown]
            if here or praised:
                consulted |= {network_path}
            findings += here
            highlights += praised
        return FileResult(
            FileReport(shown, "audited"), tuple(findings), tuple(highlights), tuple(sorted(consulted - {path}))
        )

    def _networks_around(self, path: Path, workshop: _Workshop) -> Iterable[tuple[Path, str]]:
        project = workshop.project
        index = project.index(path)
        if index is None:
            return []
        found: dict[tuple[Path, str], None] = {}
        for name in sorted(index.imports):
            if not name[:1].isupper():
                continue  # networks are classes, and classes are capitalised
            symbol = project.lookup(path, name)
            if symbol.path is not None and symbol.name and project.is_network(symbol.path, symbol.name):
                found[(symbol.path, symbol.name)] = None
        for name in sorted(index.classes):
            for other in project.files_naming(name) or ():
                if other != path and project.lookup(other, name).path == path:
                    for network in project.network_names(other):
                        found[(other, network)] = None
        return list(found)

    # --- the networks of one file --------------------------------------------------------------------------------

    def _networks(self, workshop: _Workshop, path: Path) -> dict[str, NetworkAudit]:
        """The audits of all networks that a file defines; made once, with one code generation for all positions."""
        workshop.project.uses_audit(path)
        if path not in workshop.audits:
            with workshop.project.finding(workshop.project.audits, path):
                workshop.audits[path] = self._new_audits(workshop, path)
        return workshop.audits[path]

    def _new_audits(self, workshop: _Workshop, path: Path) -> dict[str, NetworkAudit]:
        from esper_audit.semantics.network import NetworkClass

        module = workshop.models.module(path)
        if module is None:
            return {}
        places = _Places(module, self.display)
        raw: dict[str, tuple[NetworkClass, list[tuple[Rule, Hit]], list[tuple[Rule, Praise]], NetworkAudit]] = {}
        for name in workshop.project.network_names(path):
            model = module.classes.get(name)
            if model is None:
                continue  # defined twice, or under a condition that only one of the two trees sees
            workshop.project.consulted.clear()
            net = NetworkClass(model, workshop.interpreter)
            hits, praises, errors = self._ask(net, module)
            consulted = workshop.project.consulted | _imported(net)
            audit = NetworkAudit(_card(net, self.display), net, errors=errors, consulted=consulted)
            raw[name] = (net, hits, praises, audit)
            places.want_all(hits, praises)
        for net, hits, praises, audit in raw.values():
            audit.findings = _unique([_finding(rule, hit, net, places) for rule, hit in hits])
            audit.highlights = sorted(
                {_highlight(rule, praise, net, places) for rule, praise in praises}, key=lambda h: h.sort_key
            )
        return {name: audit for name, (_, _, _, audit) in raw.items()}

    def _ask(
        self, net: NetworkClass, module: ModuleModel
    ) -> tuple[list[tuple[Rule, Hit]], list[tuple[Rule, Praise]], list[str]]:
        """Ask every rule about one network. A rule that crashes is reported and does not silence the others."""
        hits: list[tuple[Rule, Hit]] = []
        praises: list[tuple[Rule, Praise]] = []
        errors: list[str] = []
        for rule in self.rules:
            try:
                hits += [(rule, hit) for hit in rule.check_network(net, module)]
                praises += [(rule, praise) for praise in rule.praise(net, module)]
            except (RecursionError, SourceError):
                raise  # the file is at fault and no rule: libcst refuses a statement that Python takes
            except Exception as error:  # noqa: BLE001  # whatever a rule raises, the run goes on
                errors.append(f"rule {rule.code} crashed on {net.name}: {type(error).__name__}: {error}")
        return hits, praises, errors


def _unique(findings: list[Finding]) -> list[Finding]:
    seen: dict[tuple[str, Span], Finding] = {}
    for finding in findings:
        seen.setdefault((finding.code, finding.span), finding)
    return sorted(seen.values(), key=lambda finding: finding.sort_key)


class _Places:
    """Positions of wanted nodes, found by one code generation per file."""

    def __init__(self, module: ModuleModel, display: Callable[[Path], str]) -> None:
        self.home = module
        self.display = display
        self._wanted: dict[ModuleModel, set[cst.CSTNode]] = {}

    def want_all(self, hits: Iterable[tuple[Rule, Hit]], praises: Iterable[tuple[Rule, Praise]]) -> None:
        """Ask for the places of all nodes that hits and praises name."""
        for _, hit in hits:
            self._want(hit.module, hit.node, *([hit.end] if hit.end else []))
            for note in hit.notes:
                self._want(note.module, note.node)
            for change in hit.repair.changes if hit.repair else ():
                self._want(hit.module, *change.nodes)
        for _, praise in praises:
            self._want(praise.module, praise.node)

    def _want(self, module: ModuleModel | None, *nodes: cst.CSTNode) -> None:
        self._wanted.setdefault(module or self.home, set()).update(nodes)

    def span(self, module: ModuleModel | None, node: cst.CSTNode, end: cst.CSTNode | None = None) -> Span:
        """The span of a node; a compound statement is shown by its header line."""
        import libcst as cst

        home = module or self.home
        line, column, end_line, end_column = self._positions.get(node, (1, 1, 1, 1))
        if isinstance(node, cst.BaseCompoundStatement):
            end_line, end_column = line, len(home.source.lines[line - 1].rstrip()) + 1
        if end is not None and end in self._positions:
            _, _, end_line, end_column = self._positions[end]
        return Span(self.display(home.path), line, column, end_line, end_column)

    def fix(self, hit: Hit) -> Fix | None:
        """The fix that a hit offers, where all its changes can be placed."""
        if hit.repair is None:
            return None
        home = hit.module or self.home
        return hit.repair.fix(home.source, self.display(home.path), self._positions.get)

    @cached_property
    def _positions(self) -> dict[cst.CSTNode, tuple[int, int, int, int]]:
        from esper_audit.semantics.tree import positions

        found: dict[cst.CSTNode, tuple[int, int, int, int]] = {}
        for wanted_module, nodes in self._wanted.items():
            parsed = [(piece.first, piece.tree) for piece in wanted_module.pieces if "tree" in vars(piece)]
            found.update(positions(parsed, nodes))
        return found


def _finding(rule: Rule, hit: Hit, net: NetworkClass, places: _Places) -> Finding:
    return Finding(
        code=rule.code,
        name=rule.name,
        category=rule.category,
        severity=hit.severity or rule.severity,
        confidence=hit.confidence or rule.confidence,
        message=hit.message,
        help=hit.help or rule.help,
        span=places.span(hit.module, hit.node, hit.end),
        symbol=hit.symbol or net.name,
        network=f"{places.display(net.module.path)}::{net.name}",
        related=tuple(Related(places.span(note.module, note.node), note.message) for note in hit.notes),
        fix=places.fix(hit),
    )


def _highlight(rule: Rule, praise: Praise, net: NetworkClass, places: _Places) -> Highlight:
    span = places.span(praise.module, praise.node)
    return Highlight(
        rule.code, rule.name, rule.category, praise.message, span.path, span.line, praise.symbol or net.name
    )


def _imported(net: NetworkClass) -> set[Path]:
    """The project files that the imports of the network's file, and of its ancestors', lead through."""
    found: set[Path] = set()
    for path in {model.module.path for model in net.model.lineage}:
        index = net.project.index(path)
        for name in index.imports if index is not None else ():
            found |= net.project.way(path, name)
        found.add(path)
    return found


def _card(net: NetworkClass, display: Callable[[Path], str]) -> NetworkCard:
    from esper_audit.semantics.roles import OTHER

    model = net.model
    index = net.project.index(net.module.path)
    assert index is not None  # the class came out of it
    cheap = index.classes[net.name]
    lines = {
        node.name: node.lineno for node in cheap.node.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    methods = [
        MethodCard(name, net.roles[name], lines.get(name, cheap.line), tuple(p.name for p in function.params[1:]))
        for name, function in model.own_methods.items()
        if name in net.roles and (net.roles[name] != OTHER or not name.startswith("_"))
    ]
    heads = {head.name for head in net.heads}
    others = [name for name in net.layers if name not in net.recurrent and name not in heads]
    layers = [name for name in others if net.layers[name].ref[0] != "torch.nn.Parameter"]
    order = list(net.layers)
    core = min((order.index(name) for name in net.recurrent if name in order), default=len(order))
    trunk = [name for name in layers if order.index(name) < core]
    neck = [name for name in layers if order.index(name) > core]
    return NetworkCard(
        name=net.name,
        path=display(net.module.path),
        line=cheap.line,
        kind=net.kind,
        bases=model.base_names,
        core=", ".join(f"{name}: {layer.removeprefix('torch.')}" for name, layer in sorted(net.recurrent.items())),
        trunk=tuple(f"{name}: {net.layers[name].ref[0].removeprefix('torch.')}" for name in trunk),
        neck=tuple(f"{name}: {net.layers[name].ref[0].removeprefix('torch.')}" for name in neck),
        heads=tuple(HeadCard(head.name, head.role, head.size) for head in net.heads),
        methods=tuple(methods),
        masks=net.masks,
        sizes=tuple(_sizes(net)),
    )


def _sizes(net: NetworkClass) -> Iterable[tuple[str, str]]:
    """Constructor parameters with their defaults as written: the sizes a reader asks for."""
    init = net.model.own_methods.get("__init__")
    if init is None:
        return
    for param in init.params[1:]:
        if param.kind in ("positional", "keyword"):
            yield param.name, net.module.code(param.default) if param.default is not None else "required"
