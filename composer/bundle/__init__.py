"""Bundles: images and files in one OCI layout, as a tar that is cut into parts, for where no network leads.

NAME.tar, or NAME.tar.001, NAME.tar.002, ... are slices of one plain tar; NAME.bundle.json says what they are: the
digest of each part, where each blob begins, what the images are. So a blob is read where it lies, whichever parts it is
in; each part can be checked alone; and nothing is ever joined or unpacked.

What it is that the images and files mean is not known here.
"""

from __future__ import annotations
