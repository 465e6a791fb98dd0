"""No text in `bombs.py` hangs, crashes, exhausts or takes over its grader, or delays the next response."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ossft_ray.common import verdict
from ossft_ray.config import Verify
from ossft_ray.verification import Task, Verdict, VerifierPool
from ossft_ray.verification.kinds.math import grade
from tests.verification.bombs import CANARY, EXPRESSIONS, HARD, NAMES_THAT_RUN, RESPONSES, Expression, Hard, Response

pytestmark = pytest.mark.thorough

TIMEOUT_SECONDS = 2.0
MEMORY_MIB = 64
PATIENCE_SECONDS = 30.0  # of the wall clock, on a busy machine
OTHER_GOLD_ANSWERS = [r"\sqrt{2}+x", r"\{1, 2\}", "x^2 = 4"]
REASONS = {value for name, value in vars(verdict).items() if name.isupper()}


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    with VerifierPool(Verify(timeout_seconds=TIMEOUT_SECONDS, num_workers=1, memory_mib=MEMORY_MIB)) as pool:
        pool._patience_seconds = 1e6  # only the limit on processor time ends a bomb
        assert verify(pool, "5", r"\boxed{5}").correct
        yield pool


def verify(pool: VerifierPool, answer: str, response: str) -> Verdict:
    return asyncio.run(pool.verify(answer, response))


def verify_then_the_next(pool: VerifierPool, answer: str, response: str) -> Verdict:
    """The verdict on a bomb, after checking that the bomb did nothing and the next verdict is right and fast."""
    started = time.monotonic()
    verdict = verify(pool, answer, response)
    assert time.monotonic() - started < PATIENCE_SECONDS
    assert verdict.reason in REASONS
    assert verdict.correct == (verdict.reason == "correct")
    started = time.monotonic()
    assert verify(pool, "0.5", r"So it is \boxed{\frac{1}{2}}.") == Verdict(True, "correct", r"\frac{1}{2}")
    assert time.monotonic() - started < PATIENCE_SECONDS / 5
    assert not Path(CANARY).exists()
    return verdict


def test_the_corpus_is_large_and_its_names_are_unique() -> None:
    names = [bomb.name for bomb in (*EXPRESSIONS, *RESPONSES, *HARD)]
    assert len(names) == len(set(names)) >= 90


@pytest.mark.parametrize("bomb", EXPRESSIONS, ids=[bomb.name for bomb in EXPRESSIONS])
def test_an_expression_is_harmless(pool: VerifierPool, bomb: Expression, capfd: pytest.CaptureFixture[str]) -> None:
    response = rf"\boxed{{{bomb.latex}}}"
    assert verify_then_the_next(pool, "5", response).reason == bomb.reason
    for gold in OTHER_GOLD_ANSWERS:
        assert not verify_then_the_next(pool, gold, response).correct
    if bomb.reason != "correct":
        assert not verify_then_the_next(pool, bomb.latex, r"\boxed{5}").correct
    assert pool.schedule.retries == 0, "it ran into a limit"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("bomb", RESPONSES, ids=[bomb.name for bomb in RESPONSES])
def test_a_response_is_harmless(pool: VerifierPool, bomb: Response, capfd: pytest.CaptureFixture[str]) -> None:
    assert verify_then_the_next(pool, "5", bomb.text).reason == bomb.reason
    assert pool.schedule.retries == 0, "it ran into a limit"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("kind", "gold"), [("number", "5 km"), ("choice", "B"), ("text", "Paris")])
def test_bombs_are_harmless_to_the_other_kinds(pool: VerifierPool, kind: str, gold: str) -> None:
    """Each bomb is tried as a response, a boxed answer, a gold answer and a question."""
    texts = [bomb.text for bomb in RESPONSES] + [rf"\boxed{{{bomb.latex}}}" for bomb in EXPRESSIONS]
    tasks = [Task(gold, text, kind=kind) for text in texts]
    tasks += [Task(text, rf"\boxed{{{gold}}}", kind=kind) for text in texts]
    tasks += [Task(gold, rf"\boxed{{{gold}}}", text, kind) for text in texts]
    retries_before = pool.schedule.retries
    verdicts = list(pool.map(tasks))
    assert {verdict.reason for verdict in verdicts} <= REASONS - {"timeout", "memory", "crashed", "verifier_error"}
    assert all(verdict.correct for verdict in verdicts[-len(texts) :]), "a question changes no verdict"
    assert pool.schedule.retries == retries_before, "one ran into a limit"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and memory is limited on Linux only")
def test_the_worker_respects_its_memory_limit(pool: VerifierPool) -> None:
    """One worker has graded all the bombs above. Its peak stays below its current memory plus the limit."""
    (pid,) = pool.worker_pids
    peaks = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    peak_mib = int(peaks[0].split()[1]) / 1024
    assert peak_mib < psutil.Process(pid).memory_info().rss / 2**20 + MEMORY_MIB


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
@pytest.mark.parametrize("bomb", HARD, ids=[bomb.name for bomb in HARD])
def test_a_hard_answer_hits_a_limit(bomb: Hard, hard_pool: VerifierPool) -> None:
    assert verify_then_the_next(hard_pool, bomb.gold, rf"\boxed{{{bomb.latex}}}") == Verdict(False, bomb.reason)


@pytest.fixture(scope="module")
def hard_pool() -> Iterator[VerifierPool]:
    with VerifierPool(Verify(timeout_seconds=TIMEOUT_SECONDS / 2, num_workers=1, memory_mib=MEMORY_MIB)) as pool:
        pool._patience_seconds = 1e6
        assert verify(pool, "5", r"\boxed{5}").correct
        yield pool


# A script that prints what Python compiles, runs, opens or starts because of a bomb.
WATCHED = r"""
import sys
sys.path.insert(0, sys.argv[1])
from tests.verification.bombs import CANARY, EXPRESSIONS, RESPONSES
from ossft_ray.verification.kinds.math import grade

WORDS = (CANARY, "poly1d", "__import__", "__class__", "lambda")

def watch(event, arguments):
    if event in ("compile", "exec", "open", "os.system", "subprocess.Popen", "import"):
        if any(word in str(arguments[:1]) for word in WORDS):
            print(event, arguments)

grade("5", r"\boxed{6}")
sys.addaudithook(watch)
for bomb in EXPRESSIONS:
    if any(word in bomb.latex for word in WORDS):
        for gold in ("5", r"\sqrt{2}+x"):
            grade(gold, rf"\boxed{{{bomb.latex}}}")
            grade(gold, f"The final answer is ${bomb.latex}$. I hope it is correct.")
            grade(gold, f"The final answer is {bomb.latex}. I hope it is correct.")
for bomb in RESPONSES:
    if "announced" in bomb.name:
        grade("5", bomb.text)
print("done")
"""


def test_no_text_of_a_bomb_is_compiled() -> None:
    command = [sys.executable, "-c", WATCHED, str(Path(__file__).parents[2])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.stderr) == ("done\n", "")


UNCHECKED = rf"""
from math_verify import LatexExtractionConfig, parse, verify
prediction = parse(r"${NAMES_THAT_RUN}+x$", [LatexExtractionConfig()], parsing_timeout=None)
verify(parse(r"$\sqrt{{2}}+x$", parsing_timeout=None), prediction, timeout_seconds=None)
"""


def test_math_verify_alone_runs_the_code_of_a_bomb(tmp_path: Path) -> None:
    """Math-Verify without our checks runs the code in `NAMES_THAT_RUN`. Our grading of the same answer does not."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", UNCHECKED], cwd=tmp_path, check=True, timeout=300)
    assert (tmp_path / CANARY).exists()
    assert grade(r"\sqrt{2}+x", rf"\boxed{{{NAMES_THAT_RUN}+x}}").reason == "unparsed"
    assert not Path(CANARY).exists()
