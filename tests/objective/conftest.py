"""Makes `objective_nets`, the small modules shared by these tests, importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
