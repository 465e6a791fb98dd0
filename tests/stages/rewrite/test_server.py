"""Requests to an OpenAI-compatible server: what is sent, retried, refused, or taken as data."""

import asyncio
from typing import Any

import pytest

from ossft_ray.common.errors import InputError, JobError
from ossft_ray.common.prompt_templates import Message
from ossft_ray.common.types import PromptTooLong
from ossft_ray.config import ExternalAlignment
from ossft_ray.engines.vllm_policy import Sampling
from ossft_ray.stages.rewrite.server import Answer, ServerModel, check_server
from tests.stages.rewrite.chat_server import Reply, completion, serve

KEY = "sesame-0123456789"
SOON = {"retry-after-ms": "10"}
PROMPT = [{"role": "user", "content": "1+1?"}]
SAMPLING = Sampling(0.5, 0.9, 64)
TOO_LONG = {"error": {"message": "This model's maximum context length is 9 tokens.", "code": 400}}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER", KEY)


def settings(url: str, **changes: Any) -> ExternalAlignment:
    values = {"model": "teacher", "url": url, "api_key_env": "TEACHER", "max_retries": 2, "timeout_seconds": 5.0}
    return ExternalAlignment(**{**values, **changes})


def ask(url: str, sampling: Sampling = SAMPLING, prompt: list[Message] = PROMPT, **changes: Any) -> Answer:
    async def one() -> Answer:
        model = ServerModel(settings(url, **changes))
        async with model.client:
            return await model.answer(prompt, sampling, 2**62 + 5, "p/external/0")

    return asyncio.run(one())


def test_a_request_holds_the_settings_and_the_key() -> None:
    with serve(lambda body, number: completion("2")) as server:
        assert ask(server.url) == Answer("2", "stop", 7, 3)
        ask(server.url, Sampling(0.5, 0.9, 64, top_k=3), request={"effort": "low", "max_completion_tokens": 9})
        ask(server.url, api_key_env="")
    plain, special, _ = server.requests
    assert plain == {
        "model": "teacher",
        "messages": PROMPT,
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 64,
        "seed": 5,
    }
    wanted = plain | {"top_k": 3, "effort": "low", "max_completion_tokens": 9}
    assert special == {name: value for name, value in wanted.items() if name != "max_tokens"}
    assert server.keys == [f"Bearer {KEY}"] * 2 + ["Bearer none"]


def test_the_tools_of_a_conversation_are_a_field_of_the_request() -> None:
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    with serve(lambda body, number: completion("2")) as server:
        ask(server.url, prompt=[PROMPT[0] | {"tools": tools}])
    (request,) = server.requests
    assert (request["messages"], request["tools"]) == (PROMPT, tools)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "failures",
    [
        [Reply(429, {}, SOON)],
        [Reply(503, "down", SOON), Reply(500, "", SOON)],
        [Reply(429, {}, {"retry-after": "0.05"})],
        [Reply(after_seconds=0.6)],
    ],
    ids=["rate limit", "failures", "seconds to wait", "timeout"],
)
def test_transient_failures_are_retried(failures: list[Reply]) -> None:
    replies = [*failures, completion("2")]
    with serve(lambda body, number: replies[number]) as server:
        assert ask(server.url, timeout_seconds=0.3).text == "2"
    assert len(server.requests) == len(replies)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "reply, error, words, num_requests",
    [
        (
            Reply(429, {"error": {"message": "slow down"}}, SOON),
            JobError,
            "HTTP 429: .*slow down.*max_retries = 2.*resume",
            3,
        ),
        (Reply(500, "", SOON), JobError, "failed with HTTP 500", 3),
        (Reply(429, {}, {"retry-after": "9999"}), JobError, "failed with HTTP 429", 1),
        (Reply(after_seconds=0.6), JobError, r"gave no answer within timeout_seconds = 0.3; raise it", 3),
        (Reply(401, {"error": {"message": f"wrong key {KEY}"}}), InputError, "refuses the key in TEACHER", 1),
        (Reply(403, ""), InputError, r"api_key_env: .*\(HTTP 403\)", 1),
        (
            Reply(404, {"error": {"message": "no such model"}}),
            InputError,
            "no such path .*or no model teacher .*no such model",
            1,
        ),
        (Reply(400, {"error": {"message": f"no top_p with {KEY}"}}), InputError, r"HTTP 400\): .*no top_p with \*", 1),
        (
            Reply(402, {"error": {"message": "no credits"}}),
            InputError,
            r"refuses a request \(HTTP 402\): .*no credits",
            1,
        ),
        (Reply(400, TOO_LONG), PromptTooLong, "maximum context length", 1),
        (Reply(400, {"error": {"message": "x", "code": "context_length_exceeded"}}), PromptTooLong, "x", 1),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Reply) else "",
)
def test_other_failures_end_in_one_line_without_the_key(
    reply: Reply, error: type[Exception], words: str, num_requests: int
) -> None:
    with serve(lambda body, number: reply) as server, pytest.raises(error, match=words) as raised:
        ask(server.url, timeout_seconds=0.3)
    assert KEY not in str(raised.value) and "\n" not in str(raised.value)
    assert raised.value.__suppress_context__, "a worker's log holds the traceback, whose context may hold the key"
    assert len(server.requests) == num_requests


def test_an_unreachable_server_ends_the_job() -> None:
    with serve(lambda body, number: completion("")) as server:
        pass
    with pytest.raises(JobError, match=r"cannot be reached: .*\(max_retries = 0\)"):
        ask(server.url, max_retries=0)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "reply, answer",
    [
        (Reply(body="<html>"), Answer("", "no_response")),
        (Reply(body="[]"), Answer("", "no_response")),
        (Reply(body={"choices": []}), Answer("", "no_response")),
        (completion(None), Answer("", "no_response", 7, 3)),
        (completion(" \n"), Answer("", "no_response", 7, 3)),
        (completion(["2"]), Answer("", "no_response", 7, 3)),
        (completion("", "length"), Answer("", "length", 7, 3)),
        (completion("2", "content_filter"), Answer("2", "content_filter", 7, 3)),
        (Reply(body={"choices": [{"message": {"content": "2"}}]}), Answer("2", "stop")),
    ],
    ids=["HTML", "a list", "no choice", "null", "blank", "parts", "thought too long", "filtered", "no usage"],
)
def test_a_malformed_answer_is_data(reply: Reply, answer: Answer) -> None:
    with serve(lambda body, number: reply) as server:
        assert ask(server.url) == answer


def test_no_more_requests_are_in_flight_than_allowed() -> None:
    with serve(lambda body, number: Reply(200, completion("2").body, after_seconds=0.1)) as server:

        async def ask_all() -> float:
            model, loop = ServerModel(settings(server.url, max_in_flight=2)), asyncio.get_running_loop()
            began = loop.time()
            await asyncio.gather(*(model.answer(PROMPT, SAMPLING, seed, "") for seed in range(6)))
            return loop.time() - began

        assert asyncio.run(ask_all()) >= 0.3


def test_the_key_and_the_client_are_checked_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEACHER")
    with pytest.raises(InputError, match=r"api_key_env: the variable TEACHER is not set on .*; set it"):
        check_server(settings("http://host/v1"))
    for key in ("sk-a\nb", "sk-a b", "“sk-a”"):
        monkeypatch.setenv("TEACHER", key)
        with pytest.raises(InputError, match=r"the variable TEACHER on .* holds a line break, a space") as raised:
            check_server(settings("http://host/v1"))
        assert "sk-a" not in str(raised.value)
    monkeypatch.setattr("ossft_ray.stages.rewrite.server.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the package openai; pip install 'ossft-ray\[server\]'"):
        check_server(settings("http://host/v1", api_key_env=""))
