"""The real engine: samples that do not depend on the batch, endless repetition, and the death of its process."""

import asyncio
import dataclasses
import os
from dataclasses import dataclass
from typing import Any

import psutil
import pytest

from ossft_ray.common.types import PromptTooLong, Response
from ossft_ray.config import Policy
from ossft_ray.engines import vllm_policy
from ossft_ray.engines.vllm_policy import EngineDied, Sampling, VllmPolicy
from ossft_ray.method.prompts import solve_prompt
from ossft_ray.method.rewriting import derive_seed
from ossft_ray.playground.arithmetic import training_problems
from ossft_ray.policy.chat import Chat, load_chat

pytestmark = pytest.mark.engine

NUM_DRAWS = 120
FREE = Sampling(temperature=1.0, top_p=1.0, max_tokens=200)
ONE_TOKEN: list[dict[str, Any]] = [{"temperature": 0.0}, {"top_k": 1}, {"min_p": 1.0}]
CUT = Sampling(temperature=1.0, top_p=1.0, max_tokens=200, max_repeats=16)


@dataclass
class Sampled:
    """The responses of one engine, which all tests share."""

    chat: Chat
    at_once: list[Response]  # all requests together
    counted: list[int]  # tokens so far: while these were under way, after them, and after another was cancelled
    one_by_one: list[Response]  # the first few again, alone, in reverse
    cut: list[Response]  # all again, with repetition cut off
    counted_when_cut: int  # tokens that the engine sampled for these
    greedy: list[list[Response]]  # the first few at temperature 0, and with each setting that leaves one token
    penalised: list[Response]  # the first few again, with repeated tokens held back
    too_long: BaseException
    after_death: list[BaseException | Response]


@pytest.fixture(scope="module")
def sampled() -> Sampled:
    policy = Policy(model="playground")
    chat = load_chat(policy)
    prompts = [chat.render(solve_prompt(row["question"])) for row in training_problems(NUM_DRAWS, seed=9)]

    async def draw(engine: VllmPolicy, number: int, sampling: Sampling) -> Response:
        name = f"{number}/{sampling.max_repeats}"
        return await engine.sample(prompts[number], sampling, derive_seed(0, str(number), "self", 0), name)

    async def everything() -> Sampled:
        engine = VllmPolicy(policy, chat)
        try:
            drawing = asyncio.gather(*(draw(engine, number, FREE) for number in range(NUM_DRAWS)))
            counted = []
            while not drawing.done():
                counted.append(engine.num_sampled_tokens())
                await asyncio.sleep(0.01)
            at_once = await drawing
            counted.append(engine.num_sampled_tokens())
            not_needed = asyncio.ensure_future(draw(engine, 0, FREE))
            while engine.num_sampled_tokens() == counted[-1]:
                await asyncio.sleep(0.001)
            not_needed.cancel()
            await asyncio.gather(not_needed, return_exceptions=True)
            counted.append(engine.num_sampled_tokens())
            one_by_one = [await draw(engine, number, FREE) for number in reversed(range(6))]
            before = engine.num_sampled_tokens()
            cut = await asyncio.gather(*(draw(engine, number, CUT) for number in range(NUM_DRAWS)))
            counted_when_cut = engine.num_sampled_tokens() - before
            settings = [dataclasses.replace(FREE, **changes) for changes in ONE_TOKEN]
            greedy = [[await draw(engine, number, each) for number in range(6)] for each in settings]
            held_back = dataclasses.replace(FREE, presence_penalty=2.0)
            penalised = [await draw(engine, number, held_back) for number in range(6)]
            too_long = (
                await asyncio.gather(engine.sample([5] * chat.context_length, FREE, 0, "long"), return_exceptions=True)
            )[0]
            doomed = [asyncio.ensure_future(draw(engine, number, FREE)) for number in range(NUM_DRAWS)]
            await asyncio.sleep(0.2)
            for process in psutil.Process(os.getpid()).children(recursive=True):
                if "EngineCore" in " ".join(process.cmdline()):
                    process.kill()
            after_death: list[Any] = await asyncio.gather(*doomed, return_exceptions=True)
            after_death += await asyncio.gather(draw(engine, 0, FREE), return_exceptions=True)
        finally:
            engine.shutdown()
        assert isinstance(too_long, BaseException)
        return Sampled(
            chat,
            list(at_once),
            counted,
            one_by_one,
            list(cut),
            counted_when_cut,
            greedy,
            penalised,
            too_long,
            after_death,
        )

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(vllm_policy, "_LOOK_SECONDS", 0.02)  # the responses are short
        return asyncio.run(everything())


def test_tokens_are_counted_while_they_are_sampled(sampled: Sampled) -> None:
    *under_way, after, after_cancelling = sampled.counted
    assert after == sum(len(response.token_ids) for response in sampled.at_once)
    assert sampled.counted == sorted(sampled.counted)
    assert any(0 < count < after for count in under_way)
    assert after < after_cancelling, "what was sampled in vain counts too"


def test_a_draw_does_not_depend_on_what_else_is_in_the_batch(sampled: Sampled) -> None:
    assert sampled.one_by_one == sampled.at_once[5::-1]


def test_settings_reach_the_sampler(sampled: Sampled) -> None:
    at_temperature_0, *others = ([response.token_ids for response in drawn] for drawn in sampled.greedy)
    assert others == [at_temperature_0, at_temperature_0]
    assert sampled.penalised != sampled.at_once[:6]


def test_tokens_end_as_sampled(sampled: Sampled) -> None:
    """The end-of-turn token is there if the policy ended its turn, but not if it was cut off."""
    reasons = {response.finish_reason for response in sampled.at_once}
    assert reasons == {"stop", "length"}
    for response in sampled.at_once:
        ended = response.token_ids[-1] in sampled.chat.stop_token_ids
        assert ended == (response.finish_reason == "stop")
        assert sampled.chat.decode(response.token_ids) == response.text
        if not ended:
            assert len(response.token_ids) == FREE.max_tokens


def test_only_endless_repetition_is_cut_off(sampled: Sampled) -> None:
    pairs = list(zip(sampled.at_once, sampled.cut, strict=True))
    repeating = [(free, cut) for free, cut in pairs if cut.finish_reason == "repetition"]
    assert repeating, "the tiny policy loops now and then"
    for free, cut in repeating:
        assert cut.token_ids == free.token_ids[: len(cut.token_ids)], "the same draw, ended earlier"
        assert len(cut.token_ids) < len(free.token_ids)
        assert any(cut.token_ids[-16 * size :] == cut.token_ids[-size:] * 16 for size in range(4, 65)), (
            "it ends with 4 to 64 tokens sixteen times in a row"
        )
    assert all(free == cut for free, cut in pairs if cut.finish_reason != "repetition")
    num_free, num_cut = (sum(len(pair[index].token_ids) for pair in pairs) for index in (0, 1))
    assert num_cut <= sampled.counted_when_cut < num_free, "the engine stops soon after the cut"


def test_a_prompt_that_fills_the_context_is_refused(sampled: Sampled) -> None:
    assert isinstance(sampled.too_long, PromptTooLong)


def test_every_request_to_a_dead_engine_fails(sampled: Sampled) -> None:
    failed = [outcome for outcome in sampled.after_death if not isinstance(outcome, Response)]
    assert failed, "the engine was killed with requests in flight"
    assert {type(outcome) for outcome in failed} == {EngineDied}
    assert isinstance(sampled.after_death[-1], EngineDied), "and so do later requests"
