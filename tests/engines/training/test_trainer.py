"""The trainer without Ray: worker processes of one process group train one setting after another."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow import fs
from transformers import AutoModelForCausalLM

from ossft_ray.common.storage import Folder
from ossft_ray.common.types import ORIGINS
from ossft_ray.config import Idft, Lora, Policy, Power, Psft, Train
from ossft_ray.engines.training.batches import Examples, TokenizedExample
from ossft_ray.engines.training.saving import TAG, export_model, load_state, save_state
from ossft_ray.engines.training.trainer import Trainer
from ossft_ray.policy.chat import load_chat
from ossft_ray.run_folder.names import COMPLETE
from ossft_ray.stages.train.checkpoints import UNIVERSAL, make_universal, node_copy
from tests.engines.process_group import join_group, run_in_group
from tests.engines.training.plain_training import train_plainly

pytestmark = pytest.mark.engine

SEED = 3
SETTINGS = Train(
    loss="sft", learning_rate=1e-3, global_batch_size=8, epochs=2, max_length=256, precision="fp32", zero_stage=2
)
FULL, PACKED, TINY = {}, {"micro_batch_tokens": 300}, {"micro_batch_tokens": 60}
PADDED, RECOMPUTED = {"packing": False}, {"activation_checkpointing": True}
ADAPTERS = Lora(rank=4, alpha=16.0)
MOVED = {"psft": {"psft": Psft(clip=0.28, refresh_every=4)}}  # a refresh in the middle of an epoch
# every loss, and every way of splitting the work with a weighted loss, so that a path without the weight is found
VARIANTS: dict[int, list[dict[str, Any]]] = {  # by number of workers
    1: [
        {"zero_stage": 0, **FULL},
        {"zero_stage": 0, **PADDED, "micro_batch_tokens": 500, "loss": "dft"},
        {"zero_stage": 2, **TINY, "loss": "dft", "mean_over": 3, "warmup_from_zero": True, "warmup_ratio": 0.5},
        {"zero_stage": 2, **FULL, "loss": "iw_sft"},
        {"zero_stage": 1, **PACKED, **RECOMPUTED, "loss": "eaft"},
        # at k = 10 these unlikely tokens have gradients as small as rounding errors, which Adam amplifies
        {"zero_stage": 3, **PACKED, "offload": "all", "loss": "power", "power": Power(k=2.0)},
        {"zero_stage": 2, **PACKED, "offload": "optimizer", "loss": "trsft"},
        {"zero_stage": 0, **PACKED, "lora": ADAPTERS, "loss": "dft"},
        {"zero_stage": 2, **PADDED, "loss": "dft", "weigh": "problems"},
        {"zero_stage": 2, **PACKED, "loss": "prift_prob"},
        {"zero_stage": 2, **TINY, "loss": "infosft"},
        {"zero_stage": 0, **PADDED, "loss": "deft"},
    ],
    2: [
        {"zero_stage": 0, **PADDED},
        {"zero_stage": 1, **PACKED, "loss": "dft"},
        {"zero_stage": 2, **FULL, "loss": "dft"},
        {"zero_stage": 3, **TINY, "loss": "iw_sft", "mean_over": 3},
        {"zero_stage": 3, **PADDED, **RECOMPUTED, "loss": "dft"},
        {"zero_stage": 0, **PACKED, "loss": "psft", **MOVED["psft"]},
        {"zero_stage": 3, **PACKED, "loss": "psft", **MOVED["psft"]},
        {"zero_stage": 2, **PADDED, "loss": "dft_k3"},
        {"zero_stage": 3, **PACKED, "loss": "idft_v1"},
        {"zero_stage": 1, **TINY, "loss": "idft", "idft": Idft(max_gamma=1.2)},  # at γ = 2 as for power
        {"zero_stage": 2, **PACKED, "loss": "is"},
        {"zero_stage": 2, **PACKED, "loss": "opd"},
        {"zero_stage": 2, **PACKED, "loss": "dft", "weigh": "problems"},
        {"zero_stage": 3, **TINY, "loss": "iw_sft", "weigh": "problems"},
        {"zero_stage": 2, **PADDED, "lora": ADAPTERS, "loss": "dft"},
        {"zero_stage": 3, **PACKED, **RECOMPUTED, "lora": ADAPTERS, "loss": "dft"},
    ],
}


def make_examples() -> Examples:
    """22 examples, so that the last batch is partial, with very different lengths, of all origins."""
    rng = np.random.default_rng(7)
    prompts = [rng.integers(3, 40, int(rng.integers(5, 60))).tolist() for _ in range(22)]
    responses = [rng.integers(3, 40, int(rng.integers(1, 120))).tolist() for _ in range(22)]
    given = [[(-4 * rng.random(len(response))).tolist() for response in responses] for _ in range(3)]
    origins = [ORIGINS[index % 3] for index in range(22)]
    names = [f"problem-{index % 15 if index < 20 else 0}" for index in range(22)]  # one to four examples each
    return Examples.build(list(map(TokenizedExample, names, prompts, responses, origins, *given)))


def run_workers(num_workers: int, folder: Path, variants: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Train each variant of SETTINGS, see `_worker`; returns the metrics of worker 0."""
    folder.mkdir()
    run_in_group(_worker, num_workers, num_workers, folder, variants)
    return json.loads((folder / "measured.json").read_text())


def in_a_store(path: str | Path) -> Folder:
    """A folder as in an object store, which workers copy from."""
    return Folder(fs.SubTreeFileSystem(str(Path(path).parent), fs.LocalFileSystem()), Path(path).name)


def _worker(rank: int, num_workers: int, folder: Path, variants: list[dict[str, Any]]) -> None:
    """A variant may `save` a checkpoint after step 3 and end, `load` one, `resume` in a new engine, or `export`."""
    join_group(rank, num_workers, folder)
    measured, token = [], str(folder.stat().st_ino)
    for number, variant in enumerate(variants):
        ours = {key: value for key, value in variant.items() if key not in ("resume", "save", "load", "export")}
        settings = SETTINGS.model_copy(update=ours)
        loads = variant.get("load")
        trainer = Trainer(Policy(model="playground"), settings, SEED, make_examples(), universal=loads is not None)
        if loads is not None:
            with node_copy(in_a_store(loads), rank, True, token) as copy:
                load_state(trainer, copy, copy / UNIVERSAL)
        steps = []
        for metrics in trainer.steps():
            steps.append(metrics)
            if ("save" in variant or variant.get("resume")) and trainer.step == 3:
                state = Path(variant.get("save", folder / f"checkpoint-{number}"))
                save_state(trainer, state)
                torch.distributed.barrier()
                break
        if "export" in variant:
            export_model(trainer, Path(variant["export"]), load_chat(Policy(model="playground")))
        if variant.get("resume"):
            trainer = Trainer(Policy(model="playground"), settings, SEED, make_examples())
            with node_copy(in_a_store(state), rank, False, token) as copy:
                torch.distributed.barrier()
                load_state(trainer, copy)
            steps += trainer.steps()
        measured.append(steps)
    if rank == 0:
        (folder / "measured.json").write_text(json.dumps(measured))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("num_workers", [1, 2])
def test_learning_equals_plain_training_however_the_work_is_split(num_workers: int, tmp_path: Path) -> None:
    """Same losses and gradient norms for each loss, ZeRO stage, packing, micro-batch size and number of workers."""
    for variant, steps in zip(
        VARIANTS[num_workers], run_workers(num_workers, tmp_path / "run", VARIANTS[num_workers]), strict=True
    ):
        expected = train_plainly(SETTINGS.model_copy(update=variant), SEED, make_examples())
        assert [step["step"] for step in steps] == [1, 2, 3, 4, 5, 6]
        assert [step["epoch"] for step in steps] == [1, 1, 1, 2, 2, 2]
        assert [step["num_examples"] for step in steps] == [8, 8, 6, 8, 8, 6]
        for name in ("loss", "cross_entropy", "grad_norm"):
            ours, theirs = ([step[name] for step in curve] for curve in (steps, expected))
            largest = max(map(abs, theirs))  # idft_v1's loss passes through zero
            assert ours == pytest.approx(theirs, rel=3e-4, abs=3e-4 * largest), (variant, name)
        assert all((step["padding_share"] > 0) == (variant.get("packing") is False) for step in steps), variant


def test_resumed_training_equals_undisturbed_training_bit_for_bit(tmp_path: Path) -> None:
    stages = [{"zero_stage": stage} for stage in (0, 2, 3)] + [{"zero_stage": 2, "precision": "bf16"}]
    stages += [{"zero_stage": 2, "loss": "psft"}]  # the checkpoint lies between two refreshes
    variants = [variant | resume for variant in stages for resume in ({}, {"resume": True})]
    curves = run_workers(2, tmp_path / "run", variants)
    for undisturbed, resumed, variant in zip(curves[::2], curves[1::2], stages, strict=True):
        for name in ("step", "loss", "cross_entropy", "grad_norm", "learning_rate"):
            assert [step[name] for step in resumed] == [step[name] for step in undisturbed], (variant, name)


@pytest.mark.long
@pytest.mark.parametrize("before, after", [(2, 1), (1, 2)])
def test_training_resumes_with_a_different_number_of_workers(tmp_path: Path, before: int, after: int) -> None:
    """Within 1e-4 at each ZeRO stage: the number of workers changes only the order of sums."""
    variants = [{"zero_stage": stage, "loss": "dft", "learning_rate": 1e-4} for stage in (1, 2, 3)]
    saving = [variant | {"save": str(tmp_path / f"stage-{variant['zero_stage']}")} for variant in variants]
    run_workers(before, tmp_path / "before", saving)
    for variant in saving:
        state = Folder.at(variant["save"])
        state.write_json(COMPLETE, {})
        make_universal(state, TAG)
    resuming = [variant | {"load": save["save"]} for variant, save in zip(variants, saving, strict=True)]
    curves = run_workers(after, tmp_path / "after", resuming)
    for variant, undisturbed, resumed in zip(
        variants, run_workers(after, tmp_path / "plain", variants), curves, strict=True
    ):
        assert [step["step"] for step in resumed] == [4, 5, 6]
        for name in ("loss", "cross_entropy", "grad_norm", "learning_rate"):
            ours, theirs = ([step[name] for step in curve[-3:]] for curve in (resumed, undisturbed))
            assert ours == pytest.approx(theirs, rel=1e-4), (variant, name)


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_weights_without_float32_copies_learn_and_resume(tmp_path: Path, zero_stage: int) -> None:
    """As in the authors' trainer. At their rate bf16 rounds away many updates, so the curve differs."""
    bf16 = {"zero_stage": zero_stage, "precision": "bf16", "loss": "dft", "learning_rate": 5e-5}
    half = bf16 | {"master_weights": "bf16"}
    with_copies, without, resumed = run_workers(1, tmp_path / "run", [bf16, half, half | {"resume": True}])
    assert without[0]["loss"] == pytest.approx(with_copies[0]["loss"], rel=1e-6)
    assert without[-1]["loss"] != pytest.approx(with_copies[-1]["loss"], rel=0.02)
    assert [step["loss"] for step in resumed] == pytest.approx([step["loss"] for step in without], rel=1e-4)


@pytest.mark.parametrize("loss", ["sft", "dft"])
def test_bf16_stages_agree(tmp_path: Path, loss: str) -> None:
    learning = {"loss": loss, "learning_rate": 1e-4}
    variants = [{"zero_stage": stage, "precision": "bf16", **learning} for stage in (0, 1, 2, 3)]
    variants[-1] |= {"export": str(tmp_path / "model")}
    curves = run_workers(1, tmp_path / "run", variants)
    plain = train_plainly(SETTINGS.model_copy(update=learning), SEED, make_examples())
    expected = [step["loss"] for step in plain]
    losses = [[step["loss"] for step in curve] for curve in curves]
    for variant, found in zip(variants, losses, strict=True):
        assert found[0] == pytest.approx(expected[0], rel=0.01), variant
        assert found == pytest.approx(losses[0], rel=0.04), variant
        # in fp32: how far bf16's rounding moves a curve away from it depends on the processor's kernels
        assert found == pytest.approx(expected, rel=0.1), variant
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="auto")
    assert exported.dtype == torch.bfloat16
    num_bytes = 2 * sum(parameter.numel() for parameter in exported.parameters())  # the tied table once
    assert num_bytes <= (tmp_path / "model/model.safetensors").stat().st_size < 1.02 * num_bytes


def test_a_loss_that_is_not_finite_stops_every_worker_and_names_the_step_and_its_problems(tmp_path: Path) -> None:
    message = r"JobError: train: the (loss|gradient norm) of step \d+ is (nan|inf); its problems: problem-\d+, "
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match=message):
        run_workers(2, tmp_path / "run", [{"learning_rate": 1e36, "weight_decay": 0.0}])


def _measure_holdout(rank: int, folder: Path) -> None:
    """Fails unless all micro-batches of the holdout look up their reference in one and the same array."""
    join_group(rank, 1, folder)
    settings = SETTINGS.model_copy(update={"loss": "iw_sft", **TINY})
    trainer = Trainer(Policy(model="playground"), settings, SEED, make_examples(), holdout=make_examples())
    references: list[torch.Tensor] = []  # keeps them alive, so that no two can lie at one address
    forward = trainer._runner.forward

    def watched(examples: Examples, batch: Any, rows: Any, reference: torch.Tensor, *rest: Any) -> Any:
        references.append(reference)
        return forward(examples, batch, rows, reference, *rest)

    trainer._runner.forward = watched  # type: ignore[method-assign]
    measured = trainer.measure_holdout()
    assert measured.keys() == {"holdout_loss", "holdout_cross_entropy", "holdout_mean_token_probability"}
    assert len(references) > 10 and len({reference.data_ptr() for reference in references}) == 1
    torch.distributed.destroy_process_group()


def test_the_holdouts_reference_is_not_copied_for_each_micro_batch(tmp_path: Path) -> None:
    run_in_group(_measure_holdout, 1, tmp_path)
