"""Finds the rules: every module of `esper_rules`, and the packages that the user's configuration names."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from types import ModuleType

from esper_audit.core.errors import ConfigError
from esper_audit.rulekit.rule import Rule, RuleSet


def load_rules(plugins: Sequence[str] = ()) -> dict[str, Rule]:
    """All rules by code, sorted. Raises ConfigError when a plugin cannot be imported or a rule is malformed."""
    found = RuleSet()
    for name in ("esper_rules", *plugins):
        for module in _modules(name):
            for value in vars(module).values():
                if (
                    isinstance(value, type)
                    and issubclass(value, Rule)
                    and value is not Rule
                    and value.__module__ == module.__name__
                    and hasattr(value, "code")
                ):
                    found.add(value(), module.__file__ or module.__name__)
    return dict(sorted(found.rules.items()))


def _modules(name: str) -> Iterator[ModuleType]:
    try:
        root = importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"the rule package {name!r} cannot be imported: {error}") from None
    yield root
    for entry in pkgutil.walk_packages(getattr(root, "__path__", ()), f"{name}."):
        yield importlib.import_module(entry.name)
