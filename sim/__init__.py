"""Thousands of real engines in one process, under a virtual clock: the same protocol code that production runs."""
