"""Checks of a chat template with the messages that a run sends, because a template may refuse or drop any of them."""

import os
import re
from collections.abc import Mapping
from typing import Any

from ossft_ray.common.errors import InputError, brief

PROBE_SYSTEM, PROBE_USER, PROBE_ASSISTANT = "ossft-system", "What?", "ossft-probe"
USER = {"role": "user", "content": PROBE_USER}
ASSISTANT = {"role": "assistant", "content": PROBE_ASSISTANT}
_NO_SYSTEM = 'set [prompts] template = "llama-boxed", which has none, or [prompts] system = "" with a solve prompt'


def read_template(template: str) -> str:
    """The text of `[policy] chat_template`, which may be the name of a file.

    Raises:
        InputError: it is neither Jinja text nor a readable file.
    """
    if "{" in template:
        return template
    try:
        with open(os.path.expanduser(template), encoding="utf-8-sig") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise InputError(f"[policy] chat_template: {template} is not UTF-8 text; convert it") from error
    except OSError as error:
        raise InputError(f"[policy] chat_template: neither Jinja text nor a readable file: {template}") from error


def set_variables(template: str, values: Mapping[str, Any]) -> str:
    """The template with other defaults for its variables, such as `enable_thinking`; its callers may still set them.

    Raises:
        InputError: the template does not use a variable of this name.

    >>> set_variables("{{ language }}", {"language": "en"})
    "{% set language = language if language is defined else 'en' %}{{ language }}"
    """
    for name in values:
        if not re.search(rf"\b{re.escape(name)}\b", template):
            raise InputError(f"[policy] chat_template_kwargs: the chat template does not use '{name}'; leave it out")
    sets = (f"{{% set {name} = {name} if {name} is defined else {value!r} %}}" for name, value in values.items())
    return "".join(sets) + template


def prints_date(template: Any) -> bool:
    """Whether a template prints the date of the day on which it is rendered."""
    return "strftime_now" in str(template)


def check_template(tokenizer: Any, name: str) -> None:
    """Refuse a template that omits the user's message, or whose prompt ends before the assistant's turn begins.

    Raises:
        InputError: see above.
    """
    plain, prompt = (_render(tokenizer, [USER], name, add_generation_prompt=add) for add in (False, True))
    if PROBE_USER not in prompt:
        raise InputError(
            f"[policy] chat_template: {name}'s template leaves out the user's message; give one that writes it"
        )
    header = _render(tokenizer, [USER, ASSISTANT], name).partition(PROBE_ASSISTANT)[0]
    if prompt == plain and header.startswith(prompt.rstrip()) and header.strip() != prompt.strip():
        missing = header[len(prompt.rstrip()) :].strip()
        raise InputError(
            f"[policy] chat_template: {name}'s template writes no generation prompt: the prompt ends before "
            f"{missing!r}, which the template writes before an assistant's message; give a [policy] chat_template "
            "that writes it if add_generation_prompt is true"
        )


def check_system(tokenizer: Any, name: str) -> None:
    """Refuse a template that cannot be used with a system message.

    Raises:
        InputError: the template raises an error, or leaves the message out.
    """
    messages = [{"role": "system", "content": PROBE_SYSTEM}, USER]
    try:
        text = str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
    except Exception as error:  # a template is a program, which may raise anything
        raise InputError(
            f"[policy] chat_template: {name}'s template refuses a system message ({brief(error)}); {_NO_SYSTEM}"
        ) from error
    if PROBE_SYSTEM not in text:
        raise InputError(f"[policy] chat_template: {name}'s template leaves out the system message; {_NO_SYSTEM}")


def _render(tokenizer: Any, messages: list[dict[str, str]], name: str, **options: Any) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))
    except Exception as error:
        raise InputError(f"[policy] chat_template: {name}'s template fails: {brief(error)}") from error
