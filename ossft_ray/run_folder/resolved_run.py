"""A run as its stages see it: the experiment, its folder, and what they derive from both, resolved once."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ossft_ray.common.prompt_templates import TEMPLATES
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Problem
from ossft_ray.common.uris import absolute, join
from ossft_ray.config import GUIDED, NO_TEACHER, Experiment
from ossft_ray.data.benchmarks import read_benchmark
from ossft_ray.data.contamination import benchmark_digests
from ossft_ray.data.problems import source_digests
from ossft_ray.engines.installation import check_media
from ossft_ray.method.prompts import guided_prompt, solve_prompt
from ossft_ray.policy.chat import Chat, load_chat
from ossft_ray.policy.chat_templates import check_system, check_template
from ossft_ray.policy.model_location import model_digest, naming_model
from ossft_ray.run_folder.names import MODEL, TRAIN
from ossft_ray.run_folder.provenance import pin_date, pin_revision
from ossft_ray.verification.kinds.judge import KIND as JUDGE
from ossft_ray.verification.kinds.judge import judge_prompt


@dataclass(frozen=True)
class Run:
    """An experiment and its folder. `ossft run` makes one for each round, any other command makes one.

    Every property is computed when it is first read, and kept. All raise InputError for input that cannot be used.
    """

    experiment: Experiment
    model_key: str = "[policy] model"  # where the model was named, for messages about it

    @classmethod
    def of(cls, run: "Experiment | Run", refresh_revision: bool = False) -> "Run":
        """The run of an experiment, pinned; a run is returned as is."""
        return run if isinstance(run, Run) else cls(run).pinned(refresh_revision)

    def pinned(self, refresh: bool = False) -> "Run":
        """The run with its Hub model pinned to a commit, and with the date that its chat template prints.

        `config.json` records both; `refresh` asks the Hub again, and takes today's date.

        Raises:
            InputError: the model's weights are pickles, or its chat template cannot be read.
        """
        with naming_model(self.model_key):
            experiment = pin_date(pin_revision(self.experiment, refresh), refresh)
        return self if experiment is self.experiment else replace(self, experiment=experiment)

    def updated(self, **sections: Any) -> "Run":
        """The run with another `[resources]` or `[train]`. No property depends on these, so resolved ones are kept."""
        updated = Run(self.experiment.model_copy(update=sections))
        vars(updated).update({name: value for name, value in vars(self).items() if name != "experiment"})
        return updated

    @cached_property
    def folder(self) -> Folder:
        return Folder.at(self.experiment.run.output)

    @cached_property
    def chat(self) -> Chat:
        """The policy's tokenizer and chat template, which can render the run's prompts."""
        policy, evaluate = self.experiment.policy, self.experiment.evaluate
        check_media()
        with naming_model(self.model_key):
            chat = load_chat(policy)
            check_template(chat.tokenizer, policy.model)
            if self.experiment.prompts.system or (evaluate.template and TEMPLATES[evaluate.template].system):
                check_system(chat.tokenizer, policy.model)
        return chat

    def engine_length(self, longest_problem: int) -> int | None:
        """The number of tokens that an engine must hold for the longest prompt and its response; None if unknown.

        It is a bound from `longest_problem`, the largest `num_bytes` of a problem: hardly any token is shorter than a
        byte. It is the same for rewriting and evaluation, and a power of two, because vLLM compiles for each length.
        """
        if not longest_problem:
            return None
        prompts, settings, evaluate = self.experiment.prompts, self.experiment.rewrite, self.experiment.evaluate
        template = TEMPLATES[evaluate.template] if evaluate.template else prompts
        empty_prompts = [
            solve_prompt("", prompts.system, prompts.solve),
            solve_prompt("", template.system, template.solve),
            guided_prompt("", "", prompts.system, prompts.guided),
        ]
        longest_prompt = max(len(self.chat.render(prompt)) for prompt in empty_prompts) + 2 * longest_problem
        max_tokens = [each.max_tokens for each in (settings.self_alignment, settings.guided_alignment, evaluate)]
        if "external" in settings.stages:
            max_tokens.append(settings.external_alignment.max_tokens)
        length = longest_prompt + max(max_tokens)
        if self.experiment.verify.kind == JUDGE:  # the judge's prompt holds the response, the question and the answer
            length += len(self.chat.render(judge_prompt("", "", ""))) + longest_problem
        return min(self.chat.context_length, 1 << (length - 1).bit_length())

    @cached_property
    def policy_digest(self) -> str:
        return model_digest(self.experiment.policy)

    @cached_property
    def source_digests(self) -> list[str]:
        """Digests of the files of `[data]`."""
        return source_digests(self.experiment.data)

    @cached_property
    def benchmarks(self) -> dict[str, list[Problem]]:
        """The problems of each of `[evaluate] benchmarks`."""
        settings, kind = self.experiment.evaluate, self.experiment.verify.kind
        return {name: read_benchmark(name, settings, kind) for name in settings.benchmarks}

    @cached_property
    def benchmark_digests(self) -> dict[str, str]:
        """Digests of the benchmarks that the training problems are compared with."""
        return benchmark_digests(self.experiment.data, self.experiment.evaluate)

    @cached_property
    def other_models(self) -> "dict[str, Run]":
        """The models of `[evaluate] models`, as runs whose `[policy]` differs only in the model."""
        models = self.experiment.evaluate.models.items()
        return {name: replace(self._of_model(model), model_key=f"[evaluate] models.{name}") for name, model in models}

    @cached_property
    def teacher(self) -> "Run | None":
        """The model of `[score] teacher`, as a run whose `[policy]` differs only in the model; None without a teacher.

        The teacher `guided` is this run's own policy.
        """
        name = self.experiment.score.teacher
        if name in (NO_TEACHER, GUIDED):
            return self if name == GUIDED else None
        return replace(self._of_model(name), model_key="[score] teacher")

    @property
    def of_trained_model(self) -> "Run":
        """The run of the model that this run trains; its folder holds its chat template, and its adapter is merged."""
        model = absolute(join(self.experiment.run.output, TRAIN, MODEL))
        return self._of_model(model, chat_template=None, chat_template_kwargs={})

    def _of_model(self, model: str, **changes: Any) -> "Run":
        policy = self.experiment.policy.model_copy(update={"model": model, "revision": None, "lora": None} | changes)
        return Run(self.experiment.model_copy(update={"policy": policy}))


def num_bytes(problem: Problem) -> int:
    """The size of the texts that a prompt may show."""
    texts = problem.question, problem.expert_solution or "", problem.conversation or ""
    return sum(len(text.encode()) for text in texts)
