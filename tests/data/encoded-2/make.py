"""Made the files beside this one: those of `encoded-1` with codes, which lie in rows of words in place of side by side.

PYTHONPATH=. python tests/data/encoded-2/make.py FOLDER

The models and the names of the files are those of `encoded-1`, see make.py there.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

FILES = [
    *(("folded", encoding, "shared:4") for encoding in ("bitmask", "dense", "escape")), ("folded", "flat", "int8:5"),
    ("fused", "flat", "int8:5"), ("fused", "rows", "int8:5"), ("fused", "escape", "int8:5"),
    ("fused", "escape", "int4"), ("function", "bitmask", "int8:5"),
]  # fmt: skip


def main() -> None:
    spec = importlib.util.spec_from_file_location("encoded_1", Path(__file__).parents[1] / "encoded-1" / "make.py")
    assert spec is not None
    assert spec.loader is not None
    first = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(first)
    folder = Path(sys.argv[1]).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for name, encoding, values in FILES:
        first.encode(folder, name, encoding, values)


if __name__ == "__main__":
    main()
