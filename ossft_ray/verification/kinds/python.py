"""Is this right by the user's own function? `[verify.python] function = "my_module:my_function"`.

The function is called with the gold answer and the response, and with `question=` if it has such a parameter:

    def my_function(answer: str, response: str) -> bool: ...

It returns a bool (or 0 and 1), a reason beside it as `(bool, reason)`, or a `Verdict`. What it raises is the verdict
`verifier_error`, with the error as the extracted text. It runs in the pool's processes, within their limits. Only the
experiment file names it, never a row of data: data must not choose which code runs.
"""

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

from ossft_ray.common.errors import InputError
from ossft_ray.common.verdict import CORRECT, NO_GOLD, VERIFIER_ERROR, WRONG, Verdict


def grade(answer: str, response: str, *, question: str = "", function: str = "") -> Verdict:
    """Call the user's function on a response."""
    call, takes_question = load_function(function)
    arguments = {"question": question} if takes_question else {}
    try:
        return as_verdict(call(answer, response, **arguments))
    except MemoryError:
        raise
    except Exception as error:
        return Verdict(False, VERIFIER_ERROR, f"{type(error).__name__}: {error}")


def check_answer(answer: str, *, question: str = "", function: str = "") -> Verdict:
    """Whether there is a gold answer and a function; what an answer may be is the function's own business."""
    load_function(function)
    return Verdict(True, CORRECT, answer) if answer.strip() else Verdict(False, NO_GOLD)


def as_verdict(result: Any) -> Verdict:
    """What a function returned, as a verdict.

    Raises:
        TypeError: it is nothing that says right or wrong.

    >>> as_verdict((False, "too_long"))
    Verdict(correct=False, reason='too_long', extracted=None)
    """
    if isinstance(result, Verdict):
        return result
    correct, reason = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    if hasattr(correct, "item"):  # numpy's and torch's
        correct = correct.item()
    if correct not in (0, 1):
        raise TypeError(f"returned {result!r}: return True or False, (bool, reason), or a Verdict")
    return Verdict(bool(correct), str(reason) if reason else CORRECT if correct else WRONG)


@cache
def load_function(path: str) -> tuple[Callable[..., Any], bool]:
    """The function behind `module:name` and whether it takes a `question`. Modules in the working directory count.

    Raises:
        InputError: there is no such module or function.
    """
    module_name, colon, name = path.partition(":")
    if not (module_name and colon and name):
        raise InputError(f"verify.python.function: '{path}' is no import path; write module:function")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), name)
    except Exception as error:
        raise InputError(
            f"verify.python.function: '{path}' cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not callable(function):
        raise InputError(f"verify.python.function: '{path}' is not a function")
    return function, "question" in inspect.signature(function).parameters
