"""The figures of a rewrite: the counts of each part, and the manifest that sums them up."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from ossft_ray.common.storage import Folder
from ossft_ray.common.types import PAPERS_STAGES, Problem, RewriteResult, Stage, count_origins
from ossft_ray.common.verdict import PROMPT_TOO_LONG
from ossft_ray.method.acceptance import Verify, compare_answers
from ossft_ray.method.suspects import find_suspect
from ossft_ray.run_folder.parts import Row, counts_of_parts
from ossft_ray.run_folder.sessions import session_phases
from ossft_ray.stages.rewrite.attempt_log import EXTERNAL_COSTS, EXTRA_WORK
from ossft_ray.stages.rewrite.ingest import InputManifest

_WORK = ("attempts", "generated_tokens", "prompt_tokens")
_NOT_SHOWN = ("num_parts", "sources", "longest_problem")  # of the input


async def part_counts(
    results: list[tuple[Problem, RewriteResult]],
    prompt_tokens: Callable[[Problem, Stage], Awaitable[int]],
    verify: Verify,
    stages: Sequence[Stage],
    copied: Iterable[list[Row]] = (),
) -> dict[str, Any]:
    """The counts of a part: kept work (`attempts`, `generated_tokens`, `prompt_tokens`), reasons and suspects.

    Tokens are the policy's, so those of the `external` stage do not count. `stages` are the configured ones. `verify`
    is asked whether two answers that were read from responses are equal. `copied` has the rows of each problem that an
    earlier rewrite solved, which cost no work here.
    """

    async def is_same(problem: Problem, answer: str, other: str) -> bool:
        return (await compare_answers(verify, problem, answer, other)).correct

    counts: Counter[str] = Counter(external=0) if "external" in stages else Counter()
    reasons: dict[str, Counter[str]] = {stage: Counter() for stage in (*PAPERS_STAGES, *stages)}
    suspects = []
    for rows in copied:
        counts.update([rows[0]["origin"]])
        counts.update(examples=len(rows), copied=1)
    for problem, result in results:
        counts.update([result.origin or "dropped"])
        num_examples = 1 if result.origin == "expert" else len(result.kept)
        counts.update(examples=num_examples, attempts=len(result.attempts))
        for attempt in result.attempts:
            counts["generated_tokens"] += attempt.num_tokens if attempt.stage != "external" else 0
            reasons[attempt.stage][attempt.reason] += 1
        for stage in PAPERS_STAGES:
            num_drawn = sum(a.stage == stage and a.reason != PROMPT_TOO_LONG for a in result.attempts)
            if num_drawn:
                counts["prompt_tokens"] += num_drawn * await prompt_tokens(problem, stage)
        if (suspect := await find_suspect(result.attempts, partial(is_same, problem))) is not None:
            suspects.append({"problem_id": problem.problem_id, "answer": problem.answer, **asdict(suspect)})
    return {**counts, "reasons": reasons, "suspects": suspects}


def manifest_figures(folder: Folder, input_manifest: InputManifest) -> dict[str, Any]:
    """The manifest's figures, summed over the parts, so interruptions do not affect the counts of kept work."""
    totals: Counter[str] = Counter()
    hosts: Counter[str] = Counter()
    reasons: dict[str, Counter[str]] = {stage: Counter() for stage in PAPERS_STAGES}
    intervals, suspects = [], []
    for counts in counts_of_parts(folder):
        intervals.append((counts.pop("started"), counts.pop("ended")))
        hosts[counts.pop("host", "unknown")] += 1
        suspects += counts.pop("suspects")
        for stage, by_reason in counts.pop("reasons").items():
            reasons.setdefault(stage, Counter()).update(by_reason)
        totals.update(counts)
    phases, num_sessions = session_phases(folder)
    return {
        **{name: value for name, value in asdict(input_manifest).items() if name not in _NOT_SHOWN},
        "suspects": suspects,
        "origins": count_origins(totals),
        **{name: totals[name] for name in ("dropped", "examples", "copied", "answers_appended", *_WORK, *EXTRA_WORK)},
        **({"external": {name: totals[key] for name, key in EXTERNAL_COSTS.items()}} if "external" in totals else {}),
        "reasons": {stage: dict(by_reason.most_common()) for stage, by_reason in reasons.items()},
        "verifier_timeouts": sum(by_reason["timeout"] for by_reason in reasons.values()),
        "hosts": dict(hosts),
        "sessions": num_sessions,
        "seconds": round(_covered_seconds(intervals)),
        "phases": phases,
    }


def _covered_seconds(intervals: list[tuple[float, float]]) -> float:
    """Length of the union of intervals: the time during which any part was in progress, without pauses."""
    covered, end = 0.0, 0.0
    for start, stop in sorted(intervals):
        covered += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return covered
