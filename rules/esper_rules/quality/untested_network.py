"""ESP603: a policy network that no test of the project reaches."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

from esper_audit.rulekit import Case, Category, Confidence, Hit, ModuleModel, NetworkClass, Praise, Rule, Severity

_TEST = re.compile(rb"^\s*(?:async )?def test_", re.MULTILINE)


class UntestedNetwork(Rule):
    """
    ## What it does
    Reports a policy or value network of a project that has tests, none of which names the network, its module, or code
    that builds it.

    ## Why it matters
    An RL fault raises nothing. A test that acts, evaluates the same actions and compares the log-probs takes ten lines
    and catches most of what this catalogue lists.

    ## Example
    ```python
    # --- network.py
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.action_head = nn.Linear(8, 4)

        def act(self, obs):
            return Categorical(logits=self.action_head(obs)).sample()

    # --- test_environment.py
    def test_reset():
        assert True
    ```

    ## Use instead
    ```python
    # --- network.py
    from torch import nn
    from torch.distributions import Categorical

    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.action_head = nn.Linear(8, 4)

        def act(self, obs):
            return Categorical(logits=self.action_head(obs)).sample()

    # --- test_network.py
    import torch
    from network import Policy

    def test_an_action_per_row():
        assert Policy().act(torch.zeros(3, 8)).shape == (3,)
    ```

    ## Evidence
    The checks that users ask for most can all be tests: ratio 1 before the first update (CarperAI/trlx#107), masks of
    the right width (Stable-Baselines-Team/stable-baselines3-contrib#249), hidden shapes that fit (#305 there).

    ## References
    - https://docs.pytest.org/en/stable/explanation/goodpractices.html
    """

    code = "ESP603"
    name = "untested-network"
    summary = "no test of the project reaches the network"
    category = Category.QUALITY
    severity = Severity.LOW
    confidence = Confidence.MEDIUM
    help = "test that evaluating the actions just taken gives the same log-probs"

    def check_network(self, net: NetworkClass, module: ModuleModel) -> Iterable[Hit]:
        """Networks that act, in projects that have tests."""
        files = net.project.python_files
        if files is None or not net.is_policy or net.testing_files or net.project.is_test_code(module.path):
            return
        if _is_script(module):
            return  # importing it would start the training, so no test can
        if any(path.name.startswith("test_") for path in files) and not net.reached_by_tests():
            yield Hit(
                net.model.node.name, f"no test of the project names {net.name}, its module or code that builds it"
            )

    def praise(self, net: NetworkClass, module: ModuleModel) -> Iterable[Praise]:
        """Networks whose tests can be counted."""
        if not net.is_policy or not net.importing_tests or net.project.is_test_code(module.path):
            return
        own = [path for path in net.importing_tests if module.path.stem in path.stem] or list(net.importing_tests)
        count = sum(len(_TEST.findall(net.project.source(path).data)) for path in own)
        if count:
            names = ", ".join(path.name for path in own[:3]) + (", ..." if len(own) > 3 else "")
            others = len(net.testing_files or ()) - len(own)
            noun, verb = ("file", "names") if others == 1 else ("files", "name")
            more = f"; {others} more test {noun} {verb} it" if others else ""
            tests = f"{count} test{'s' if count > 1 else ''} in {names}"
            yield Praise(net.model.node.name, f"{tests}, which import{'s' if len(own) == 1 else ''} the network{more}")

    VALID = (
        Case(
            {
                "network.py": """
                from torch import nn
                from torch.distributions import Categorical

                class Policy(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.action_head = nn.Linear(8, 4)

                    def act(self, obs):
                        return Categorical(logits=self.action_head(obs)).sample()

                for seed in range(3):
                    print(Policy())
            """,
                "test_other.py": "def test_nothing(): ...",
            }
        ),
        Case(
            {
                "network.py": """
                from torch import nn
                from torch.distributions import Categorical

                class Policy(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.action_head = nn.Linear(8, 4)

                    def act(self, obs):
                        return Categorical(logits=self.action_head(obs)).sample()
            """,
                "trainer.py": """
                from network import Policy

                class Trainer:
                    policy = Policy()
            """,
                "test_trainer.py": """
                from trainer import Trainer

                def test_it_has_a_policy():
                    assert Trainer.policy
            """,
            }
        ),
        Case(
            {
                "network.py": """
                from torch import nn
                from torch.distributions import Categorical

                class Policy(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.action_head = nn.Linear(8, 4)

                    def act(self, obs):
                        return Categorical(logits=self.action_head(obs)).sample()
            """,
                "test_policy.py": """
                from network import Policy

                def test_it_is_built():
                    assert Policy()
            """,
            },
            praised=True,
        ),
        Case(
            {
                "network.py": """
                from torch import nn
                from torch.distributions import Categorical

                class Policy(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.action_head = nn.Linear(8, 4)

                    def act(self, obs):
                        return Categorical(logits=self.action_head(obs)).sample()
                """,
                "conftest.py": """
                from network import Policy

                POLICY = Policy()
                """,
            }
        ),
    )
    INVALID = (
        Case(
            {
                "network.py": """
                from torch import nn
                from torch.distributions import Categorical

                class Policy(nn.Module):  # <- ESP603
                    def __init__(self):
                        super().__init__()
                        self.action_head = nn.Linear(8, 4)

                    def act(self, obs):
                        return Categorical(logits=self.action_head(obs)).sample()
            """,
                "test_other.py": "def test_nothing(): ...",
            }
        ),
    )


def _is_script(module: ModuleModel) -> bool:
    """Whether the file does something when it is imported, beside defining things."""
    return any(
        isinstance(node, (ast.For, ast.While, ast.With))
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
        for node in module.index.tree.body
    )
