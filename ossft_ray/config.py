"""The experiment file: TOML in, one frozen and fully resolved `Experiment` out; the defaults are the paper's.

Unknown keys are refused with the nearest valid name, so a misspelt setting never passes in silence.
"""

import difflib
import json
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from ossft_ray.common.errors import InputError
from ossft_ray.common.prompt_templates import (
    DEFAULT_TEMPLATE,
    GUIDED_PROMPT,
    REFERENCE_PHRASES,
    SOLVE_PROMPT,
    SYSTEM_PROMPT,
    TEMPLATES,
)
from ossft_ray.common.secrets import HINT, find_secret

Fraction = Annotated[float, Field(gt=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Auto = Literal["auto"]
LossName = Literal[
    "sft", "dft", "iw_sft", "psft", "asft_k3", "trsft", "idft", "idft_sg", "eaft", "power", "is"
]  # those of method/coefficients.py
TemplateName = Literal["qwen25-math-cot", "qwen-boxed", "llama-boxed"]  # those of method/prompts.py
ModelName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Run(Section):
    output: str = Field("runs/first", min_length=1, description="the run's folder: a local path or an object-store URI")
    seed: int = Field(0, ge=0, description="every random choice derives from it")


class Policy(Section):
    model: str = Field(min_length=1, description="`playground`, a Hugging Face folder, or a Hub id")
    revision: str | None = Field(None, description="of a Hub model: branch, tag or commit")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="for generation; auto as in vLLM, which samples a float32 model in bfloat16"
    )
    chat_template: str | None = Field(None, description="Jinja text or a file; for models that have none")
    lora: str | None = Field(None, description="folder of a LoRA adapter that the policy samples with")
    batch_invariant: bool = Field(
        False, description="on a GPU: the same tokens whatever else is in the batch, at a cost (VLLM_BATCH_INVARIANT)"
    )
    trust_remote_code: bool = Field(False, description="run the Python code that comes with the model, as its author")
    engine: dict[str, Any] = Field({}, description="any vLLM engine argument")


class Columns(Section):
    id: str = Field("id", description="optional in the file; rows are numbered where it is absent")
    question: str = "problem"
    answer: str = Field("answer", description="optional in the file: else the last box (or #### tail) of the solution")
    expert_solution: str = "solution"
    messages: str = Field("messages", description="a chat of user and assistant, where a file has no question column")
    verifier: str = Field("verifier", description="optional in the file: the row's own kind, instead of [verify] kind")


class Data(Section):
    path: str | list[str] = Field(description="JSONL or Parquet: a file, a glob, or a list of them; or a Hub data set")
    subset: str | None = Field(None, description="of a Hub data set: its configuration")
    split: str = Field("train", description="of a Hub data set")
    revision: str | None = Field(None, description="of a Hub data set: branch, tag or commit")
    limit: PositiveInt | None = Field(None, description="take only the first rows")
    columns: Columns = Columns()
    no_answer: Literal["reject", "expert"] = Field(
        "reject", description="a row without a checkable answer is set aside, or keeps its expert solution unseen"
    )
    bad_golds: Literal["keep", "flag", "reject", "ignore"] = Field(
        "flag", description="an answer that cannot be compared with, or that the expert's own solution contradicts"
    )
    duplicates: Literal["keep", "drop"] = Field("keep", description="a question that came before; counted either way")
    contamination: Literal["report", "drop", "ignore"] = Field(
        "report", description="a question that shares an n-gram with one of [evaluate] benchmarks"
    )
    contamination_ngram: PositiveInt = Field(13, description="words in a row that two questions must share")


class Prompts(Section):
    template: TemplateName = Field(DEFAULT_TEMPLATE, description="the three texts below, where they are not given")
    system: str = Field(SYSTEM_PROMPT, description="the system message; empty for none")
    solve: str = Field(SOLVE_PROMPT, description="the user message; `{question}` is filled in")
    guided: str = Field(GUIDED_PROMPT, description="the same, with `{expert_solution}` in view")

    @model_validator(mode="before")
    @classmethod
    def _texts_of_the_template(cls, values: Any) -> Any:
        template = TEMPLATES.get(str(values.get("template", DEFAULT_TEMPLATE))) if isinstance(values, dict) else None
        return {**asdict(template), **values} if template else values  # else the fields' own checks say what is wrong

    @model_validator(mode="after")
    def _fields_stand_in_templates(self) -> "Prompts":
        if "{question}" not in self.solve:
            raise ValueError("solve must contain {question}")
        if "{question}" not in self.guided or "{expert_solution}" not in self.guided:
            raise ValueError("guided must contain {question} and {expert_solution}")
        return self


class SelfAlignment(Section):
    num_samples: PositiveInt = 8
    temperature: float = Field(1.0, ge=0)
    top_p: Fraction = 1.0
    max_tokens: PositiveInt = 2048


class GuidedAlignment(Section):
    num_samples: PositiveInt = 4
    temperature: float = Field(0.7, ge=0)
    top_p: Fraction = 1.0
    max_tokens: PositiveInt = 2048
    hide_answer: bool = Field(False, description="mask the final answer in the guide")
    reference_phrases: list[str] = Field(
        list(REFERENCE_PHRASES), description="a response that says one of them is not kept; [] looks for none"
    )
    # On the playground no response shares eight words in a row with its guide, so any limit keeps the same rows. Of
    # lightly edited copies of GSM8K and MATH solutions, nine in ten share more than 0.3 with the original.
    max_copied: float = Field(
        0.3,
        ge=0,
        le=1,
        description="share of a response copied from the guide beyond which it is not kept; 1 allows all",
    )
    copied_ngram: PositiveInt = Field(8, description="words in a row that count as copied")


class Rewrite(Section):
    stages: list[Literal["self", "guided"]] = Field(["self", "guided"], description="[] keeps every expert solution")
    fallback: Literal["expert", "drop"] = Field("expert", description="what becomes of a problem that stays unsolved")
    exhaustive: bool = Field(False, description="draw all samples of a stage, for honest pass rates")
    keep_per_problem: PositiveInt = Field(1, description="correct responses to keep of a problem, a row each")
    keep_attempts: bool = Field(False, description="store the text of every attempt")
    behavior_logprobs: bool = Field(
        False,
        description="store each kept token's log-probability as it was drawn, for the loss `is`; sampling is slower",
    )
    max_repeats: Annotated[int, Field(ge=0)] = Field(
        16, description="a response that says 4 to 64 tokens so often in a row is cut off (`repetition`); 0 never cuts"
    )
    parroting_probe: Annotated[int, Field(ge=0)] = Field(
        0, description="problems on which to see whether a guided response repeats a wrong answer of its guide; 0: off"
    )
    self_alignment: SelfAlignment = SelfAlignment()
    guided_alignment: GuidedAlignment = GuidedAlignment()

    @model_validator(mode="after")
    def _stages_occur_once(self) -> "Rewrite":
        if len(set(self.stages)) < len(self.stages):
            raise ValueError("stages must not name a stage twice")
        return self


class VerifyNumber(Section):
    relative_tolerance: float = Field(1e-6, ge=0, description="of the gold answer's size")
    absolute_tolerance: float = Field(0.0, ge=0)


class VerifyText(Section):
    ignore_case: bool = True
    ignore_punctuation: bool = True
    ignore_articles: bool = Field(True, description="a leading a, an or the")


class VerifyPython(Section):
    function: str = Field("", description="`module:function` of yours: (answer, response) to True or False")


class Verify(Section):
    kind: str = Field("math", description="`math`, `choice`, `number`, `text`, `python`, or another package's kind")
    timeout_seconds: PositiveFloat = Field(5.0, description="processor time that one verdict may take")
    memory_mib: PositiveInt = Field(1024, description="memory that one verdict may take")
    num_workers: PositiveInt = Field(2, description="processes that grade at the same time, a policy")
    number: VerifyNumber = VerifyNumber()
    text: VerifyText = VerifyText()
    python: VerifyPython = VerifyPython()
    plugins: dict[str, dict[str, Any]] = Field({}, description="settings of other packages' kinds, by kind")

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """What is set for each kind, by the kind's name."""
        own = {name: getattr(self, name).model_dump() for name in ("number", "text", "python")}
        return {**self.plugins, **own}


class IwSft(Section):
    temperature: PositiveFloat = 1.0
    max_weight: PositiveFloat = 16.0


class Psft(Section):
    clip: PositiveFloat = Field(0.28, description="a token whose ratio to the reference exceeds 1 + clip falls silent")
    refresh_every: PositiveInt = Field(8, description="optimiser steps; the reference is the policy as it then is")


class AsftK3(Section):
    weight: PositiveFloat = Field(0.05, description="λ of the KL term")
    max_ratio: PositiveFloat = 10.0


class Trsft(Section):
    alpha: Fraction = 0.1


class Idft(Section):
    beta: PositiveFloat = 1.0
    min_gamma: PositiveFloat = 0.1
    max_gamma: PositiveFloat = 2.0
    hold: float = Field(0.2, ge=0, le=1, description="share of the steps in which γ is 1")
    ramp: float = Field(0.1, ge=0, le=1, description="share of the steps in which γ then becomes its own")


class Eaft(Section):
    alpha: PositiveFloat = 1.0


class Power(Section):
    k: PositiveFloat = 10.0


class IsClip(Section):
    low: float = Field(0.0, ge=0, description="of the loss `is`: its ratio p / b is no smaller")
    high: PositiveFloat = Field(2.0, description="and no larger")

    @model_validator(mode="after")
    def _low_is_below_high(self) -> "IsClip":
        if self.low > self.high:
            raise ValueError("low must not exceed high")
        return self


class Lora(Section):
    rank: PositiveInt = 16
    alpha: PositiveFloat = Field(32.0, description="adapters count alpha / rank times")
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: list[str] = Field(["all-linear"], description="names of layers; all-linear: all but the head")


class Train(Section):
    loss: LossName = Field("dft", description="see the table of losses below")
    learning_rate: PositiveFloat = 5e-5
    epochs: PositiveInt = 1
    global_batch_size: PositiveInt = Field(256, description="examples, not packed rows; the last partial batch trains")
    max_length: PositiveInt = Field(2048, description="tokens; longer examples are set aside and counted, never cut")
    zero_stage: Literal[0, 1, 2, 3] = 2
    precision: Literal["bf16", "fp32"] = "bf16"
    packing: bool = True
    micro_batch_tokens: PositiveInt | Auto = Field("auto", description="tokens a forward pass; auto: max_length")
    activation_checkpointing: bool = Field(False, description="compute activations anew in the backward pass")
    offload: Literal["none", "optimizer", "all"] = Field(
        "none", description="to main memory: the optimizer (zero_stage 1 to 3), or the parameters too (zero_stage 3)"
    )
    deepspeed: dict[str, Any] = Field({}, description="any other DeepSpeed setting, as in its JSON")
    lora: Lora | None = Field(
        None, description="adapters only: a section with rank, alpha, dropout, target_modules; exported merged"
    )
    checkpoint_every: PositiveInt = Field(50, description="optimiser steps")
    stop_after: Annotated[str, Field(pattern=r"^(\d+[dhms])+$")] | None = Field(
        None, description='such as "3h45m": checkpoint then, and end with code 130; the same command goes on'
    )
    hang_after: Annotated[str, Field(pattern=r"^(\d+[dhms])+$")] = Field(
        "30m", description="stop where no worker has moved for so long, and name the one that is behind"
    )
    max_grad_norm_jump: float = Field(
        1000.0, ge=0, description="stop at a gradient norm so many times the median of the steps before; 0 never stops"
    )
    holdout: float = Field(0.0, ge=0, lt=1, description="share of problems to measure on and not to train on")
    keep: Literal["last", "best"] = Field("last", description="best: the checkpoint best by keep_by on the holdout")
    tracking: list[Literal["wandb", "mlflow"]] = Field([], description="beside metrics.jsonl and TensorBoard")
    keep_by: Literal["cross_entropy", "loss", "mean_token_probability"] = "cross_entropy"
    warmup_ratio: float = Field(0.1, ge=0, lt=1, description="linear warm-up, then cosine to zero")
    weight_decay: float = Field(0.01, ge=0)
    betas: tuple[Beta, Beta] = Field((0.9, 0.95), strict=False)
    max_grad_norm: PositiveFloat = 1.0
    examples: str | None = Field(None, description="train on another run's rows: its rewrite folder")
    iw_sft: IwSft = IwSft()
    psft: Psft = Psft()
    asft_k3: AsftK3 = AsftK3()
    trsft: Trsft = Trsft()
    idft: Idft = Field(Idft(), description="also of idft_sg")
    eaft: Eaft = Eaft()
    power: Power = Power()
    is_clip: IsClip = IsClip()

    @property
    def loss_options(self) -> dict[str, Any]:
        """The hyper-parameters of the chosen loss; none where it has none."""
        # `is` is a word of Python's own, which cannot be a field
        section = getattr(self, "is_clip" if self.loss == "is" else self.loss.removesuffix("_sg"), None)
        return section.model_dump() if section is not None else {}


class Evaluate(Section):
    benchmarks: list[str] = Field(
        ["math500", "minerva_math", "olympiadbench", "aime24", "amc23"], description="names, or files of problems"
    )
    data_dir: str = Field("", description="folder that holds the named benchmarks as NAME.jsonl; empty: from the Hub")
    models: dict[ModelName, str] = Field({}, description="more models, by a name for each: a folder or a Hub id")
    template: TemplateName | None = Field(None, description="a template for evaluation alone; not set: [prompts]")
    cache: str = Field(
        "auto",
        description="folder of samples that runs share; auto: $OSSFT_CACHE, else ~/.cache/ossft_ray; empty: none",
    )
    num_samples: PositiveInt = Field(16, description="k of avg@k, pass@k and maj@k")
    temperature: float = Field(1.0, ge=0)
    top_p: Fraction = 1.0
    max_tokens: PositiveInt = 4096

    @model_validator(mode="after")
    def _models_have_names_of_their_own(self) -> "Evaluate":
        for name in ("base", "trained"):
            if name in self.models:
                raise ValueError(f"models must not name one '{name}': the run's own is called so")
        return self


class Loop(Section):
    rounds: PositiveInt = Field(1, description="round 2 starts from the model that round 1 trained")


class Resources(Section):
    num_policies: PositiveInt | Auto = Field(
        "auto", description="vLLM engines at work at once; auto: as many as the GPUs hold, and more as nodes join"
    )
    min_policies: PositiveInt | None = Field(
        None, description="begin with so many, and add more, up to num_policies, as the cluster has room"
    )
    problems_in_flight: PositiveInt | Auto = Field("auto", description="problems that one policy works on at once")
    gpus_per_policy: Annotated[float, Field(ge=0)] | Auto = Field(
        "auto", description="whole GPUs, or a share of one (then set policy.engine.gpu_memory_utilization)"
    )
    replan_after: Annotated[str, Field(pattern=r"^(\d+[dhms])+$")] = Field(
        "5m", description="how long to wait for a lost node whose work fits nowhere else, before going on with fewer"
    )
    num_train_workers: PositiveInt | Auto = "auto"
    gpus_per_train_worker: Annotated[int, Field(ge=0)] | Auto = "auto"


class Experiment(Section):
    """A resolved experiment. Every stage's function takes this one object."""

    run: Run = Run()
    policy: Policy
    data: Data
    prompts: Prompts = Prompts()
    rewrite: Rewrite = Rewrite()
    verify: Verify = Verify()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    loop: Loop = Loop()
    resources: Resources = Resources()


def load_experiment(path: str | Path | None, overrides: list[str] | tuple[str, ...] = ()) -> Experiment:
    """Read an experiment file and apply `section.key=value` overrides (values as TOML, bare words as strings).

    Raises:
        InputError: the file is missing or not TOML, a key is unknown, or a value is of the wrong type or impossible.
    """
    settings = _read_settings(path, overrides)
    return resolve(settings, source=str(path) if path is not None else "the experiment")


def load_verify(path: str | Path | None, overrides: list[str] | tuple[str, ...] = ()) -> Verify:
    """The `[verify]` section alone, for grading a file; the rest of the experiment file is not looked at.

    Raises:
        InputError: as `load_experiment`; an override is of another section.
    """
    settings = _read_settings(path, overrides)
    if other := next((text for text in overrides if not text.strip().startswith("verify.")), None):
        raise InputError(f"--set {other}: only keys of [verify] matter here, such as verify.kind=number")
    verify = {"verify": settings.get("verify", {})}
    return resolve({"policy": {"model": "any"}, "data": {"path": "any"}, **verify}, str(path or "--set")).verify


def resolve(settings: dict[str, Any], source: str = "the experiment") -> Experiment:
    """Validate plain settings into an `Experiment`.

    Raises:
        InputError: names the first faulty key, what is wrong with it, and how many more there are; or a key that
            holds a secret.
    """
    if (key := find_secret(settings)) is not None:
        raise InputError(f"{source}: '{key}' holds a secret, which would be written into files and logs; {HINT}")
    try:
        return Experiment.model_validate(settings)
    except ValidationError as error:
        raise InputError(f"{source}: {_first_fault(error)}") from None


def _read_settings(path: str | Path | None, overrides: list[str] | tuple[str, ...]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if path is not None:
        try:
            settings = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"{path}: no such experiment file") from None
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: cannot be read: it is not UTF-8 text") from error
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"{path}: not valid TOML: {error}") from error
    for override in overrides:
        _apply_override(settings, override)
    return settings


def _apply_override(settings: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or len(parts) < 2 or not all(parts):
        raise InputError(f"--set {override}: write it as section.key=value")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    section = settings
    for part in parts[:-1]:
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            raise InputError(f"--set {override}: '{part}' is not a section")
    section[parts[-1]] = value


def _first_fault(error: ValidationError) -> str:
    faults: dict[
        tuple[str, ...], list[Any]
    ] = {}  # by key: a value that fits none of several types has a fault for each
    for fault in error.errors():
        faults.setdefault(_names(fault["loc"]), []).append(fault)
    names, (fault, *others) = next(iter(faults.items()))
    key = ".".join(names)
    if fault["type"] == "extra_forbidden":
        valid = _keys_beside(names)
        near = difflib.get_close_matches(names[-1], valid, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"valid keys: {', '.join(valid)}"
        message = f"unknown key '{key}'; {hint}"
    elif fault["type"] == "missing":
        message = f"'{_required(names)}' is required; set it in the experiment file or with --set"
    else:
        shown = json.dumps(fault["input"], default=str)
        wanted = dict.fromkeys(fault["msg"].removeprefix("Input should be ") for fault in [fault, *others])
        what = "should be " if fault["msg"].startswith("Input should be ") else ""
        message = f"'{key}': {what}{' or '.join(wanted)}" + (f", not {shown}" if len(shown) < 80 else "")
    return message + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "")


def _names(location: tuple[int | str, ...]) -> tuple[str, ...]:
    """The keys of a fault's location, without what pydantic adds for a value that may be of several types."""
    names: list[str] = []
    section: Any = Experiment
    for part in location:
        is_section = isinstance(section, type) and issubclass(section, BaseModel)
        if not is_section and isinstance(part, str):
            break
        names.append(str(part))
        section = section.model_fields[part].annotation if is_section and part in section.model_fields else None
    return tuple(names)


def _required(names: tuple[str, ...]) -> str:
    """The key that is missing; of a section that is, its first required key."""
    section: Any = Experiment
    for name in names:
        section = section.model_fields[name].annotation if hasattr(section, "model_fields") else None
    fields = getattr(section, "model_fields", {})
    return ".".join([*names, *[name for name, field in fields.items() if field.is_required()][:1]])


def _keys_beside(names: tuple[str, ...]) -> list[str]:
    """The valid keys of the section in which the key `names[-1]` stands."""
    section: Any = Experiment
    for name in names[:-1]:
        section = section.model_fields[name].annotation
    return list(section.model_fields)
