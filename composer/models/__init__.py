"""Triton model repositories: what they hold, and what serves it."""
