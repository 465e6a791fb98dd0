"""Verification: decide whether a response's answer is correct, in worker processes that can be killed.

    answers.py      the rules for which text counts as the answer
    kinds/          a grader per file: math (Math-Verify), choice, number, text, python (a user's function),
                    judge (the policy as a judge)
    mathematics/    additions of `math` to Math-Verify: bounds on complexity, and fewer wrong acceptances
    pool.py         many gradings at a time, in worker processes (worker.py), in the order of schedule.py
    fork_server.py  the process that forks the workers
    fingerprint.py  the settings and code that verdicts depend on

A kind may load heavy libraries (`math` needs seconds for sympy). Only workers need them, so nothing here loads a kind.
"""

from ossft_ray.common.verdict import Verdict
from ossft_ray.verification.answers import final_answer
from ossft_ray.verification.pool import VerifierPool
from ossft_ray.verification.worker import Task

__all__ = ["Task", "Verdict", "VerifierPool", "final_answer"]
