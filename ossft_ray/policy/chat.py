"""How messages become the policy's tokens, and which token ends a turn: decided here once, for every stage.

Sampling stops on the end-of-turn token and on the tokenizer's end-of-text; every training row ends with the
end-of-turn token; the exported model's generation config agrees.
"""

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ossft_ray.common import playground_paths
from ossft_ray.common.errors import InputError
from ossft_ray.common.storage import Folder, digest_files
from ossft_ray.common.uris import is_uri
from ossft_ray.config import Policy
from ossft_ray.policy.hub_models import resolve_commit
from ossft_ray.policy.model_files import check_weights, fetch_model

_PROBE_USER, _PROBE_ASSISTANT = "What?", "ossft-probe"


@dataclass(frozen=True)
class Chat:
    """A policy's tokenizer with its chat template and end tokens settled."""

    tokenizer: Any  # a transformers PreTrainedTokenizerBase
    end_of_turn_id: int
    context_length: int  # tokens, prompt and response together
    commit: str | None = None  # of a model from the Hub

    @cached_property
    def stop_token_ids(self) -> list[int]:
        """End of turn first, then end of text where it is another token."""
        ids = [self.end_of_turn_id, self.tokenizer.eos_token_id]
        return list(dict.fromkeys(token for token in ids if token is not None))

    @cached_property
    def opens_thinking(self) -> bool:
        """Whether the template itself opens a `<think>` block, in which every response then begins."""
        messages = [{"role": "user", "content": _PROBE_USER}]
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return str(text).rstrip().endswith("<think>")

    def render(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of the prompt, up to where the assistant's response begins."""
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode_response(self, response: str) -> list[int]:
        """Token ids of a response that somebody else wrote, end-of-turn token included."""
        return [*self.tokenizer(response, add_special_tokens=False)["input_ids"], self.end_of_turn_id]

    def close_turn(self, token_ids: list[int]) -> list[int]:
        """Sampled tokens as a training row ends: with the end-of-turn token, also where the policy ended the text."""
        if token_ids and token_ids[-1] in self.stop_token_ids:
            return [*token_ids[:-1], self.end_of_turn_id]
        return token_ids

    def decode(self, token_ids: list[int]) -> str:
        """Text of a response without its special tokens."""
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=True))


def model_path(name: str, weights: bool = False) -> str:
    """What transformers and vLLM load for `[policy] model`: the playground's folder, a folder, or a Hub id.

    A folder in an object store comes onto this machine for it; its weights do only where they are wanted.

    Raises:
        InputError: `name` looks like a path or a URI but no such folder holds a model.
    """
    if name == playground_paths.POLICY:
        return str(playground_paths.POLICY_FOLDER)
    if is_uri(name):
        local = Folder.at(name).local_path
        return model_path(str(local)) if local is not None else fetch_model(name, weights)
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"[policy] model: {name} holds no config.json; give a Hugging Face model folder")
        return str(path)
    if path.exists() or path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise InputError(f"[policy] model: no model folder at {name}; give a folder, a Hub id, or 'playground'")
    return name


def model_digest(policy: Policy) -> str:
    """What identifies the model's weights and tokenizer in a fingerprint: file contents, or Hub id and revision."""
    path = model_path(policy.model)
    lora = f" with {_digest_folder(policy.lora)}" if policy.lora else ""
    if not Path(path).is_dir():
        return f"{policy.model}@{policy.revision or 'main'}{lora}"
    return _digest_folder(policy.model if is_uri(policy.model) else path) + lora


def _digest_folder(path: str) -> str:
    folder = Folder.at(path)
    return digest_files(folder, [name for name in folder.names() if name.endswith((".json", ".safetensors", ".jinja"))])


def load_chat(policy: Policy) -> Chat:
    """Load the policy's tokenizer and settle its template, end tokens and context length.

    Raises:
        InputError: the model cannot be found, has no chat template, or no end token can be settled; says why.
    """
    from transformers import AutoConfig, AutoTokenizer

    path = model_path(policy.model)
    if policy.lora and not (Path(policy.lora).expanduser() / "adapter_config.json").is_file():
        raise InputError(
            f"[policy] lora: {policy.lora} holds no adapter_config.json; give a folder that peft has saved"
        )
    if Path(path).is_dir():
        check_weights(os.listdir(path), policy.model)
    if policy.lora:
        check_weights(os.listdir(Path(policy.lora).expanduser()), policy.lora, "[policy] lora")
    try:
        where: dict[str, Any] = {"revision": policy.revision, "trust_remote_code": policy.trust_remote_code}
        tokenizer = AutoTokenizer.from_pretrained(path, **where)
        config = AutoConfig.from_pretrained(path, **where)
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "trust_remote_code" in str(error):
            raise InputError(
                f"[policy] model: {policy.model} comes with Python code of its own, which is not run unless asked for; "
                "if you trust its author, set [policy] trust_remote_code = true and a [policy] revision"
            ) from error
        mend = "" if Path(path).is_dir() else "; there is no such folder here, and as a Hub id it cannot be had"
        raise InputError(f"[policy] model: cannot load {policy.model}: {reason}{mend}") from error
    if not tokenizer(_PROBE_USER, add_special_tokens=False)["input_ids"]:  # transformers may make up an empty one
        raise InputError(f"[policy] model: {policy.model} holds no tokenizer; its folder needs a tokenizer.json")
    if policy.chat_template is not None:
        tokenizer.chat_template = _read_template(policy.chat_template)
    if not tokenizer.chat_template:
        raise InputError(f"[policy] model: {policy.model} has no chat template; give one as [policy] chat_template")
    text_config = config.get_text_config()
    context = policy.engine.get("max_model_len") or getattr(text_config, "max_position_embeddings", None)
    if isinstance(context, str) and not context.isdigit():
        raise InputError(f"[policy.engine] max_model_len: a whole number of tokens is wanted, not '{context}'")
    if not context:
        raise InputError(f"[policy] model: {policy.model} states no context length; set policy.engine.max_model_len")
    commit = None if Path(path).is_dir() else resolve_commit(path, policy.revision)
    return Chat(tokenizer, _end_of_turn(tokenizer, policy.model), int(context), commit)


def _read_template(template: str) -> str:
    if "{" in template:
        return template
    try:
        return Path(template).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"[policy] chat_template: neither Jinja text nor a readable file: {template}") from error


def _end_of_turn(tokenizer: Any, name: str) -> int:
    """The first special token that the template writes after an assistant's message, else the end of text."""
    messages = [{"role": "user", "content": _PROBE_USER}, {"role": "assistant", "content": _PROBE_ASSISTANT}]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception as error:  # a template is a program: whatever it raises, it cannot be used
        raise InputError(f"[policy] chat_template: {name}'s template fails: {error}") from error
    _, written, tail = text.rpartition(_PROBE_ASSISTANT)
    if not written:
        raise InputError(
            f"[policy] chat_template: {name}'s template leaves out what the assistant says; give one that writes it"
        )
    special = set(tokenizer.all_special_ids) | {
        token for token, added in tokenizer.added_tokens_decoder.items() if added.special
    }
    for token in tokenizer(tail, add_special_tokens=False)["input_ids"]:
        if token in special:
            return int(token)
    if tokenizer.eos_token_id is None:
        raise InputError(
            f"[policy] model: {name} has no end token: its chat template closes the assistant's turn with no special "
            "token and its tokenizer has no eos_token; give a [policy] chat_template that closes the turn"
        )
    return int(tokenizer.eos_token_id)
