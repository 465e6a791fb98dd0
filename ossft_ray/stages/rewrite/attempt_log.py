"""The log of attempts at an unfinished part: with it, a kill loses only the requests in flight.

A part of examples is written when its last problem is done. Until then the part's log records each sample that begins
and each attempt that ends. After a kill, the worker that takes over the part reads which samples need not be drawn
again. Every worker writes its own log file, and all of a part's logs are deleted once the part is written.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Attempt, Problem, Response, Stage
from ossft_ray.run_folder.line_log import LineLog, read_lines
from ossft_ray.run_folder.names import BEFORE, UNFINISHED
from ossft_ray.run_folder.parts import delete_part, read_counts, read_dropped
from ossft_ray.stages.rewrite.regrading import GradingKey

EXTERNAL_COSTS = {
    "requests": "external_requests",
    "prompt_tokens": "external_prompt_tokens",
    "completion_tokens": "external_completion_tokens",
}
"""The costs of the other model's answers, used or not: their names in the manifest, and in a part's counts."""
EXTRA_WORK = ("redone_attempts", "redone_tokens", "speculative_attempts", "speculative_tokens")


class AttemptLog:
    """The attempts at the problems of one part, by this worker and by those before it."""

    def __init__(self, folder: Folder, part: str, worker_id: str, keep_texts: bool) -> None:
        """Read what was drawn before, from logs and from an earlier version of the part, and begin a log."""
        self._logs, self._part, self._keep_texts = folder / UNFINISHED, part.removesuffix(".parquet"), keep_texts
        self._earlier = folder / BEFORE if (folder / BEFORE).exists(part) else None
        self._begun: Counter[tuple[str, Stage, int]] = Counter()
        self._attempts: dict[str, dict[tuple[Stage, int], Attempt]] = {}
        self._keys: dict[tuple[str, Stage, int], GradingKey] = {}
        self._earlier_counts: dict[str, int] = {}
        self._external_costs: Counter[str] = Counter()
        if self._earlier is not None:
            self._read_rows(self._earlier.read_table(part).to_pylist())
            self._read_rows(read_dropped(self._earlier, part))
            counts = read_counts(self._earlier, part)
            self._earlier_counts = {
                name: count for name, count in counts.items() if name in (*EXTRA_WORK, *EXTERNAL_COSTS.values())
            }
        for name in self._log_names():
            self._read_log(read_lines(self._logs, name))
        self._log = LineLog(self._logs, f"{self._part}.{worker_id}.jsonl")

    def attempts(self, problem: Problem) -> Mapping[tuple[Stage, int], Attempt]:
        """The attempts at a problem by stage and index."""
        return self._attempts.setdefault(problem.problem_id, {})

    def take_outdated(self, problem: Problem) -> list[tuple[Attempt, GradingKey]]:
        """Remove and return the attempts that were graded before the problem was corrected."""
        key, attempts = GradingKey.of(problem), self._attempts.get(problem.problem_id, {})
        keys = {draw: self._keys.get((problem.problem_id, *draw), key) for draw in attempts}
        outdated = [draw for draw, before in keys.items() if before != key]
        for draw in outdated:
            # It was drawn once already, so drawing it again counts as redone.
            self._begun[problem.problem_id, *draw] = max(1, self._begun[problem.problem_id, *draw])
        return [(attempts.pop(draw), keys[draw]) for draw in outdated]

    def begin(self, problem_id: str, stage: Stage, index: int) -> None:
        """Record that a sample begins, so that it counts as redone if a kill makes another worker draw it again."""
        self._begun[problem_id, stage, index] += 1
        self._log.append({"begin": [problem_id, stage, index]})

    def end(self, problem: Problem, attempt: Attempt) -> None:
        """Record an attempt and what it was graded against; its text only if it may be needed."""
        self._attempts.setdefault(problem.problem_id, {})[attempt.stage, attempt.index] = attempt
        response = attempt.response if attempt.correct or self._keep_texts else None
        self._log.append(
            {
                "end": problem.problem_id,
                "attempt": {name: value for name, value in vars(attempt).items() if name != "response"},
                "response": vars(response) if response else None,
                "grading_key": GradingKey.of(problem),
            }
        )

    def pay(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Record an answer of the other model, in its own tokens."""
        self._external_costs.update(_costs(prompt_tokens, completion_tokens))
        self._log.append({"paid": [prompt_tokens, completion_tokens]})

    def extra_work(self, recorded: Iterable[tuple[str, Attempt]]) -> dict[str, int]:
        """What was drawn in addition to the attempts that the rows record.

        Redone: samples that a kill interrupted, or whose log line it tore, and that were drawn again; their tokens are
        those of the final attempt. Speculative: samples of later waves that began early and were not needed.
        `EXTERNAL_COSTS` are those of all answers of the other model.
        """
        needed = {(problem_id, attempt.stage, attempt.index) for problem_id, attempt in recorded}
        counts = Counter(dict.fromkeys(EXTRA_WORK, 0) | self._earlier_counts)
        for (problem_id, stage, index), times in self._begun.items():
            attempt = self._attempts.get(problem_id, {}).get((stage, index))
            num_tokens = attempt.num_tokens if attempt else 0
            counts.update(redone_attempts=times - 1, redone_tokens=(times - 1) * num_tokens)
            if (problem_id, stage, index) not in needed:
                counts.update(speculative_attempts=1, speculative_tokens=num_tokens)
        counts.update(self._external_costs)
        return dict(counts)

    def delete(self) -> None:
        """Remove all logs of this part, which has been written, and its earlier version."""
        self._log.close(keep=False)
        for name in self._log_names():
            self._logs.delete_file(name)
        if self._earlier is not None:
            delete_part(self._earlier, f"{self._part}.parquet")

    def _log_names(self) -> list[str]:
        return self._logs.names(f"{self._part}.*.jsonl")

    def _read_log(self, lines: list[Any]) -> None:
        for line in lines:
            if "begin" in line:
                self._begun[tuple(line["begin"])] += 1
            elif "paid" in line:
                self._external_costs.update(_costs(*line["paid"]))
            else:
                values, response = line["attempt"], line["response"]
                attempt = Attempt(**values, response=Response(**response) if response else None)
                self._attempts.setdefault(line["end"], {})[attempt.stage, attempt.index] = attempt
                self._keys[line["end"], attempt.stage, attempt.index] = GradingKey(*line["grading_key"])

    def _read_rows(self, rows: list[dict[str, Any]]) -> None:
        for problem_id, attempts in recorded_attempts(rows).items():
            self._attempts.setdefault(problem_id, {}).update(attempts)
        for row in rows:
            key = GradingKey.of(Problem.of(row))
            for attempt in row["attempts"]:
                self._keys[row["problem_id"], attempt["stage"], attempt["index"]] = key


def _costs(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return dict(zip(EXTERNAL_COSTS.values(), (1, prompt_tokens, completion_tokens), strict=True))


def recorded_attempts(rows: list[dict[str, Any]]) -> dict[str, dict[tuple[Stage, int], Attempt]]:
    """The attempts that EXAMPLE or DROPPED rows record, by problem, stage and index.

    Kept ones have their tokens, and the others have them if `[rewrite] keep_attempts` stored them.
    """
    found: dict[str, dict[tuple[Stage, int], Attempt]] = {}
    for row in rows:
        attempts = found.setdefault(row["problem_id"], {})
        answers = row["attempt_answers"] or [None] * len(row["attempts"])  # older rows lack them
        tokens = row.get("attempt_token_ids") or [None] * len(row["attempts"])  # likewise
        for values, extracted, token_ids in zip(row["attempts"], answers, tokens, strict=True):
            text = values["response"]
            response = Response(text, token_ids or [], values["finish_reason"]) if text is not None else None
            attempt = Attempt(**{**values, "response": response}, extracted=extracted)
            attempts.setdefault((attempt.stage, attempt.index), attempt)
        if row.get("kept_index") is not None:
            kept = attempts[row["origin"], row["kept_index"]]
            logprobs = row.get("behavior_logprobs")
            response = Response(row["response"], row["response_token_ids"], kept.finish_reason, logprobs=logprobs)
            attempts[row["origin"], row["kept_index"]] = dataclasses.replace(kept, response=response)
    return found
