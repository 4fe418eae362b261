"""What a value depends on: the parameters, layers and attributes of self that its numbers come from.

An atom is the name of a parameter (`mask`, or `hidden#0` for a part of it), `@layer` for a layer of self, `self.name`
for another attribute that methods change, `^name` for what an earlier round of a loop left in a variable, or `?` for a
source that is not known. `~` after an atom says that no gradient flows back along that way. Shapes, dtypes and devices
carry no atoms: `zeros_like(mask)` does not depend on the mask.
The set may be too large, never too small: what it lacks, the value certainly does not depend on.
"""

from __future__ import annotations

from collections.abc import Mapping

import libcst as cst

from esper_audit.semantics.values import EMPTY, Val

Atoms = frozenset[str]
ONLY_PART, ONLY_LAST = "!part", "!last"  # some heads left out; what each round of a loop wrote over
OF_EACH_HEAD = "!each"  # one of several that a comprehension makes, one for each head
CHOICE = "!argmax@"  # what an argmax chose; the number is that of its node
STRANGE: Atoms = frozenset({"?"})  # a source that is not known
LOST = Val(deps=STRANGE)
_PARTS = ("tuple", "list", "dict", "pairs", "values")
# What has no numbers of the caller's in it, or hands them on through its own parts.
_CARRIES_NOTHING = frozenset({"shape", "dtype", "device", "finfo", "ext", "module", "func", "class", "bound", "super"})
_FROM_SHAPE = frozenset(
    "zeros_like ones_like empty_like rand_like randn_like new_zeros new_ones new_empty size dim ndimension numel "
    "element_size is_floating_point stride get_device is_complex parameters named_parameters is_contiguous data_ptr "
    "len isinstance hasattr type id is_tensor is_autocast_available autocast is_available".split()
)
_NO_GRADIENT = frozenset(
    "detach detach_ item tolist numpy argmax argmin argsort multinomial sample long int bool byte round floor ceil "
    "sign any all eq ne lt le gt ge isnan isinf isfinite logical_not logical_and logical_or nonzero bernoulli "
    "new_tensor searchsorted one_hot isin bincount tensor from_numpy".split()
)


def cut(atoms: Atoms) -> Atoms:
    """The atoms once no gradient flows back."""
    return frozenset(atom if atom.endswith("~") else f"{atom}~" for atom in atoms)


def with_gradient(atoms: Atoms) -> Atoms:
    """The atoms along which a gradient flows back."""
    return frozenset(atom for atom in atoms if not atom.endswith("~"))


def bare(atoms: Atoms) -> Atoms:
    """The sources without their parts and without what is said of gradients: `hidden#0~` is `hidden`."""
    return frozenset(atom.rstrip("~").partition("#")[0] for atom in atoms)


def resolved(atoms: Atoms, carried: Mapping[str, Atoms]) -> Atoms:
    """The atoms, with what earlier rounds of loops left in place of `^name`."""
    found: set[str] = set()
    todo = list(atoms)
    while todo:
        atom = todo.pop()
        if atom not in found:
            found.add(atom)
            if atom.startswith("^"):
                before = carried.get(atom.rstrip("~"), EMPTY)
                todo.extend(cut(before) if atom.endswith("~") else before)
    return frozenset(atom for atom in found if not atom.startswith("^"))


def everything(value: Val, depth: int = 0) -> Atoms:
    """All that a value and what it holds depend on."""
    if value.kind in _CARRIES_NOTHING:
        return EMPTY
    if depth > 4:
        return STRANGE  # containers in containers, or an object that holds itself: too deep to tell
    found = value.deps
    for part in held(value):
        found = found | everything(part, depth + 1) if part.deps or part.items or part.ref is not None else found
    return found


def held(value: Val) -> tuple[Val, ...]:
    """What a container, a record or an object of the project holds."""
    if value.items and (value.kind in _PARTS or value.kind == "dist" or "record" in value.tags):
        return tuple(part for _, part in value.items)
    if value.kind == "pairs" and isinstance(value.ref, tuple):
        return value.ref
    attributes = getattr(value.ref, "attributes", None)
    if value.kind == "instance" and attributes is not None and not hasattr(value.ref, "build"):
        return tuple(attributes.values())  # a plain object; networks are named by their attribute
    return ()


def adding(value: Val, atoms: Atoms) -> Val:
    """The value, and every tensor in it, depending on the atoms too."""
    if not atoms or value.kind in _CARRIES_NOTHING:
        return value
    if value.kind == "pairs" and isinstance(value.ref, tuple):
        value = value.but(ref=tuple(adding(part, atoms) for part in value.ref))
    if value.kind in _PARTS and value.items:
        return value.but(items=tuple((key, adding(part, atoms)) for key, part in value.items))
    return value if atoms <= value.deps else value.but(deps=value.deps | atoms)


def remarks(atoms: Atoms) -> Atoms:
    """What is said of the way rather than of the sources: `!part` and its kin."""
    return frozenset(atom for atom in atoms if atom.startswith("!"))


def without_gradient(value: Val) -> Val:
    """The value, and every tensor in it, once no gradient flows back."""
    if value.kind in _PARTS and value.items:
        return value.but(items=tuple((key, without_gradient(part)) for key, part in value.items))
    return value.but(deps=cut(value.deps)) if value.deps else value


def of_strange_source(value: Val) -> Val:
    """The value, and every part of it, of a source that is not known."""
    return value if value.kind in _CARRIES_NOTHING else _only(value, STRANGE)


def as_parameter(value: Val, name: str) -> Val:
    """What a caller passes for a parameter: an atom of its own, and one for each part that is told apart."""
    if value.kind in _CARRIES_NOTHING:
        return value
    if value.kind in ("tuple", "list") and value.items:
        parts = tuple((key, part.but(deps=frozenset({f"{name}#{key}"}))) for key, part in value.items)
        return value.but(items=parts)
    return value.but(deps=frozenset({name}))


def as_attribute(value: Val, name: str, *, changes: bool) -> Val:
    """What self holds: layers and parameters by name, what methods change as `self.name`, and constants for nothing."""
    if value.kind == "none" and changes:
        return value.but(deps=frozenset({f"self.{name}"}))  # until a method puts something there
    if value.kind in ("number", "bool", "str", "none") or value.kind in _CARRIES_NOTHING:
        return value.but(deps=EMPTY) if value.deps else value
    learned = value.kind == "layer" or "network" in value.tags or "parameter" in value.tags
    atoms = frozenset({f"@{name}"}) if learned else frozenset({f"self.{name}"}) if changes else EMPTY
    return _only(value, atoms)


def _only(value: Val, atoms: Atoms) -> Val:
    if value.kind in _PARTS and value.items:
        return value.but(items=tuple((key, _only(part, atoms)) for key, part in value.items), deps=atoms)
    return value.but(deps=atoms)


def part_of(value: Val, position: int) -> Atoms:
    """What one part of a container depends on whose parts are not known: of a parameter, that part."""
    names = value.deps
    if len(names) == 1 and not value.items:
        (atom,) = names
        if atom.rstrip("~").isidentifier():
            tail = "~" if atom.endswith("~") else ""
            return frozenset({f"{atom.rstrip('~')}#{position}{tail}"})
    return everything(value)


def hands_on(name: str) -> bool:
    """Whether a function hands on more than shape, dtype and device of what it is given."""
    return name not in _FROM_SHAPE


def stops_gradient(node: cst.Call, name: str) -> bool:
    """Whether no gradient flows back through a function of torch, or a conversion of Python's: `float(x)`."""
    return name in _NO_GRADIENT or (name == "float" and isinstance(node.func, cst.Name))


def function_name(node: cst.Call) -> str:
    """The last name of what a call calls."""
    func = node.func
    return func.attr.value if isinstance(func, cst.Attribute) else func.value if isinstance(func, cst.Name) else ""
