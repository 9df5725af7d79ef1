"""A pair of images in the shape of NVIDIA's, with a real Triton in it, made without root, Docker or NGC."""

from __future__ import annotations

from .image import Upstream, make

__all__ = ["Upstream", "make"]
