"""Is this answer right? Graders in worker processes that can be killed.

    answers.py      which text counts as the answer, and which answers are the same: the table
    kinds/          a grader a file: math (Math-Verify), choice, number, text, python (a user's function)
    pool.py         graders in processes (worker.py) with limits on time and memory, in the order of schedule.py
    fork_server.py  what those processes are forked by
    mathematics/    what the kind math needs beside Math-Verify: no bomb explodes, no wrong answer is accepted
    inputs.py       what verdicts depend on
    files.py        `ossft verify`: grade a whole file

Kinds load heavy libraries (math: sympy, seconds), and only the workers of a pool need them: none is imported here.
"""

from ossft_ray.common.verdict import Verdict
from ossft_ray.verification.answers import final_answer
from ossft_ray.verification.pool import VerifierPool
from ossft_ray.verification.worker import Task

__all__ = ["Task", "Verdict", "VerifierPool", "final_answer"]
