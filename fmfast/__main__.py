"""`python -m fmfast` is the command `fmfast`."""

from __future__ import annotations

import sys

from fmfast.cli import main

if __name__ == "__main__":
    sys.exit(main())
