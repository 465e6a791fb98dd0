"""Grading by a user's function: `[verify.python] function = "my_module:my_function"`.

The function is called with the gold answer and the response, and with `question=` if it has such a parameter:

    def my_function(answer: str, response: str) -> bool: ...

It returns a bool (or 0 or 1), a pair `(bool, reason)`, or a `Verdict`. If it raises, the verdict is `verifier_error`
with the error as the extracted text. It runs in the pool's processes, within their limits. Only the experiment file
names it: data must not choose which code runs.
"""

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

from ossft_ray.common.errors import InputError, brief
from ossft_ray.common.verdict import CORRECT, NO_GOLD, VERIFIER_ERROR, WRONG, Verdict


def grade(answer: str, response: str, *, question: str = "", function: str = "") -> Verdict:
    """Grade a response with the user's function."""
    call, takes_question = load_function(function)
    arguments = {"question": question} if takes_question else {}
    try:
        return as_verdict(call(answer, response, **arguments))
    except MemoryError:
        raise
    except Exception as error:
        return Verdict(False, VERIFIER_ERROR, f"{type(error).__name__}: {error}")


def check_answer(answer: str, *, question: str = "", function: str = "") -> Verdict:
    """Check that the function exists and the gold answer is not empty; only the function can judge more."""
    load_function(function)
    return Verdict(True, CORRECT, answer) if answer.strip() else Verdict(False, NO_GOLD)


def as_verdict(result: Any) -> Verdict:
    """Convert the result of a user's function to a verdict.

    Raises:
        TypeError: the result says neither right nor wrong.

    >>> as_verdict((False, "too_long"))
    Verdict(correct=False, reason='too_long', extracted=None)
    """
    if isinstance(result, Verdict):
        return result
    correct, reason = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    if hasattr(correct, "item"):  # a scalar of numpy or torch
        correct = correct.item()
    if correct not in (0, 1):
        raise TypeError(f"returned {result!r}: return True or False, (bool, reason), or a Verdict")
    return Verdict(bool(correct), str(reason) if reason else CORRECT if correct else WRONG)


@cache
def load_function(path: str) -> tuple[Callable[..., Any], bool]:
    """Import the function `module:name`, also from the working directory, and say whether it takes a `question`.

    Raises:
        InputError: the module or the function does not exist or cannot be imported.
    """
    module_name, colon, name = path.partition(":")
    if not (module_name and colon and name):
        raise InputError(f"verify.python.function: '{path}' is not an import path; write module:function")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), name)
    except Exception as error:
        problem = f"{type(error).__name__}: {brief(error)}"
        raise InputError(f"verify.python.function: '{path}' cannot be imported: {problem}") from error
    if not callable(function):
        raise InputError(f"verify.python.function: '{path}' is not a function")
    return function, "question" in inspect.signature(function).parameters
