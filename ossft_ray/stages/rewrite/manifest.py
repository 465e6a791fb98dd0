"""What did a rewrite come to and cost? Counts of each part, sessions of the stage, and the manifest made of both."""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from ossft_ray.common.storage import Folder
from ossft_ray.common.types import ORIGINS, Problem, Rewritten, Stage
from ossft_ray.method.parroting import summarise as parroting_counts
from ossft_ray.method.rewriting import PROMPT_TOO_LONG
from ossft_ray.method.suspects import find_suspect
from ossft_ray.run_folder.parts import counts_of_parts
from ossft_ray.run_folder.sessions import session_phases
from ossft_ray.stages.rewrite.attempt_log import EXTRA_WORK, AttemptLog
from ossft_ray.stages.rewrite.calibration import CALIBRATION
from ossft_ray.stages.rewrite.ingest import Layout


async def part_counts(
    done: list[tuple[Problem, Rewritten]],
    log: AttemptLog,
    prompt_tokens: Callable[[Problem, Stage], Awaitable[int]],
    is_same_answer: Callable[[Problem, str, str], Awaitable[bool]],
) -> dict[str, Any]:
    """What a part came to: kept work (`attempts`, `generated_tokens`, `prompt_tokens`), other work, and suspects."""
    counts: Counter[str] = Counter()
    reasons: dict[str, Counter[str]] = {"self": Counter(), "guided": Counter()}
    for problem, rewritten in done:
        counts.update([rewritten.origin or "dropped"])
        num_examples = 1 if rewritten.origin == "expert" else len(rewritten.all_kept)
        counts.update(examples=num_examples, attempts=len(rewritten.attempts))
        for attempt in rewritten.attempts:
            counts["generated_tokens"] += attempt.num_tokens
            reasons[attempt.stage][attempt.reason] += 1
        for stage in ("self", "guided"):
            num_drawn = sum(a.stage == stage and a.reason != PROMPT_TOO_LONG for a in rewritten.attempts)
            if num_drawn:
                counts["prompt_tokens"] += num_drawn * await prompt_tokens(problem, stage)
    suspects = []
    for problem, rewritten in done:
        if (suspect := await find_suspect(rewritten.attempts, partial(is_same_answer, problem))) is not None:
            suspects.append({"problem_id": problem.problem_id, "answer": problem.answer, **asdict(suspect)})
    extra = log.extra_work([(p.problem_id, attempt) for p, rewritten in done for attempt in rewritten.attempts])
    return {**counts, **extra, "reasons": reasons, "suspects": suspects}


def summarise(folder: Folder, layout: Layout) -> dict[str, Any]:
    """The manifest's figures, from the parts themselves: they count kept work, whatever was interrupted."""
    totals: Counter[str] = Counter()
    hosts: Counter[str] = Counter()
    reasons: dict[str, Counter[str]] = {"self": Counter(), "guided": Counter()}
    intervals, suspects, parroting = [], [], []
    for counts in counts_of_parts(folder):
        intervals.append((counts.pop("started"), counts.pop("ended")))
        hosts[counts.pop("host", "unknown")] += 1
        suspects += counts.pop("suspects")
        parroting += counts.pop("parroting", [])
        for stage, by_reason in counts.pop("reasons").items():
            reasons[stage].update(by_reason)
        totals.update(counts)
    phases, num_sessions = session_phases(folder)
    calibration = folder.read_json(CALIBRATION) if folder.exists(CALIBRATION) else {}
    return {
        "problems": layout.problems,
        "rejected": layout.rejected,
        "rejected_reasons": layout.rejected_reasons,
        "duplicates": layout.duplicates,
        "contamination": layout.contamination,
        "not_checked": layout.not_checked,
        "golds": layout.golds,
        "bad_golds": layout.bad_golds,
        "suspects": suspects,
        "origins": {origin: totals[origin] for origin in ORIGINS},
        "dropped": totals["dropped"],
        "examples": totals["examples"],
        "attempts": totals["attempts"],
        "generated_tokens": totals["generated_tokens"],
        "prompt_tokens": totals["prompt_tokens"],
        "reasons": {stage: dict(by_reason.most_common()) for stage, by_reason in reasons.items()},
        "verifier_timeouts": sum(by_reason["timeout"] for by_reason in reasons.values()),
        "max_copied": calibration.get("max_copied"),
        **({"parroting": parroting_counts(parroting)} if parroting else {}),
        **{name: totals[name] for name in EXTRA_WORK},
        "hosts": dict(hosts),
        "sessions": num_sessions,
        "seconds": round(_covered_seconds(intervals)),
        "phases": phases,
    }


def _covered_seconds(intervals: list[tuple[float, float]]) -> float:
    """Length of the union of intervals: the time during which any part was under way, pauses left out."""
    covered, end = 0.0, 0.0
    for start, stop in sorted(intervals):
        covered += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return covered
