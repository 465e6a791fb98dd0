"""The parroting probe in a whole rewrite: it detects a policy that repeats its guide, and changes no row."""

from pathlib import Path
from typing import Any

import pytest
import ray.cloudpickle

from ossft_ray.common.types import Response
from ossft_ray.config import Policy
from ossft_ray.engines.vllm_policy import Sampling
from ossft_ray.policy.chat import load_chat
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.stages.rewrite.inputs import rewrite_inputs
from ossft_ray.stages.rewrite.stage import rewrite
from ossft_ray.stages.rewrite.worker import RewriteWorker
from ossft_ray.terminal.results import parroting_lines
from ossft_ray.verification import final_answer
from tests.stages import scripted
from tests.stages.scripted import DicePolicy, DiceWorker, experiment, rows_by_id

ray.cloudpickle.register_pickle_by_value(scripted)
pytestmark = pytest.mark.usefixtures("ray_cluster")


class ParrotPolicy(DicePolicy):
    """Repeats the answer of its guide."""

    async def sample(self, prompt_ids: list[int], sampling: Sampling, seed: int, request_id: str) -> Response:
        if not request_id.endswith("/parroting"):
            return await super().sample(prompt_ids, sampling, seed, request_id)
        prompt = load_chat(Policy(model="playground")).decode(prompt_ids).partition("Here is a reference")[2]
        return Response(rf"It is \boxed{{{final_answer(prompt)}}}.", [1, 2], "stop")


class ParrotWorker(DiceWorker):
    def start_policy(self) -> Any:
        return ParrotPolicy()


ray.cloudpickle.register_pickle_by_value(__import__(__name__))


@pytest.mark.long
def test_a_parroting_policy_is_detected_and_rows_stay_the_same(tmp_path: Path) -> None:
    plain, probed = experiment(str(tmp_path / "plain")), experiment(str(tmp_path / "probed"))
    probed = probed.model_copy(update={"rewrite": probed.rewrite.model_copy(update={"parroting_probe": 12})})
    assert "parroting" not in rewrite(plain, worker=ParrotWorker)
    manifest = rewrite(probed, worker=ParrotWorker)
    found = manifest["parroting"]
    assert (found["problems"], found["samples"], found["followed"], found["followed_share"]) == (12, 12, 12, 1.0)
    assert "12 of 12" in parroting_lines(manifest)[0]
    assert rows_by_id(plain) == rows_by_id(probed)
    assert rewrite(probed, worker=ParrotWorker) == manifest


@pytest.mark.long
def test_the_playgrounds_policy_parrots_in_part(tmp_path: Path) -> None:
    settings = experiment(
        str(tmp_path / "run"), 24, rewrite={"parroting_probe": 16, "guided_alignment": {"max_tokens": 96}}
    )
    found = rewrite(settings, worker=RewriteWorker)["parroting"]
    assert (found["problems"], found["samples"], found["skipped"]) == (16, 16, 0)
    assert found["followed"] + found["correct"] + found["other"] == 16
    assert (
        found["followed"] > 0
    )  # the playground's policy follows the guide: 8 of 16 when this was written, none of them right


@pytest.mark.parametrize("probe, is_named", [(0, False), (8, True)])
def test_the_probe_is_in_the_fingerprint_only_if_it_is_on(tmp_path: Path, probe: int, is_named: bool) -> None:
    settings = experiment(str(tmp_path / "run"), 4, rewrite={"parroting_probe": probe})
    assert ("parroting_probe" in rewrite_inputs(Run(settings))["rewrite"]) == is_named
