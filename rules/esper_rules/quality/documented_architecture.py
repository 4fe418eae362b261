"""ESP690: praise for a module docstring that draws the network's data flow."""

from __future__ import annotations

import re
from collections.abc import Iterable

from esper_audit.rulekit import Case, Category, ModuleModel, NetworkClass, Praise, Rule, Severity


class DocumentedArchitecture(Rule):
    """
    ## What it does
    Only praises: a module or class docstring that shows how data flows through the network, with arrows, and names its
    parts.

    ## Why it matters
    Recurrent, factored networks are read by people who change trainers and buffers. A picture of the flow is the one
    piece of documentation that they look for.

    ## Example
    ```python
    from torch import nn

    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = nn.Linear(8, 16)
            self.action_head = nn.Linear(16, 4)
    ```

    ## Use instead
    ```python
    '''obs -> trunk -> action_head -> logits'''

    from torch import nn

    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = nn.Linear(8, 16)
            self.action_head = nn.Linear(16, 4)
    ```

    ## Evidence
    The founding audit named it among the strengths of its network (tachyon-beep/esper-lite 1bfd94a9).

    ## References
    - https://peps.python.org/pep-0257/
    """

    code = "ESP690"
    name = "documented-architecture"
    summary = "praise only: the docstring draws the data flow"
    category = Category.QUALITY
    severity = Severity.INFO
    help = ""

    def praise(self, net: NetworkClass, module: ModuleModel) -> Iterable[Praise]:
        """Docstrings with arrows that name at least two attributes of the network."""
        for docstring, own in ((module.docstring, False), (net.model.docstring, True)):
            named = [name for name in net.layers if re.search(rf"\b{re.escape(name)}\b", docstring)]
            if re.search(r"->|→|=>", docstring) and len(named) >= 2:
                node = net.model.node.name if own else next(iter(module.statements))
                yield Praise(
                    node, "the docstring draws the data flow through " + ", ".join(f"`{name}`" for name in named[:6])
                )
                return

    VALID = (
        Case(
            """
            from torch import nn

            class Policy(nn.Module):
                '''obs → trunk → action_head'''

                def __init__(self):
                    super().__init__()
                    self.trunk = nn.Linear(8, 16)
                    self.action_head = nn.Linear(16, 4)
        """,
            praised=True,
        ),
        """
        '''A policy with a trunk and an action_head.'''

        from torch import nn

        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.trunk = nn.Linear(8, 16)
                self.action_head = nn.Linear(16, 4)
        """,
    )
