"""Engines make the layers that a plan asks for. They decide nothing."""
