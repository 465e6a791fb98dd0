"""The kinds of this package, and kinds that another package adds with an entry point."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.config import Verify
from ossft_ray.verification import Task, VerifierPool
from ossft_ray.verification.kinds import _entries, kinds

PLUGIN = """
from ossft_ray.verification import Verdict

def grade(answer, response, *, question="", suffix=""):
    correct = response == answer + suffix
    return Verdict(correct, "correct" if correct else "wrong", response)
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package: its module, and the metadata that names its entry point."""
    metadata = tmp_path / "chess_verifier-1.0.dist-info"
    metadata.mkdir()
    (tmp_path / "chess_verifier.py").write_text(PLUGIN)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: chess-verifier\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[ossft_ray.verifiers]\nchess = chess_verifier:grade\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    _entries.cache_clear()
    yield
    _entries.cache_clear()


def test_the_kinds_of_this_package() -> None:
    assert kinds() == ["choice", "judge", "math", "number", "python", "text"]


@pytest.mark.parametrize(
    "kind, hint", [("maths", "did you mean 'math'?"), ("zzz", "kinds: choice, judge, math, number, python, text")]
)
def test_an_unknown_kind_is_an_error_that_suggests_kinds(kind: str, hint: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"[verify] kind: there is no verification kind '{kind}'; {hint}")):
        VerifierPool(Verify(kind=kind))


def test_a_task_may_name_its_kind() -> None:
    tasks = [
        Task("5", r"\boxed{x = 5}"),
        Task("5 km", r"\boxed{5000 m}", kind="number"),
        Task("B", r"\boxed{seven}", "(A) 6 (B) seven", "choice"),
        Task("Paris", "The answer is paris.", kind="text"),
        Task("5", r"\boxed{6}"),
    ]
    with VerifierPool(Verify(num_workers=2)) as pool:
        assert [verdict.reason for verdict in pool.map(tasks)] == ["correct"] * 4 + ["wrong"]


def test_another_package_may_add_a_kind(plugin: None) -> None:
    assert "chess" in kinds()
    with VerifierPool(Verify(kind="chess", num_workers=1, plugins={"chess": {"suffix": "#"}})) as pool:
        assert [verdict.reason for verdict in pool.map([("Qh7", "Qh7#"), ("Qh7", "Qh7")])] == ["correct", "wrong"]
        gold_alone = next(pool.map([Task("Qh7", None)]))  # it has no check_answer, so the answer is graded in a box
        assert gold_alone.extracted == r"\boxed{Qh7}"


def test_a_kind_that_needs_a_missing_package_says_so(plugin: None, tmp_path: Path) -> None:
    (tmp_path / "chess_verifier.py").write_text("import a_board_that_is_not_installed")
    missing = pytest.raises(InputError, match="chess cannot be loaded: No module named 'a_board_that_is_not_installed'")
    with VerifierPool(Verify(kind="chess", num_workers=1)) as pool, missing:
        next(pool.map([("Qh7", "Qh7")]))
