"""A scoring worker: it computes the responses' log-probabilities part by part, and worker 0 writes them."""

import itertools
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, TypeVar

from ossft_ray.common.schema import EXAMPLE_SCHEMA, PLAIN_SCORE_SCHEMA, SCORE_SCHEMA, check_table, to_table
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment, Policy
from ossft_ray.distributed.cluster_metrics import ClusterMetrics
from ossft_ray.distributed.shared_output import check_sees_run
from ossft_ray.distributed.train_group import begin_worker
from ossft_ray.engines.training.batches import Examples, TokenizedExample
from ossft_ray.engines.training.diagnosis import explain_out_of_memory
from ossft_ray.engines.training.scoring import Scorer, TokenScores
from ossft_ray.policy.chat import Chat, load_chat
from ossft_ray.policy.example_tokens import EncodedExample, encode_example
from ossft_ray.run_folder.names import EXPERT_ORIGINAL, KEPT, PARTS
from ossft_ray.run_folder.parts import read_dropped, write_counted
from ossft_ray.stages.score.changes import EXAMPLES, examples_digest
from ossft_ray.stages.score.teacher import attempts_name, score_attempts, unscored_attempts

_MIN_RESPONSES = 64  # per worker and call: split over many workers, a small part leaves each almost idle


class _Part(Protocol):
    @property
    def responses(self) -> Sequence[Any]: ...


T = TypeVar("T")
P = TypeVar("P", bound=_Part)


class UnscoredResponse(NamedTuple):
    """A response to score."""

    problem_id: str
    origin: str  # of the problem's kept response
    source: str
    encoded: EncodedExample
    plain: tuple[list[int], list[int]] | None = None  # question and response without the template, if wanted


class UnscoredPart(NamedTuple):
    """The responses of a part of examples."""

    name: str
    responses: list[UnscoredResponse]
    too_long: dict[str, int]  # by source, those longer than `train.max_length`, which are left out
    digest: str = ""  # of the examples


def run_worker(config: dict[str, Any]) -> None:
    """Score the missing parts.

    Raises:
        InputError, JobError: the policy, the rows or their scoring failed in a way that a restart would repeat.
    """
    experiment, source, folder = config["experiment"], config["source"], config["folder"]
    rank = begin_worker(experiment, "score", config["verbose"])
    check_sees_run(experiment)
    chat, scorer = load_chat(experiment.policy), Scorer(experiment.policy, experiment.train)
    metrics = ClusterMetrics(experiment.run.output, "score")
    finished = set(folder.names(PARTS))
    names = scorer.broadcast([name for name in source.names(PARTS) if name not in finished])
    tables = ((name, check_table(source.read_table(name), EXAMPLE_SCHEMA, f"{source.path}/{name}")) for name in names)
    parts = (unscored_part(name, table.to_pylist(), chat, experiment) for name, table in tables)
    for group in read_ahead(group_parts(parts, _MIN_RESPONSES * scorer.num_workers)):
        num_tokens = score_group(scorer, group, folder if rank == 0 else None)
        if rank == 0:
            metrics.count("ossft_scored_tokens", num_tokens)
    if (teacher := config["teacher"]) is not None:
        _score_attempts(scorer, teacher, chat, config, rank)


def _score_attempts(scorer: Scorer, teacher: Policy, chat: Chat, config: dict[str, Any], rank: int) -> None:
    """Score the attempts of the parts that lack them, under the policy and under the teacher."""
    experiment, source, folder = config["experiment"], config["source"], config["folder"]
    is_policy = teacher == experiment.policy
    teacher_chat = chat if is_policy else load_chat(teacher)
    missing = [name for name in source.names(PARTS) if not folder.exists(attempts_name(name))]
    names = scorer.broadcast(missing)
    teacher_scorer = scorer if is_policy or not names else Scorer(teacher, experiment.train)
    tables = ((name, check_table(source.read_table(name), EXAMPLE_SCHEMA, f"{source.path}/{name}")) for name in names)
    parts = (
        unscored_attempts(name, [*table.to_pylist(), *read_dropped(source, name)], chat, teacher_chat, experiment)
        for name, table in tables
    )
    for group in read_ahead(group_parts(parts, _MIN_RESPONSES * scorer.num_workers)):
        score_attempts(scorer, teacher_scorer, group, folder if rank == 0 else None)


def unscored_part(name: str, rows: list[dict[str, Any]], chat: Chat, experiment: Experiment) -> UnscoredPart:
    """The kept responses of EXAMPLE rows, and the expert's solution of each problem, encoded like an example."""
    responses: list[UnscoredResponse] = []
    has_original = set()  # a problem may have several kept responses

    def add(row: dict[str, Any], source: str, encoded: EncodedExample, text: str) -> None:
        plain = chat.encode_plain(row["question"], text) if experiment.score.plain_text else None
        responses.append(UnscoredResponse(row["problem_id"], row["origin"], source, encoded, plain))

    for row in rows:
        kept, expert_solution = encode_example(row, chat, experiment), row["expert_solution"]
        add(row, KEPT, kept, row["response"])
        if expert_solution is not None and row["problem_id"] not in has_original:
            has_original.add(row["problem_id"])
            original = EncodedExample(kept.prompt, chat.encode_response(expert_solution), True)
            add(row, EXPERT_ORIGINAL, original, expert_solution)
    limit = experiment.train.max_length
    too_long = Counter(response.source for response in responses if response.encoded.num_tokens > limit)
    fitting = [response for response in responses if response.encoded.num_tokens <= limit]
    return UnscoredPart(name, fitting, dict(too_long), examples_digest(rows))


def group_parts(parts: Iterable[P], min_responses: int) -> Iterator[list[P]]:
    """Parts in their order, in groups of at least `min_responses` responses; the last group may be smaller."""
    group: list[P] = []
    for part in parts:
        group.append(part)
        if sum(len(part.responses) for part in group) >= min_responses:
            yield group
            group = []
    if group:
        yield group


def read_ahead(groups: Iterator[T]) -> Iterator[T]:
    """The same groups. A thread reads and renders the next one while the engine works on this one."""
    with ThreadPoolExecutor(1) as thread:
        upcoming = thread.submit(next, groups, None)
        while (group := upcoming.result()) is not None:
            upcoming = thread.submit(next, groups, None)
            yield group


def score_group(scorer: Any, group: list[UnscoredPart], folder: Folder | None) -> int:
    """Score parts together, a collective call, and write each if a folder is given; returns the tokens scored."""
    started = time.monotonic()
    responses = [response for part in group for response in part.responses]
    names = group[0].name if len(group) == 1 else f"{group[0].name} to {group[-1].name}"
    with explain_out_of_memory("score", names, list(dict.fromkeys(response.problem_id for response in responses))):
        rows = _score(scorer, responses)
    seconds_each = (time.monotonic() - started) / max(1, len(rows))
    remaining = iter(rows)
    for part in group:
        of_part = list(itertools.islice(remaining, len(part.responses)))
        counts = {
            EXAMPLES: part.digest,
            "too_long": part.too_long,
            "tokens": _count(of_part),
            "seconds": seconds_each * len(of_part),
        }
        if folder is not None:
            has_plain = any("plain_logprobs" in row for row in of_part)
            schema = PLAIN_SCORE_SCHEMA if has_plain else SCORE_SCHEMA
            write_counted(folder, part.name, to_table(of_part, schema), counts)
    return _count(rows)


def _score(scorer: Any, responses: list[UnscoredResponse]) -> list[dict[str, Any]]:
    """SCORE rows. A response that a problem has twice, such as a kept expert solution, is scored once."""
    scores = _token_scores(
        scorer, [(each.problem_id, each.encoded.prompt, each.encoded.response) for each in responses]
    )
    rows = [
        {
            "problem_id": response.problem_id,
            "origin": response.origin,
            "source": response.source,
            "token_ids": response.encoded.response,
            "reference_logprobs": of_one.logprobs,
            "reference_ranks": of_one.ranks,
            "reference_masses": of_one.masses,
        }
        for response, of_one in zip(responses, scores, strict=True)
    ]
    # a response that is empty as plain text, or follows an empty question, has no log p
    plain = [
        (row, each) for row, each in zip(rows, responses, strict=True) if each.plain is not None and all(each.plain)
    ]
    texts = [(each.problem_id, *(each.plain or ([], []))) for _, each in plain]
    for (row, _), of_one in zip(plain, _token_scores(scorer, texts), strict=True):
        row["plain_logprobs"] = of_one.logprobs
    return rows


def _token_scores(scorer: Any, texts: list[tuple[str, list[int], list[int]]]) -> list[TokenScores]:
    """The scores of each problem id, prompt and response; a collective call, if there is a text."""
    distinct = {
        (problem_id, tuple(response)): TokenizedExample(problem_id, prompt, response)
        for problem_id, prompt, response in texts
    }
    if not distinct:
        return []
    found = dict(zip(distinct, scorer.scores(Examples.build(list(distinct.values()))), strict=True))
    return [found[problem_id, tuple(response)] for problem_id, _, response in texts]


def _count(rows: list[dict[str, Any]]) -> int:
    return sum(len(row["token_ids"]) for row in rows)
