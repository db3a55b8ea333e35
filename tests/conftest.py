"""Hypothesis profiles: `dev` explores, `ci` (CI is set) repeats, `nightly` (HYPOTHESIS_PROFILE) digs; one signal."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

# No deadline: a shared two-core machine stalls now and then, and a slow example is not a wrong one.
settings.register_profile("dev", deadline=None, max_examples=25)  # every run looks elsewhere
settings.register_profile(
    "ci",
    deadline=None,
    max_examples=60,
    derandomize=True,  # a red run is red again
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],  # the same stalls
)
settings.register_profile("nightly", deadline=None, max_examples=2_000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))

# A shell without job control starts `make test &` with SIGINT ignored, and so would be every process a test presses
# Ctrl-C in: ignored signals are inherited, handled ones are not.
signal.signal(signal.SIGINT, signal.default_int_handler)
