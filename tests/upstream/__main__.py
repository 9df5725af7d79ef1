"""`python -m tests.upstream --output DIR`: make the pair and print the two references."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from .contents import PROFILES
from .image import make
from .inputs import UpstreamError


def main() -> int:
    """Make the pair as the command line asks. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.upstream", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="OCI image layout to make")
    parser.add_argument("--profile", choices=PROFILES, default="quickstart", help="how much ballast")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="default: ~/.cache/tricompose-upstream")
    options = parser.parse_args()
    start = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - start:6.1f} s] {line}", flush=True)

    try:
        made = make(options.output, profile=options.profile, cache=options.cache, say=say)
    except UpstreamError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(made.full)
    print(made.min)
    return 0


if __name__ == "__main__":
    sys.exit(main())
