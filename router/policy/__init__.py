"""The policy language: text in, a checked syntax tree or diagnostics out."""

from __future__ import annotations

from router.policy.errors import Diagnostic, PolicyError
from router.policy.formatter import format_policy
from router.policy.parser import TEXT_BYTES_MAX, blocks, parse
from router.policy.printer import print_policy
from router.policy.syntax import Health, Policy, Region, Route, UpstreamEndpoint, Zone

__all__ = [
    "TEXT_BYTES_MAX",
    "Diagnostic",
    "Health",
    "Policy",
    "PolicyError",
    "Region",
    "Route",
    "UpstreamEndpoint",
    "Zone",
    "blocks",
    "format_policy",
    "parse",
    "print_policy",
]
