"""The story of bundles: what of recipes goes into one, and where what is in one comes out."""

from __future__ import annotations
