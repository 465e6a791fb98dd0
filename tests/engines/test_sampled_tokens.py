"""The count of sampled tokens, without an engine."""

from types import SimpleNamespace
from typing import Any

from ossft_ray.engines.vllm_policy import VllmPolicy


def state(request_id: str, num_tokens: int) -> Any:
    detokenizer = SimpleNamespace(num_output_tokens=lambda: num_tokens)
    return SimpleNamespace(external_req_id=request_id, detokenizer=detokenizer)


def test_a_request_counts_between_its_end_in_vllm_and_its_response() -> None:
    policy: Any = VllmPolicy.__new__(VllmPolicy)
    policy._num_ended, policy._states = 10, {}
    under_way = {"internal-1": state("1", 5), "internal-2": state("2", 7)}
    policy._engine = SimpleNamespace(output_processor=SimpleNamespace(request_states=under_way))
    assert policy.num_sampled_tokens() == 22
    del under_way["internal-2"]
    assert policy.num_sampled_tokens() == 22, "vLLM has finished it, and `sample` has not returned yet"
