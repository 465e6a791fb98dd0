"""Is this answer right? Graders in worker processes that can be killed.

    answers.py   which text counts as the answer
    math.py      the grader for mathematics (Math-Verify); a grader is a module with `grade(answer, response)`
    pool.py      graders in processes with limits on time and memory
    files.py     `ossft verify`: grade a whole file

`math` loads sympy (seconds), and only the workers of a pool need it, so it is not imported here.
"""

from ossft_ray.verification.answers import final_answer
from ossft_ray.verification.pool import VerifierPool
from ossft_ray.verification.verdict import Verdict

__all__ = ["Verdict", "VerifierPool", "final_answer"]
