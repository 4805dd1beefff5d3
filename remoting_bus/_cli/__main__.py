"""`python -m remoting_bus._cli`: as `remoting-bus`, where that is not on PATH."""

from __future__ import annotations

import sys

from .main import main

if __name__ == "__main__":
    sys.exit(main())
