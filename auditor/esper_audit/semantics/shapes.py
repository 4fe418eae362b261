"""Ranks and dtypes that people write down: jaxtyping annotations, shape comments, docstring shapes."""

from __future__ import annotations

import re
from functools import lru_cache

from esper_audit.semantics.axes import Axes, labels

# [batch, seq, dim]  (B, T, A)  [B x T x A]; at least one name, separated by commas or a lone x / × / *.
_SHAPE = re.compile(r"[\[(]\s*([A-Za-z_*0-9.+\- /]+(?:\s*(?:,|x|×)\s*[A-Za-z_*0-9.+\- /]+)*)\s*,?\s*[\])]")
_WORD_SHAPE = re.compile(r"(?:shape|size)s?\s*(?:is|of|:|=)?\s*`{0,2}" + _SHAPE.pattern, re.IGNORECASE)
_AXIS = re.compile(r"[A-Za-z_][A-Za-z_0-9]*(?:\s*[+\-*/]\s*[A-Za-z_0-9]+)*|\d+|\*\w+|\.\.\.")
_AXIS_NAMES = frozenset(
    "b n t s l h w a d e f k m batch seq time steps seq_len timesteps batch_size num_envs envs n_envs "
    "hidden layers heads agents".split()
)


def _rank(text: str) -> int | None:
    axes = [axis.strip() for axis in re.split(r",|\s+x\s+|×", text) if axis.strip()]
    if not axes or any("..." in axis or axis.startswith("*") for axis in axes):
        return None
    if not all(_AXIS.fullmatch(axis) for axis in axes):
        return None
    return len(axes)


def _is_remark(text: str) -> bool:
    """`(agents)`: one word in round parentheses and without a comma."""
    return text.startswith("(") and "," not in text and text.strip("() ").isalpha() and len(text) > len("(B)")


def _looks_like_axes(text: str) -> bool:
    """Prose in parentheses is no shape: some axis must bear an axis-like name or an underscore, or all be capitals."""
    axes = [axis.strip() for axis in re.split(r",|\s+x\s+|×", text) if axis.strip()]
    if set(axes) == {"h", "c"}:
        return False  # a pair of states
    return any(
        axis.lower() in _AXIS_NAMES or "_dim" in axis or "num_" in axis or axis.endswith(("_size", "_len"))
        for axis in axes
    ) or (
        all(re.fullmatch(r"[A-Z][A-Za-z0-9]{0,2}|\d+", axis) for axis in axes)
        and any(not axis.isdigit() for axis in axes)
    )


@lru_cache(maxsize=4096)
def ranks_in(text: str) -> tuple[int, ...]:
    """All ranks that a comment or a docstring line states, without duplicates, in order.

    `# [batch, dim] or [batch, 1, dim]` gives `(2, 3)`: a caller that needs one rank takes it only when there is one.
    """
    ranks: list[int] = []
    for shape in _shapes(text):
        rank = _rank(shape)
        if rank is not None and rank not in ranks:
            ranks.append(rank)
    return tuple(ranks)


def _shapes(text: str) -> list[str]:
    """What stands between the brackets of each shape that the text states."""
    if "broadcast" in text.lower():
        return []  # then other ranks are welcome, too
    matches = list(_WORD_SHAPE.finditer(text)) or [
        match for match in _SHAPE.finditer(text) if not _is_remark(match.group(0)) and _looks_like_axes(match.group(1))
    ]
    return [match.group(1) for match in matches]


@lru_cache(maxsize=4096)
def axes_in(text: str) -> Axes | None:
    """The axes of the one shape that the text states, or None when it states none or several."""
    found = {tuple(axis.strip() for axis in re.split(r",|\s+x\s+|×", shape) if axis.strip()) for shape in _shapes(text)}
    if len(found) != 1 or _rank(", ".join(names := next(iter(found)))) is None:
        return None
    return labels(list(names))


def rank_in(text: str) -> int | None:
    """The one rank that the text states, or None when it states none or several."""
    ranks = ranks_in(text)
    return ranks[0] if len(ranks) == 1 else None


_JAXTYPING = {
    "Float": "float",
    "Float16": "float16",
    "BFloat16": "bfloat16",
    "Float32": "float32",
    "Float64": "float64",
    "Bool": "bool",
    "Int": "int64",
    "Int64": "int64",
    "Int32": "int32",
    "UInt8": "uint8",
    "Num": None,
    "Shaped": None,
    "Inexact": None,
    "Integer": "int64",
}


def jaxtyping(name: str, spec: str) -> tuple[int | None, str | None] | None:
    """Rank and dtype of `Float[Tensor, "b t a"]`, or None when `name` is no jaxtyping dtype."""
    if name not in _JAXTYPING:
        return None
    axes = spec.split()
    rank = None if any(axis.startswith(("*", "...")) for axis in axes) else len(axes)
    return rank, _JAXTYPING[name]


_PARAM_LINE = re.compile(
    r"^\s*(?::param(?:\s+\w+)?\s+)?(\*{0,2}[A-Za-z_]\w*(?:\s*,\s*\w+)*)\s*(?:\([^)]*\))?\s*:\s*(.*)$"
)


_SENTENCE = re.compile(r"`+(\w+)`+,?\s+(?:is|are|of shape|has shape|have shape|with shape)\s+`*([\[(][^\])]*[\])])")


def documented_axes(docstring: str) -> dict[str, Axes]:
    """Axes that a docstring states per parameter: `obs: [batch, seq, dim]`, or "`obs` is `[batch, dim]`"."""
    stated: dict[str, Axes] = {}
    for line in docstring.splitlines():
        if re.match(r"\s*(Returns?|Yields?)\s*:?\s*$", line):
            break
        match = _PARAM_LINE.match(line)
        names = match.group(1).split(",") if match else []
        for name, text in (*((name, match.group(2)) for name in names if match), *_SENTENCE.findall(line)):
            if (axes := axes_in(text)) is not None:
                stated.setdefault(name.strip(), axes)
    return stated


def documented_ranks(docstring: str) -> dict[str, tuple[int, ...]]:
    """Ranks that a docstring states per parameter; `*_mask: [batch, seq, n]` is kept under `*_mask`.

    Only what stands before a `Returns:` section counts: the same name may be returned in another shape.
    """
    stated: dict[str, tuple[int, ...]] = {}
    for line in docstring.splitlines():
        if re.match(r"\s*(Returns?|Yields?)\s*:?\s*$", line):
            break
        match = _PARAM_LINE.match(line)
        if match and (ranks := ranks_in(match.group(2))):
            for name in match.group(1).split(","):
                stated.setdefault(name.strip(), ranks)
    return stated


def documented_rank(stated: dict[str, tuple[int, ...]], name: str) -> int | None:
    """The one rank that `documented_ranks` holds for a parameter, wildcards included."""
    ranks = stated.get(name)
    if ranks is None:
        for pattern, candidate in stated.items():
            if pattern.startswith("*") and pattern.strip("*") and name.endswith(pattern.strip("*")):
                ranks = candidate
    return ranks[0] if ranks is not None and len(ranks) == 1 else None
