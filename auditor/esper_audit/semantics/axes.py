"""Which axis of a tensor is which: batch, time, layers, or one of size 1.

The axes of a tensor are a tuple of labels, None where nothing is known:

    B T L    batch, time, layers
    1        of size 1; `T1` is one step cut out of the time axis
    many     as long as a list of unknown length
    T.B      several flattened into one, the outermost first; `B&T` is a size that is their product
    x#0      as long as axis 0 of x, whichever that is
    *x       in front only: any number of axes, those that x has in front
    (empty)  another one, or an unknown one
"""

from __future__ import annotations

import re
from functools import lru_cache

Axes = tuple[str, ...]

_BATCH = re.compile(r"b|n|bs|bsz|e|n?batch(_?size)?|batches|(num|n|nr)_?(envs?|seqs?|sequences|batch)|envs?|env_num")
_TIME = re.compile(
    r"t|time|seq|steps|horizon|(time|n|num|env)_?steps|(seq|sequence|rollout|unroll|chunk|time)_?(len|length|size|dim)|seqlen"
)
_LAYERS = re.compile(r"layers|(n|num)_?layers|layer_num|recurrent_n")
_LEADING = ("B", "T", "many")


@lru_cache(maxsize=4096)
def label(name: str) -> str:
    """What the name of a size says: `B`, `T`, `L`, or nothing."""
    name = name.strip().strip("_").lower()
    if name == "1":
        return "1"
    for pattern, found in ((_BATCH, "B"), (_TIME, "T"), (_LAYERS, "L")):
        if pattern.fullmatch(name):
            return found
    return ""


def labels(names: list[str]) -> Axes:
    """What the names of all axes of a tensor say, each in the light of the others."""
    found = [label(name) for name in names]
    if names and names[0].strip() == "L" and len(names) == 3:
        found[0] = "L"
    for position, name in enumerate(names):
        # [B, N, A] counts agents, [N, E] experts: only one of them is the batch, and E never is beside another
        if name.strip().lower() in ("n", "e") and (found.count("B") > 1 or position == len(names) - 1 > 0):
            found[position] = ""
    for one in ("B", "T", "L"):
        if found.count(one) > 1:
            found = ["" if each == one else each for each in found]
    return tuple(found)


def is_open(axes: Axes) -> bool:
    """Whether it is unknown how many axes there are."""
    return bool(axes) and axes[0].startswith("*")


def is_one(axis: str) -> bool:
    """Whether an axis is known to have size 1."""
    return axis in ("1", "T1", "B1")


def ends_in_one(axes: Axes | None) -> bool:
    """Whether the last axis is known to have size 1."""
    return bool(axes) and is_one(axes[-1])  # type: ignore[index]


def gap(left: Axes | None, right: Axes | None) -> int | None:
    """How many axes more the left one has; None where that is unknown."""
    if left is None or right is None or is_open(left) != is_open(right):
        return None
    if is_open(left) and (left[0] != right[0] or left[0] == "*"):
        return None
    return len(left) - len(right)


def place(axes: Axes | None, axis: object, more: int = 0) -> int | None:
    """Where an axis stands in the tuple; None where that is unknown. `more` axes are about to be added."""
    if axes is None or not isinstance(axis, int) or isinstance(axis, bool):
        return None
    known = len(axes) - is_open(axes) + more
    if axis < 0:
        return len(axes) + more + axis if -axis <= known else None
    return axis if axis < known and not is_open(axes) else None


def inserted(axes: Axes | None, axis: object, new: str) -> Axes | None:
    """The axes with a new one among them."""
    at = place(axes, axis, 1)
    return None if axes is None or at is None else (*axes[:at], new, *axes[at:])


def replaced(axes: Axes | None, axis: object, new: str | None) -> Axes | None:
    """The axes with another label in one place, or without that one."""
    at = place(axes, axis)
    if axes is None or at is None:
        return None
    return (*axes[:at], *(() if new is None else (new,)), *axes[at + 1 :])


def swapped(axes: Axes | None, first: object, second: object) -> Axes | None:
    """The axes after `transpose`."""
    one, two = place(axes, first), place(axes, second)
    if axes is None or one is None or two is None:
        return None
    found = list(axes)
    found[one], found[two] = found[two], found[one]
    return tuple(found)


def permuted(axes: Axes | None, order: list[object]) -> Axes | None:
    """The axes after `permute`."""
    places = [place(axes, axis) for axis in order]
    if axes is None or is_open(axes) or sorted(p for p in places if p is not None) != list(range(len(axes))):
        return None
    return tuple(axes[at] for at in places if at is not None)


def flattened(axes: Axes | None, start: object, end: object) -> Axes | None:
    """The axes after `flatten`."""
    first, last = place(axes, start), place(axes, end)
    if axes is None or first is None or last is None or first > last:
        return None
    return (*axes[:first], _joined(axes[first : last + 1]), *axes[last + 1 :])


def _joined(axes: Axes) -> str:
    kept = [axis for axis in axes if not is_one(axis)]
    return ".".join(kept) if all(kept) else ""


def apart(axes: Axes) -> list[str]:
    """The axes with those apart that were flattened, and without those of size 1."""
    return [part for axis in axes if not is_one(axis) for part in (axis.split(".") if axis else [""])]


def reorders(axes: Axes | None, sizes: Axes) -> bool:
    """Whether a `view` to sizes of these labels takes elements of one axis for those of another.

    A view keeps the order of elements in memory: what is outermost before is outermost after.
    """
    if axes is None or is_open(axes):
        return False
    before, after = apart(axes), apart(tuple("" if "&" in size else size for size in sizes))
    if any(side.count(axis) > 1 for side in (before, after) for axis in ("B", "T", "L")):
        return False  # one of them is called so, and something else
    if before[:1] and after[:1] and before[0] in _LEADING and after[0] in ("B", "T") and after[0] != before[0]:
        return after[0] in before[1:] or before[1:2] == ["many"]
    common = [axis for axis in before if axis in ("B", "T", "L") and axis in after]
    return common != [axis for axis in after if axis in common]


def viewed(axes: Axes | None, sizes: Axes) -> Axes:
    """The axes after a `view` to sizes of these labels, where `-1` is one of them and stands for the rest."""
    if axes is not None and sizes and "&" in sizes[0]:  # a product of sizes names what is flattened, not in which order
        ahead = apart(axes)[: len(sizes[0].split("&"))]
        sizes = (".".join(ahead) if sorted(ahead) == sizes[0].split("&") else "", *sizes[1:])
    sizes = tuple("" if "&" in size else size for size in sizes)
    if "-1" not in sizes:
        return sizes
    at = sizes.index("-1")
    rest = ""
    if axes is not None and not is_open(axes):
        # What stands before and after the rest is matched from both ends; features match features.
        before = apart(axes)
        head, tail = [s for s in sizes[:at] if not is_one(s)], [s for s in sizes[at + 1 :] if not is_one(s)]
        middle = before[len(head) : len(before) - len(tail)]
        fits = before[: len(head)] == head and before[len(before) - len(tail) :] == tail
        rest = ".".join(middle) if fits and len(before) >= len(head) + len(tail) and all(middle) else ""
    return (*sizes[:at], rest, *sizes[at + 1 :])


def broadcast(left: Axes | None, right: Axes | None) -> Axes | None:
    """The axes that an operator gives."""
    if left is None or right is None:
        return None
    if left == right:
        return left
    if is_open(left) or is_open(right):
        closed, wide = (left, right) if is_open(right) else (right, left)
        longer = not is_open(closed) and len(closed) < len(wide)  # `[..., A] + [A]`
        return wide if longer and gap(wide, wide) is not None else None
    longest, other = (left, right) if len(left) >= len(right) else (right, left)
    aligned = ("1",) * (len(longest) - len(other)) + other
    return tuple(
        b if is_one(a) or not a else a if is_one(b) or a == b or not b else ""
        for a, b in zip(longest, aligned, strict=True)
    )


_SHOWN = {"B": "batch", "T": "time", "L": "layers", "": "...", "-1": "...", "T1": "1", "B1": "1", "many": "list"}


def named_axes(axes: Axes | None) -> str:
    """Axes in words: `[time x batch, ...]`."""
    words = [" x ".join(_SHOWN.get(part, "...") for part in (axis or "").split(".")) for axis in axes or ()]
    return f"`[{', '.join(words)}]`"
