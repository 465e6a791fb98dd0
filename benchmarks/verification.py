r"""The speed of verification relative to Math-Verify, and its accuracy on official solutions of real benchmarks.

    python benchmarks/verification.py [--data DIR] [--no-pairs] [--rounds 5]

1. Throughput per core: verdicts per second of processor time of the pool (this process, its worker, and the pipe
   between them) and of direct calls to Math-Verify in one process, by turns on the same answers. Both are warm, because
   parsers and sympy fill caches first, and both parse each gold answer once. The wall-clock ratio is measured on one
   core too.
2. Official solutions against official answers: how many state an answer, and how many of those verify.
3. Each official solution against the answers of 20 other problems, except equal answers: how many are accepted.

Without a data folder (`--data`, else `OSSFT_TEST_DATA`; it holds math500.jsonl and so on) the throughput is measured on
answers made here, and 2 and 3 are skipped with a line. Prints tables and, as its last line, one JSON object.
"""

import argparse
import json
import logging
import os
import random
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from ossft_ray.config import Verify
from ossft_ray.data.layouts import answer_of_cell
from ossft_ray.verification import Task, Verdict, VerifierPool, final_answer
from ossft_ray.verification.kinds.number import read_number

NUM_OTHERS = 20
NUM_TIMED = 400  # problems, with three responses each
console = Console(highlight=False, width=120)


@dataclass(frozen=True)
class Solved:
    """An official solution and its official answer."""

    benchmark: str
    number: int
    answer: str
    solution: str


def read_solved(data: Path) -> list[Solved]:
    """Read the benchmarks that have solutions and answers. Each of several solutions of a problem counts."""
    found = []
    for file in sorted(data.glob("*.jsonl")):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines()):
            row: dict[str, Any] = json.loads(line)
            solution = row.get("solution") or (row["answer"] if "####" in str(row.get("answer")) else None)
            solutions = solution if isinstance(solution, list) else [solution] if solution else []
            answer = answer_of_cell(row["final_answer"] if "final_answer" in row else row.get("answer"))
            for text in solutions:
                found.append(Solved(file.stem, number, answer or final_answer(text) or "", text))
    return found


def generate_solved() -> list[Solved]:
    """Generate answers in several mathematical forms, for machines without the data."""
    rng = random.Random(0)
    found = []
    for number in range(5 * NUM_TIMED):
        a, b, c = (rng.randrange(2, 99) for _ in range(3))
        forms = (str(a * b), rf"\frac{{{a}}}{{{b}}}", f"({a}, {b})", f"x^{{2}}+{a}x-{b}", rf"{a}\sqrt{{{c}}}")
        answer = forms[number % 5]
        words = " ".join(f"Step {step}: ${a} + {step} = {a + step}$." for step in range(20))
        found.append(Solved("generated", number, answer, rf"{words} So it is $\boxed{{{answer}}}$."))
    return found


def timed_pairs(solved: list[Solved], seed: int) -> list[tuple[str, str]]:
    """For each problem: its solution, its answer in a slightly different form, and another problem's solution."""
    chosen = random.Random(seed).sample(solved, min(NUM_TIMED, len(solved)))
    others = [*chosen[1:], chosen[0]]
    return [
        (one.answer, response)
        for one, other in zip(chosen, others, strict=True)
        for response in (one.solution, rf"{one.solution[:400]} So it is $\boxed{{{one.answer} \,}}$.", other.solution)
    ]


def grade_directly(pairs: list[tuple[str, str]]) -> None:
    """Grade with Math-Verify in this process, and parse each gold answer once."""
    from math_verify import parse, verify

    golds: dict[str, Any] = {}
    for answer, response in pairs:
        if answer not in golds:
            golds[answer] = parse(f"${answer}$", parsing_timeout=None)
        verify(golds[answer], parse(response, parsing_timeout=None), timeout_seconds=None)


def seconds_of(work: Callable[[], object], others: list[psutil.Process]) -> tuple[float, float]:
    """The processor seconds of this process and `others`, and the wall-clock seconds."""

    def used() -> float:
        return time.process_time() + sum(sum(process.cpu_times()[:2]) for process in others)

    before, began = used(), time.perf_counter()
    work()
    return used() - before, time.perf_counter() - began


def throughput(solved: list[Solved], rounds: int) -> dict[str, float]:
    """The throughput of the pool divided by that of Math-Verify, in processor and wall-clock time, over rounds."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    ratios: list[tuple[float, ...]] = []
    try:
        with VerifierPool(Verify(timeout_seconds=60.0, num_workers=1)) as pool:
            deque(pool.map(timed_pairs(solved, 0)), maxlen=0)
            grade_directly(timed_pairs(solved, 0))
            workers = [psutil.Process(pid) for pid in pool.worker_pids]
            for seed in range(1, rounds + 1):
                pairs = timed_pairs(solved, seed)
                ours = seconds_of(lambda pairs=pairs: deque(pool.map(pairs), maxlen=0), workers)
                direct = seconds_of(lambda pairs=pairs: grade_directly(pairs), [])
                ratios.append(tuple(theirs / mine for theirs, mine in zip(direct, ours, strict=True)))
    finally:
        os.sched_setaffinity(0, cores)
    by_core, by_clock = zip(*ratios, strict=True)
    return {
        "ratio_to_math_verify": round(statistics.median(by_core), 3),
        "ratio_to_math_verify_min": round(min(by_core), 3),
        "ratio_to_math_verify_max": round(max(by_core), 3),
        "ratio_to_math_verify_by_clock": round(statistics.median(by_clock), 3),
        "rounds": rounds,
        "verdicts_a_round": 3 * min(NUM_TIMED, len(solved)),
    }


def official(solved: list[Solved], pool: VerifierPool) -> tuple[dict[str, Any], list[tuple[Solved, Verdict]]]:
    """Grade each solution against its own answer: counts per benchmark, and the misses."""
    table = Table("benchmark", "solutions", "state an answer", "hold the official one", "verify", "share", box=None)
    verdicts = list(pool.map([Task(one.answer, one.solution) for one in solved]))
    figures: dict[str, Any] = {}
    misses = []
    for name in dict.fromkeys(one.benchmark for one in solved):
        of_name = [(one, v) for one, v in zip(solved, verdicts, strict=True) if one.benchmark == name]
        stated = [(one, v) for one, v in of_name if v.extracted is not None]
        holding = [(one, v) for one, v in stated if bare(one.answer) in bare(str(v.extracted))]
        correct = [(one, v) for one, v in stated if v.correct]
        num_held = sum(v.correct for _, v in holding)
        misses += [(one, v) for one, v in stated if not v.correct]
        figures[name] = {
            "solutions": len(of_name),
            "stated": len(stated),
            "holding": len(holding),
            "verified": len(correct),
            "verified_of_stated": round(len(correct) / len(stated), 4),
            "verified_of_holding": round(num_held / len(holding), 4),
        }
        counts = (len(of_name), len(stated), len(holding), len(correct))
        table.add_row(name, *map(str, counts), f"{num_held / len(holding):.2%}")
    console.print(table)
    return figures, misses


def wrong_pairs(solved: list[Solved]) -> Iterator[tuple[Solved, Solved]]:
    """Pair each solution with 20 other problems of its benchmark whose answers differ from its own."""
    by_name: dict[str, list[Solved]] = {}
    for one in solved:
        by_name.setdefault(one.benchmark, []).append(one)
    for name, group in by_name.items():
        rng = random.Random(name)
        for one in group:
            others = [
                other for other in rng.sample(group, min(len(group), 4 * NUM_OTHERS)) if other.number != one.number
            ]
            different = [other for other in others if not truly_equal(one.answer, other.answer)]
            yield from ((one, other) for other in different[:NUM_OTHERS])


def false_positives(solved: list[Solved], pool: VerifierPool) -> tuple[dict[str, Any], list[tuple[Solved, Solved]]]:
    """Find solutions that are accepted for another problem's answer: counts per benchmark, and the pairs."""
    figures: dict[str, Any] = {}
    accepted = []
    graded = pool.map_each(wrong_pairs(solved), lambda pair: [Task(pair[1].answer, pair[0].solution)])
    for (one, other), (verdict,) in graded:
        counts = figures.setdefault(one.benchmark, {"pairs": 0, "accepted": 0})
        counts["pairs"] += 1
        if verdict.correct:
            counts["accepted"] += 1
            accepted.append((one, other))
    table = Table("benchmark", "pairs", "accepted", "share", box=None)
    for name, counts in figures.items():
        counts["rate"] = counts["accepted"] / counts["pairs"]
        table.add_row(name, str(counts["pairs"]), str(counts["accepted"]), f"{counts['rate']:.3%}")
    console.print(table)
    return figures, accepted


def truly_equal(answer: str, other: str) -> bool:
    """Whether two answers are the same text or number. This does not use the verifier that is measured."""
    if bare(answer) == bare(other):
        return True
    values = value_of(answer), value_of(other)
    return values[0] is not None and values[0] == values[1]


def value_of(answer: str) -> Fraction | None:
    number = read_number(answer)
    return None if number is None else Fraction(number.value).limit_denominator(10**9)


def bare(text: str) -> str:
    for piece in (r"\mathbf", r"\left", r"\right", r"\!", r"\,", r"\ ", "$", "{", "}", " ", "\n"):
        text = text.replace(piece, "")
    return text.replace("dfrac", "frac").replace("tfrac", "frac").strip(".").casefold()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("OSSFT_TEST_DATA"), help="folder of benchmark files"
    )
    parser.add_argument("--rounds", type=int, default=5, help="of the throughput")
    parser.add_argument("--no-pairs", action="store_true", help="leave out part 3, which takes minutes")
    options = parser.parse_args()
    solved = read_solved(options.data) if options.data and options.data.is_dir() else []
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns that its timeouts are off
    figures: dict[str, Any] = throughput(solved or generate_solved(), options.rounds)
    console.print(
        f"throughput relative to Math-Verify: {figures['ratio_to_math_verify']} in processor time "
        f"({figures['ratio_to_math_verify_min']} to {figures['ratio_to_math_verify_max']}), "
        f"{figures['ratio_to_math_verify_by_clock']} in wall-clock time"
    )
    if not solved:
        console.print(f"{options.data}: no such folder, so official solutions are not graded")
    else:
        with VerifierPool(Verify(num_workers=len(os.sched_getaffinity(0)))) as pool:
            figures["official"], misses = official(solved, pool)
            for one, verdict in misses:
                console.print(
                    f"miss: {one.benchmark} {one.number}: {one.answer!r}: {verdict.reason} {verdict.extracted!r}"
                )
            if not options.no_pairs:
                figures["others"], accepted = false_positives(solved, pool)
                for one, other in accepted:
                    line = f"accepted: {one.benchmark} {one.number} {one.answer!r} for {other.number} {other.answer!r}"
                    console.print(line, markup=False, soft_wrap=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
