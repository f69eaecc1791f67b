"""`python tools/bench COMMAND`; with --worker a function of one of the modules, in this process."""

import importlib
import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # not this folder, whose names would hide others

if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        module, _, name = sys.argv[2].partition(":")
        function = getattr(importlib.import_module(f"bench.{module}"), name)
        print(json.dumps(function(*json.loads(sys.argv[3]))))
    else:
        from bench.command import main

        sys.exit(main())
