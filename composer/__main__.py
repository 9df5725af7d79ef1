"""The way in, for the console script and `python -m composer`: ready for Ctrl-C before anything is loaded."""

from __future__ import annotations

import os
import signal
import sys

from composer.interruptions import listen, settled


def main() -> int:
    """Load the command line and run it. Returns the exit status.

    SIGTERM is taken as Ctrl-C, so that containers and half-written files are cleared away.
    """
    try:
        listen()
        from composer.cli import main as run

        return run()
    except KeyboardInterrupt:
        settled()
        os.write(sys.stderr.fileno(), b"interrupted\n")
        return 130
    finally:
        # What is done is done: a signal while Python puts itself away must not make a failure of it.
        for late in (signal.SIGINT, signal.SIGTERM):
            signal.signal(late, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
