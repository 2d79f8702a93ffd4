"""Makes the table of Linen modules importable, beside which those of NNX are tested."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "linen"))
