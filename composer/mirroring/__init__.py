"""The story of `mirror`: images from their registries into one's own, and the rules by which others find them there.

    PREFIX/<registry, its colon as an underscore>/<repository>:<tag>

is where every image goes. All of them move at once, by one ledger: what several have in common moves once, and is
mounted from then on. An image's tag comes last, after all that it is made of and all that is attached to it: where the
tag is, everything is.
"""

from __future__ import annotations

from composer.mirroring.lists import is_list, read_list
from composer.mirroring.outcome import Bytes, Mirrored, Unmirrored, brought, failure, summary
from composer.mirroring.running import Manner, mirror
from composer.mirroring.wanted import Destination, Wanted, of_recipe

__all__ = [
    "Bytes", "Destination", "Manner", "Mirrored", "Unmirrored", "Wanted", "brought", "failure", "is_list", "mirror",
    "of_recipe", "read_list", "summary",
]  # fmt: skip
