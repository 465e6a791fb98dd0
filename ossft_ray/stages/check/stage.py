"""`ossft check`: validate the config, the data, the policy and the benchmarks before anything is spent.

What is on this machine comes first. The Hub is asked only if that has no fault. All faults are reported together.
"""

import datetime
import heapq
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ossft_ray.common.errors import Faults, InputError, brief
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Problem
from ossft_ray.common.verdict import UNPARSED
from ossft_ray.config import Experiment
from ossft_ray.data.benchmarks import is_from_hub, read_benchmark
from ossft_ray.data.contamination import BenchmarkIndex
from ossft_ray.data.gold_check import gold_pool
from ossft_ray.data.hub import is_hub_id
from ossft_ray.data.problem_index import ProblemIndex
from ossft_ray.data.problems import SourceLayout, data_sources, read_layout
from ossft_ray.data.screening import InputCounts, UsableProblem, screen_problems
from ossft_ray.distributed.resource_check import check_resources, check_training_memory
from ossft_ray.distributed.session import check_output
from ossft_ray.engines.training.deepspeed_engine import check_deepspeed_settings
from ossft_ray.engines.vllm_policy import check_engine_settings
from ossft_ray.method.rewriting import derive_seed, stage_prompt
from ossft_ray.method.steps import false_equation
from ossft_ray.policy.chat import Chat
from ossft_ray.policy.chat_templates import prints_date
from ossft_ray.policy.model_location import model_path, naming_model
from ossft_ray.run_folder.provenance import recorded_date
from ossft_ray.run_folder.reader import examples_folder
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.stages.rewrite.external import check_external, check_external_prompts
from ossft_ray.stages.rewrite.inputs import solved_fingerprint
from ossft_ray.stages.score.teacher import check_teacher_settings, check_vocabulary
from ossft_ray.stages.train.mixing import check_mix, mix_inputs

_NUM_SHOWN = 3  # problems, as the policy will see them
_NUM_LOOKED_INTO = 100  # sources whose first row is read before anything else


@dataclass(frozen=True)
class ShownProblem:
    """One of the first problems, with its prompt as the policy will read it."""

    problem: Problem
    prompt: str
    num_tokens: int  # of the prompt


@dataclass(frozen=True)
class Findings:
    """What `check` found out about the problems, the benchmarks and the policy."""

    counts: InputCounts
    benchmarks: dict[str, int]  # problems by benchmark
    context_length: int
    end_of_turn: str
    thinking: str  # what the chat template does about it
    seconds: float  # for reading all the problems
    sample: list[Problem] = field(default_factory=list)  # of the usable problems
    layouts: list[SourceLayout] = field(default_factory=list)
    shown: list[ShownProblem] = field(default_factory=list)
    date: str | None = None  # that the chat template prints; None if it prints none
    wrong_steps: Mapping[str, str] = field(default_factory=dict)  # a false equation of an expert's solution, by problem
    training_memory: str | None = None  # that each GPU needs; None if no GPU is known


def check(run: Experiment | Run, num_sampled: int = 0) -> Findings:
    """Read all that the run will read, without loading a model. The run's seed draws `num_sampled` problems.

    Raises:
        Faults: what would stop the run; says what, where, and how to fix it.
    """
    run = run if isinstance(run, Run) else Run(run)  # not pinned, because that writes the commit
    found = _Found(run)
    found.look(lambda: check_output(run.experiment.run.output))
    found.look(lambda: _check_writable(run.experiment.run.output))
    found.look(lambda: _check_training_rows(run.experiment))
    found.look(lambda: check_engine_settings(run.experiment.policy.engine))
    found.look(lambda: check_external(run.experiment))
    found.look(lambda: _check_loss(run.experiment))
    found.look(lambda: check_teacher_settings(run.experiment))
    found.look(lambda: check_deepspeed_settings(run.experiment.train))
    found.look(lambda: check_resources(run.experiment))
    found.read(from_hub=False)
    if not found.faults:
        found.read(from_hub=True)
    return found.screen(num_sampled)


class _Found:
    """What was found so far: faults, or what the run needs."""

    def __init__(self, run: Run) -> None:
        self.run, self.experiment = run, run.experiment
        self.faults: list[str] = []
        self.chat: Chat | None = None
        self.date: str | None = None  # that the chat template prints
        self.memory: str | None = None  # that training needs
        self.layouts: dict[str, SourceLayout | None] = {}  # by source
        self.benchmarks: dict[str, int] = {}
        self.sources: list[str] | None = None
        self.wrong_steps: dict[str, str] = {}  # a false equation of an expert's solution, by problem
        with self._noting():
            self.sources = list(dict.fromkeys(data_sources(self.experiment.data)))[:_NUM_LOOKED_INTO]

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            fault = " ".join(str(error).split())
            self.faults += [fault] if fault not in self.faults else []

    def look(self, check: Callable[[], Any]) -> None:
        """Note the fault that a check finds."""
        with self._noting():
            check()

    def read(self, from_hub: bool) -> None:
        """Read the models, the first row of each source and the benchmarks on this machine, or those on the Hub."""
        teacher = self.run.teacher
        others = [*self.run.other_models.values(), *([teacher] if teacher and teacher is not self.run else [])]
        for run in (self.run, *others):
            with self._noting():
                if _is_on_hub(run) == from_hub:
                    chat = run.chat
                    if run is teacher:
                        check_vocabulary(self.run)
                    if run is self.run:
                        self.chat, self.date = _dated(chat, self.experiment)
                        self.memory = check_training_memory(self.experiment)
        for source in self.sources or []:
            with self._noting():
                if is_hub_id(source) == from_hub:
                    self.layouts[source] = read_layout(source, self.experiment.data)
        settings, kind = self.experiment.evaluate, self.experiment.verify.kind
        for name in settings.benchmarks:
            with self._noting():
                if is_from_hub(name, settings) == from_hub:
                    self.benchmarks[name] = len(read_benchmark(name, settings, kind))

    def screen(self, num_sampled: int) -> Findings:
        """Read all the problems if earlier faults allow it, and report all faults if there are any.

        Raises:
            Faults: there are any.
        """
        counts, began = InputCounts(), time.monotonic()
        sample: list[Problem] = []
        shown: list[ShownProblem] = []
        if self.chat is not None and self.sources is not None and len(self.layouts) == len(self.sources):
            with self._noting():
                sample, shown = self._screen(self.chat, counts, num_sampled)
                _check_max_length(shown, self.experiment)
                check_external_prompts(self.experiment, [each.problem for each in shown])
                _check_golds(counts)
        if self.faults or self.chat is None:
            raise Faults.of(self.faults)
        return Findings(
            counts,
            {name: self.benchmarks[name] for name in self.experiment.evaluate.benchmarks},
            self.chat.context_length,
            self.chat.tokenizer.convert_ids_to_tokens(self.chat.end_of_turn_id),
            self.chat.thinking,
            time.monotonic() - began,
            sample,
            [layout for layout in self.layouts.values() if layout is not None],
            shown,
            self.date,
            self.wrong_steps,
            self.memory,
        )

    def _screen(self, chat: Chat, counts: InputCounts, num_sampled: int) -> tuple[list[Problem], list[ShownProblem]]:
        experiment = self.experiment
        shown: list[ShownProblem] = []
        rng = random.Random(derive_seed(experiment.run.seed, "probe"))
        benchmarks = BenchmarkIndex(experiment.data.contamination_ngram) if self.faults else None

        def usable() -> Iterator[Problem]:
            for item in screen_problems(experiment, chat, seen, counts, pool, benchmarks):
                if isinstance(item, UsableProblem):
                    if len(shown) < _NUM_SHOWN:
                        shown.append(_shown(item.problem, chat, experiment))
                    if (step := false_equation(item.problem.expert_solution or "")) is not None:
                        self.wrong_steps[item.problem.problem_id] = step
                    yield item.problem

        with closing(ProblemIndex()) as seen, gold_pool(experiment) as pool:
            # Those with the smallest random keys are a uniform sample. At least one, so that all problems are read.
            sample = heapq.nsmallest(max(1, num_sampled), usable(), key=lambda _: rng.random())[:num_sampled]
        return sample, shown


def _shown(problem: Problem, chat: Chat, experiment: Experiment) -> ShownProblem:
    prompt = chat.render(stage_prompt("self", problem, experiment.rewrite, experiment.prompts))
    return ShownProblem(problem, str(chat.tokenizer.decode(prompt)), len(prompt))


def _check_max_length(shown: list[ShownProblem], experiment: Experiment) -> None:
    """Refuse a length that the prompts of the first problems alone use up."""
    limit, shortest = experiment.train.max_length, min((each.num_tokens for each in shown), default=0)
    if shortest >= limit:
        raise InputError(
            f"[train] max_length: {limit} tokens leave nothing to train on, as the prompts of the first problems alone "
            f"have {shortest} or more; raise it"
        )


def _check_golds(counts: InputCounts) -> None:
    """Refuse gold answers if the verifier can read none, because then no response could be right."""
    num_unreadable = counts.gold_findings[UNPARSED]
    if num_unreadable and num_unreadable == counts.gold_findings.total():
        raise InputError(
            f"[verify] kind: it can read none of the {num_unreadable} gold answers; choose the kind that fits them"
        )


def _is_on_hub(run: Run) -> bool:
    with naming_model(run.model_key):
        return not Path(model_path(run.experiment.policy.model)).is_dir()


def _dated(chat: Chat, experiment: Experiment) -> tuple[Chat, str | None]:
    """The chat with the date that its template prints in this run, and that date; None if it prints none."""
    if not prints_date(chat.tokenizer.chat_template):
        return chat, None
    today = datetime.date.today().isoformat()
    date = experiment.policy.date or recorded_date(experiment)
    return replace(chat, date=date or today), date or f"the day on which the run starts (today: {today})"


def _check_writable(output: str) -> None:
    folder = Folder.at(output)
    try:
        folder.exists()
        if folder.local_path is not None:  # leaves nothing behind: a check must not start a run
            found = next(parent for parent in (folder.local_path, *folder.local_path.parents) if parent.exists())
            tempfile.TemporaryFile(dir=found).close()
    except OSError as error:
        raise InputError(f"[run] output: {output} cannot be reached or written: {brief(error)}") from error


def _check_training_rows(experiment: Experiment) -> None:
    """Look for the rows of other runs and files that the run will train on, or copy."""
    if experiment.train.examples is not None:
        examples_folder(experiment)
        if experiment.loop.rounds > 1:
            raise InputError(
                "[loop] rounds: with [train] examples every round would train on the same rows of another run; leave "
                "one of the two out"
            )
    solved_fingerprint(experiment.rewrite)
    check_mix(experiment.train)
    mix_inputs(experiment.train.mix)


def _check_loss(experiment: Experiment) -> None:
    """Refuse a loss whose inputs rewriting will not record, which would otherwise fail only after rewriting."""
    draws = bool(experiment.rewrite.stages) and experiment.train.examples is None
    if experiment.train.loss == "is" and draws and not experiment.rewrite.behavior_logprobs:
        raise InputError(
            '[train] loss: "is" needs the log-probabilities with which the policy sampled its tokens; '
            "set [rewrite] behavior_logprobs = true"
        )
