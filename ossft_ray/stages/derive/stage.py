"""`ossft derive`: make the run that other settings would have made, from recorded attempts, without one new token.

The attempts at each problem are replayed through `rewrite_problem`, the code that made them. The result is a run's
folder like any other.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from pyarrow import fs

from ossft_ray.common.errors import InputError
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Problem, RewriteResult, Stage
from ossft_ray.config import Experiment
from ossft_ray.distributed.progress import OnProgress, ignore
from ossft_ray.distributed.session import check_output
from ossft_ray.method.acceptance import Verify
from ossft_ray.method.rewriting import stage_prompt
from ossft_ray.run_folder.activity import recorded
from ossft_ray.run_folder.names import INPUT_MANIFEST, INPUTS, MANIFEST, PROBLEMS, REWRITE
from ossft_ray.run_folder.parts import write_part
from ossft_ray.run_folder.provenance import write_config
from ossft_ray.run_folder.stage_folder import changed_inputs, finish_stage
from ossft_ray.stages.derive.ablations import Ablation, find_ablation
from ossft_ray.stages.derive.replay import Unsampled, replay_problem
from ossft_ray.stages.derive.source import Source
from ossft_ray.stages.rewrite.ingest import InputManifest
from ossft_ray.stages.rewrite.inputs import without_unused
from ossft_ray.stages.rewrite.manifest import manifest_figures, part_counts
from ossft_ray.stages.rewrite.rows import part_rows
from ossft_ray.verification import Verdict, VerifierPool

DERIVED = "derived"  # in the manifest, and in the inputs of rows that no rewrite could have made


def derive(
    run: str, output: str, ablation: str, unsampled: Unsampled = "fallback", on_progress: OnProgress = ignore
) -> dict[str, Any]:
    """Write the run that an ablation of `run` would have made into the new folder `output`; returns its manifest.

    The manifest's `derived` says where it came from, and how many problems needed a stage that was `not_sampled` for
    them. The rows of all other problems are those of a fresh run with these settings and the same seed. If no
    problem needed such a stage, `ossft rewrite` with these settings takes the stage as complete.

    Args:
        run: the folder of a run whose rewriting is complete, a local path or an object-store URI.
        output: a folder that is new or empty, likewise.
        ablation: one of the names in `stages/derive/ablations.py`.
        unsampled: what becomes of problems that need a stage without samples: `fallback` or `drop`.
        on_progress: gets the `total` of parts, the `parts` done so far, and the `seconds` they took.

    Raises:
        InputError: `run` lacks a complete rewrite, or the attempts that the ablation needs; `output` is in use; or the
            policy's tokenizer cannot be loaded.
    """
    check_output(output)
    source = Source.open(run)
    chosen = find_ablation(ablation, source.experiment.rewrite, run)
    experiment = source.experiment.model_copy(
        update={
            "run": source.experiment.run.model_copy(update={"output": output}),
            "rewrite": chosen.apply(source.experiment.rewrite),
        }
    )
    inputs = without_unused(source.inputs | {"rewrite": {**source.inputs["rewrite"], **chosen.changes}})
    origin = {"from": run, "fingerprint": source.run_folder.rewrite_manifest["fingerprint"], "ablation": ablation}
    inputs_of_derived = inputs | {DERIVED: origin | {"unsampled": unsampled}}
    folder = _begin(output, inputs_of_derived)
    with recorded(folder):
        input_manifest = _copy_input(source, folder)
        not_sampled = asyncio.run(_write_parts(source, folder, chosen, experiment, unsampled, on_progress))
        if not (not_sampled or chosen.verifies_experts or DERIVED in source.inputs):  # as from a fresh run
            inputs_of_derived = inputs
            folder.write_json(INPUTS, inputs)
        figures = manifest_figures(folder, input_manifest)
        derived = origin | {"unsampled": unsampled, "not_sampled": dict(not_sampled)}
        manifest = finish_stage(folder, inputs_of_derived, figures | {DERIVED: derived})
        write_config(experiment, known=source.run_folder.config)
    return manifest


def _is_new(target: Folder) -> bool:
    """Whether there is nothing at this place, or an empty folder."""
    kind = target.filesystem.get_file_info(target.path).type
    return kind == fs.FileType.NotFound or (
        kind == fs.FileType.Directory and not target.filesystem.get_file_info(fs.FileSelector(target.path))
    )


def _begin(output: str, inputs: dict[str, Any]) -> Folder:
    """The new rewrite folder, with its inputs; replaces what a killed call with the same inputs left.

    Raises:
        InputError: the output is in use.
    """
    target = Folder.at(output)
    folder = target / REWRITE
    is_unfinished = folder.exists(INPUTS) and not folder.exists(MANIFEST) and not changed_inputs(folder, inputs)
    if is_unfinished:
        folder.delete()
    elif not _is_new(target):
        raise InputError(f"{output}: exists already; choose another folder for the derived run")
    folder.write_json(INPUTS, inputs)
    return folder


def _copy_input(source: Source, folder: Folder) -> InputManifest:
    """Copy the problems, and the rows of the input that were set aside or flagged."""
    for pattern in ("rejected-*.parquet", "flagged-*.parquet", INPUT_MANIFEST):
        for name in source.folder.names(pattern):
            folder.write_bytes(name, source.folder.read_bytes(name))
    for name in source.part_names:
        (folder / PROBLEMS).write_bytes(name, (source.folder / PROBLEMS).read_bytes(name))
    return InputManifest(**source.folder.read_json(INPUT_MANIFEST))


async def _write_parts(
    source: Source,
    folder: Folder,
    ablation: Ablation,
    experiment: Experiment,
    unsampled: Unsampled,
    on_progress: OnProgress,
) -> Counter[str]:
    """Replay every part and write it; counts the problems that need a stage without samples, by that stage."""
    not_sampled: Counter[str] = Counter()
    with VerifierPool(experiment.verify) as pool:
        verify = verify_with(pool)
        for name in with_progress(source.part_names, on_progress):
            started = time.time()
            problems, settings = source.read_part(name), source.experiment.rewrite
            replays = (replay_problem(*each, ablation, settings, verify, unsampled) for each in problems)
            replayed = await asyncio.gather(*replays)
            not_sampled.update(each.not_sampled for each in replayed if each.not_sampled)
            results = [(problem, each.result) for (problem, _), each in zip(problems, replayed, strict=True)]
            await _write_part(source, folder, name, results, experiment, verify, started)
    return not_sampled


async def _write_part(
    source: Source,
    folder: Folder,
    name: str,
    results: list[tuple[Problem, RewriteResult]],
    experiment: Experiment,
    verify: Verify,
    started: float,
) -> None:
    chat = source.run.chat

    async def prompt_tokens(problem: Problem, stage: Stage) -> int:
        return len(chat.render(stage_prompt(stage, problem, experiment.rewrite, experiment.prompts)))

    counts = await part_counts(results, prompt_tokens, verify, experiment.rewrite.stages)
    examples, dropped, appended = part_rows(results, chat, experiment)
    counts |= {"answers_appended": appended, "started": started, "ended": time.time()}
    write_part(folder, name, examples, dropped, counts)


def with_progress(parts: list[str], on_progress: OnProgress) -> Iterator[str]:
    """The names of parts; reports how many are done."""
    started = time.monotonic()
    for number, part in enumerate(parts):
        yield part
        on_progress({"parts": number + 1, "total": len(parts), "seconds": time.monotonic() - started})


def verify_with(pool: VerifierPool) -> Verify:
    """The pool's verifier as rewriting calls it."""

    async def verify(problem: Problem, response: str) -> Verdict:
        return await pool.verify(problem.answer, response, problem.question, problem.verifier)

    return verify
