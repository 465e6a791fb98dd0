"""The README's config reference is what the config says. To bring it up to date: `python tests/test_readme.py`."""

import json
import re
import typing
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from ossft_ray.common.prompt_templates import GUIDED_PROMPT, REFERENCE_PHRASES, SYSTEM_PROMPT
from ossft_ray.config import Experiment

README = Path(__file__).parents[1] / "README.md"
REFERENCE = re.compile(r"(?<=<!-- config reference -->\n).*?(?=<!-- end -->)", re.DOTALL)


def rows(section: type[BaseModel], prefix: str = "") -> list[str]:
    lines = []
    for name, field in section.model_fields.items():
        key = f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            lines += rows(field.annotation, f"{key}.")
            continue
        default = "required" if field.default is PydanticUndefined else as_toml(field.default)
        choices = [value for part in [field.annotation, *typing.get_args(field.annotation)] for value in literals(part)]
        notes = [f"one of {', '.join(f'`{json.dumps(c)}`' for c in choices)}"] if len(choices) > 1 else []
        notes += [field.description] if field.description else []
        lines.append(f"| `{key}` | {default} | {'; '.join(notes)} |")
    return lines


def literals(annotation: object) -> tuple:
    return typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()


def as_toml(value: object) -> str:
    if value is None:
        return "not set"
    if value in (SYSTEM_PROMPT, GUIDED_PROMPT):
        return "see `method/prompts.py`"
    if value == list(REFERENCE_PHRASES):
        return "see `common/prompt_templates.py`"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def reference() -> str:
    return "\n".join(["| key | default | |", "|---|---|---|", *rows(Experiment)]) + "\n"


def test_config_reference_is_up_to_date() -> None:
    (found,) = REFERENCE.findall(README.read_text(encoding="utf-8"))
    assert found == reference(), "run `python tests/test_readme.py`"


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    README.write_text(REFERENCE.sub(lambda match: reference(), text), encoding="utf-8")
