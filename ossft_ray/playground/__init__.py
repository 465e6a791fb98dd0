"""An arithmetic world in which the paper's method means something at toy size: problems, two styles, a policy."""

from pathlib import Path

POLICY_NAME = "playground"
BENCHMARKS = tuple(f"playground/level{level}" for level in range(1, 6))


def policy_folder() -> Path:
    """The tiny pre-trained policy that comes with the package, a Hugging Face folder."""
    return Path(__file__).with_name("policy")
