"""Small projects written to a folder, and what the facts say about them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

from esper_audit.semantics.flow import Frame, Interpreter
from esper_audit.semantics.model import Models
from esper_audit.semantics.network import NetworkClass
from esper_audit.semantics.project import Project
from esper_audit.semantics.values import Val

HEADER = """\
import torch
from torch import Tensor, nn
import torch.nn.functional as F

"""


class Written:
    """A project with a marker. Each has facts of its own: nothing is remembered from another one."""

    def __init__(self, folder: Path, files: Mapping[str, str] | str, marker: str = "pyproject.toml") -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if marker:
            (folder / marker).touch()
        for name, source in ({"network.py": files} if isinstance(files, str) else files).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(source), encoding="utf-8")
        self.project = Project(folder)

    @cached_property
    def interpreter(self) -> Interpreter:
        return Interpreter(Models(self.project))

    def path(self, name: str) -> Path:
        return self.folder / name

    def leads(self, file: str, name: str) -> tuple[str, str]:
        """Where a name used in a file leads: the file, or nothing outside the project, and the name there."""
        symbol = self.project.lookup(self.path(file), name)
        return (symbol.path.relative_to(self.folder).as_posix() if symbol.path else "", symbol.name)

    def networks(self, file: str = "network.py") -> tuple[str, ...]:
        return self.project.network_names(self.path(file))

    def network(self, name: str = "Net", file: str = "network.py") -> NetworkClass:
        module = self.interpreter.models.parse_named(self.path(file))
        return NetworkClass(module.classes[name], self.interpreter)

    def frame(self, method: str = "forward", name: str = "Net", file: str = "network.py") -> Frame:
        frame = self.network(name, file).flow.frame(method)
        assert frame is not None
        return frame


def told(value: Val) -> object:
    """What a value says, without the nodes of the tree that it remembers."""
    return (
        value.kind,
        value.rank,
        value.dtype,
        sorted(value.roles),
        sorted(value.tags),
        sorted(value.origins),
        sorted((made.function, made.dtype, made.device) for made in value.made),
        sorted(str(mark.constant) for mark in value.masked),
        [(str(key), told(item)) for key, item in value.items or ()],
    )


def account(frame: Frame) -> list[object]:
    """All that a run found, in an order that can be compared."""

    def events() -> Iterator[object]:
        for event, stack in frame.walk():
            parts = (event.value, event.target, event.other, *event.args, *event.kwargs.values())
            yield event.kind, event.name, sorted(event.contexts), len(stack), [told(part) for part in parts]

    return [*events(), told(frame.result)]
