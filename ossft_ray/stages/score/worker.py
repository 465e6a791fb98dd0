"""What each worker of a scoring does: part by part, the log-probabilities of its responses; worker 0 writes them."""

import itertools
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ossft_ray.common.errors import InputError, JobError
from ossft_ray.common.schema import EXAMPLE_SCHEMA, SCORE_SCHEMA, check_table, to_table
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment
from ossft_ray.distributed.cluster_metrics import ClusterMetrics
from ossft_ray.distributed.shared_output import check_sees_run
from ossft_ray.distributed.train_group import begin_worker
from ossft_ray.engines.training.batches import Examples
from ossft_ray.engines.training.diagnosis import explain_out_of_memory_in_scoring
from ossft_ray.policy.chat import Chat, load_chat
from ossft_ray.policy.example_tokens import Encoded, encode
from ossft_ray.run_folder.names import INPUTS, PARTS
from ossft_ray.run_folder.parts import write_counted

KEPT, EXPERT_ORIGINAL = "kept", "expert_original"  # a score's source
_RESPONSES_EACH = 16  # that a worker has to itself at once, or many workers would have next to nothing of a small part


class Response(NamedTuple):
    """A response to be scored."""

    problem_id: str
    origin: str  # of the problem's kept response
    source: str
    encoded: Encoded


class Part(NamedTuple):
    """What there is to score of a part of examples."""

    name: str
    responses: list[Response]
    too_long: dict[str, int]


def work(config: dict[str, Any]) -> Exception | None:
    """Score the missing parts; returns, rather than raises, an error that a restarted worker would only meet again."""
    experiment, source, folder = config["experiment"], config["source"], config["folder"]
    rank = begin_worker(experiment, "score", config["verbose"])
    try:
        check_sees_run(experiment)
        chat = load_chat(experiment.policy)
        from ossft_ray.engines.training.scoring import Scorer

        scorer = Scorer(experiment.policy, experiment.train)
        metrics = ClusterMetrics(experiment.run.output, "score")
        finished = set(folder.names(PARTS))
        parts = scorer.agree([name for name in source.names(PARTS) if name not in finished])
        read = (_read(part, source, chat, experiment) for part in parts)
        for group in grouped(read, _RESPONSES_EACH * scorer.num_workers):
            num_tokens = score_group(scorer, group, folder if rank == 0 else None)
            if rank == 0:
                metrics.count("ossft_scored_tokens", num_tokens)
    except InputError as error:
        return error
    return None


def _read(part: str, source: Folder, chat: Chat, experiment: Experiment) -> Part:
    rows = check_table(source.read_table(part), EXAMPLE_SCHEMA, f"{source.path}/{part}").to_pylist()
    return Part(part, *responses_of(rows, chat, experiment))


def grouped(parts: Iterable[Part], least: int) -> Iterator[list[Part]]:
    """Parts in their order, so many together that they hold `least` responses or more; the last ones may hold fewer."""
    group: list[Part] = []
    for part in parts:
        group.append(part)
        if sum(len(part.responses) for part in group) >= least:
            yield group
            group = []
    if group:
        yield group


def score_group(scorer: Any, group: list[Part], folder: Folder | None) -> int:
    """Score parts in one go, a collective call, and write each where there is a folder; returns the tokens scored."""
    started = time.monotonic()
    responses = [response for part in group for response in part.responses]
    names = group[0].name if len(group) == 1 else f"{group[0].name} to {group[-1].name}"
    with explain_out_of_memory_in_scoring(names, list(dict.fromkeys(response.problem_id for response in responses))):
        scores = _score(scorer, responses)
    seconds_each = (time.monotonic() - started) / max(1, len(scores))
    left = iter(scores)
    for part in group:
        of_part = list(itertools.islice(left, len(part.responses)))
        num_tokens = sum(len(row["token_ids"]) for row in of_part)
        counts = {"too_long": part.too_long, "tokens": num_tokens, "seconds": seconds_each * len(of_part)}
        if folder is not None:
            _write(folder, part.name, of_part, counts)
    return sum(len(row["token_ids"]) for row in scores)


def responses_of(
    rows: list[dict[str, Any]], chat: Chat, experiment: Experiment
) -> tuple[list[Response], dict[str, int]]:
    """A part's kept responses, and of each of its problems the expert's solution as an example of it would be.

    Returns them with the numbers of those, by source, that are longer than `train.max_length` and so left out.
    """
    responses: list[Response] = []
    has_original = set()  # a problem may have kept several responses
    for row in rows:
        problem_id, kept = row["problem_id"], encode(row, chat, experiment)
        responses.append(Response(problem_id, row["origin"], KEPT, kept))
        if row["expert_solution"] is not None and problem_id not in has_original:
            has_original.add(problem_id)
            original = Encoded(kept.prompt, chat.encode_response(row["expert_solution"]), True)
            responses.append(Response(problem_id, row["origin"], EXPERT_ORIGINAL, original))
    is_too_long = [response.encoded.num_tokens > experiment.train.max_length for response in responses]
    too_long = Counter(response.source for response, is_long in zip(responses, is_too_long, strict=True) if is_long)
    fitting = [response for response, is_long in zip(responses, is_too_long, strict=True) if not is_long]
    return fitting, dict(too_long)


def _score(scorer: Any, responses: list[Response]) -> list[dict[str, Any]]:
    """SCORE rows. An expert's solution that was kept is the same tokens twice, and computed once."""
    keys = [(response.problem_id, tuple(response.encoded.response)) for response in responses]
    once = dict(zip(keys, responses, strict=True))
    if not once:
        return []
    examples = Examples.build(
        [response.problem_id for response in once.values()],
        [response.encoded.prompt for response in once.values()],
        [response.encoded.response for response in once.values()],
    )
    logprobs = dict(zip(once, scorer.logprobs(examples), strict=True))
    return [
        {
            "problem_id": response.problem_id,
            "origin": response.origin,
            "source": response.source,
            "token_ids": response.encoded.response,
            "reference_logprobs": logprobs[key],
        }
        for response, key in zip(responses, keys, strict=True)
    ]


def _write(folder: Folder, part: str, scores: list[dict[str, Any]], counts: dict[str, Any]) -> None:
    if not folder.exists(INPUTS):
        raise JobError(f"{folder.path} has vanished while it was written to; what it held is lost")
    write_counted(folder, part, to_table(scores, SCORE_SCHEMA), counts)
