"""Tokens a second of `ossft rewrite` compared with vLLM alone, on the same requests and engine settings.

    python benchmarks/rollout.py [--requests 384] [--samples 4] [--rounds 3]
    python benchmarks/rollout.py --model FOLDER --requests 256 1024 --rounds 1 --methods raw_vllm ossft_rewrite
    python benchmarks/rollout.py --model FOLDER --gpus-per-policy 0.5 --methods ossft_rewrite    # two on one GPU

The methods sample the same responses (same prompts, seeds and limits), one after the other in separate processes, for
several rounds: `AsyncLLM` with all requests at once, without and with vLLM's own check for repetition; `LLM.generate`;
`ossft rewrite` (exhaustive, one stage, with our check, verification and writing); Ray's `ray.data.llm` processor. The
clock runs from the first request to a loaded engine until the last response. The default model is random, and large
enough that the engine dominates on a CPU. A method that fails is reported and left out. Each figure is printed as soon
as it is known. The last line is a JSON object, by the number of requests; ratios are medians over rounds.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ossft_ray.common import playground_paths
from ossft_ray.common.errors import telling_sentence
from ossft_ray.config import Experiment, load_experiment
from ossft_ray.engines.vllm_policy import engine_settings
from ossft_ray.method.prompts import solve_prompt
from ossft_ray.method.rewriting import derive_seed
from ossft_ray.playground.arithmetic import training_problems
from ossft_ray.policy.chat import Chat, load_chat

METHODS = ("raw_vllm", "raw_vllm_checked", "llm_generate", "ossft_rewrite", "ray_data_llm")
OURS = "ossft_rewrite"
FIGURES = "figures.json"
MAX_TOKENS = 400
MAX_NUM_SEQS = 64


def make_model(folder: Path) -> None:
    """A random Qwen2 of 17 million parameters over the playground's alphabet; responses end at random."""
    import shutil

    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    for file in playground_paths.POLICY_FOLDER.iterdir():
        if file.suffix in (".json", ".jinja") and file.name not in ("config.json", "generation_config.json"):
            shutil.copy(file, folder)
    settings = json.loads((playground_paths.POLICY_FOLDER / "config.json").read_text())
    settings |= {
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 8,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "layer_types": ["full_attention"] * 8,
        "max_window_layers": 8,
    }
    torch.manual_seed(0)
    Qwen2ForCausalLM(Qwen2Config(**settings)).to(torch.bfloat16).save_pretrained(folder)


def make_experiment(
    folder: Path, model: str | None, num_requests: int, num_samples: int, gpus_per_policy: float | None
) -> Path:
    if model is None and not (folder / "model").is_dir():
        (folder / "model").mkdir()
        make_model(folder / "model")
    resources = f"[resources]\ngpus_per_policy = {gpus_per_policy}" if gpus_per_policy is not None else ""
    engine = f"engine = {{ max_num_seqs = {MAX_NUM_SEQS} }}" if model is None else ""
    rows = (json.dumps(row) for row in training_problems(num_requests // num_samples, seed=1))
    (folder / "problems.jsonl").write_text("\n".join(rows))
    config = folder / "experiment.toml"
    config.write_text(f"""
[run]
output = "{folder}/run"
[policy]
model = "{model or folder / "model"}"
dtype = "bfloat16"
{engine}
[data]
path = "{folder}/problems.jsonl"
columns = {{ question = "question", expert_solution = "expert_solution" }}
[rewrite]
stages = ["self"]
exhaustive = true
self_alignment = {{ num_samples = {num_samples}, max_tokens = {MAX_TOKENS} }}
{resources}
""")
    return config


def requests(experiment: Experiment, chat: Chat, checked: bool = False) -> list[tuple[list[int], dict[str, Any]]]:
    """The prompts and sampling parameters of `ossft rewrite`; with `checked`, vLLM looks for repetition."""
    from vllm.sampling_params import RepetitionDetectionParams

    settings, found = experiment.rewrite, []
    for row in map(json.loads, Path(str(experiment.data.path)).read_text().splitlines()):
        prompt_ids = chat.render(solve_prompt(row["question"]))
        for index in range(settings.self_alignment.num_samples):
            parameters: dict[str, Any] = {
                "temperature": 1.0,
                "max_tokens": MAX_TOKENS,
                "seed": derive_seed(experiment.run.seed, row["id"], "self", index),
                "stop_token_ids": chat.stop_token_ids,
                "detokenize": False,
            }
            if checked:
                parameters["repetition_detection"] = RepetitionDetectionParams(64, 4, settings.max_repeats)
            found.append((prompt_ids, parameters))
    return found


def raw_vllm_checked(experiment: Experiment, chat: Chat) -> tuple[int, float]:
    return raw_vllm(experiment, chat, checked=True)


def raw_vllm(experiment: Experiment, chat: Chat, checked: bool = False) -> tuple[int, float]:
    from vllm import SamplingParams, TokensPrompt
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.sampling_params import RequestOutputKind
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    async def all_at_once() -> tuple[int, float]:
        arguments = AsyncEngineArgs(**engine_settings(experiment.policy, chat))
        engine = AsyncLLM.from_engine_args(arguments, usage_context=UsageContext.LLM_CLASS)

        async def one(number: int, prompt_ids: list[int], parameters: dict[str, Any]) -> int:
            settings = SamplingParams(**parameters, output_kind=RequestOutputKind.FINAL_ONLY)
            stream = engine.generate(TokensPrompt(prompt_token_ids=prompt_ids), settings, str(number))
            (output,) = [output async for output in stream]
            return len(output.outputs[0].token_ids)

        all_requests = requests(experiment, chat, checked)
        began = time.monotonic()
        lengths = await asyncio.gather(*(one(number, *request) for number, request in enumerate(all_requests)))
        seconds = time.monotonic() - began
        engine.shutdown()
        return sum(lengths), seconds

    return asyncio.run(all_at_once())


def llm_generate(experiment: Experiment, chat: Chat) -> tuple[int, float]:
    from vllm import LLM, SamplingParams, TokensPrompt

    settings = engine_settings(experiment.policy, chat)
    engine = LLM(**settings)
    all_requests = requests(experiment, chat)
    prompts = [TokensPrompt(prompt_token_ids=prompt_ids) for prompt_ids, _ in all_requests]
    parameters = [SamplingParams(**values) for _, values in all_requests]
    began = time.monotonic()
    outputs = engine.generate(prompts, parameters, use_tqdm=False)
    return sum(len(output.outputs[0].token_ids) for output in outputs), time.monotonic() - began


def ossft_rewrite(experiment: Experiment, chat: Chat) -> tuple[int, float]:
    from ossft_ray.stages.rewrite.stage import rewrite

    manifest = rewrite(experiment, start_over=True)
    return manifest["generated_tokens"], manifest["phases"]["sampling"]


def ray_data_llm(experiment: Experiment, chat: Chat) -> tuple[int, float]:
    import ray
    import torch
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    from ossft_ray.distributed.session import start_ray

    settings = engine_settings(experiment.policy, chat)  # sets variables that Ray's workers must inherit
    start_ray(experiment)
    config = vLLMEngineProcessorConfig(
        model_source=settings.pop("model"),
        engine_kwargs=settings,
        batch_size=16,
        max_concurrent_batches=64,
        concurrency=1,
        log_engine_metrics=False,
        placement_group_config=None if torch.cuda.is_available() else {"bundles": [{"CPU": 1}]},
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
    )
    processor = build_processor(
        config,
        preprocess=lambda row: {
            "prompt": "",
            "tokenized_prompt": row["prompt_ids"],
            "sampling_params": json.loads(row["parameters"]),
        },
        postprocess=lambda row: {
            "num_tokens": row["num_generated_tokens"],
            "seconds": row["time_taken_llm"],
            "batch": row["batch_uuid"],
            "ended": time.time(),
        },
    )
    rows = [
        {"prompt_ids": prompt_ids, "parameters": json.dumps(parameters, default=vars)}
        for prompt_ids, parameters in requests(experiment, chat)
    ]
    done = processor(ray.data.from_items(rows, override_num_blocks=-(-len(rows) // 16))).take_all()
    batches: dict[str, list[dict[str, Any]]] = {}
    for row in done:
        batches.setdefault(row["batch"], []).append(row)
    # A batch ends with its slowest request, so it began that request's duration before its end.
    ends = {batch: min(row["ended"] for row in of_batch) for batch, of_batch in batches.items()}
    began = min(ends[batch] - max(row["seconds"] for row in of_batch) for batch, of_batch in batches.items())
    return sum(row["num_tokens"] for row in done), max(ends.values()) - began


def measure(method: str, config: Path) -> dict[str, float] | None:
    """One measurement in a new process; None, after a line that says why, if it fails."""
    command = [sys.executable, __file__, "--only", method, "--config", str(config)]
    with (config.parent / f"{method}.log").open("a") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        output = (config.parent / f"{method}.log").read_text()
        print(f"{method} failed: {telling_sentence(output) or output[-2000:]}", flush=True)
        return None
    figures: dict[str, float] = json.loads((config.parent / FIGURES).read_text())
    return figures


def compare(methods: list[str], config: Path, num_rounds: int) -> dict[str, Any]:
    """Tokens a second of all methods, and the ratios of ours to the others'."""
    rates: dict[str, list[float]] = {method: [] for method in methods}
    for number in range(num_rounds):
        for method in methods if number % 2 == 0 else reversed(methods):
            if (figures := measure(method, config)) is None:
                continue
            rates[method].append(figures["tokens"] / figures["seconds"])
            print(
                f"round {number + 1}  {method:<16} {figures['tokens']:>8} tokens in {figures['seconds']:6.1f} s  "
                f"{rates[method][-1]:7.0f} tokens/s",
                flush=True,
            )
    found: dict[str, Any] = {method: round(statistics.median(each)) for method, each in rates.items() if each}
    for method in found.keys() - {OURS} if OURS in found else ():
        pairs = zip(rates[OURS], rates[method], strict=False)
        found[f"ratio_to_{method}"] = round(statistics.median(ours / other for ours, other in pairs), 3)
    return dict(sorted(found.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", help="a Hugging Face folder or Hub id; by default a random model is made")
    parser.add_argument("--requests", type=int, nargs="+", default=[384], help="responses, once for each number")
    parser.add_argument("--samples", type=int, default=4, help="responses of a problem")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=list(METHODS))
    parser.add_argument("--gpus-per-policy", type=float, help="for ossft_rewrite; 0.5: two engines on each GPU")
    parser.add_argument("--only", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--config", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        experiment = load_experiment(arguments.config)
        tokens, seconds = globals()[arguments.only](experiment, load_chat(experiment.policy))
        figures = {"tokens": tokens, "seconds": seconds}
        (arguments.config.parent / FIGURES).write_text(json.dumps(figures))
        return

    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for num_requests in arguments.requests:
            config = make_experiment(
                Path(folder), arguments.model, num_requests, arguments.samples, arguments.gpus_per_policy
            )
            print(f"{num_requests} requests", flush=True)
            results[num_requests] = compare(arguments.methods, config, arguments.rounds)
            print(json.dumps(results), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    main()
