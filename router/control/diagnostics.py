"""What is wrong with a policy, as the control API and `policy check --json` say it."""

from __future__ import annotations

from router.control.body import DiagnosticBody
from router.policy.errors import PolicyError


def diagnostic_bodies(error: PolicyError | None) -> list[DiagnosticBody]:
    """What is wrong with a policy; nothing when nothing is."""
    diagnostics = () if error is None else error.diagnostics
    return [DiagnosticBody(d.code, d.line, d.column, d.message, d.expected, d.hint, d.width) for d in diagnostics]
