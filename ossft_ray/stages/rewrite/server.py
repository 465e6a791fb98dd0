"""A model behind an OpenAI-compatible server, for `[rewrite.external_alignment] url`.

The client of `openai` retries rate limits, timeouts and failures of the server with back-off, and waits as long as the
server asks for. A failure that persists ends the job in one line, and the same command resumes. An answer without text
is data: the attempt fails.
"""

import asyncio
import json
import os
import socket
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from ossft_ray.common.errors import InputError, JobError, brief
from ossft_ray.common.prompt_templates import Message, split_tools
from ossft_ray.common.secrets import MASK, mask
from ossft_ray.common.types import PromptTooLong
from ossft_ray.common.verdict import NO_RESPONSE
from ossft_ray.config import ExternalAlignment
from ossft_ray.engines.vllm_policy import Sampling

_SECTION = "[rewrite.external_alignment]"
_RETRIED = (408, 409, 429)  # and all from 500 on, by the client
_NO_KEY = "none"  # the client insists on one
_TOO_LONG = ("context_length_exceeded", "context length", "context size", "maximum model length")
_REASONING_LENGTH = "max_completion_tokens"  # the newer name of `max_tokens`, which some models insist on


@dataclass(frozen=True)
class Answer:
    """The text of another model, with its costs in that model's tokens.

    `finish_reason` is stop, length or repetition, or another name that a server gives to an unfinished text.
    """

    text: str
    finish_reason: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


def check_server(settings: ExternalAlignment) -> None:
    """Raises InputError if the client is not installed, or the variable of the key is not set."""
    if find_spec("openai") is None:
        raise InputError(f"{_SECTION} url: a server needs the package openai; pip install 'ossft-ray[server]'")
    _key(settings)


class ServerModel:
    """The model of a server. Use it inside one running asyncio loop."""

    def __init__(self, settings: ExternalAlignment) -> None:
        """Raises InputError as `check_server`."""
        from openai import AsyncOpenAI

        self._settings, self._key = settings, _key(settings)
        self._slots = asyncio.Semaphore(settings.max_in_flight)
        self.client = AsyncOpenAI(
            api_key=self._key,
            base_url=settings.url,
            timeout=settings.timeout_seconds,
            max_retries=settings.max_retries,
        )

    async def answer(self, prompt: list[Message], sampling: Sampling, seed: int, request_id: str) -> Answer:
        """One response to a prompt.

        Raises:
            PromptTooLong: the server refuses the prompt with `max_tokens` as longer than the model's context.
            InputError: the server refuses the key, the model or the request.
            JobError: the server cannot be reached, or failed after all retries.
        """
        import openai

        try:
            async with self._slots:
                raw = await self.client.chat.completions.with_raw_response.create(**self._body(prompt, sampling, seed))
        except openai.APIStatusError as error:
            raise self._refusal(error.status_code, str(error.code), error.message) from None
        except openai.APITimeoutError:
            raise self._failure(
                f"gave no answer within timeout_seconds = {self._settings.timeout_seconds:g}; raise it, or lower "
                "max_tokens or max_in_flight"
            ) from None
        except openai.APIConnectionError as error:
            raise self._failure(f"cannot be reached: {brief(error.__cause__ or error)}") from None
        return read_answer(raw.http_response.text)

    def _body(self, prompt: list[Message], sampling: Sampling, seed: int) -> dict[str, Any]:
        """The request. Settings that not every server knows are in it only if they are set."""
        request = dict(self._settings.request)
        rare = {"presence_penalty": sampling.presence_penalty, "top_k": sampling.top_k, "min_p": sampling.min_p}
        length = {} if _REASONING_LENGTH in request else {"max_tokens": sampling.max_tokens}
        messages, tools = split_tools(prompt)
        return {
            "model": self._settings.model,
            "messages": messages,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": seed % 2**31,
            **length,
            **({"tools": tools} if tools else {}),
            "extra_body": {name: value for name, value in rare.items() if value} | request,
        }

    def _refusal(self, status: int, code: str, message: str) -> Exception:
        """The error that an HTTP status stands for."""
        settings, reason = self._settings, self._safe(message)
        if status in (401, 403):
            variable = f"the key in {settings.api_key_env}" if settings.api_key_env else "requests without a key"
            return InputError(f"{_SECTION} api_key_env: {settings.url} refuses {variable} (HTTP {status})")
        if status == 404:
            return InputError(
                f"{_SECTION} url or model: {settings.url} has no such path (it usually ends with /v1), or no model "
                f"{settings.model} (HTTP 404): {reason}"
            )
        names_length = any(words in f"{code} {message}".lower() for words in _TOO_LONG)
        if status == 413 or (status in (400, 422) and names_length):
            return PromptTooLong(reason)
        if status >= 500 or status in _RETRIED:
            return self._failure(f"failed with HTTP {status}: {reason}")
        return InputError(f"{_SECTION} {settings.url} refuses a request (HTTP {status}): {reason}")

    def _failure(self, reason: str) -> JobError:
        retries = f"max_retries = {self._settings.max_retries}"
        return JobError(
            f"the server {self._settings.url} {self._safe(reason)} ({retries}); run the same command again to resume"
        )

    def _safe(self, text: str) -> str:
        """One line of a message, without the key."""
        return brief(ValueError(mask(text.replace(self._key, MASK) if self._key != _NO_KEY else text)))


def read_answer(body: str) -> Answer:
    """The first choice of a server's response; with the finish reason `no_response` if it holds no text."""
    try:
        content = json.loads(body)
        choice = content["choices"][0]
        text, finish_reason = choice["message"]["content"], choice.get("finish_reason") or "stop"
        usage = content.get("usage") or {}
        costs = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, LookupError, TypeError, AttributeError):
        return Answer("", NO_RESPONSE)
    if not isinstance(text, str) or not text.strip():
        return Answer("", finish_reason if finish_reason == "length" else NO_RESPONSE, *costs)
    return Answer(text, str(finish_reason), *costs)


def _key(settings: ExternalAlignment) -> str:
    if not settings.api_key_env:
        return _NO_KEY
    if not (key := os.environ.get(settings.api_key_env, "").strip()):
        raise InputError(
            f"{_SECTION} api_key_env: the variable {settings.api_key_env} is not set on {socket.gethostname()}; "
            "set it to the server's key"
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise InputError(
            f"{_SECTION} api_key_env: the variable {settings.api_key_env} on {socket.gethostname()} holds a line "
            "break, a space or another character that no key has; set it to the server's key alone"
        )
    return key
