"""Hypothesis profiles: `dev` and `ci` (CI is set) repeat themselves, `search` and `nightly` look elsewhere; one signal.

HYPOTHESIS_PROFILE picks another. What a search finds becomes an `@example` or a test of its own, and stays found.
"""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

# No deadline: a shared two-core machine stalls now and then, and a slow example is not a wrong one. Stalls are not
# unhealthy either.
settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
# A red run is red again, and a green one stays green until the code changes.
settings.register_profile("dev", settings.get_profile("steady"), max_examples=25, derandomize=True, database=None)
settings.register_profile("ci", settings.get_profile("steady"), max_examples=60, derandomize=True, database=None)
settings.register_profile("search", settings.get_profile("steady"), max_examples=100)
settings.register_profile("nightly", settings.get_profile("steady"), max_examples=2_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))

# A shell without job control starts `make test &` with SIGINT ignored, and so would be every process a test presses
# Ctrl-C in: ignored signals are inherited, handled ones are not.
signal.signal(signal.SIGINT, signal.default_int_handler)
