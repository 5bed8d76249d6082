"""`python -m fivestep ...` is the command `fivestep ...`, for where the command is not on the path."""

from __future__ import annotations

import sys

from fivestep.apps.cli import main

if __name__ == "__main__":
    sys.exit(main())
