"""Rewriting by another model: its rows, costs and limits, resuming after a failure, and what rows depend on."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ossft_ray.common.errors import InputError, JobError
from ossft_ray.common.types import Response
from ossft_ray.config import Experiment, Policy
from ossft_ray.method.prompts import guided_prompt, solve_prompt
from ossft_ray.policy.chat import Chat, load_chat
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.stages.check.stage import check
from ossft_ray.stages.derive.stage import derive
from ossft_ray.stages.rewrite.external import as_response
from ossft_ray.stages.rewrite.inputs import rewrite_inputs
from ossft_ray.stages.rewrite.server import Answer
from tests.stages.rewrite.chat_server import ChatServer, Reply, completion, serve
from tests.stages.scripted import experiment, rewrite_locally, rows_by_id

STAGES = ["self", "external"]


def scripted(output: Path, url: str, **external: Any) -> Experiment:
    alignment = {"model": "teacher", "url": url, "max_in_flight": 1, "max_retries": 0, **external}
    settings = {"stages": STAGES, "self_alignment": {"num_samples": 2}, "external_alignment": alignment}
    return experiment(str(output), 24, data={"bad_golds": "ignore"}, rewrite=settings)


def by_seed(body: dict[str, Any], number: int) -> Reply:
    """Right or wrong, and longer or shorter, as the request's seed decides."""
    rng = random.Random(body["seed"])
    return completion(f"{rng.choice(['right', 'wrong'])} {'x' * rng.randrange(9)}")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, dict[str, Any], ChatServer]:
    folder = tmp_path_factory.mktemp("undisturbed")
    with serve(by_seed) as server:
        settings = scripted(folder / "run", server.url)
        return settings, rewrite_locally(settings), server


def test_external_rows_are_policy_tokens_after_the_plain_prompt(undisturbed: Any) -> None:
    settings, manifest, server = undisturbed
    chat = load_chat(settings.policy)
    kept = [row for rows in rows_by_id(settings).values() for row in rows if row["origin"] == "external"]
    assert len(kept) == manifest["origins"]["external"] > 3
    asked = [request["messages"] for request in server.requests]
    for row in kept:
        assert row["response"].startswith("right")
        assert row["response_token_ids"] == chat.encode_response(row["response"])
        assert row["prompt"] == solve_prompt(row["question"])
        stages = [attempt["stage"] for attempt in row["attempts"]]
        assert stages[:2] == ["self", "self"]
        assert stages.count("external") == asked.count(
            guided_prompt(row["question"], row["expert_solution"], hidden_answer=row["answer"])
        )


def test_external_costs_are_separate(undisturbed: Any) -> None:
    settings, manifest, server = undisturbed
    num = len(server.requests)
    assert manifest["external"] == {"requests": num, "prompt_tokens": 7 * num, "completion_tokens": 3 * num}
    attempts = [attempt for rows in rows_by_id(settings).values() for attempt in rows[0]["attempts"]]
    tokens: Counter[str] = Counter()
    for attempt in attempts:
        tokens[attempt["stage"]] += attempt["num_tokens"]
    assert manifest["generated_tokens"] == tokens["self"]
    assert sum(manifest["reasons"]["external"].values()) == num
    assert list(manifest["origins"]) == ["self", "guided", "external", "expert"]


def test_after_a_failure_nothing_is_paid_twice(undisturbed: Any, tmp_path: Path) -> None:
    before, manifest, first = undisturbed
    with serve(lambda body, number: by_seed(body, number) if number < 12 else Reply(500)) as server:
        settings = scripted(tmp_path / "run", server.url)
        with pytest.raises(JobError, match="HTTP 500"):
            rewrite_locally(settings)
    answered = server.requests[:12]
    with serve(by_seed) as server:
        resumed = rewrite_locally(scripted(tmp_path / "run", server.url))  # at another address
    answered += server.requests
    asked = [sorted(map(str, requests)) for requests in (answered, first.requests)]
    assert asked[0] == asked[1]
    assert rows_by_id(settings) == rows_by_id(before)
    assert resumed["external"] == manifest["external"]


def test_responses_too_far_from_the_policy_fall_back(undisturbed: Any, tmp_path: Path) -> None:
    """The scripted policy's gap, in nats per token, is the response's number of tokens."""
    with serve(by_seed) as server:
        settings = scripted(tmp_path / "run", server.url, max_gap=9.0)
        manifest = rewrite_locally(settings)
    kept = [row for (row,) in rows_by_id(settings).values() if row["origin"] == "external"]
    assert manifest["reasons"]["external"]["too_far"] > 0 < len(kept)
    assert all(len(row["response_token_ids"]) <= 9 for row in kept)
    assert manifest["origins"]["expert"] > undisturbed[1]["origins"]["expert"]


def test_a_run_without_the_stage_is_derived(undisturbed: Any, tmp_path: Path) -> None:
    settings = undisturbed[0]
    derived = derive(settings.run.output, str(tmp_path / "run"), "no_external")
    rewrite = settings.rewrite.model_copy(update={"stages": ["self"]})
    fresh = settings.model_copy(
        update={"run": settings.run.model_copy(update={"output": str(tmp_path / "run")}), "rewrite": rewrite}
    )
    assert "external" not in derived["origins"]
    assert rewrite_locally(fresh)["fingerprint"] == derived["fingerprint"], "it counts as complete"


@pytest.mark.parametrize(
    "changes, is_other",
    [
        ({"url": "http://other:1/v1", "api_key_env": "KEY", "max_in_flight": 9, "timeout_seconds": 1.0}, False),
        ({"model": "other"}, True),
        ({"max_gap": 1.0}, True),
        ({"request": {"reasoning_effort": "low"}}, True),
        ({"url": "", "model": "playground"}, True),
        ({"url": "", "model": "playground", "engine": {"max_num_seqs": 4}}, True),
    ],
)
def test_rows_depend_on_the_model_and_not_on_its_address(
    tmp_path: Path, changes: dict[str, Any], is_other: bool
) -> None:
    sections = ({"url": "http://here/v1"}, {"url": "http://here/v1", **changes})
    inputs = [rewrite_inputs(Run(scripted(tmp_path / "run", **each))) for each in sections]
    assert (inputs[0] != inputs[1]) is is_other


def test_settings_of_an_unused_stage_change_no_run(tmp_path: Path) -> None:
    unused = experiment(str(tmp_path / "run"), rewrite={"external_alignment": {"model": "playground"}})
    inputs = rewrite_inputs(Run(unused))
    assert inputs == rewrite_inputs(Run(experiment(str(tmp_path / "run"))))
    assert "external_alignment" not in inputs["rewrite"], "older runs have no such key"


THINKS = "<think>Hm, 3?</think>\n\nIt is 2."


@pytest.mark.parametrize(
    "answer, max_tokens, text, finish_reason",
    [
        (Answer(" It is 2.\n", "stop"), 50, "It is 2.", "stop"),
        (Answer(THINKS, "stop"), 50, "It is 2.", "stop"),
        (Answer("It is 2.", "stop"), 5, "It is 2.", "length"),
        (Answer("It is", "length"), 50, "It is", "length"),
        (Answer("", "no_response"), 50, "", "no_response"),
    ],
)
def test_an_answer_becomes_a_response_of_the_policy(
    answer: Answer, max_tokens: int, text: str, finish_reason: str
) -> None:
    chat: Chat = load_chat(Policy(model="playground"))
    assert as_response(answer, chat, max_tokens) == Response(text, chat.encode_response(text), finish_reason)


@pytest.mark.parametrize(
    "external, words",
    [
        ({"url": "localhost:8000"}, "url should be one such as http://host:8000/v1, not localhost:8000"),
        ({"url": "http://host/v1", "engine": {"dtype": "float32"}}, "engine and revision are for a model .* here"),
        ({"url": "http://host/v1/chat/completions"}, "url should end before /chat/completions"),
        (
            {"api_key_env": "sk-proj-abc"},
            "api_key_env': should be the name of an environment.* and not a key$",
        ),
        ({"request": {"n": 4, "model": "x", "effort": "low"}}, "request': must not set model, n, which rewriting sets"),
        ({"model": ""}, "the stage external needs a model: set external_alignment.model"),
        ({"url": "http://me:word@host/v1"}, "'rewrite.external_alignment.url' holds a secret"),
        ({"url": "http://host/v1?api-key=abcdef"}, "'rewrite.external_alignment.url' holds a secret"),
        ({"request": {"api_key": "abcdef"}}, "'rewrite.external_alignment.request.api_key' holds a secret"),
        ({"url": "http://host/v1", "api_key_env": "UNSET"}, "api_key_env: the variable UNSET is not set on"),
        ({"model": "/nowhere"}, r"\[rewrite.external_alignment\] model: no model folder at /nowhere"),
        (
            {"engine": {"max_model_len": 4096}},
            r"^\[rewrite.external_alignment.engine\] max_model_len: 4096 tokens, but playground holds 2048",
        ),
        (
            {"engine": {"max_model_len": 16}},
            r"^\[rewrite.external_alignment.engine\] max_model_len: playground holds 16 tokens here, and the guided",
        ),
        ({"engine": {"max_seqs": 1}}, r"\[rewrite.external_alignment.engine\] vLLM has no engine argument 'max_seqs'"),
    ],
)
def test_check_refuses_bad_external_settings(tmp_path: Path, external: dict[str, Any], words: str) -> None:
    def settings() -> Experiment:
        return experiment(
            str(tmp_path / "run"),
            4,
            rewrite={"stages": STAGES, "external_alignment": {"model": "playground", **external}},
            evaluate={"benchmarks": []},
        )

    with pytest.raises(InputError, match=words) as raised:
        check(settings())
    assert "sk-proj" not in str(raised.value)
