"""The experiment file: TOML in, one frozen and fully resolved `Experiment` out. The defaults are the paper's.

An unknown key is refused with the nearest valid name, so a misspelt setting cannot go unnoticed. The descriptions below
are also the configuration reference (`docs/configuration.md`, which a test compares with this module).
"""

import datetime
import difflib
import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from ossft_ray.common.durations import parse_duration
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
from ossft_ray.tasks import DEFAULT_TASK, read_task, with_task

Fraction = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Auto = Literal["auto"]


def _require_duration(text: str) -> str:
    parse_duration(text)
    return text


def _require_date(value: Any) -> Any:
    """A date as text; TOML also has a date type."""
    text = value.isoformat() if isinstance(value, datetime.date) else value
    try:
        datetime.datetime.strptime(text, "%Y-%m-%d")
    except (TypeError, ValueError):
        raise ValueError(f"should be a date such as 2026-01-31, not {value}") from None
    return text


Date = Annotated[str, BeforeValidator(_require_date)]
Duration = Annotated[str, AfterValidator(_require_duration)]
LossName = Literal[
    "sft",
    "dft",
    "iw_sft",
    "psft",
    "dft_k3",
    "trsft",
    "idft",
    "idft_v1",
    "eaft",
    "power",
    "prift_prob",
    "prift_mass",
    "infosft",
    "deft",
    "is",
    "opd",
]  # the table in method/coefficients.py
RENAMED_LOSSES = {
    "idft_sg": "it is called idft now, and its hold and ramp are 0 by default",
    "asft_k3": "it is called dft_k3 now, because it is not ASFT; docs/losses.md says how they differ",
}
NO_TEACHER, GUIDED = "none", "guided"  # values of score.teacher that are not models
TemplateName = Literal[
    "qwen25-math-cot", "qwen-boxed", "llama-boxed", "llama-steps"
]  # the table in common/prompt_templates.py
ModelName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]

Temperature = Annotated[NonNegativeFloat, Field(description="Sampling temperature; 0 is greedy.")]
TopP = Annotated[Fraction, Field(description="Sample from the likeliest tokens that hold this much probability.")]
TopK = Annotated[NonNegativeInt, Field(description="Sample from this many of the likeliest tokens; 0: all.")]
MinP = Annotated[Share, Field(description="Sample from tokens with this share of the likeliest one's probability.")]
PresencePenalty = Annotated[float, Field(ge=-2, le=2, description="Subtracted from the logits of earlier tokens.")]
MaxTokens = Annotated[PositiveInt, Field(description="Longest response, in tokens; the context limits it too.")]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class RunSettings(Section):
    output: str = Field("runs/first", min_length=1, description="The run's folder: a path or an object-store URI.")
    seed: int = Field(0, ge=0, description="Every random choice derives from it.")
    task: str = Field(
        DEFAULT_TASK,
        description="`math`, `choice`, `quantity`, `open` or a .toml file: defaults of [prompts] and [verify].",
    )


class Policy(Section):
    model: str = Field(min_length=1, description="`playground`, a Hugging Face folder, or a Hub id.")
    revision: str | None = Field(None, description="Branch, tag or commit of a Hub model.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Precision while sampling. `auto` is vLLM's rule: it samples a float32 model in bfloat16."
    )
    chat_template: str | None = Field(None, description="Jinja text or a file, for a model without a chat template.")
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(
        {}, description="Variables of the chat template, such as `enable_thinking = false`."
    )
    date: Date | None = Field(
        None, description="Date, as 2026-01-31, for chat templates that print today's; by default, the run's first day."
    )
    lora: str | None = Field(None, description="Folder of a LoRA adapter that the policy samples with.")
    batch_invariant: bool = Field(False, description="Sample the same tokens in any batch, on a GPU; slower.")
    trust_remote_code: bool = Field(False, description="Run the model's own Python code, with your rights.")
    engine: dict[str, Any] = Field({}, description="Any vLLM engine argument.")


class Columns(Section):
    id: str = Field("id", description="Column of ids. Optional: rows without ids are numbered.")
    question: str = Field("problem", description="Column of questions.")
    context: str = Field("", description="Column of text that belongs to the question, and is put before it.")
    answer: str = Field("answer", description="Column of gold answers; without it, the solution's last box or `####`.")
    expert_solution: str = Field("solution", description="Column of expert solutions.")
    messages: str = Field("messages", description="Column of chats, for files without a question column.")
    verifier: str = Field("verifier", description="Column of each row's kind of verifier; else `verify.kind`.")
    tools: str = Field("tools", description="Column of the tools that the chat template describes to the policy.")


class Data(Section):
    path: str | list[str] = Field(description="JSONL or Parquet: a file, a glob, or a list of them; or a Hub data set.")
    subset: str | None = Field(None, description="Configuration of a Hub data set.")
    split: str = Field("train", description="Split of a Hub data set.")
    revision: str | None = Field(None, description="Branch, tag or commit of a Hub data set.")
    limit: PositiveInt | None = Field(None, description="Maximum number of rows, taken from the start.")
    columns: Columns = Columns()
    max_broken: Share = Field(
        0.05, description="Refuse data if more than this share is not JSON, or not laid out like the first row."
    )
    annotations: Literal["strip", "keep"] = Field(
        "strip", description="GSM8K's `<<...>>` notes and `####` tail in expert solutions."
    )
    no_answer: Literal["reject", "expert"] = Field(
        "reject", description="For a row without a checkable answer: set it aside, or keep the expert solution."
    )
    bad_golds: Literal["keep", "flag", "reject", "ignore"] = Field(
        "flag", description="Doubtful gold answers: `keep` counts, `flag` lists, `reject` rejects, `ignore` skips them."
    )
    duplicates: Literal["keep", "drop"] = Field("keep", description="A question that an earlier row already asked.")
    contamination: Literal["report", "drop", "ignore"] = Field("report", description="Questions found in a benchmark.")
    contamination_ngram: PositiveInt = Field(13, description="Number of consecutive shared words that count as found.")


class Prompts(Section):
    template: TemplateName = Field(DEFAULT_TEMPLATE, description="Set of the texts below, each of which overrides it.")
    system: str = Field(SYSTEM_PROMPT, description="System message; empty for none.")
    solve: str = Field(SOLVE_PROMPT, description="User message. It must contain `{question}`.")
    guided: str = Field(GUIDED_PROMPT, description="User message with `{question}` and `{expert_solution}`.")
    answer: str = Field(
        TEMPLATES[DEFAULT_TEMPLATE].answer,
        description="Ends an expert row whose solution has no box, if the prompt asks for one; empty: nothing.",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in_the_template(cls, values: Any) -> Any:
        template = TEMPLATES.get(str(values.get("template", DEFAULT_TEMPLATE))) if isinstance(values, dict) else None
        return {**asdict(template), **values} if template else values  # else the fields' own checks name the fault

    @model_validator(mode="after")
    def _require_placeholders(self) -> "Prompts":
        if "{question}" not in self.solve:
            raise ValueError("solve must contain {question}")
        if "{question}" not in self.guided or "{expert_solution}" not in self.guided:
            raise ValueError("guided must contain {question} and {expert_solution}")
        return self


class SelfAlignment(Section):
    num_samples: PositiveInt = Field(8, description="Maximum number of samples for each problem.")
    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    top_k: TopK = 0
    min_p: MinP = 0.0
    presence_penalty: PresencePenalty = 0.0
    max_tokens: MaxTokens = 2048


class GuidedAlignment(Section):
    num_samples: PositiveInt = Field(4, description="Maximum number of samples for each problem.")
    temperature: Temperature = 0.7
    top_p: TopP = 1.0
    top_k: TopK = 0
    min_p: MinP = 0.0
    presence_penalty: PresencePenalty = 0.0
    max_tokens: MaxTokens = 2048
    hide_answer: bool = Field(True, description="Hide the answer's value in the guide; the paper shows it.")
    reference_phrases: list[str] = Field(
        list(REFERENCE_PHRASES), description="Phrases that no response may contain; `(a|b)` stands for either word."
    )
    # On the playground no response shares eight words in a row with its guide, so any limit keeps the same rows. Of
    # lightly edited copies of GSM8K and MATH solutions, nine in ten share more than 0.3 with the original.
    max_copied: Share = Field(0.3, description="Reject a response if more than this share of its words is copied.")
    max_contained: Share = Field(0.5, description="Reject a response that holds more than this share of its guide.")
    require_derivation: bool = Field(
        True, description="Reject a response whose answer follows from nothing in it, or that gives another answer too."
    )
    copied_ngram: PositiveInt = Field(8, description="Number of consecutive words that count as copied.")


class ExternalAlignment(Section):
    model: str = Field("", description="The other model: a folder or a Hub id, or with `url` its name there.")
    revision: str | None = Field(None, description="Branch, tag or commit of a Hub model.")
    engine: dict[str, Any] = Field({}, description="vLLM engine arguments of a model without `url`.")
    url: str = Field("", description="An OpenAI-compatible server, such as `http://host:8000/v1`; empty: no server.")
    api_key_env: str = Field("", description="Environment variable that holds the server's key; empty: no key.")
    request: dict[str, Any] = Field({}, description="Further fields of a request, as the server documents them.")
    max_in_flight: PositiveInt = Field(32, description="Requests that a policy's worker sends to the server at once.")
    timeout_seconds: PositiveFloat = Field(600.0, description="Wait this long for an answer of the server.")
    max_retries: NonNegativeInt = Field(8, description="Retries of a request after a rate limit, timeout or failure.")
    num_samples: PositiveInt = Field(4, description="Maximum number of samples for each problem.")
    temperature: Temperature = 0.7
    top_p: TopP = 1.0
    top_k: TopK = 0
    min_p: MinP = 0.0
    presence_penalty: PresencePenalty = 0.0
    max_tokens: MaxTokens = 2048
    max_gap: NonNegativeFloat | None = Field(
        None, description="Refuse a response whose mean -log p under the policy is larger, in nats a token."
    )

    @field_validator("api_key_env")
    @classmethod
    def _require_a_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Z_][A-Z0-9_]*|", name):  # the message must not repeat what may be a key
            raise ValueError("should be the name of an environment variable, such as OPENAI_API_KEY, and not a key")
        return name

    @field_validator("request")
    @classmethod
    def _leave_the_core_alone(cls, request: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted({"model", "messages", "n", "seed", "stream", "tools"} & request.keys()):
            raise ValueError(f"must not set {', '.join(taken)}, which rewriting sets itself")
        return request

    @model_validator(mode="after")
    def _require_server_or_engine(self) -> "ExternalAlignment":
        parts = urlsplit(self.url)
        if self.url.rstrip("/").endswith("/completions"):
            raise ValueError("url should end before /chat/completions, which is added; it usually ends with /v1")
        if self.url and not (parts.scheme in ("http", "https") and parts.hostname):
            raise ValueError(f"url should be one such as http://host:8000/v1, not {self.url}")
        if self.url and (self.engine or self.revision):
            raise ValueError("engine and revision are for a model that is loaded here; leave them or url out")
        return self


class Rewrite(Section):
    stages: list[Literal["self", "guided", "external"]] = Field(
        ["self", "guided"], description="Alignment stages, in this order. [] keeps every expert solution."
    )
    fallback: Literal["expert", "drop"] = Field("expert", description="What becomes of an unsolved problem.")
    exhaustive: bool = Field(False, description="Draw all samples of a stage, for unbiased pass rates.")
    keep_per_problem: PositiveInt = Field(
        1,
        description="Maximum number of kept responses (rows) of a problem. Easy problems get more: see `train.weigh`.",
    )
    keep_attempts: bool = Field(False, description="Store the text and tokens of every attempt.")
    solved_in: str | None = Field(
        None, description="A rewrite folder: all but its expert rows are copied, and only the other problems rewritten."
    )
    check_steps: Literal["guided", "all", "off"] = Field(
        "guided", description="Responses in which no equation between numbers may be false; `all`: self ones too."
    )
    behavior_logprobs: bool = Field(False, description="Store log-probabilities for the loss `is`; slower.")
    max_repeats: NonNegativeInt = Field(16, description="Cut a response that repeats 4-64 tokens this often; 0: never.")
    self_alignment: SelfAlignment = SelfAlignment()
    guided_alignment: GuidedAlignment = GuidedAlignment()
    external_alignment: ExternalAlignment = ExternalAlignment()

    @model_validator(mode="after")
    def _require_usable_stages(self) -> "Rewrite":
        if len(set(self.stages)) < len(self.stages):
            raise ValueError("stages must not name a stage twice")
        if "external" in self.stages and not self.external_alignment.model:
            raise ValueError("the stage external needs a model: set external_alignment.model")
        return self


class Score(Section):
    plain_text: bool = Field(
        False, description="Also score the text after the bare question, without template, as the authors do."
    )
    teacher: str = Field(
        NO_TEACHER,
        min_length=1,
        description="Score the policy's attempts under a teacher too: `guided`, the policy with the expert solution in "
        "view, or another model; see [distillation](distillation.md).",
    )


class VerifyNumber(Section):
    relative_tolerance: NonNegativeFloat = Field(1e-6, description="Tolerance as a share of the gold answer's size.")
    absolute_tolerance: NonNegativeFloat = Field(0.0, description="Tolerance in the answer's own unit.")


class VerifyText(Section):
    ignore_case: bool = Field(True, description="Upper and lower case are the same.")
    ignore_punctuation: bool = Field(True, description="Punctuation does not count.")
    ignore_articles: bool = Field(True, description="A leading a, an or the does not count.")


class VerifyPython(Section):
    function: str = Field("", description="Your function as `module:function`: (answer, response) to True or False.")


class Verify(Section):
    kind: str = Field(
        "math", description="`math`, `choice`, `number`, `text`, `judge`, `python`, or another package's."
    )
    timeout_seconds: PositiveFloat = Field(5.0, description="Processor time allowed for one verdict.")
    memory_mib: PositiveInt = Field(1024, description="Memory allowed for one verdict.")
    num_workers: PositiveInt = Field(2, description="Verifier processes for each policy.")
    number: VerifyNumber = VerifyNumber()
    text: VerifyText = VerifyText()
    python: VerifyPython = VerifyPython()
    plugins: dict[str, dict[str, Any]] = Field({}, description="Settings for kinds from other packages, by kind.")

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """Every kind's settings, by the kind's name."""
        built_in = {name: getattr(self, name).model_dump() for name in ("number", "text", "python")}
        return {**self.plugins, **built_in}


class IwSft(Section):
    temperature: PositiveFloat = Field(1.0, description="T of the weight.")
    max_weight: PositiveFloat = Field(16.0, description="Upper limit of the weight.")


class Psft(Section):
    clip: PositiveFloat = Field(0.28, description="A token has no gradient if its ratio p/q exceeds 1 + clip.")
    refresh_every: PositiveInt = Field(8, description="Optimiser steps between updates of the reference to the policy.")


class DftK3(Section):
    weight: PositiveFloat = Field(0.05, description="λ, the weight of the k3 term.")
    max_ratio: PositiveFloat = Field(10.0, description="Upper limit of q/p.")


class Trsft(Section):
    alpha: Fraction = Field(0.1, description="α: tokens more likely than this have weight 1.")


class Idft(Section):
    beta: PositiveFloat = Field(1.0, description="β, the divisor in γ's exponent.")
    min_gamma: PositiveFloat = Field(0.1, description="Lower limit of γ.")
    max_gamma: PositiveFloat = Field(2.0, description="Upper limit of γ.")
    hold: Share = Field(0.0, description="Share of the steps, from the first one, in which γ is 1.")
    ramp: Share = Field(0.0, description="Share of the steps over which γ then moves to its own value.")

    @model_validator(mode="after")
    def _require_order(self) -> "Idft":
        if self.min_gamma > self.max_gamma:
            raise ValueError("min_gamma must not exceed max_gamma")
        if self.hold + self.ramp > 1:
            raise ValueError("hold and ramp together must not exceed 1, which is all steps")
        return self


class IdftV1(Idft):
    hold: Share = Field(0.2, description="As for `idft`.")
    ramp: Share = Field(0.1, description="As for `idft`.")


class Eaft(Section):
    alpha: PositiveFloat = Field(1.0, description="α, the exponent of the entropy.")


class Power(Section):
    k: PositiveFloat = Field(10.0, description="k, the exponent of p.")


class PriftMass(Section):
    threshold: Fraction = Field(0.5, description="τ: a token of less mass in the policy before training has weight 0.")


class InfoSft(Section):
    zero_at: float = Field(0.93, gt=0.5, lt=1, description="P: tokens at least this likely have weight 0.")


class IsClip(Section):
    low: NonNegativeFloat = Field(0.0, description="Lower limit of the ratio p/b in the loss `is`.")
    high: PositiveFloat = Field(2.0, description="Upper limit of that ratio.")

    @model_validator(mode="after")
    def _require_low_below_high(self) -> "IsClip":
        if self.low > self.high:
            raise ValueError("low must not exceed high")
        return self


class Opd(Section):
    clip: PositiveFloat = Field(5.0, description="Limit of log q − log p, in nats, on either side.")
    p: Literal["current", "scored"] = Field(
        "current", description="Which p: the policy's during training, or as `ossft score` found it."
    )


class Lora(Section):
    rank: PositiveInt = Field(16, description="Rank of the adapter matrices.")
    alpha: PositiveFloat = Field(32.0, description="Adapters are scaled by alpha / rank.")
    dropout: BelowOne = Field(0.0, description="Dropout on the adapters' input.")
    target_modules: list[str] = Field(["all-linear"], description="Adapted layers; `all-linear`: all but the head.")


class Mix(Section):
    examples: str = Field(min_length=1, description="A run's rewrite folder, or a file of chats (`messages`).")
    weight: PositiveFloat = Field(description="Its response tokens, for each response token of the run's own examples.")


class Train(Section):
    loss: LossName = Field("dft", description="The importance-weighted loss; see [losses](losses.md).")
    learning_rate: PositiveFloat = Field(5e-5, description="Highest learning rate, reached after the warm-up.")
    weigh: Literal["rows", "problems"] = Field(
        "rows", description="What counts equally; `problems`: a problem's n rows have weight 1/n each."
    )
    epochs: PositiveInt = Field(1, description="Passes over the examples.")
    global_batch_size: PositiveInt = Field(256, description="Examples (not packed rows) for each optimiser step.")
    max_length: PositiveInt = Field(2048, description="Longest example, in tokens; longer ones are set aside.")
    zero_stage: Literal[0, 1, 2, 3, "auto"] = Field(
        2, description="DeepSpeed's ZeRO stage; `auto`: the lowest from 1 on that fits the GPUs."
    )
    precision: Literal["bf16", "fp32"] = Field("bf16", description="Precision of weights and activations.")
    packing: bool = Field(True, description="Put several examples into one row, without padding.")
    micro_batch_tokens: PositiveInt | Auto = Field(
        "auto", description="Tokens in a pass; `auto`: as many as fit a GPU."
    )
    activation_checkpointing: bool = Field(False, description="Recompute activations in the backward pass.")
    compile: bool | Auto = Field("auto", description="Compile the layers; `auto`: on GPUs in bf16, ZeRO 0 to 2.")
    offload: Literal["none", "optimizer", "all"] = Field(
        "none", description="Move the optimiser to main memory (ZeRO 1 to 3), or the parameters too (`all`; ZeRO 3)."
    )
    deepspeed: dict[str, Any] = Field({}, description="Any other DeepSpeed setting, as in its JSON.")
    lora: Lora | None = Field(None, description="Train adapters only; the exported model has them merged.")
    checkpoint_every: PositiveInt = Field(50, description="Optimiser steps between checkpoints.")
    stop_after: Duration | None = Field(None, description="Stop with exit code 130 after a time such as 3h45m.")
    hang_after: Duration = Field("30m", description="Stop if no worker progresses for this long.")
    max_grad_norm_jump: NonNegativeFloat = Field(1000.0, description="Stop at this multiple of the median; 0: never.")
    holdout: BelowOne = Field(0.0, description="Share of the problems to measure on instead of training on them.")
    keep: Literal["last", "best"] = Field("last", description="Checkpoint to export; `best`: by `keep_by`.")
    tracking: list[Literal["wandb", "mlflow"]] = Field([], description="Trackers besides TensorBoard.")
    keep_by: Literal["cross_entropy", "loss", "mean_token_probability"] = Field(
        "cross_entropy", description="The holdout figure that decides which is best; `loss` only with the loss `sft`."
    )
    warmup_ratio: BelowOne = Field(0.1, description="Share of the steps with linear warm-up; a cosine to zero follows.")
    warmup_from_zero: bool = Field(False, description="Let the first step of the warm-up have rate 0; see fidelity.md.")
    weight_decay: NonNegativeFloat = Field(0.01, description="AdamW's weight decay.")
    betas: tuple[BelowOne, BelowOne] = Field((0.9, 0.95), strict=False, description="AdamW's betas.")
    max_grad_norm: PositiveFloat = Field(1.0, description="Clip the gradient at this norm.")
    mean_over: PositiveInt | Literal["batch"] = Field(
        "batch", description="Average over the batch's tokens, or over groups of this many examples, then over groups."
    )
    master_weights: Literal["fp32", "bf16"] = Field(
        "fp32", description="Precision of the weights that AdamW updates, and of its states, if `precision` is bf16."
    )
    examples: str | None = Field(None, description="The rewrite folder of another run, to train on its examples.")
    select: Literal["all", "first", "closest", "rsr", "shortest"] = Field(
        "all", description="Which kept response of a problem to train on; see [choosing](choosing_responses.md)."
    )
    mix: list[Mix] = Field([], description="Rows of other sources to train on as well.")
    iw_sft: IwSft = IwSft()
    psft: Psft = Psft()
    dft_k3: DftK3 = DftK3()
    trsft: Trsft = Trsft()
    idft: Idft = Idft()
    idft_v1: IdftV1 = IdftV1()
    eaft: Eaft = Eaft()
    power: Power = Power()
    prift_mass: PriftMass = PriftMass()
    infosft: InfoSft = InfoSft()
    is_clip: IsClip = IsClip()
    opd: Opd = Opd()

    @field_validator("loss", mode="before")
    @classmethod
    def _name_the_new_loss(cls, loss: Any) -> Any:
        if isinstance(loss, str) and loss in RENAMED_LOSSES:
            raise ValueError(f"no loss '{loss}': {RENAMED_LOSSES[loss]}")
        return loss

    @model_validator(mode="after")
    def _require_a_measure_of_fit(self) -> "Train":
        if self.keep == "best" and self.keep_by == "loss" and self.loss != "sft":
            raise ValueError(
                f'keep_by = "loss" finds no best checkpoint with loss = "{self.loss}", whose weights change with the '
                'model: a lower value need not fit better. Set keep_by = "cross_entropy" or "mean_token_probability"'
            )
        if self.loss == "opd":
            others = [name for name in ("examples", "mix") if getattr(self, name)]
            if others or self.select != "all":
                raise ValueError(
                    'loss = "opd" trains on the scored attempts of this run, not on examples: leave out '
                    + (others[0] if others else "select")
                )
        if self.keep == "best" and not self.holdout:
            raise ValueError('keep = "best" needs problems to measure on: set holdout, for example to 0.02')
        return self

    @property
    def engine_stage(self) -> int:
        """The ZeRO stage that DeepSpeed gets: stage 0 would add up the gradients of a step's passes in bf16."""
        stage = 2 if self.zero_stage == "auto" else self.zero_stage  # auto is resolved once the GPUs are known
        return max(1, stage) if self.precision == "bf16" else stage

    @property
    def least_pass_tokens(self) -> int:
        """Tokens of a pass, or with `auto` those of the first one."""
        return self.max_length if self.micro_batch_tokens == "auto" else self.micro_batch_tokens

    @property
    def loss_options(self) -> dict[str, Any]:
        """The hyper-parameters of the chosen loss; empty for a loss without any."""
        # the section of the loss `is` cannot have its name, which is a keyword of Python
        section = getattr(self, "is_clip" if self.loss == "is" else self.loss, None)
        return section.model_dump() if section is not None else {}


class Evaluate(Section):
    benchmarks: list[str] = Field(
        ["math500", "minerva_math", "olympiadbench", "aime24", "amc23"], description="Names of benchmarks, or files."
    )
    columns: Columns = Columns()  # of files
    data_dir: str = Field("", description="Folder of NAME.jsonl for named benchmarks; empty: fetch from the Hub.")
    models: dict[ModelName, str] = Field({}, description="Further models: a name, and its folder or Hub id.")
    template: TemplateName | None = Field(None, description="Prompt template for evaluation only.")
    cache: str = Field("auto", description="Shared samples; `auto`: $OSSFT_CACHE or ~/.cache/ossft_ray; empty: none.")
    num_samples: PositiveInt = Field(16, description="Samples for each problem: the k of avg@k, pass@k and maj@k.")
    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    top_k: TopK = 0
    min_p: MinP = 0.0
    presence_penalty: PresencePenalty = 0.0
    max_tokens: MaxTokens = 4096

    @model_validator(mode="after")
    def _require_unused_names(self) -> "Evaluate":
        for name in ("base", "trained"):
            if name in self.models:
                raise ValueError(f"models must not name one '{name}': that is the name of a model of the run itself")
        if twice := next((name for name in self.benchmarks if self.benchmarks.count(name) > 1), None):
            raise ValueError(f"benchmarks names {twice} twice")
        return self


class Loop(Section):
    rounds: PositiveInt = Field(1, description="Number of rounds; the model that round 1 trains samples in round 2.")
    start_from: Literal["previous", "base"] = Field(
        "previous",
        description="The model that a further round trains: the previous round's, or again `[policy] model`.",
    )
    problems: Literal["all", "unsolved"] = Field(
        "all", description="What a further round rewrites; `unsolved`: problems without a self or guided row so far."
    )


class Resources(Section):
    num_policies: PositiveInt | Auto = Field("auto", description="vLLM engines; `auto`: as many as the GPUs hold.")
    min_policies: PositiveInt | None = Field(None, description="Start with this many, and grow to `num_policies`.")
    problems_in_flight: PositiveInt | Auto = Field("auto", description="Problems that a policy works on at once.")
    gpus_per_policy: NonNegativeFloat | Auto = Field(
        "auto", description="Whole GPUs, a fraction of one, or 0 for vLLM's CPU build; `auto`: what one engine spans."
    )
    replan_after: Duration = Field("5m", description="Wait this long for a lost node before continuing with fewer.")
    num_train_workers: PositiveInt | Auto = Field("auto", description="Training workers.")
    gpus_per_train_worker: NonNegativeInt | Auto = Field("auto", description="GPUs for each training worker.")


class Experiment(Section):
    """A resolved experiment. Every stage's function takes this one object."""

    run: RunSettings = RunSettings()
    policy: Policy
    data: Data
    prompts: Prompts = Prompts()
    rewrite: Rewrite = Rewrite()
    verify: Verify = Verify()
    score: Score = Score()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    loop: Loop = Loop()
    resources: Resources = Resources()


def load_experiment(path: str | Path | None, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment file and apply `section.key=value` overrides (values as TOML, bare words as strings).

    Raises:
        InputError: the file is missing or not TOML, a key is unknown, or a value has the wrong type or is impossible.
    """
    return resolve(_read_settings(path, overrides), source=str(path) if path is not None else "the experiment")


def load_verify(path: str | Path | None, overrides: Sequence[str] = ()) -> tuple[Verify, Policy | None]:
    """Read only the `[verify]` section of an experiment file, for grading a file of answers, and the `[policy]` if any.

    Raises:
        InputError: as `load_experiment`; or an override is for another section.
    """
    settings = _read_settings(path, overrides)
    if other := next((text for text in overrides if not text.strip().startswith(("verify.", "policy."))), None):
        raise InputError(f"--set {other}: only keys of [verify] and [policy] matter here, such as verify.kind=number")
    given: dict[str, Any] = {name: settings[name] for name in ("run", "verify", "policy") if name in settings}
    found = resolve({"policy": {"model": "any"}, "data": {"path": "any"}, **given}, str(path or "--set"))
    return found.verify, found.policy if "policy" in given else None


def resolve(settings: dict[str, Any], source: str = "the experiment", *, apply_task: bool = True) -> Experiment:
    """Validate plain settings into an `Experiment`.

    Without `apply_task`, the settings are those of a resolved experiment, which already include the task's.

    Raises:
        InputError: a key is faulty (the message names the first one and counts the others), or holds a secret; or the
            task cannot be used.
    """
    run = settings.get("run")
    if apply_task and isinstance(run, dict) and isinstance(name := run.get("task"), str):
        settings, source = with_task(settings, read_task(name)), f"{source} with the task {name}"
    if (key := find_secret(settings)) is not None:
        raise InputError(f"{source}: '{key}' holds a secret, which would be written into files and logs; {HINT}")
    try:
        return Experiment.model_validate(settings)
    except ValidationError as error:
        raise InputError(f"{source}: {_first_fault(error)}") from None


def keys_of(annotation: Any) -> dict[str, FieldInfo]:
    """The keys of a section, given as a type or an optional type; empty for the type of a plain value."""
    for member in (annotation, *get_args(annotation)):
        if isinstance(member, type) and issubclass(member, BaseModel):
            return member.model_fields
    return {}


def _read_settings(path: str | Path | None, overrides: Sequence[str]) -> dict[str, Any]:
    settings = {} if path is None else _read_toml(Path(path))
    for override in overrides:
        _apply_override(settings, override)
    return settings


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Windows editors write a byte-order mark
    except FileNotFoundError:
        raise InputError(f"{path}: no such experiment file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"{path}: cannot be read: {reason}") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not valid TOML: {error}") from error


def _apply_override(settings: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *sections, name = key.strip().split(".")
    if not equals or not sections or not all([*sections, name]):
        raise InputError(f"--set {override}: write it as section.key=value")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for part in sections:
        settings = settings.setdefault(part, {})
        if not isinstance(settings, dict):
            raise InputError(f"--set {override}: '{part}' is not a section")
    settings[name] = value


def _first_fault(error: ValidationError) -> str:
    faults: dict[str, list[Any]] = {}  # by key, because a value that fits none of several types has one fault for each
    for found in error.errors():
        faults.setdefault(_locate(found["loc"])[0], []).append(found)
    key, (fault, *others) = next(iter(faults.items()))
    _, siblings, children = _locate(fault["loc"])
    if fault["type"] == "extra_forbidden":
        message = f"unknown key '{key}'; {_nearest_keys(key.rpartition('.')[2], list(siblings))}"
    elif fault["type"] == "missing":
        required = next((f".{name}" for name, field in children.items() if field.is_required()), "")
        message = f"'{key}{required}' is required; set it in the experiment file or with --set"
    elif fault["type"] == "value_error":  # from a validator of this module, whose message says it all
        message = f"'{key}': {fault['ctx']['error']}"
    else:
        shown = json.dumps(fault["input"], default=str)
        wanted = dict.fromkeys(each["msg"].removeprefix("Input should be ") for each in (fault, *others))
        should_be = "should be " if fault["msg"].startswith("Input should be ") else ""
        message = f"'{key}': {should_be}{' or '.join(wanted)}" + (f", not {shown}" if len(shown) < 80 else "")
    return message + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "")


def _nearest_keys(name: str, valid: list[str]) -> str:
    if near := difflib.get_close_matches(name, valid, n=1, cutoff=0.5):
        return f"did you mean '{near[0]}'?"
    if len(valid) > 15:  # the list would not fit on a line
        return f"the nearest valid keys: {', '.join(difflib.get_close_matches(name, valid, n=5, cutoff=0))}"
    return f"valid keys: {', '.join(valid)}"


def _locate(location: tuple[int | str, ...]) -> tuple[str, dict[str, FieldInfo], dict[str, FieldInfo]]:
    """The dotted key of a fault, the valid keys next to it, and those below it.

    For a value that may be of several types, pydantic appends the type it tried; that part is left out.
    """
    names: list[str] = []
    siblings: dict[str, FieldInfo] = {}
    children = dict(Experiment.model_fields)
    for part in location:
        if isinstance(part, str) and not children:
            break
        names.append(str(part))
        siblings, field = children, children.get(str(part))
        children = keys_of(field.annotation) if field else {}
    return ".".join(names), siblings, children
