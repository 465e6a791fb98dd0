"""The ablations that one rewrite's attempts allow: `[rewrite]` settings that need only samples that were drawn."""

import re
from dataclasses import dataclass, field
from typing import Any

from ossft_ray.common.errors import InputError
from ossft_ray.config import Rewrite

FULL = "full"
_FEW = 8  # numbers of self samples that the table lists one by one; above, it doubles them
_SELF_SAMPLES = re.compile(r"self_([1-9]\d*)")


@dataclass(frozen=True, eq=False)
class Ablation:
    """A change of a run's `[rewrite]` settings.

    `verifies_experts` keeps an expert's solution only if the verifier accepts it.
    """

    name: str
    changes: dict[str, Any] = field(default_factory=dict)  # by key of [rewrite]
    verifies_experts: bool = False

    def apply(self, settings: Rewrite) -> Rewrite:
        return Rewrite.model_validate({**settings.model_dump(mode="json"), **self.changes})


def ablations(settings: Rewrite) -> dict[str, Ablation]:
    """All ablations of a run with these settings by name, in the order of the table.

    | name                 | what is kept                                                                    |
    |----------------------|---------------------------------------------------------------------------------|
    | `full`               | what the run itself kept                                                        |
    | `self_N`             | as `full` with at most N samples in the self stage                              |
    | `no_guided`          | as `full` without the guided stage                                              |
    | `no_self`            | as `full` without the self stage; likewise `no_external`                        |
    | `rejection_sampling` | self responses; unsolved problems are dropped                                   |
    | `experts`            | every expert solution                                                           |
    | `verified_experts`   | the expert solutions that the verifier takes as correct; the others are dropped |
    """
    found = [Ablation(FULL)] if settings.stages else []
    has_self = "self" in settings.stages
    if has_self:
        most = settings.self_alignment.num_samples
        numbers = [*range(1, min(most, _FEW) + 1)]
        while numbers[-1] < most:
            numbers.append(min(2 * numbers[-1], most))
        found += [_with_self_samples(number, settings) for number in numbers]
    if len(settings.stages) > 1:
        others = {stage: [each for each in settings.stages if each != stage] for stage in reversed(settings.stages)}
        found += [Ablation(f"no_{stage}", {"stages": left}) for stage, left in others.items()]
    if has_self:
        found.append(Ablation("rejection_sampling", {"stages": ["self"], "fallback": "drop"}))
    found.append(Ablation("experts", {"stages": [], "fallback": "expert"}))
    found.append(Ablation("verified_experts", {"stages": [], "fallback": "drop"}, verifies_experts=True))
    return {ablation.name: ablation for ablation in found}


def find_ablation(name: str, settings: Rewrite, run: str) -> Ablation:
    """The ablation with this name, for a run with these settings.

    Raises:
        InputError: there is none, or it needs samples that `run` never drew.
    """
    possible = ablations(settings)
    if name in possible:
        return possible[name]
    names = ", ".join(possible)
    if "self" in settings.stages and (number := _SELF_SAMPLES.fullmatch(name)):
        most = settings.self_alignment.num_samples
        if int(number[1]) < most:
            return _with_self_samples(int(number[1]), settings)
        raise InputError(
            f"--ablation {name}: {run} drew at most {most} self samples for a problem; choose a smaller number, or "
            f"draw more first: `ossft rewrite --set rewrite.self_alignment.num_samples={number[1]}`"
        )
    if not settings.stages:
        raise InputError(f"--ablation {name}: {run} made no attempts ([rewrite] stages = []); choose one of {names}")
    raise InputError(f"--ablation {name}: no such ablation of {run}; choose one of {names}")


def _with_self_samples(number: int, settings: Rewrite) -> Ablation:
    alignment = settings.self_alignment.model_dump(mode="json") | {"num_samples": number}
    return Ablation(f"self_{number}", {"self_alignment": alignment})
