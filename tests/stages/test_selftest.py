"""`ossft selftest` as a user runs it, and checks that fail when they should."""

import subprocess
import sys
from pathlib import Path

import pytest

from ossft_ray.stages import selftest


@pytest.mark.long
def test_everything_passes_here_or_says_why_it_was_skipped() -> None:
    command = [str(Path(sys.executable).with_name("ossft")), "selftest"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.split()[0] in ("passed", "skipped")]
    assert len(lines) == len(selftest.CHECKS)
    assert sum(line.startswith("passed") for line in lines) >= 4


def test_a_loss_without_its_weight_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from ossft_ray.method import coefficients

    monkeypatch.setitem(coefficients._TABLE, "dft", coefficients._TABLE["sft"])
    with pytest.raises(AssertionError, match="relative difference to the plain gradient"):
        selftest.weight_is_applied()


def test_examples_that_see_each_other_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    from ossft_ray.engines.training import policy_model

    monkeypatch.setattr(policy_model, "_sequence_lengths", lambda tensors: {})
    with pytest.raises(AssertionError, match="log-probabilities differ by"):
        selftest.packed_equals_unpacked()
