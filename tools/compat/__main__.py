"""`python tools/compat COMMAND`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # not this folder, whose names would hide others

if __name__ == "__main__":
    from compat.command import main

    sys.exit(main())
