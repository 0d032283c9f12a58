"""``python -m carrot``."""

from __future__ import annotations

import sys

from carrot.cli import main

if __name__ == "__main__":
    sys.exit(main())
