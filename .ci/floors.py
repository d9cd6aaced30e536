"""Print the lower bounds that pyproject.toml declares, as pip takes them; torch as constraints.txt pins it.

Python's own floor, 3.11, has wheels of all of them.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

root = Path(__file__).resolve().parent.parent
declared = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
pinned = re.search(r"^torch==\S+$", (root / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
assert pinned is not None
floors = [pinned[0] if entry.startswith("torch>") else entry.replace(">=", "==") for entry in declared]
print("\n".join(floors))
