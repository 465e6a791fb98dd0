"""The playground's policy and held-out problem sets, which are part of the package: their names and paths."""

from pathlib import Path

POLICY = "playground"
_PLAYGROUND = Path(__file__).parents[1] / "playground"
POLICY_FOLDER = _PLAYGROUND / "policy"
BENCHMARKS = {f"playground/level{level}": _PLAYGROUND / "heldout" / f"level{level}.jsonl" for level in range(1, 6)}
