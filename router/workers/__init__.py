"""Processes that serve users for one node: the node decides what is known, they move the bytes."""
