"""ESP601: an import whose every use stands in code that never matters."""

from __future__ import annotations

import re
from collections.abc import Iterable

import libcst as cst

from esper_audit.rulekit import (
    Case,
    Category,
    Confidence,
    Hit,
    ModuleModel,
    NetworkClass,
    Note,
    Rule,
    Severity,
    dead_regions,
    descendants,
    dotted,
    without_import,
)


class ImportForDeadCode(Rule):
    """
    ## What it does
    Reports an import of a network's file that is used, but only by dead code: the value of an attribute nobody reads
    (ESP401), a private function nobody calls, statements behind a `return`. An import without any use is the business
    of a general linter.

    ## Why it matters
    It is the visible end of a feature that was dropped half-way, and it keeps a dependency alive for nothing.

    ## Example
    ```python
    import math
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)
            self.max_entropy = math.log(num_actions)

        def forward(self, obs):
            return self.action_head(obs)
    ```

    ## Use instead
    ```python
    from torch import nn

    class Policy(nn.Module):
        def __init__(self, obs_dim, num_actions):
            super().__init__()
            self.action_head = nn.Linear(obs_dim, num_actions)

        def forward(self, obs):
            return self.action_head(obs)
    ```

    ## Fix
    Safe: the import goes together with the dead code, an attribute or a private function. Unsafe where the module is
    neither torch's nor of the standard library: importing it may do something. Not offered for statements behind a
    `return`, for imports under an `if` or `try`, and for names that another file takes from this one.

    ## Evidence
    The founding audit called `import math` unused where it was not: `math.sqrt(2)` set a gain a few lines below. Only
    counting every use tells the two apart.

    ## References
    - https://docs.astral.sh/ruff/rules/unused-import/ (for imports without any use)
    """

    code = "ESP601"
    name = "import-for-dead-code"
    summary = "an import is used by dead code only"
    category = Category.QUALITY
    severity = Severity.LOW
    confidence = Confidence.HIGH
    fixable = "safe"
    help = "delete the dead code and the import with it"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Imports whose uses all lie in dead regions."""
        regions = list(dead_regions(net, module))
        if not regions or ("__all__" in module.index.constants and not module.index.imports):
            return
        inside = {node: region for region in regions for node in descendants(region) if isinstance(node, cst.Name)}
        strings = " ".join(node.value for node in module.walk.of(cst.SimpleString))
        names: dict[str, list[cst.Name]] = {}
        for node in module.walk.of(cst.Name):
            names.setdefault(node.value, []).append(node)
        dead: dict[cst.ImportAlias, tuple[str, dict[cst.CSTNode, None]]] = {}
        for alias, name in _aliases(module):
            uses = [node for node in names[name] if not _is_no_use(module, node)]
            if uses and all(node in inside for node in uses) and not re.search(rf"\b{re.escape(name)}\b", strings):
                dead[alias] = (name, dict.fromkeys(inside[node] for node in uses))
        for alias, (name, used_by) in dead.items():
            region = next(iter(used_by))
            # What else was imported for these regions alone goes with them.
            along = {other: each for other, (each, places) in dead.items() if places.keys() <= used_by.keys()}
            yield Hit(
                alias,
                f"`{name}` is imported for dead code only",
                notes=(
                    Note(
                        module,
                        region.name if isinstance(region, cst.FunctionDef) else region,
                        "the dead code that uses it",
                    ),
                ),
                repair=without_import(net, module, along, list(used_by)),
            )

    VALID = (
        """
        import math
        from torch import nn

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(4, n)
                self.bound = math.log(n)
                nn.init.orthogonal_(self.head.weight, gain=math.sqrt(2))

            def forward(self, x):
                return self.head(x)
        """,
    )
    INVALID = (
        """
        import math
        from functools import reduce as fold  # <- ESP601
        from torch import nn

        def _product(values):
            return fold(lambda a, b: a * b, values)

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(4, int(math.sqrt(n)))

            def forward(self, x):
                return self.head(x)
        """,
        """
        import copy  # <- ESP601
        from torch import nn

        def _snapshot(policy):
            return copy.deepcopy(policy)

        class Policy(nn.Module):
            def __init__(self, n):
                super().__init__()
                self.head = nn.Linear(4, n)

            def forward(self, x):
                return self.head(x).detach().numpy().copy()
        """,
        Case(
            """
            from math import pi, sqrt  # <- ESP601
            import json  # <- ESP601
            import copy  # noqa: F401  # <- ESP601
            from torch import nn

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.head = nn.Linear(4, int(sqrt(n)))
                    self.tau = pi * n

                def forward(self, x):
                    return self.head(x)
                    print(json.dumps(copy.copy(x)))
            """,
            fixed="""
            from math import sqrt  # <- ESP601
            import json  # <- ESP601
            import copy  # noqa: F401  # <- ESP601
            from torch import nn

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.head = nn.Linear(4, int(sqrt(n)))

                def forward(self, x):
                    return self.head(x)
                    print(json.dumps(copy.copy(x)))
            """,
        ),
        Case(
            """
            import collections.abc
            import copy  # noqa: F401  # <- ESP601
            import json  # <- ESP601
            import numpy  # <- ESP601
            from torch import nn

            if True:
                import re  # <- ESP601

            def _saved(policy, path="best", depth: int = 2) -> None:
                with open(path) as file:
                    json.dump(policy, file)

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.head = nn.Linear(4, n)
                    self.tau = numpy.pi * n
                    self.copies = copy.copy(3) * n
                    self.words = re.split(",", "a,b") * n

                def forward(self, x: collections.abc.Sized):
                    return self.head(x)
            """,
            fixed="""
            import collections.abc
            import copy  # noqa: F401  # <- ESP601
            from torch import nn

            if True:
                import re  # <- ESP601

            class Policy(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.head = nn.Linear(4, n)
                    self.copies = copy.copy(3) * n
                    self.words = re.split(",", "a,b") * n

                def forward(self, x: collections.abc.Sized):
                    return self.head(x)
            """,
        ),
    )


def _aliases(module: ModuleModel) -> Iterable[tuple[cst.ImportAlias, str]]:
    """The import aliases of the file with the names they bind."""
    for alias in module.walk.of(cst.ImportAlias):
        yield alias, alias.evaluated_alias or dotted(alias.name).partition(".")[0]


def _is_no_use(module: ModuleModel, node: cst.Name) -> bool:
    """Whether a name is the import itself, the `name` of an `x.name`, or a keyword: no use of what was imported."""
    parent = module.walk.parents[node]
    if (isinstance(parent, cst.Attribute) and parent.attr is node) or (
        isinstance(parent, cst.Arg) and parent.keyword is node
    ):
        return True
    while isinstance(parent, (cst.Attribute, cst.AsName)):
        parent = module.walk.parents[parent]
    return isinstance(parent, cst.ImportAlias)
