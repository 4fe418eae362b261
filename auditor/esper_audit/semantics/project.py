"""The files around the audited one, read lazily with the standard `ast`: what they define, import and re-export.

The project is the tree under the nearest `pyproject.toml`, `setup.cfg`, `setup.py` or `.git`, else the file's folder.
Forward look-ups follow imports; reverse look-ups read only files whose bytes hold the wanted name. On a tree that is
too large to look through, the answer is None: unknown.
"""

from __future__ import annotations

import ast
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from esper_audit.core.errors import SourceError
from esper_audit.semantics.source import Source

_MARKERS = ("pyproject.toml", "setup.cfg", "setup.py", ".git")
_SKIPPED_FOLDERS = frozenset(
    "__pycache__ node_modules site-packages venv env build dist .git .hg .tox .nox .venv .mypy_cache .ruff_cache "
    ".pytest_cache".split()
)
MAX_FILES = 5000
MAX_BYTES = 64_000_000
MAX_REACH = 60
MAX_BITS = 1000  # of a whole number: what no float can hold means nothing to a network, and costs without end


def project_root(path: Path) -> Path:
    """The nearest folder above `path` that bears a project marker, else the folder of the file."""
    start = path if path.is_dir() else path.parent
    for folder in (start, *start.parents):
        if any((folder / marker).exists() for marker in _MARKERS):
            return folder
    return start


@dataclass(slots=True)
class ClassIndex:
    """What the cheap tree says about a class."""

    name: str
    line: int
    bases: tuple[str, ...]
    node: ast.ClassDef


_ATTRIBUTE = re.compile(rb"\.([A-Za-z_]\w*)")
_SELF_STORE = re.compile(rb"\bself\.([A-Za-z_]\w*)\s*(?::[^=\n]+)?=(?!=)")


@dataclass
class FileIndex:
    """The names a file defines at module level and what it imports, without a concrete tree."""

    path: Path
    tree: ast.Module
    data: bytes
    imports: dict[str, str] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    classes: dict[str, ClassIndex] = field(default_factory=dict)
    functions: dict[str, ast.FunctionDef | ast.AsyncFunctionDef] = field(default_factory=dict)
    constants: dict[str, ast.expr] = field(default_factory=dict)

    @cached_property
    def has_unreachable(self) -> bool:
        """Whether a statement stands behind a return, raise, break or continue in its block."""
        stack: list[ast.AST] = [self.tree]
        while stack:
            node = stack.pop()
            for name in ("body", "orelse", "finalbody", "handlers"):
                block = getattr(node, name, None)
                if isinstance(block, list):
                    stack.extend(block)
                    if any(isinstance(each, (ast.Return, ast.Raise, ast.Break, ast.Continue)) for each in block[:-1]):
                        return True
        return False

    @cached_property
    def read_names(self) -> frozenset[str]:
        """All `.name` that are read and all strings: what may read an attribute. One walk serves every question."""
        found = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
        return frozenset(found)

    @cached_property
    def attributes_spelled_once(self) -> frozenset[bytes]:
        """Attributes of self that are assigned and whose `.name` occurs just this once in the file."""
        times = Counter(_ATTRIBUTE.findall(self.data))
        return frozenset(name for name in _SELF_STORE.findall(self.data) if times[name] == 1)


def _dotted(node: ast.expr) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Subscript):  # Generic[T] and friends
        return _dotted(node.value) if not parts else ""
    if not isinstance(node, ast.Name):
        return ""
    parts.append(node.id)
    return ".".join(reversed(parts))


def written(node: ast.expr) -> str:
    """The expression as source; empty where it cannot be written, as a number of ten thousand digits cannot."""
    try:
        return ast.unparse(node)
    except (ValueError, RecursionError):
        return ""


def _module_statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Module-level statements, those under `if`, `try` and `with` included."""
    for statement in body:
        yield statement
        if isinstance(statement, (ast.If, ast.With)):
            yield from _module_statements(statement.body)
        if isinstance(statement, ast.If):
            yield from _module_statements(statement.orelse)
        if isinstance(statement, ast.Try):
            for block in (statement.body, statement.orelse, statement.finalbody, *(h.body for h in statement.handlers)):
                yield from _module_statements(block)


def _index_class(index: FileIndex, node: ast.ClassDef, scope: str) -> None:
    """Enter a class and the classes inside it under `Outer.Inner`: builders keep their networks there."""
    name = scope + node.name
    bases = tuple(filter(None, (_dotted(base) for base in node.bases)))
    index.classes[name] = ClassIndex(name, node.lineno, bases, node)
    _index_nested(index, node, scope)


def _index_constant(index: FileIndex, name: str, value: ast.expr) -> None:
    """Enter a constant; `nn = None` where an import failed does not hide the import."""
    if name not in index.imports or not (isinstance(value, ast.Constant) and value.value is None):
        index.constants[name] = value


def _index_nested(index: FileIndex, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, scope: str) -> None:
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            _index_class(index, child, f"{scope}{node.name}.")


@dataclass(frozen=True, slots=True)
class Symbol:
    """Where a dotted name leads: `path` is None outside the project, then `name` is the qualified external name.

    Inside the project, an empty `name` means the module itself.
    """

    path: Path | None
    name: str


@dataclass(slots=True)
class Footprint:
    """What a piece of knowledge rests on, so that a cache can tell whether it still holds.

    `files` counts by content alone; `facts` are files (or folders of imports) whose own footprints count as well, and
    `audits` files whose networks' audits do. `words` were looked for in every file, `probes` are paths that were asked
    for, with the answer, and `listing` says that the mere list of the project's files mattered.
    """

    files: set[Path] = field(default_factory=set)
    facts: set[Path] = field(default_factory=set)
    audits: set[Path] = field(default_factory=set)
    words: set[str] = field(default_factory=set)
    probes: dict[str, bool] = field(default_factory=dict)
    listing: bool = False


class Project:
    """One project tree. All look-ups are cached; nothing is imported or run.

    Every look-up is entered in the footprint of what it is made for. What is known about a file through its imports
    has a footprint of its own, since it is found once and shared: who uses it refers to that.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._sources: dict[Path, Source] = {}
        self._indexes: dict[Path, FileIndex | None] = {}
        self._module_paths: dict[tuple[Path, str], Path | None] = {}
        self._same: dict[Path, Path] = {}
        self._says: dict[tuple[Path, re.Pattern[bytes]], bool] = {}
        self._held: dict[tuple[Path, bytes], bool] = {}
        self._mentions: dict[tuple[Path, tuple[bytes, ...]], bool] = {}
        self._reach: dict[Path, tuple[Path, ...]] = {}
        self._imported: dict[Path, tuple[Path, ...]] = {}
        self._tops: dict[Path, frozenset[str]] = {}
        self._packages: dict[Path, Path] = {}
        self._looking: set[tuple[Path, str]] = set()
        self._missed: set[tuple[Path, str]] = set()
        self._lookups: dict[tuple[Path, str], Symbol] = {}
        self._ways: dict[tuple[Path, str], frozenset[Path]] = {}
        self._way: set[Path] = set()
        self._constants: dict[tuple[Path, str, int], object] = {}
        self._network: dict[tuple[Path, str], bool] = {}
        self._inheriting: set[tuple[Path, str]] = set()
        self._cut_at: set[tuple[Path, str]] = set()
        self._words: dict[Path, frozenset[bytes]] = {}
        self.moves: dict[tuple[Path, str, str], bool] = {}  # kept for `hidden_states`
        self.casts: dict[Path, bool] = {}  # kept for `precision`
        self._naming: dict[str, tuple[Path, ...]] = {}
        self.consulted: set[Path] = set()
        self.ground = Footprint()  # what all knowledge about the project rests on
        self.facts: dict[Path, Footprint] = {}
        self.audits: dict[Path, Footprint] = {}
        self.targets: dict[Path, Footprint] = {}
        self._now = self.ground

    @contextmanager
    def finding(self, about: dict[Path, Footprint], path: Path) -> Iterator[None]:
        """Enter what is looked up meanwhile in the footprint of `path` among `about`."""
        before = self._now
        print_of = about.get(path)
        if print_of is None:
            print_of = about[path] = Footprint({path})
        self._now = print_of
        try:
            yield
        finally:
            self._now = before

    def uses_facts(self, path: Path) -> None:
        """Say that what is being found out rests on what is known about a file."""
        self._now.facts.add(path)
        if path not in self.facts:
            self.facts[path] = Footprint({path})

    def uses_audit(self, path: Path) -> None:
        """Say that what is being found out rests on the audits of a file's networks."""
        self._now.audits.add(path)

    @property
    def known_sources(self) -> Mapping[Path, Source]:
        """The files that were read."""
        return self._sources

    def same(self, path: Path) -> Path:
        """The one object that stands for a path: equal paths that are two objects are dear to compare."""
        return self._same.setdefault(path, path)

    # --- reading -----------------------------------------------------------------------------------------------

    def source(self, path: Path) -> Source:
        """The file's source; raises SourceError."""
        self._now.files.add(path)
        return self._read(path)

    def _read(self, path: Path) -> Source:
        source = self._sources.get(path)
        if source is None:
            source = self._sources[path] = Source.read(path)
        return source

    def add_source(self, path: Path, data: bytes) -> None:
        """Take `data` for the content of `path`: standard input, or bytes that were read already."""
        self._sources[path] = Source(path, data)

    def holds(self, path: Path, data: bytes) -> bool:
        """Whether the file was read before with this content: then what was found in it stays valid."""
        source = self._sources.get(path)
        return source is not None and source.data == data

    def has_read(self, path: Path) -> bool:
        """Whether the file was read before, whatever was in it."""
        return path in self._sources

    def index(self, path: Path) -> FileIndex | None:
        """What the file defines, or None when it cannot be read."""
        self._now.files.add(path)
        if path not in self._indexes:
            try:
                self._indexes[path] = self._build_index(path)
            except SourceError:
                self._indexes[path] = None
        return self._indexes[path]

    def _build_index(self, path: Path) -> FileIndex:
        index = FileIndex(path, self.source(path).ast, self.source(path).data)
        for statement in _module_statements(self.source(path).ast.body):
            if isinstance(statement, ast.Import):
                for alias in statement.names:
                    if alias.asname:
                        index.imports[alias.asname] = alias.name
                    else:
                        index.imports.setdefault(alias.name.split(".")[0], alias.name.split(".")[0])
            elif isinstance(statement, ast.ImportFrom):
                base = self._import_base(path, statement)
                for alias in statement.names:
                    if alias.name == "*":
                        index.stars.append(base)
                    else:
                        index.imports[alias.asname or alias.name] = f"{base}.{alias.name}" if base else alias.name
            elif isinstance(statement, ast.ClassDef):
                _index_class(index, statement, "")
            elif isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
                index.functions[statement.name] = statement
                _index_nested(index, statement, "")
            elif isinstance(statement, ast.Assign):
                for target in statement.targets:
                    if isinstance(target, ast.Name):
                        _index_constant(index, target.id, statement.value)
            elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
                _index_constant(index, statement.target.id, statement.value)
        return index

    def _import_base(self, path: Path, statement: ast.ImportFrom) -> str:
        if not statement.level:
            return statement.module or ""
        return self.absolute_import(path, statement.level, statement.module or "")

    def absolute_import(self, path: Path, level: int, module: str) -> str:
        """`from ..x import y` as an absolute dotted name, by the package the file lies in."""
        package = self.dotted_name(path).split(".")
        if path.name != "__init__.py":
            package = package[:-1]
        package = package[: len(package) - (level - 1)] if level > 1 else package
        return ".".join([*package, module] if module else package)

    # --- names and modules -------------------------------------------------------------------------------------

    def dotted_name(self, path: Path) -> str:
        """The import name of a file: the folders with an `__init__.py` above it, then its stem."""
        inside = path.relative_to(self._package_root(path.parent)).with_suffix("").parts
        parts = inside[:-1] if path.name == "__init__.py" else inside
        return ".".join(parts) or path.parent.name

    def _source_roots(self, path: Path) -> Iterator[Path]:
        folder = self._package_root(path.parent)
        yield folder
        for root in (self.root, self.root / "src", *folder.parents):
            if root == folder:
                continue
            if root != self.root and self.root not in root.parents:
                break
            yield root

    def _package_root(self, folder: Path) -> Path:
        """The first folder upward that is no package: what stands in it is imported by its bare name."""
        root = self._packages.get(folder)
        if root is None:
            root = folder
            while self._is_package(root) and root != root.parent:
                root = root.parent
            self._packages[folder] = root
        return root

    def _is_package(self, folder: Path) -> bool:
        # Where packages begin decides the names of all files in them: everything rests on it.
        marker = folder / "__init__.py"
        found = self.ground.probes[str(marker)] = marker.exists()
        return found

    def module_path(self, path: Path, dotted: str) -> Path | None:
        """The project file that `import dotted` from `path` would read, or None for external modules."""
        folder = self.same(path.parent)
        key = (folder, dotted)
        self.uses_facts(folder)
        if key not in self._module_paths:
            with self.finding(self.facts, folder):
                found = self._find_module(path, dotted)
            self._module_paths[key] = self.same(found) if found is not None else None
        return self._module_paths[key]

    def _find_module(self, path: Path, dotted: str) -> Path | None:
        if not dotted or dotted.split(".", maxsplit=1)[0] in ("torch", "numpy", "math", "typing"):
            return None
        parts = dotted.split(".")
        for root in self._source_roots(path):
            probes = self._now.probes
            if parts[0] not in self._top_names(root):
                # One listing of a root spares two calls for each external import.
                probes[f"{root}/{parts[0]}.py"] = probes[f"{root}/{parts[0]}/__init__.py"] = False
                continue
            base = os.path.join(root, *filter(None, parts))  # plain strings: most of what is asked for is not there
            for candidate in (f"{base}.py", os.path.join(base, "__init__.py")):
                found = probes[candidate] = os.path.isfile(candidate) and self._is_inside(candidate)
                if found:
                    return Path(candidate)
        return None

    @cached_property
    def _real_root(self) -> Path:
        return Path(os.path.realpath(self.root))

    def _is_inside(self, path: str) -> bool:
        """Whether a file lies in the project once all links are followed: none leads the audit out of the tree."""
        return Path(os.path.realpath(path)).is_relative_to(self._real_root)

    def _top_names(self, root: Path) -> frozenset[str]:
        """The first words of what can be imported from a folder."""
        names = self._tops.get(root)
        if names is None:
            try:
                names = frozenset(entry.name.removesuffix(".py") for entry in root.iterdir())
            except OSError:
                names = frozenset()
            self._tops[root] = names
        return names

    def lookup(self, path: Path, dotted: str, _depth: int = 0) -> Symbol:
        """Where a dotted name used in `path` leads, through aliases and re-exports."""
        key = (path, dotted)
        self.uses_facts(path)
        known = self._lookups.get(key)
        if known is not None:
            self._way |= self._ways[key]
            return known
        if not self._looking:
            self._missed.clear()
        if key in self._looking or key in self._missed:
            return Symbol(None, dotted)  # an import cycle, or a way that this very question went before in vain
        self._looking.add(key)
        outer, self._way = self._way, set()
        try:
            with self.finding(self.facts, path):
                found = self._lookup(path, dotted, _depth)
        finally:
            self._looking.discard(key)
            way, self._way = self._way, outer
            self._way |= way
        if _depth == 0 or found.path is not None:
            self._lookups[key] = found  # what a cycle or the depth cut short is not kept
            self._ways[key] = frozenset(way)
        else:
            self._missed.add(key)  # files that import everything from each other offer ways without number
        return found

    def way(self, path: Path, dotted: str) -> frozenset[Path]:
        """The project files through which a name used in `path` leads to its definition."""
        self.lookup(path, dotted)
        return self._ways.get((path, dotted), frozenset())

    def _lookup(self, path: Path, dotted: str, depth: int) -> Symbol:
        index = self.index(path)
        head, _, rest = dotted.partition(".")
        if index is None or depth > 12:
            return Symbol(None, dotted)
        if dotted in index.classes:
            return Symbol(path, dotted)
        if head in index.classes or head in index.functions or head in index.constants:
            if head in index.constants and head not in index.classes and not rest:
                alias = _dotted(index.constants[head])  # Policy = nn.Module, MlpPolicy = ActorCriticPolicy
                if alias and alias != head:
                    target = self.lookup(path, alias, depth + 1)
                    if target.path is not None or "." in target.name:
                        return target
            return Symbol(path, dotted)
        if head in index.imports:
            imported = index.imports[head]
            return self.lookup_absolute(path, f"{imported}.{rest}" if rest else imported, depth)
        for star in index.stars:
            module = self.module_path(path, star)
            if module is not None and module != path:
                found = self.lookup(module, dotted, depth + 1)
                if found.path is not None or found.name != dotted:
                    return found
            elif module is None and star.split(".")[0] == "torch":
                return Symbol(None, f"{star}.{dotted}")
        return Symbol(None, dotted)

    def lookup_absolute(self, path: Path, dotted: str, depth: int = 0) -> Symbol:
        """Where an absolute dotted name leads when `path` imports it."""
        self.uses_facts(path)
        with self.finding(self.facts, path):
            return self._lookup_absolute(path, dotted, depth)

    def _lookup_absolute(self, path: Path, dotted: str, depth: int) -> Symbol:
        parts = dotted.split(".")
        for cut in range(len(parts), 0, -1):
            module = self.module_path(path, ".".join(parts[:cut]))
            if module is None:
                continue
            rest = ".".join(parts[cut:])
            if not rest:
                return Symbol(module, "")
            if module == path and not self._defines(path, parts[cut]):
                continue
            self._way.add(module)
            return self.lookup(module, rest, depth + 1)
        return Symbol(None, dotted)

    def _defines(self, path: Path, name: str) -> bool:
        index = self.index(path)
        return index is not None and (name in index.classes or name in index.functions or name in index.constants)

    # --- constants ---------------------------------------------------------------------------------------------

    def constant(self, path: Path, name: str, _depth: int = 0) -> object:
        """The value of a module-level constant: a number, a string, None or `NotImplemented` when unknown.

        `torch.finfo(...).min` is the string "finfo.min"; infinities are floats.
        """
        self.uses_facts(path)
        index = self.index(path)
        if index is None or name not in index.constants or _depth > 8:
            return NotImplemented
        key = (path, name, _depth)
        if key not in self._constants:
            with self.finding(self.facts, path):
                self._constants[key] = self._evaluate(path, index.constants[name], _depth)
        return self._constants[key]

    def _evaluate(self, path: Path, node: ast.expr, depth: int) -> object:
        if isinstance(node, ast.Constant):
            return limited(node.value)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
            value = self._evaluate(path, node.operand, depth)
            if isinstance(value, (int, float)):
                return -value if isinstance(node.op, ast.USub) else value
            return NotImplemented
        if isinstance(node, ast.BinOp):
            left, right = self._evaluate(path, node.left, depth), self._evaluate(path, node.right, depth)
            return fold(type(node.op).__name__, left, right)
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id == "float" and node.args:
                return as_float(self._evaluate(path, node.args[0], depth))
            return NotImplemented
        name = _dotted(node)
        if name:
            return self._evaluate_name(path, node, name, depth)
        if isinstance(node, ast.Attribute) and node.attr == "min" and isinstance(node.value, ast.Call):
            called = self.lookup(path, _dotted(node.value.func)).name
            return "finfo.min" if called in ("torch.finfo", "numpy.finfo") else NotImplemented
        return NotImplemented

    def _evaluate_name(self, path: Path, node: ast.expr, name: str, depth: int) -> object:
        symbol = self.lookup(path, name)
        if symbol.path is not None:
            same = symbol.path == path and isinstance(node, ast.Name) and symbol.name == name and depth > 8
            return NotImplemented if same or "." in symbol.name else self.constant(symbol.path, symbol.name, depth + 1)
        return external_constant(symbol.name)

    # --- which classes are networks, by the cheap tree alone ------------------------------------------

    def is_network(self, path: Path, name: str) -> bool:
        """Whether a project class is a `torch.nn.Module`."""
        key = (path, name)
        self.uses_facts(path)
        known = self._network.get(key)
        if known is None:
            if key in self._inheriting:
                self._cut_at.add(key)
                return False  # an inheritance cycle: nothing on this way, perhaps something on another
            self._inheriting.add(key)
            try:
                with self.finding(self.facts, path):
                    known = self._is_network(path, name)
            finally:
                self._inheriting.discard(key)
            self._cut_at.discard(key)
            if known or not self._cut_at:
                self._network[key] = known  # what a cycle cut short is not kept
        return known

    def lookup_from(self, path: Path, scope: str, dotted: str) -> Symbol:
        """Like `lookup`, for a name used inside `scope` (`Outer.Inner`): siblings of a nested class come first."""
        self.uses_facts(path)
        index = self.index(path)
        while index is not None and "." in scope:
            scope = scope.rpartition(".")[0]
            if f"{scope}.{dotted}" in index.classes:
                return Symbol(path, f"{scope}.{dotted}")
        return self.lookup(path, dotted)

    def _is_network(self, path: Path, name: str) -> bool:
        index = self.index(path)
        if index is None or name not in index.classes:
            return False
        entry = index.classes[name]
        if _is_environment(entry.node):
            return False
        foreign = False
        for base in entry.bases:
            symbol = self.lookup_from(path, name, base)
            if symbol.path is not None:
                if self.is_network(symbol.path, symbol.name):
                    return True
            elif is_torch_module(symbol.name):
                return True
            elif symbol.name not in _PLAIN_BASES and "." in symbol.name:
                foreign = True
        return foreign and self._assigns_layers(path, entry.node)

    def _assigns_layers(self, path: Path, node: ast.ClassDef) -> bool:
        """Whether `self.x = nn.Linear(...)` stands in the class: then it is a module, whatever its foreign base."""
        for child in ast.walk(node):
            if not isinstance(child, ast.Assign) or not isinstance(child.value, ast.Call):
                continue
            target = child.targets[0]
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
                func: ast.expr = child.value.func
                parts: list[str] = []
                while isinstance(func, ast.Attribute):
                    parts.append(func.attr)
                    func = func.value
                if isinstance(func, ast.Name):
                    name = self.lookup(path, ".".join([func.id, *reversed(parts)])).name
                    if is_torch_module(name):
                        return True
        return False

    def network_names(self, path: Path) -> tuple[str, ...]:
        """The network classes a file defines, by the cheap tree."""
        index = self.index(path)
        return tuple(name for name in index.classes if self.is_network(path, name)) if index else ()

    # --- reverse look-ups --------------------------------------------------------------------------------------

    @property
    def python_files(self) -> tuple[Path, ...] | None:
        """All Python files of the project, sorted; None when there are too many to look through.

        A folder without a marker is no project: of it, only the files beside the audited one count.
        """
        self._now.listing = True
        return self.listing

    def in_order(self, paths: Iterable[Path]) -> list[Path]:
        """Files of the project in the order of its listing."""
        return sorted(set(paths), key=self._order.__getitem__)

    @cached_property
    def _order(self) -> dict[Path, int]:
        return {path: number for number, path in enumerate(self.listing or ())}

    @cached_property
    def listing(self) -> tuple[Path, ...] | None:
        """`python_files` for those who look into all of them for a word, and note the word."""
        found: list[Path] = []
        total = 0
        marked = any((self.root / marker).exists() for marker in _MARKERS)
        for visited, (folder, folders, names) in enumerate(os.walk(self.root)):
            if visited > MAX_FILES:
                return None
            folders[:] = (
                [] if not marked else sorted(f for f in folders if f not in _SKIPPED_FOLDERS and not f.startswith("."))
            )
            if Path(folder) != self.root and any(name in names for name in ("pyvenv.cfg",)):
                folders[:] = []
                continue
            for name in sorted(names):
                if name.endswith(".py"):
                    path = Path(folder, name)
                    try:
                        entry = path.lstat()
                    except OSError:
                        continue
                    if not stat.S_ISREG(entry.st_mode):
                        continue  # a pipe would never end, and a link leads to a file of the project or out of it
                    total += entry.st_size
                    found.append(self.same(path))
                    if len(found) > MAX_FILES or total > MAX_BYTES:
                        return None
        return tuple(found)

    def words(self, path: Path) -> frozenset[bytes]:
        """All identifier-like words of a file, from its raw bytes; empty when it cannot be read."""
        self._now.files.add(path)
        return self._words_of(path)

    def _words_of(self, path: Path) -> frozenset[bytes]:
        words = self._words.get(path)
        if words is None:
            words = self._words[path] = frozenset(re.findall(rb"\b[A-Za-z_]\w*", self._unnoted(path)))
        return words

    def names(self, path: Path, word: str) -> bool:
        """Whether a word occurs in the file; who asks this of many files rests on the word, not on all of them."""
        self._now.words.add(word)
        found = word.encode() in self._words_of(path)
        if found:
            self._now.files.add(path)
        return found

    def _bytes(self, path: Path) -> bytes:
        self._now.files.add(path)
        return self._unnoted(path)

    def _unnoted(self, path: Path) -> bytes:
        try:
            return self._read(path).data
        except SourceError:
            return b""

    @cached_property
    def _word_index(self) -> dict[bytes, list[Path]]:
        """Each word with the files that hold it, in the order of the listing."""
        index: dict[bytes, list[Path]] = {}
        for path in self.listing or ():
            for word in self._words_of(path):
                index.setdefault(word, []).append(path)
        return index

    @staticmethod
    def is_test_file(path: Path) -> bool:
        """Whether pytest or unittest would collect tests from the file."""
        return path.name.startswith(("test_", "tests_")) or path.stem.endswith(("_test", "_tests"))

    def is_test_code(self, path: Path) -> bool:
        """Whether the file is a test or stands in a folder of tests of this project."""
        inside = path.relative_to(self.root).parts if self.root in path.parents else path.parts
        return (
            self.is_test_file(path)
            or path.name == "conftest.py"
            or bool({"tests", "test", "testing"} & set(inside[:-1]))
        )

    def reach(self, path: Path) -> tuple[Path, ...]:
        """The file and the project files that its imports lead to, nearest first; at most `MAX_REACH`."""
        self.uses_facts(path)
        if path not in self._reach:
            with self.finding(self.facts, path):
                self._reach[path] = self._reached(path)
        return self._reach[path]

    def _reached(self, path: Path) -> tuple[Path, ...]:
        found: dict[Path, None] = {path: None}
        queue = [path]
        while queue and len(found) < MAX_REACH:
            for module in self._imports_of(queue.pop(0)):
                if module not in found:
                    found[module] = None
                    queue.append(module)
        return tuple(found)

    def _imports_of(self, path: Path) -> tuple[Path, ...]:
        """The project files that hold what a file imports, each once; many ways lead through the same file."""
        known = self._imported.get(path)
        if known is not None:
            self._now.files.add(path)
            folder = self.same(path.parent)
            if folder in self.facts:  # where something was looked for from there
                self.uses_facts(folder)
            return known
        index = self.index(path)
        targets = (*index.imports.values(), *index.stars) if index is not None else ()
        modules = (self._module_of(path, target) for target in targets)
        self._imported[path] = tuple(dict.fromkeys(module for module in modules if module is not None))
        return self._imported[path]

    def _module_of(self, path: Path, dotted: str) -> Path | None:
        """The project file that holds an imported name: the module itself, or the one it is imported from."""
        return self.module_path(path, dotted) or self.module_path(path, dotted.rpartition(".")[0])

    def mentions(self, path: Path, *texts: bytes) -> bool:
        """Whether one of the texts occurs in the file or in what its imports lead to."""
        key = (path, texts)
        files = self.reach(path)  # also where it is known: what is being found out rests on it
        if key not in self._mentions:
            self._mentions[key] = any(self._holds(file, text) for file in files for text in texts)
        return self._mentions[key]

    def _holds(self, path: Path, text: bytes) -> bool:
        """Whether a text occurs in a file; looked for once, since every network of a project asks the same."""
        key = (path, text)
        if key not in self._held:
            self._held[key] = text in self._bytes(path)
        return self._held[key]

    def spells(self, path: Path, *texts: bytes) -> bool:
        """Whether one of the texts occurs in the file: a look for plain text is cheaper than for a pattern."""
        self._now.files.add(path)
        return any(self._holds(path, text) for text in texts)

    def says(self, path: Path, pattern: re.Pattern[bytes]) -> bool:
        """Whether a pattern occurs in the file; looked for once, since every network of a file asks the same."""
        key = (path, pattern)
        self._now.files.add(path)
        if key not in self._says:
            self._says[key] = pattern.search(self._bytes(path)) is not None
        return self._says[key]

    def files_naming(self, name: str) -> tuple[Path, ...] | None:
        """The project files whose bytes hold the word `name`, or None when the project is too large to say.

        A run on one network asks a few times, and searching bytes is cheapest; a run on a repository asks for hundreds
        of names, and then an index from words to files pays.
        """
        files = self.listing
        if files is None:
            return None
        self._now.words.add(name)
        if name not in self._naming:
            word = name.encode()
            if len(self._naming) < 8:
                pattern = re.compile(rb"\b" + re.escape(word) + rb"\b")
                found = tuple(
                    path for path in files if word in self._unnoted(path) and pattern.search(self._unnoted(path))
                )
            else:
                found = tuple(self._word_index.get(word, ()))
            self._naming[name] = found
        self._now.files.update(self._naming[name])
        return self._naming[name]


_ENVIRONMENT_METHODS = (
    frozenset({"_step", "_reset"}),
    frozenset({"step", "reset", "render"}),
    frozenset({"step", "reset", "close"}),
)


def _is_environment(node: ast.ClassDef) -> bool:
    """Environments and their transforms are modules in some libraries, but no networks."""
    methods = {member.name for member in node.body if isinstance(member, (ast.FunctionDef, ast.AsyncFunctionDef))}
    return any(wanted <= methods for wanted in _ENVIRONMENT_METHODS)


_PLAIN_BASES = frozenset({"object", "abc.ABC", "typing.Generic", "typing.Protocol", "typing.NamedTuple", "enum.Enum"})


def is_torch_module(name: str) -> bool:
    """Whether a qualified external name is a module class of torch (by torch's own naming)."""
    if not name.startswith("torch.nn."):
        return name in (
            "lightning.LightningModule",
            "pytorch_lightning.LightningModule",
            "lightning.pytorch.LightningModule",
        )
    last = name.rsplit(".", 1)[1]
    return (
        last[:1].isupper()
        and not name.startswith(("torch.nn.functional.", "torch.nn.init."))
        and last not in ("Parameter", "Buffer")
    )


def limited(value: object) -> object:
    """The value of a literal, a whole number beyond every float cut down to one that a float holds."""
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        return 2**MAX_BITS - 1
    return value


def fold(operator: str, left: object, right: object) -> object:
    """Constant arithmetic on numbers; NotImplemented where it is unknown or has grown past all use."""
    result = _fold(operator, left, right)
    return NotImplemented if isinstance(result, int) and result.bit_length() > MAX_BITS else result


def _fold(operator: str, left: object, right: object) -> object:
    if not isinstance(left, (int, float)) or not isinstance(right, (int, float)):
        return NotImplemented
    try:
        if operator == "Add":
            return left + right
        if operator in ("Sub", "Subtract"):
            return left - right
        if operator in ("Mult", "Multiply"):
            return left * right
        if operator in ("Div", "Divide"):
            return left / right
        if operator in ("Pow", "Power") and abs(right) < 400 and abs(left) < 1e6:
            result = left**right
            return result if isinstance(result, (int, float)) else NotImplemented
        if operator in ("FloorDiv", "FloorDivide"):
            return left // right
    except (ZeroDivisionError, OverflowError, ValueError):
        return NotImplemented
    return NotImplemented


def as_float(value: object) -> object:
    """What `float(value)` gives for a constant, else NotImplemented."""
    if isinstance(value, (int, float, str)):
        try:
            return float(value)
        except (ValueError, OverflowError):
            return NotImplemented
    return NotImplemented


_EXTERNAL_CONSTANTS: dict[str, object] = {
    "math.inf": math.inf,
    "numpy.inf": math.inf,
    "torch.inf": math.inf,
    "numpy.Inf": math.inf,
    "numpy.NINF": -math.inf,
    "numpy.infty": math.inf,
    "math.pi": math.pi,
    "math.e": math.e,
    "numpy.pi": math.pi,
    "torch.pi": math.pi,
    "math.nan": math.nan,
}


def external_constant(name: str) -> object:
    """The value of a well-known constant of math, numpy or torch, else NotImplemented."""
    return _EXTERNAL_CONSTANTS.get(name, NotImplemented)
