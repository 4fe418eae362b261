"""The classes and functions of one parsed file, with inherited members found across the project.

`ModuleModel` is the concrete tree of a file with its names; `ClassModel` and `Function` are thin views on it. Networks
are classes whose ancestry leads to `torch.nn.Module`, or, where an ancestor lives outside the project, classes that
assign torch layers to themselves.
"""

from __future__ import annotations

import ast
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import libcst as cst

from esper_audit.core.errors import SourceError
from esper_audit.semantics.axes import Axes
from esper_audit.semantics.project import FileIndex, Project, Symbol
from esper_audit.semantics.shapes import axes_in, documented_axes, documented_ranks
from esper_audit.semantics.tree import Walk, dotted

if TYPE_CHECKING:
    from esper_audit.semantics.source import Source


DefinitionT = TypeVar("DefinitionT", bound="ClassModel | Function")


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter with what stands beside it; `kind` is positional, keyword, star or kwargs."""

    name: str
    node: cst.Param
    kind: str
    comment: str

    @property
    def default(self) -> cst.BaseExpression | None:
        """The default expression, if any."""
        return self.node.default

    @property
    def annotation(self) -> cst.BaseExpression | None:
        """The annotation expression, if any."""
        return self.node.annotation.annotation if self.node.annotation else None


def _comment_of(param: cst.Param) -> str:
    comma = param.comma
    for whitespace in (
        comma.whitespace_after if isinstance(comma, cst.Comma) else None,
        param.whitespace_after_param,
    ):
        if isinstance(whitespace, cst.ParenthesizedWhitespace) and whitespace.first_line.comment:
            return whitespace.first_line.comment.value
    return ""


class Function:
    """A function or method: its parameters, docstring and decorators."""

    def __init__(self, module: ModuleModel, node: cst.FunctionDef, owner: ClassModel | None = None) -> None:
        self.module = module
        self.node = node
        self.owner = owner
        self.name = node.name.value

    def __repr__(self) -> str:
        return f"<Function {self.qualified}>"

    @property
    def qualified(self) -> str:
        """`Class.method`, or the bare name."""
        return f"{self.owner.name}.{self.name}" if self.owner else self.name

    @property
    def first(self) -> str:
        """The name of its first parameter: what a method calls its object. Empty where there is none."""
        return self.params[0].name if self.params else ""

    @cached_property
    def params(self) -> tuple[Param, ...]:
        """All parameters, `self` included."""
        parameters = self.node.params
        found = [
            Param(p.name.value, p, "positional", _comment_of(p))
            for p in (*parameters.posonly_params, *parameters.params)
        ]
        if isinstance(parameters.star_arg, cst.Param):
            found.append(Param(parameters.star_arg.name.value, parameters.star_arg, "star", ""))
        found += [Param(p.name.value, p, "keyword", _comment_of(p)) for p in parameters.kwonly_params]
        if parameters.star_kwarg:
            found.append(Param(parameters.star_kwarg.name.value, parameters.star_kwarg, "kwargs", ""))
        return tuple(found)

    def param(self, name: str) -> Param | None:
        """The parameter of that name."""
        return next((param for param in self.params if param.name == name), None)

    @cached_property
    def docstring(self) -> str:
        """The cleaned docstring, or an empty string."""
        return self.node.get_docstring() or ""

    @cached_property
    def stated_ranks(self) -> dict[str, tuple[int, ...]]:
        """Ranks that the docstring states per parameter."""
        return documented_ranks(self.docstring)

    @cached_property
    def stated_axes(self) -> dict[str, Axes]:
        """Axes that comments beside the parameters and the docstring state."""
        beside = {param.name: axes for param in self.params if (axes := axes_in(param.comment)) is not None}
        return {**documented_axes(self.docstring), **beside}

    @cached_property
    def decorators(self) -> tuple[str, ...]:
        """Qualified names of the decorators, calls reduced to what is called."""
        names = []
        for decorator in self.node.decorators:
            expression = decorator.decorator
            if isinstance(expression, cst.Call):
                expression = expression.func
            names.append(self.module.qualify(dotted(expression)))
        return tuple(names)

    @cached_property
    def is_abstract(self) -> bool:
        """Whether the body only raises, passes or documents."""
        body = self.node.body.body
        for statement in body:
            if not isinstance(statement, cst.SimpleStatementLine):
                return False
            for small in statement.body:
                harmless = isinstance(small, (cst.Pass, cst.Raise)) or (
                    isinstance(small, cst.Expr) and isinstance(small.value, (cst.BaseString, cst.Ellipsis))
                )
                if not harmless:
                    return False
        return True


class ClassModel:
    """A class with its own and its inherited members, as far as the project shows them."""

    def __init__(self, module: ModuleModel, node: cst.ClassDef, scope: str = "") -> None:
        self.module = module
        self.node = node
        self.name = scope + node.name.value  # `Outer.Inner` for nested classes

    def __repr__(self) -> str:
        return f"<ClassModel {self.name}>"

    @cached_property
    def own_methods(self) -> dict[str, Function]:
        """Methods defined in the class body itself, those under `if` included."""
        methods: dict[str, Function] = {}
        for node in _class_statements(self.node.body):
            if isinstance(node, cst.FunctionDef):
                function = Function(self.module, node, self)
                if not any(name.endswith((".setter", ".deleter", "overload")) for name in function.decorators):
                    methods[function.name] = function
        return methods

    @cached_property
    def constants(self) -> dict[str, cst.BaseExpression]:
        """Class-level assignments by name."""
        found: dict[str, cst.BaseExpression] = {}
        for node in _class_statements(self.node.body):
            if isinstance(node, cst.Assign):
                for target in node.targets:
                    if isinstance(target.target, cst.Name):
                        found[target.target.value] = node.value
            elif isinstance(node, cst.AnnAssign) and isinstance(node.target, cst.Name) and node.value:
                found[node.target.value] = node.value
        return found

    @cached_property
    def annotated_fields(self) -> dict[str, cst.AnnAssign]:
        """Class-level annotations by name: the fields of a dataclass or NamedTuple."""
        return {
            node.target.value: node
            for node in _class_statements(self.node.body)
            if isinstance(node, cst.AnnAssign) and isinstance(node.target, cst.Name)
        }

    @cached_property
    def docstring(self) -> str:
        """The cleaned docstring, or an empty string."""
        return self.node.get_docstring() or ""

    @cached_property
    def base_names(self) -> tuple[str, ...]:
        """Base expressions as written, generics reduced to what is subscripted."""
        names = []
        for base in self.node.bases:
            value = base.value.value if isinstance(base.value, cst.Subscript) else base.value
            name = dotted(value)
            if name:
                names.append(name)
        return tuple(names)

    @cached_property
    def lineage(self) -> tuple[ClassModel, ...]:
        """The class and its ancestors inside the project, nearest first (a plain depth-first order)."""
        found: list[ClassModel] = []
        seen: set[tuple[Path, str]] = set()

        def visit(model: ClassModel) -> None:
            key = (model.module.path, model.name)
            if key in seen or len(found) > 24:
                return
            seen.add(key)
            found.append(model)
            for name in model.base_names:
                base = model.module.models.find_class(
                    model.module.models.project.lookup_from(model.module.path, model.name, name)
                )
                if base is not None:
                    visit(base)

        visit(self)
        return tuple(found)

    def method(self, name: str) -> Function | None:
        """The method of that name, inherited ones included."""
        for model in self.lineage:
            if name in model.own_methods:
                return model.own_methods[name]
        return None

    @cached_property
    def methods(self) -> dict[str, Function]:
        """All methods, inherited ones included, nearest definition wins."""
        found: dict[str, Function] = {}
        for model in self.lineage:
            for name, function in model.own_methods.items():
                found.setdefault(name, function)
        return found

    @cached_property
    def is_network(self) -> bool:
        """Whether the class is a `torch.nn.Module`."""
        return self.module.models.project.is_network(self.module.path, self.name)


def _class_statements(body: cst.BaseSuite) -> Iterator[cst.CSTNode]:
    for statement in body.body:
        if isinstance(statement, cst.SimpleStatementLine):
            yield from statement.body
        elif isinstance(statement, cst.If):
            yield from _class_statements(statement.body)
        else:
            yield statement


def _definitions(statements: Sequence[cst.CSTNode], wanted: str) -> cst.ClassDef | cst.FunctionDef | None:
    """The definition of that name among module-level statements, blocks under `if`, `try` and `with` included."""
    stack = list(statements)
    found: cst.ClassDef | cst.FunctionDef | None = None
    while stack:
        node = stack.pop(0)
        if isinstance(node, (cst.ClassDef, cst.FunctionDef)):
            if node.name.value == wanted:
                found = node  # the last one wins, as it does when the module is run
        elif isinstance(node, (cst.If, cst.Try, cst.With, cst.Else, cst.ExceptHandler, cst.Finally)):
            stack.extend(node.body.body)
            stack.extend(part for part in (getattr(node, "orelse", None), getattr(node, "finalbody", None)) if part)
            stack.extend(getattr(node, "handlers", ()))
    return found


class Piece:
    """One top-level statement of a file, parsed on its own and only when somebody asks.

    A training script of a thousand lines holds a network of fifty: the rest is never parsed.
    """

    def __init__(self, source: Source, first: int, last: int) -> None:
        self.source = source
        self.first = first  # 1-based line, comments above the statement included
        self.last = last

    @cached_property
    def tree(self) -> cst.Module:
        """The concrete tree; raises SourceError."""
        text = "\n".join(self.source.lines[self.first - 1 : self.last]) + "\n"
        try:
            return cst.parse_module(text)
        except cst.ParserSyntaxError as error:
            message = f"does not parse: {error.message.splitlines()[0]}"
            raise SourceError(message, self.first - 1 + error.raw_line) from None
        except RecursionError:
            raise SourceError("is nested too deeply to audit", self.first) from None


def _pieces(source: Source) -> list[Piece]:
    """The file cut into its top-level statements; what shares a line through semicolons stays together."""
    pieces: list[Piece] = []
    end = 0
    for statement in source.ast.body:
        if pieces and statement.lineno <= end:
            pieces[-1].last = end = max(end, statement.end_lineno or end)
            continue
        first, end = end + 1, statement.end_lineno or statement.lineno
        pieces.append(Piece(source, first, end))
    return pieces


class Definitions(Mapping[str, DefinitionT]):
    """The classes or functions of a file by name. Each is parsed when it is first looked at."""

    def __init__(self, names: Iterable[str], make: Callable[[str], DefinitionT | None]) -> None:
        self._names = dict.fromkeys(names)
        self._make = make
        self._made: dict[str, DefinitionT | None] = {}

    def __getitem__(self, name: str) -> DefinitionT:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._made:
            self._made[name] = self._make(name)
        made = self._made[name]
        if made is None:
            raise KeyError(name)
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class ModuleModel:
    """One file: what it defines, each definition parsed when it is needed."""

    def __init__(self, models: Models, path: Path, source: Source, index: FileIndex) -> None:
        self.models = models
        self.path = path
        self.source = source
        self.index = index
        self.pieces = _pieces(source)
        self.classes = Definitions(index.classes, self._class)
        self.functions = Definitions(index.functions, self._function)

    def __repr__(self) -> str:
        return f"<ModuleModel {self.path}>"

    def piece_at(self, line: int) -> Piece | None:
        """The top-level statement that covers a line."""
        number = bisect_left(self.pieces, line, key=lambda piece: piece.last)
        return self.pieces[number] if number < len(self.pieces) and self.pieces[number].first <= line else None

    def _class(self, name: str) -> ClassModel | None:
        outer, *inner = name.split(".")
        piece = self.piece_at(self.index.classes[name].line)
        node = _definitions(piece.tree.body, outer) if piece is not None else None
        scope = ""
        for part in inner:
            if node is None:
                return None
            scope += f"{node.name.value}."
            node = next(
                (child for child in node.body.body if isinstance(child, cst.ClassDef) and child.name.value == part),
                None,
            )
        return ClassModel(self, node, scope) if isinstance(node, cst.ClassDef) else None

    def _function(self, name: str) -> Function | None:
        piece = self.piece_at(self.index.functions[name].lineno)
        node = _definitions(piece.tree.body, name) if piece is not None else None
        return Function(self, node) if isinstance(node, cst.FunctionDef) else None

    @property
    def statements(self) -> Iterator[cst.CSTNode]:
        """All top-level statements, parsed one by one."""
        for piece in self.pieces:
            yield from piece.tree.body

    def explained_constants(self) -> Iterator[tuple[str, cst.CSTNode]]:
        """Module-level assignments to a name with a comment above them: the name and the assignment."""
        for piece in self.pieces:
            # What stands above the first statement of a parsed piece is its header.
            header = any(line.comment for line in piece.tree.header)
            for statement in piece.tree.body:
                if not isinstance(statement, cst.SimpleStatementLine):
                    continue
                if header or any(line.comment for line in statement.leading_lines):
                    for small in statement.body:
                        if isinstance(small, (cst.Assign, cst.AnnAssign)):
                            target = small.targets[0].target if isinstance(small, cst.Assign) else small.target
                            if isinstance(target, cst.Name):
                                yield target.value, small

    @cached_property
    def networks(self) -> tuple[ClassModel, ...]:
        """The network classes this file defines, in source order."""
        project = self.models.project
        return tuple(self.classes[name] for name in project.network_names(self.path) if name in self.classes)

    @cached_property
    def docstring(self) -> str:
        """The cleaned module docstring, or an empty string."""
        return ast.get_docstring(self.index.tree) or ""

    def lookup(self, name: str) -> Symbol:
        """Where a dotted name used in this file leads."""
        return self.models.project.lookup(self.path, name)

    def qualify(self, name: str) -> str:
        """The external qualified name (`torch.zeros`), or the bare name for things of the project."""
        return self.lookup(name).name if name else ""

    def find_class(self, name: str) -> ClassModel | None:
        """The project class that a name leads to."""
        return self.models.find_class(self.lookup(name))

    @cached_property
    def walk(self) -> Walk:
        """Parents and nodes by type of the whole file; parses all of it, so ask the cheap tree first."""
        return Walk(piece.tree for piece in self.pieces)

    def code(self, node: cst.CSTNode) -> str:
        """The source text of a node on one line."""
        return " ".join(_PRINTER.code_for_node(node).split())


_PRINTER = cst.Module([])


class Models:
    """All parsed files of a run: each is parsed at most once."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self._modules: dict[Path, ModuleModel | None] = {}

    def parse(self, path: Path) -> ModuleModel:
        """The model of a file; raises SourceError when it cannot be read or parsed."""
        source = self.project.source(path)
        _refuse_long_chains(source)
        index = self.project.index(path)
        assert index is not None  # the source parsed a line above
        source.text  # noqa: B018  # an undecodable file must be told here, not inside a rule
        return ModuleModel(self, path, source, index)

    def module(self, path: Path) -> ModuleModel | None:
        """The model of a file, or None when it cannot be read; each file is parsed once."""
        self.project.uses_facts(path)
        if path not in self._modules:
            try:
                self._modules[path] = self.parse(path)
            except SourceError:
                self._modules[path] = None
        return self._modules[path]

    def parse_named(self, path: Path) -> ModuleModel:
        """The model of a file that the user named: what is wrong with it must be told. Raises SourceError."""
        module = self._modules.get(path)
        if module is None:
            module = self._modules[path] = self.parse(path)
        return module

    def find_class(self, symbol: Symbol) -> ClassModel | None:
        """The class a symbol names, or None."""
        if symbol.path is None or not symbol.name:
            return None
        module = self.module(symbol.path)
        return self._definition(module.classes, symbol.name) if module else None

    @staticmethod
    def _definition(definitions: Definitions[DefinitionT], name: str) -> DefinitionT | None:
        """A definition of a consulted file; what does not parse there is unknown here."""
        try:
            return definitions.get(name)
        except SourceError:
            return None

    def find_function(self, symbol: Symbol) -> Function | None:
        """The function a symbol names, or None."""
        if symbol.path is None or not symbol.name:
            return None
        module = self.module(symbol.path)
        return self._definition(module.functions, symbol.name) if module else None


MAX_CHAIN = 2000  # libcst's native parser recurses for each operand; some 10,000 overflow the usual stack
MAX_NESTING = 400  # its time grows with the square of `a.b().c()...`; the deepest in 2,500 published files is 27


def _refuse_long_chains(source: Source) -> None:
    """Raise SourceError for `a or b or ...` without end: the standard parser flattens it, libcst's recurses.

    The standard parser, which has read the file before, refuses other nestings where they are deep enough to crash.
    """
    tree = source.ast
    _refuse_nesting(tree)
    if source.data.count(b" or ") + source.data.count(b" and ") < MAX_CHAIN:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.BoolOp) and len(node.values) > MAX_CHAIN:
            raise SourceError(
                f"is nested too deeply to audit: {len(node.values)} operands in one expression", node.lineno
            )


def _refuse_nesting(tree: ast.Module) -> None:
    """Raise SourceError for an expression that is nested deeper than anybody writes. Short ones are not looked into."""
    statements: list[ast.AST] = [tree]
    while statements:
        for child in ast.iter_child_nodes(statements.pop()):
            if not isinstance(child, ast.expr):
                statements.append(child)
            elif child.end_lineno != child.lineno or (child.end_col_offset or 0) - child.col_offset > MAX_NESTING:
                level: list[ast.AST] = [child]
                for _ in range(MAX_NESTING):
                    if not level:
                        break
                    level = [below for node in level for below in ast.iter_child_nodes(node)]
                if level:
                    raise SourceError("is nested too deeply to audit", child.lineno)
