"""The way in, for the console script and `python -m composer`: ready for Ctrl-C before anything is loaded."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Load the command line and run it. Returns the exit status."""
    try:
        from composer.cli import main as run

        return run()
    except KeyboardInterrupt:
        os.write(sys.stderr.fileno(), b"interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
