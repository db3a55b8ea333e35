"""Hypothesis profiles, chosen by the environment variable CI: `dev` explores, `ci` repeats."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# No deadline: a shared two-core machine stalls now and then, and a slow example is not a wrong one.
settings.register_profile("dev", deadline=None, max_examples=50)
settings.register_profile(
    "ci",
    deadline=None,
    max_examples=200,
    derandomize=True,  # a red run is red again
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],  # the same stalls
)
settings.load_profile("ci" if os.environ.get("CI") else "dev")
