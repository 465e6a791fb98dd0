"""What has been drawn of a part that is not finished yet? Written down as it happens, so that no kill loses it.

A part of examples is written once its last problem is done. Until then each draw that begins and each attempt that ends
is a line in the part's log, and a worker that takes the part up after a kill reads there what it need not draw again:
all but what was in flight. Each worker writes a log of its own; all logs of a part go when the part is written.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any

from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Attempt, Problem, Response, Stage
from ossft_ray.run_folder.line_log import LineLog, read_lines
from ossft_ray.run_folder.names import BEFORE, UNFINISHED
from ossft_ray.run_folder.parts import delete_part, read_counts, read_dropped
from ossft_ray.stages.rewrite.regrading import Gold

Key = tuple[Stage, int]
EXTRA_WORK = ("redone_attempts", "redone_tokens", "speculative_attempts", "speculative_tokens")


class AttemptLog:
    """The attempts at the problems of one part, by this worker and those before it."""

    def __init__(self, folder: Folder, part: str, writer: str, keep_texts: bool) -> None:
        """Read what was drawn before; `writer` tells this worker's log from those of others."""
        self._logs, self._part, self._keep_texts = folder / UNFINISHED, part.removesuffix(".parquet"), keep_texts
        self._before = folder / BEFORE if (folder / BEFORE).exists(part) else None
        self._begun: Counter[tuple[str, Stage, int]] = Counter()
        self._attempts: dict[str, dict[Key, Attempt]] = {}
        self._golds: dict[tuple[str, Stage, int], Gold] = {}  # what each attempt was graded against
        self._extra_before: dict[str, int] = {}
        if self._before is not None:
            self._recall_rows(self._before.read_table(part).to_pylist())
            self._recall_rows(read_dropped(self._before, part))
            counts = read_counts(self._before, part)
            self._extra_before = {name: count for name, count in counts.items() if name in EXTRA_WORK}
        for name in self._names():
            self._recall_lines(read_lines(self._logs, name))
        self._log = LineLog(self._logs, f"{self._part}.{writer}.jsonl")

    def of(self, problem: Problem) -> "ProblemAttempts":
        """The attempts at one problem: what is put in is logged."""
        return ProblemAttempts(self, problem, self._attempts.setdefault(problem.problem_id, {}))

    def take_outdated(self, problem: Problem) -> list[tuple[Attempt, Gold]]:
        """The attempts that were made for another gold than the problem has now. They are none of its attempts now."""
        gold, attempts = Gold.of_problem(problem), self._attempts.get(problem.problem_id, {})
        golds = {key: self._golds.get((problem.problem_id, *key), gold) for key in attempts}
        outdated = [key for key, before in golds.items() if before != gold]
        for key in outdated:
            # Drawn once before: when it is drawn again, that counts as redone.
            self._begun[problem.problem_id, *key] = max(1, self._begun[problem.problem_id, *key])
        return [(attempts.pop(key), golds[key]) for key in outdated]

    def begin(self, problem_id: str, stage: Stage, index: int) -> None:
        """Note that a draw begins, so that one lost to a kill is known when it is made again."""
        self._begun[problem_id, stage, index] += 1
        self._log.append({"begin": [problem_id, stage, index]})

    def end(self, problem: Problem, attempt: Attempt) -> None:
        """Note an attempt with what it was graded against; its text only if it may be needed."""
        needed = attempt.response if attempt.correct or self._keep_texts else None
        values = {name: value for name, value in vars(attempt).items() if name != "response"}
        self._log.append(
            {
                "end": problem.problem_id,
                "attempt": values,
                "response": vars(needed) if needed else None,
                "gold": Gold.of_problem(problem),
            }
        )

    def extra_work(self, recorded: Iterable[tuple[str, Attempt]]) -> dict[str, int]:
        """What was drawn besides the attempts that the rows record.

        Redone: draws that a kill had cut off, or whose last line it tore, and that were made again, with the tokens
        they had in the end. Speculative: later waves that began early and were not needed.
        """
        needed = {(problem_id, attempt.stage, attempt.index) for problem_id, attempt in recorded}
        counts = Counter(dict.fromkeys(EXTRA_WORK, 0) | self._extra_before)
        for (problem_id, stage, index), times in self._begun.items():
            attempt = self._attempts.get(problem_id, {}).get((stage, index))
            num_tokens = attempt.num_tokens if attempt else 0
            counts.update(redone_attempts=times - 1, redone_tokens=(times - 1) * num_tokens)
            if (problem_id, stage, index) not in needed:
                counts.update(speculative_attempts=1, speculative_tokens=num_tokens)
        return dict(counts)

    def delete(self) -> None:
        """Remove all logs of this part: it has been written."""
        self._log.close(keep=False)
        for name in self._names():
            self._logs.delete_file(name)
        if self._before is not None:
            delete_part(self._before, f"{self._part}.parquet")

    def _names(self) -> list[str]:
        return self._logs.names(f"{self._part}.*.jsonl")

    def _recall_lines(self, lines: list[Any]) -> None:
        for line in lines:
            if "begin" in line:
                self._begun[tuple(line["begin"])] += 1
            else:
                values, response = line["attempt"], line["response"]
                attempt = Attempt(**values, response=Response(**response) if response else None)
                self._attempts.setdefault(line["end"], {})[attempt.stage, attempt.index] = attempt
                self._golds[line["end"], attempt.stage, attempt.index] = Gold(*line["gold"])

    def _recall_rows(self, rows: list[dict[str, Any]]) -> None:
        """The attempts that a part of EXAMPLE rows records; the kept ones with their responses."""
        for row in rows:
            attempts = self._attempts.setdefault(row["problem_id"], {})
            gold = Gold.of(row["answer"], row["verifier"], row["expert_solution"])
            for values, extracted in zip(row["attempts"], row["attempt_answers"], strict=True):
                text = values.pop("response")
                response = Response(text, [], values["finish_reason"]) if text is not None else None
                attempt = Attempt(**values, response=response, extracted=extracted)
                attempts.setdefault((attempt.stage, attempt.index), attempt)
                self._golds[row["problem_id"], attempt.stage, attempt.index] = gold
            if row.get("kept_index") is not None:
                kept = attempts[row["origin"], row["kept_index"]]
                logprobs = row.get("behavior_logprobs")
                response = Response(row["response"], row["response_token_ids"], kept.finish_reason, logprobs=logprobs)
                attempts[row["origin"], row["kept_index"]] = dataclasses.replace(kept, response=response)


class ProblemAttempts(MutableMapping[Key, Attempt]):
    """A problem's attempts by stage and index; putting one in writes it to the part's log."""

    def __init__(self, log: AttemptLog, problem: Problem, attempts: dict[Key, Attempt]) -> None:
        self._log, self._problem, self._attempts = log, problem, attempts

    def __getitem__(self, key: Key) -> Attempt:
        return self._attempts[key]

    def __setitem__(self, key: Key, attempt: Attempt) -> None:
        self._log.end(self._problem, attempt)
        self._attempts[key] = attempt

    def __delitem__(self, key: Key) -> None:
        raise TypeError("an attempt that was made stays made")

    def __iter__(self) -> Iterator[Key]:
        return iter(self._attempts)

    def __len__(self) -> int:
        return len(self._attempts)
