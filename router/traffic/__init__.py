"""The HTTP data plane."""
