"""A resolved run: the experiment, its folder, and what the stages derive from both, computed once."""

from dataclasses import dataclass, replace
from functools import cached_property

from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Problem
from ossft_ray.config import Experiment, Resources
from ossft_ray.data.benchmarks import read_benchmark
from ossft_ray.data.contamination import benchmark_digests
from ossft_ray.data.problems import source_digests
from ossft_ray.policy.chat import Chat, load_chat
from ossft_ray.policy.location import model_digest
from ossft_ray.run_folder.provenance import pin_revision


@dataclass(frozen=True)
class Run:
    """An experiment and its folder. `ossft run` makes one for each round, any other command makes one.

    Every property is computed when it is first read, and kept. All raise InputError for input that cannot be used.
    """

    experiment: Experiment

    @classmethod
    def of(cls, run: "Experiment | Run", refresh_revision: bool = False) -> "Run":
        """The run of an experiment, whose Hub model is pinned to its commit; a run is returned as is.

        Raises:
            InputError: the model's weights are pickles.
        """
        return run if isinstance(run, Run) else cls(pin_revision(run, refresh_revision))

    def with_resources(self, resources: Resources) -> "Run":
        """The same run on other resources."""
        return replace(self, experiment=self.experiment.model_copy(update={"resources": resources}))

    @cached_property
    def folder(self) -> Folder:
        return Folder.at(self.experiment.run.output)

    @cached_property
    def chat(self) -> Chat:
        return load_chat(self.experiment.policy)

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
