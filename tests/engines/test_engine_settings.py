"""vLLM's engine arguments: ours for the machine, overridden by the user's `[policy.engine]`."""

import os
from pathlib import Path
from typing import Any

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.config import Policy, resolve
from ossft_ray.engines import vllm_policy
from ossft_ray.engines.in_flight import problems_in_flight
from ossft_ray.policy.chat import load_chat
from ossft_ray.policy.model_location import model_digest


def lora(folder: Path, rank: int) -> str:
    (folder / "adapter_config.json").write_text(f'{{"r": {rank}}}')
    return str(folder)


@pytest.mark.parametrize(
    "policy, has_gpu, expected",
    [
        ({}, True, {"dtype": "auto", "max_model_len": 2048}),
        ({}, False, {"enforce_eager": True, "enable_chunked_prefill": False}),
        ({"dtype": "float16"}, True, {"dtype": "float16"}),
        (
            {"engine": {"quantization": "fp8", "max_model_len": 300}},
            True,
            {"quantization": "fp8", "max_model_len": 300},
        ),
        ({"engine": {"enforce_eager": False}}, False, {"enforce_eager": False}),
    ],
    ids=["GPU", "CPU", "dtype", "any argument", "[policy.engine] overrides ours"],
)
def test_engine_settings(
    policy: dict[str, Any], has_gpu: bool, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_policy, "_has_gpu", lambda: has_gpu)
    settings = Policy(model="playground", **policy)
    arguments = vllm_policy.engine_settings(settings, load_chat(settings))
    assert {name: arguments.get(name) for name in expected} == expected
    assert ("enforce_eager" in arguments) == (not has_gpu), "on a GPU, vLLM decides about CUDA graphs"


@pytest.mark.parametrize("rank, max_rank", [(4, 8), (16, 16), (100, 128)])
def test_the_maximum_rank_fits_the_lora_adapter(rank: int, max_rank: int, tmp_path: Path) -> None:
    settings = Policy(model="playground", lora=lora(tmp_path, rank))
    arguments = vllm_policy.engine_settings(settings, load_chat(settings))
    assert (arguments["enable_lora"], arguments["max_lora_rank"]) == (True, max_rank)
    assert model_digest(settings) != model_digest(Policy(model="playground")), "another policy, another fingerprint"


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lora: .* holds no adapter_config\.json"):
        load_chat(Policy(model="playground", lora=str(tmp_path)))


@pytest.mark.parametrize(
    "has_gpu, engine, expected",
    [(False, {}, "1"), (True, {}, None), (False, {"enforce_eager": False}, None)],
    ids=["eager on a CPU", "GPU", "compiled on a CPU"],
)
def test_an_eager_engine_on_a_cpu_compiles_nothing(
    has_gpu: bool, engine: dict[str, Any], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "")
    monkeypatch.delenv("TORCH_COMPILE_DISABLE")
    monkeypatch.setattr(vllm_policy, "_has_gpu", lambda: has_gpu)
    settings = Policy(model="playground", engine=engine)
    vllm_policy.engine_settings(settings, load_chat(settings))
    assert os.environ.get("TORCH_COMPILE_DISABLE") == expected


@pytest.mark.parametrize("has_gpu", [True, False])
def test_batch_invariance_is_requested_on_a_gpu(has_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "0")
    monkeypatch.setattr(vllm_policy, "_has_gpu", lambda: has_gpu)
    settings = Policy(model="playground", batch_invariant=True)
    vllm_policy.engine_settings(settings, load_chat(settings))
    assert os.environ["VLLM_BATCH_INVARIANT"] == ("1" if has_gpu else "0")


@pytest.mark.parametrize(
    "resources, engine, expected",
    [({}, {"max_num_seqs": 64}, 80), ({"problems_in_flight": 7}, {"max_num_seqs": 64}, 7)],
    ids=["auto", "as set"],
)
def test_the_window_is_a_quarter_larger_than_the_batch(resources: Any, engine: Any, expected: int) -> None:
    settings = {
        "policy": {"model": "playground", "engine": engine},
        "data": {"path": "p.jsonl"},
        "resources": resources,
    }
    assert problems_in_flight(resolve(settings)) == expected
