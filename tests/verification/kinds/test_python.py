"""A user's function as the verifier: it runs within the limits of the pool, and a missing one is an error."""

from pathlib import Path

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.config import Verify, VerifyPython
from ossft_ray.verification import Task, Verdict, VerifierPool

MODULE = """
def grade(answer, response):
    if response == "hang":
        while True: pass
    if response == "eat":
        return len(bytearray(10**10)) > 0
    if response == "raise":
        raise KeyError("no such thing")
    if response == "odd":
        return 0.3
    return answer in response

def with_question(answer, response, question):
    return (question == "Which?", "asked")

def exact(answer, response):
    from ossft_ray.verification import Verdict
    return Verdict(False, "too_long", response[:3])

number = 5
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"my_verifier_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)  # modules are found in the working directory
    return name


def pool_of(function: str) -> VerifierPool:
    return VerifierPool(
        Verify(
            kind="python",
            timeout_seconds=1.0,
            num_workers=1,
            memory_mib=128,
            python=VerifyPython(function=function),
        )
    )


@pytest.mark.thorough
def test_the_function_grades_within_the_limits(module: str) -> None:
    responses = ["the 5", "6", "hang", "eat", "raise", "odd", "the 5"]
    with pool_of(f"{module}:grade") as pool:
        verdicts = list(pool.map([("5", response) for response in responses]))
    assert [(verdict.correct, verdict.reason) for verdict in verdicts] == [
        (True, "correct"),
        (False, "wrong"),
        (False, "timeout"),
        (False, "memory"),
        (False, "verifier_error"),
        (False, "verifier_error"),
        (True, "correct"),
    ]
    assert verdicts[4].extracted == "KeyError: 'no such thing'"
    assert "0.3" in str(verdicts[5].extracted)


@pytest.mark.parametrize(
    ("function", "verdict"),
    [("with_question", Verdict(True, "asked")), ("exact", Verdict(False, "too_long", "abc"))],
)
def test_a_function_may_take_the_question_and_return_a_reason(module: str, function: str, verdict: Verdict) -> None:
    with pool_of(f"{module}:{function}") as pool:
        assert list(pool.map([Task("5", "abcdef", "Which?")])) == [verdict]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("", "is not an import path; write module:function"),
        ("there_is_no_such_module:grade", "cannot be imported: ModuleNotFoundError"),
        ("{module}:there_is_none", "cannot be imported: AttributeError"),
        ("{module}:number", "is not a function"),
    ],
)
def test_a_missing_function_is_an_error(module: str, function: str, message: str) -> None:
    with pool_of(function.format(module=module)) as pool, pytest.raises(InputError, match=message):
        list(pool.map([("5", "5")]))


def test_a_row_of_kind_python_without_a_function_fails_alone() -> None:
    with VerifierPool(Verify(num_workers=1)) as pool:
        verdicts = list(pool.map([Task("5", r"\boxed{5}", kind="python"), Task("5", r"\boxed{5}")]))
    assert [verdict.reason for verdict in verdicts] == ["verifier_error", "correct"]
