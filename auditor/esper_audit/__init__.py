"""esper-audit reads PyTorch RL networks the way an expert auditor would.

The package is the engine: it turns paths into an :class:`~esper_audit.core.report.AuditReport`. The rules live beside
it in ``esper_rules``, so that a rule author never needs to open the engine.
"""

__version__ = "0.1.0"
