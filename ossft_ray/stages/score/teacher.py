"""Scoring the policy's own attempts, right and wrong, under policy and teacher; the loss `opd` trains on them.

The teacher is the policy itself with the expert's solution in view, or another model of the same vocabulary under its
plain prompt. The attempts are those that rewriting stored: nothing is sampled.
"""

import time
from typing import Any, NamedTuple

import pyarrow.compute as pc

from ossft_ray.common.errors import InputError
from ossft_ray.common.schema import ATTEMPT_SCORE_SCHEMA, check_table, to_table
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Problem, Stage
from ossft_ray.common.verdict import PROMPT_TOO_LONG
from ossft_ray.config import GUIDED, NO_TEACHER, Experiment
from ossft_ray.engines.training.batches import Examples, TokenizedExample
from ossft_ray.engines.training.diagnosis import explain_out_of_memory
from ossft_ray.method.gap import LogprobSums
from ossft_ray.method.rewriting import stage_prompt
from ossft_ray.policy.chat import Chat
from ossft_ray.run_folder.names import ATTEMPT_PARTS
from ossft_ray.run_folder.parts import read_counts, write_counted
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.stages.rewrite.attempt_log import recorded_attempts

Row = dict[str, Any]


class UnscoredAttempts(NamedTuple):
    """The self attempts of a part of examples."""

    name: str  # of the file to write
    responses: list[Row]  # ATTEMPT_SCORE rows that lack their log-probabilities
    teacher_prompts: list[list[int]]  # one per response
    too_long: int  # attempts that are left out


def attempts_name(part: str) -> str:
    """The file of the attempts of a part of examples."""
    return part.replace("part-", "attempts-", 1)


def check_teacher_settings(experiment: Experiment) -> None:
    """Refuse a teacher for attempts that this run will not have.

    Raises:
        InputError: the examples are another run's, or the attempts are not stored.
    """
    settings = experiment.rewrite
    if experiment.score.teacher == NO_TEACHER:
        if experiment.train.loss == "opd":
            raise InputError(f'[train] loss: "opd" needs a teacher; set [score] teacher = "{GUIDED}" or a model')
        return
    if experiment.train.examples is not None:
        raise InputError("[score] teacher: it scores this run's own attempts; leave out [train] examples")
    if not settings.keep_attempts or "self" not in settings.stages:
        fix = 'include "self" in [rewrite] stages' if settings.keep_attempts else "set [rewrite] keep_attempts = true"
        raise InputError(f"[score] teacher: it scores the policy's stored attempts; {fix}")


def check_vocabulary(run: Run) -> None:
    """Refuse a teacher whose tokens are not the policy's.

    Raises:
        InputError: it cannot be used, or has another vocabulary.
    """
    if run.teacher is None or run.teacher is run:
        return
    policy, teacher = run.experiment.policy.model, run.experiment.score.teacher
    ours, theirs = (each.chat.tokenizer.get_vocab() for each in (run, run.teacher))
    if different := sorted(text for text, token in ours.items() if theirs.get(text) != token):
        raise InputError(
            f"[score] teacher: {teacher} has another vocabulary than {policy} ({len(different):,} of {len(ours):,} "
            f"tokens differ, such as {different[0]!r}); choose a model with the policy's tokenizer"
        )


def teacher_inputs(run: Run) -> dict[str, Any] | None:
    """What the teacher's log-probabilities depend on, besides what the policy's depend on."""
    if run.teacher is None:
        return None
    if run.teacher is not run:
        return {"name": run.experiment.score.teacher, "model": run.teacher.policy_digest}
    prompts = run.experiment.prompts.model_dump(include={"system", "guided"})
    return {"name": GUIDED, **prompts, "hide_answer": run.experiment.rewrite.guided_alignment.hide_answer}


def unscored_attempts(
    part: str, rows: list[Row], chat: Chat, teacher_chat: Chat, experiment: Experiment
) -> UnscoredAttempts:
    """The self attempts that EXAMPLE and DROPPED rows record, with the prompts of policy and teacher.

    Raises:
        InputError: the tokens of an attempt are not stored, or it was sampled with another prompt.
    """
    problems = {row["problem_id"]: row for row in rows}
    responses, teacher_prompts, too_long = [], [], 0
    for problem_id, attempts in recorded_attempts(rows).items():
        row = problems[problem_id]
        problem = Problem.of(row)
        plain = stage_prompt("self", problem, experiment.rewrite, experiment.prompts)
        if row.get("prompt", plain) != plain:
            raise InputError(
                f"problem {problem_id} was sampled with different [prompts]; restore those that it was sampled with"
            )
        stage: Stage = "guided" if experiment.score.teacher == GUIDED else "self"
        prompt = chat.render(plain)
        teacher_prompt = teacher_chat.render(stage_prompt(stage, problem, experiment.rewrite, experiment.prompts))
        longest = min(experiment.train.max_length - len(prompt), teacher_chat.context_length - len(teacher_prompt))
        for (of_stage, index), attempt in attempts.items():
            if of_stage != "self" or attempt.reason == PROMPT_TOO_LONG:
                continue
            token_ids = attempt.response.token_ids if attempt.response else []
            if not token_ids:
                raise InputError(
                    f"problem {problem_id}: the tokens of attempt self/{index} are not stored, which [score] teacher "
                    "needs; rewrite again with [rewrite] keep_attempts = true"
                )
            if len(token_ids) > longest:
                too_long += 1
                continue
            ids = {"problem_id": problem_id, "index": index, "correct": attempt.correct}
            responses.append({**ids, "prompt_token_ids": prompt, "token_ids": token_ids})
            teacher_prompts.append(teacher_prompt)
    return UnscoredAttempts(attempts_name(part), responses, teacher_prompts, too_long)


def score_attempts(scorer: Any, teacher: Any, group: list[UnscoredAttempts], folder: Folder | None) -> int:
    """Score the attempts of several parts together, a collective call, and write each part if a folder is given.

    Returns the number of tokens scored.
    """
    started = time.monotonic()
    rows = [row for part in group for row in part.responses]
    prompts = [prompt for part in group for prompt in part.teacher_prompts]
    with explain_out_of_memory("score", group[0].name, list(dict.fromkeys(row["problem_id"] for row in rows))):
        reference = _logprobs(scorer, [row["prompt_token_ids"] for row in rows], rows)
        taught = _logprobs(teacher, prompts, rows)
    for row, of_policy, of_teacher in zip(rows, reference, taught, strict=True):
        row |= {"reference_logprobs": of_policy, "teacher_logprobs": of_teacher}
    seconds_each = (time.monotonic() - started) / max(1, len(rows))
    for part in group:
        counts = {
            "too_long": part.too_long,
            "tokens": sum(len(row["token_ids"]) for row in part.responses),
            "seconds": seconds_each * len(part.responses),
        }
        if folder is not None:
            write_counted(folder, part.name, to_table(part.responses, ATTEMPT_SCORE_SCHEMA), counts)
    return sum(len(row["token_ids"]) for row in rows)


def summarise_attempts(folder: Folder) -> dict[str, Any]:
    """The manifest's figures of `correct` and `wrong` attempts, weighted by tokens.

    `mean_logprob` is the policy's, `teacher_mean_logprob` the teacher's. Their difference estimates the reverse KL
    divergence per token, if the attempts were sampled with temperature 1.
    """
    sums = {name: [LogprobSums(), LogprobSums()] for name in ("correct", "wrong")}
    responses, too_long, seconds = dict.fromkeys(sums, 0), 0, 0.0
    for part in folder.names(ATTEMPT_PARTS):
        table = check_table(folder.read_table(part), ATTEMPT_SCORE_SCHEMA, f"{folder.path}/{part}")
        for name, rows in (
            ("correct", table.filter(table["correct"])),
            ("wrong", table.filter(pc.invert(table["correct"]))),
        ):
            responses[name] += len(rows)
            for index, column in enumerate(("reference_logprobs", "teacher_logprobs")):
                sums[name][index] += LogprobSums.of(pc.list_flatten(rows[column]).to_numpy())
        counts = read_counts(folder, part)
        too_long, seconds = too_long + counts["too_long"], seconds + counts["seconds"]
    figures: dict[str, Any] = {"too_long": too_long, "seconds": round(seconds, 3)}
    for name, (policy, teacher) in sums.items():
        of_policy = policy.figures()
        figures[name] = {
            "responses": responses[name],
            "tokens": of_policy["tokens"],
            "mean_logprob": of_policy["mean_logprob"],
            "teacher_mean_logprob": teacher.figures()["mean_logprob"],
        }
    return figures


def _logprobs(scorer: Any, prompts: list[list[int]], rows: list[Row]) -> list[list[float]]:
    if not rows:
        return []
    pairs = zip(prompts, rows, strict=True)
    examples = [TokenizedExample(row["problem_id"], prompt, row["token_ids"]) for prompt, row in pairs]
    return [scores.logprobs for scores in scorer.scores(Examples.build(examples))]
