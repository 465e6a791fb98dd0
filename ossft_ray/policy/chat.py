"""Messages to the policy's tokens, and the token that ends a turn: decided here, once for every stage.

Sampling stops on the end-of-turn token and on the tokenizer's end-of-text token. Every training row ends with the
end-of-turn token, and the exported model's generation config agrees.

Only the template writes control tokens. Their names in a message, such as `<|im_end|>`, are encoded as ordinary text.
"""

import datetime
import hashlib
import json
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ossft_ray.common.errors import InputError, brief
from ossft_ray.common.prompt_templates import Message, split_tools
from ossft_ray.config import Policy
from ossft_ray.method.thinking import CLOSE, OPEN
from ossft_ray.policy.chat_templates import (
    ASSISTANT,
    PROBE_ASSISTANT,
    PROBE_USER,
    USER,
    prints_date,
    read_template,
    set_variables,
)
from ossft_ray.policy.hub_models import resolve_commit
from ossft_ray.policy.model_files import check_complete, check_weights
from ossft_ray.policy.model_location import model_path

_SEAM = "\ufdd0"  # not a character: it marks where text is cut before it is encoded
_ORIGIN_KEYS = {"_name_or_path", "transformers_version"}  # of a model's config
_THINKING = (OPEN, CLOSE)  # models and expert solutions write them, too


@dataclass(frozen=True)
class Chat:
    """A policy's tokenizer with its chat template and its end tokens."""

    tokenizer: Any  # a transformers PreTrainedTokenizerBase
    end_of_turn_id: int
    context_length: int  # tokens, prompt and response together
    commit: str | None = None  # of a model from the Hub
    date: str | None = None  # that the template prints as today's; None: today
    model_shape: str = ""  # digest of the model's config: weights of models that share it fit into the same engine

    @cached_property
    def stop_token_ids(self) -> list[int]:
        """The end-of-turn token, then the end-of-text token if that is another one."""
        ids = [self.end_of_turn_id, self.tokenizer.eos_token_id]
        return list(dict.fromkeys(token for token in ids if token is not None))

    @cached_property
    def opens_thinking(self) -> bool:
        """Whether the template itself opens a `<think>` block, so that every response begins inside it."""
        return self._prompt([USER]).rstrip().endswith(OPEN)

    @cached_property
    def thinking(self) -> str:
        """What the template does about thinking, for people to read."""
        if self.opens_thinking:
            return "the chat template opens a <think> block, in which every response begins"
        if self._prompt([USER]).rstrip().endswith(CLOSE):
            return "the chat template writes a closed <think> block; responses begin after it"
        return "the chat template writes no <think> block"

    def render(self, messages: list[Message]) -> list[int]:
        """Token ids of the prompt, up to where the assistant's response begins.

        The `tools` that a message holds are those of the whole conversation.
        """
        return self._encode(self._prompt([self._cut_message(message) for message in messages]))

    def close_thinking(self, response: str) -> str:
        """Close the thinking that the prompt may have opened, before a response that the policy did not sample."""
        return f"\n{CLOSE}\n\n{response}" if self.opens_thinking and CLOSE not in response else response

    def encode_response(self, response: str) -> list[int]:
        """Token ids of a response that the policy did not sample, outside of thinking, with the end-of-turn token."""
        return [*self._encode(self._cut(self.close_thinking(response))), self.end_of_turn_id]

    def encode_plain(self, question: str, response: str) -> tuple[list[int], list[int]]:
        """Token ids of a question and of the response right after it: no template, no end token.

        The tokenizer adds its special tokens, such as one that begins a text. As in the authors' `get_probability.py`,
        question and response are encoded together, and the response begins after as many tokens as the question alone
        has.
        """
        num_question = len(self.tokenizer(question)["input_ids"])
        both = list(self.tokenizer(question + response)["input_ids"])
        return both[:num_question], both[num_question:]

    def close_turn(self, token_ids: list[int]) -> list[int]:
        """Sampled tokens as a training row needs them: an end-of-text token becomes the end-of-turn token."""
        if token_ids and token_ids[-1] in self.stop_token_ids:
            return [*token_ids[:-1], self.end_of_turn_id]
        return token_ids

    def decode(self, token_ids: list[int]) -> str:
        """Text of a response without its special tokens."""
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=True))

    def _prompt(self, messages: list[Message]) -> str:
        messages, tools = split_tools(messages)
        options: dict[str, Any] = {"tools": tools} if tools else {}
        if self.date is not None:  # in place of the function that transformers gives to templates
            options["strftime_now"] = datetime.datetime.fromisoformat(self.date).strftime
        return str(self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **options))

    def _cut(self, text: str) -> str:
        """Text with a seam inside the name of each control token."""
        return self._control.sub(lambda found: found[0][0] + _SEAM + found[0][1:], text)

    def _cut_message(self, value: Any) -> Any:
        """A message with seams in all its texts but the role."""
        if isinstance(value, dict):
            return {key: value[key] if key == "role" else self._cut_message(value[key]) for key in value}
        if isinstance(value, list):
            return [self._cut_message(item) for item in value]
        return self._cut(value) if isinstance(value, str) else value

    @cached_property
    def _control(self) -> re.Pattern[str]:
        """The names of the control tokens: the special ones, and all that the template writes around messages."""
        frame = str(self.tokenizer.apply_chat_template([USER, ASSISTANT], tokenize=False))
        added = self.tokenizer.added_tokens_decoder.values()
        names = {str(token) for token in added if token.special or str(token) in frame} - set(_THINKING)
        longest_first = sorted((name for name in names if len(name) > 1), key=lambda name: (-len(name), name))
        return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def _encode(self, text: str) -> list[int]:
        options = {"add_special_tokens": False, "verbose": False}  # no warning: long rows are set aside later
        return [token for piece in text.split(_SEAM) for token in self.tokenizer(piece, **options)["input_ids"]]


def load_chat(policy: Policy) -> Chat:
    """Load the policy's tokenizer and determine its chat template, end tokens and context length.

    Raises:
        InputError: the model cannot be found, has no chat template, or has no end token; says why.
    """
    path = model_path(policy.model)
    _check_folders(policy, path)
    tokenizer, config = _load(policy, path)
    if not tokenizer(PROBE_USER, add_special_tokens=False)["input_ids"]:  # transformers may make up an empty one
        raise InputError(f"[policy] model: {policy.model} holds no tokenizer; its folder needs a tokenizer.json")
    if policy.chat_template is not None:
        tokenizer.chat_template = read_template(policy.chat_template)
    if not tokenizer.chat_template:
        raise InputError(f"[policy] model: {policy.model} has no chat template; give one as [policy] chat_template")
    if policy.chat_template_kwargs:
        tokenizer.chat_template = set_variables(str(tokenizer.chat_template), policy.chat_template_kwargs)
    end_of_turn = _end_of_turn(tokenizer, policy.model)
    context_length = _context_length(policy, config)
    _check_heads(policy, config)
    commit = None if Path(path).is_dir() else resolve_commit(path, policy.revision)
    return Chat(tokenizer, end_of_turn, context_length, commit, policy.date, _shape(config))


def prints_todays_date(policy: Policy) -> bool:
    """Whether the policy's chat template prints the date of the day on which it is rendered.

    Raises:
        InputError: the template or the model's folder cannot be read.
    """
    if policy.chat_template is not None:
        return prints_date(read_template(policy.chat_template))
    folder = Path(model_path(policy.model))
    if not folder.is_dir():
        try:
            return prints_date(load_chat(policy).tokenizer.chat_template)
        except InputError:  # a complete stage needs no model, and any other stage refuses it
            return False
    files = [folder / name for name in ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")]
    return any(prints_date(file.read_text(encoding="utf-8", errors="replace")) for file in files if file.is_file())


def _check_folders(policy: Policy, path: str) -> None:
    if Path(path).is_dir():
        check_weights(os.listdir(path), policy.model)
        check_complete(Path(path), policy.model)
    if policy.lora:
        adapter = Path(policy.lora).expanduser()
        if not (adapter / "adapter_config.json").is_file():
            raise InputError(
                f"[policy] lora: {policy.lora} holds no adapter_config.json; give a folder that peft has saved"
            )
        check_weights(os.listdir(adapter), policy.lora, "[policy] lora")


def _load(policy: Policy, path: str) -> tuple[Any, Any]:
    """The tokenizer and the configuration, both of transformers."""
    from transformers import AutoConfig, AutoTokenizer

    where: dict[str, Any] = {"revision": policy.revision, "trust_remote_code": policy.trust_remote_code}
    try:
        return AutoTokenizer.from_pretrained(path, **where), AutoConfig.from_pretrained(path, **where)
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        if "trust_remote_code" in str(error):
            raise InputError(
                f"[policy] model: {policy.model} contains its own Python code, which runs only on request; "
                "if you trust its author, set [policy] trust_remote_code = true and a [policy] revision"
            ) from error
        hint = "" if Path(path).is_dir() else "; it is neither a folder here nor a model on the Hub"
        raise InputError(f"[policy] model: cannot load {policy.model}: {brief(error)}{hint}") from error


def _context_length(policy: Policy, config: Any) -> int:
    text_config = config.get_text_config()
    stated: Any = getattr(text_config, "max_position_embeddings", None)
    given = policy.engine.get("max_model_len")
    if given and not re.fullmatch(r"[1-9]\d*", str(given)):
        raise InputError(f"[policy.engine] max_model_len: '{given}' is not a whole number of tokens")
    if not given and not stated:
        raise InputError(f"[policy] model: {policy.model} states no context length; set policy.engine.max_model_len")
    if given and stated and int(given) > stated and not _may_be_extended(policy, text_config):
        raise InputError(
            f"[policy.engine] max_model_len: {given} tokens, but {policy.model} holds {stated} "
            "(max_position_embeddings in its config.json); lower it or leave it out"
        )
    return int(given or stated)


def _may_be_extended(policy: Policy, config: Any) -> bool:
    """Whether vLLM may take a context beyond `max_position_embeddings`: the engine decides that when it starts."""
    values = config.to_dict()
    scaled = "'factor'" in str(values.get("rope_parameters") or values.get("rope_scaling"))
    overridden = any(name.startswith("hf_") for name in policy.engine) or "VLLM_ALLOW_LONG_MAX_MODEL_LEN" in os.environ
    return scaled or overridden or "model_max_length" in values


def _shape(config: Any) -> str:
    """A digest of a config without the keys that say where the model comes from.

    vLLM runs float32 models in bfloat16, so their configs count as equal to bfloat16's.
    """
    values = {key: value for key, value in config.to_dict().items() if key not in _ORIGIN_KEYS}
    if str(values.get("dtype")).removeprefix("torch.") == "float32":
        values["dtype"] = "bfloat16"
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def _check_heads(policy: Policy, config: Any) -> None:
    """Refuse a tensor-parallel size that does not divide the number of attention heads."""
    heads, size = getattr(config.get_text_config(), "num_attention_heads", 0), policy.engine.get("tensor_parallel_size")
    if isinstance(heads, int) and isinstance(size, int) and size > 1 and heads % size:
        sizes = ", ".join(str(number) for number in range(1, heads + 1) if heads % number == 0)
        raise InputError(
            f"[policy.engine] tensor_parallel_size: {size} does not divide the {heads} attention heads of "
            f"{policy.model}; choose one of {sizes}"
        )


def _end_of_turn(tokenizer: Any, name: str) -> int:
    """The first special token that the template writes after an assistant's message, else the end of text."""
    try:
        text = tokenizer.apply_chat_template([USER, ASSISTANT], tokenize=False)
    except Exception as error:  # a template is a program, which may raise anything
        raise InputError(f"[policy] chat_template: {name}'s template fails: {brief(error)}") from error
    _, written, tail = text.rpartition(PROBE_ASSISTANT)
    if not written:
        raise InputError(
            f"[policy] chat_template: {name}'s template leaves out the assistant's message; give one that writes it"
        )
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    special |= set(tokenizer.all_special_ids)
    for token in tokenizer(tail, add_special_tokens=False)["input_ids"]:
        if token in special:
            return int(token)
    if tokenizer.eos_token_id is None:
        raise InputError(
            f"[policy] model: {name} has no end token: its chat template closes the assistant's turn without a special "
            "token, and its tokenizer has no eos_token; give a [policy] chat_template that closes the turn"
        )
    return int(tokenizer.eos_token_id)
