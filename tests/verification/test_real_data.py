"""Official solutions of real benchmarks verify against their own answers and no others."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ossft_ray.config import Verify
from ossft_ray.verification import Task, VerifierPool
from tests.data_folder import DATA, needs_data

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark_program() -> ModuleType:
    """`benchmarks/verification.py`, as a module."""
    spec = importlib.util.spec_from_file_location("verification_benchmark", ROOT / "benchmarks" / "verification.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@needs_data
@pytest.mark.parametrize(
    ("name", "limit", "share_of_holding"),
    [
        ("math500", None, 1.0),
        ("minerva_math", None, 1.0),
        ("aime24", None, 1.0),
        ("gsm8k_train", 1000, 1.0),
        ("olympiadbench", None, 0.99),
    ],
)
def test_official_solutions_verify_and_fail_for_other_problems(
    benchmark_program: ModuleType, name: str, limit: int | None, share_of_holding: float
) -> None:
    solved = [one for one in benchmark_program.read_solved(DATA) if one.benchmark == name][:limit]
    with VerifierPool(Verify(num_workers=2)) as pool:
        figures, _ = benchmark_program.official(solved, pool)
        assert figures[name]["verified_of_holding"] >= share_of_holding
        pairs = list(benchmark_program.wrong_pairs(solved))[::20]
        verdicts = pool.map(Task(other.answer, one.solution) for one, other in pairs)
        accepted = [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict.correct]
        assert len(accepted) <= 0.002 * len(pairs), accepted


@pytest.mark.thorough
def test_the_benchmark_prints_its_figures(tmp_path: Path) -> None:
    rows = [
        {"problem": "q", "answer": str(n), "solution": rf"So it is $\boxed{{{n if n != 3 else 4}}}$."} for n in range(5)
    ]
    (tmp_path / "small.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = [sys.executable, "benchmarks/verification.py", "--data", str(tmp_path), "--rounds", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["ratio_to_math_verify"] > 0
    assert figures["official"]["small"] == {
        "solutions": 5,
        "stated": 5,
        "holding": 4,
        "verified": 4,
        "verified_of_stated": 0.8,
        "verified_of_holding": 1.0,
    }
    assert figures["others"]["small"] == {"pairs": 20, "accepted": 1, "rate": 0.05}  # the miss states another answer
    assert "miss: small 3: '3': wrong '4'" in done.stdout
