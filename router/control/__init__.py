"""The control API: what a node says of itself, and what it may be told."""
