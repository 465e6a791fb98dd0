"""What comes with the package under a name of its own: the playground's policy and its held-out sets, as paths."""

from pathlib import Path

PLAYGROUND = Path(__file__).parents[1] / "playground"
POLICY = "playground"
POLICY_FOLDER = PLAYGROUND / "policy"
BENCHMARKS = {f"playground/level{level}": PLAYGROUND / "heldout" / f"level{level}.jsonl" for level in range(1, 6)}
