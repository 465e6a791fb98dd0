"""The README, the pages of docs/ and the other guides agree with the code: commands, keys, files, links and figures.

`python tests/test_docs.py` brings the generated part of docs/configuration.md up to date.
"""

import ast
import importlib
import json
import re
import shlex
import tomllib
import typing
from dataclasses import dataclass
from pathlib import Path

import click
import pyarrow
import pytest
from pydantic_core import PydanticUndefined

from jobs.submit import submit
from ossft_ray.cli import ossft
from ossft_ray.common import verdict
from ossft_ray.common.prompt_templates import GUIDED_PROMPT, REFERENCE_PHRASES, SYSTEM_PROMPT
from ossft_ray.common.schema import (
    ATTEMPT,
    ATTEMPT_SCORE_SCHEMA,
    DROPPED_SCHEMA,
    EXAMPLE_SCHEMA,
    PLAIN_SCORE_SCHEMA,
)
from ossft_ray.common.types import ORIGINS
from ossft_ray.config import Experiment, keys_of, load_experiment, resolve
from tests.test_layering import LAYERS

ROOT = Path(__file__).parents[1]
README, CONFIGURATION = ROOT / "README.md", ROOT / "docs" / "configuration.md"
FOLDERS = ("docs", "cluster", "benchmarks/results")
PAGES = [README, ROOT / "CONTRIBUTING.md", *(page for name in FOLDERS for page in sorted((ROOT / name).glob("*.md")))]
page_names = {"argvalues": PAGES, "ids": lambda page: str(page.relative_to(ROOT))}
GENERATED = re.compile(r"(?<=test_docs\.py -->\n).*?(?=<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of code: fenced, with its language, or indented, without one."""

    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    fenced = [Block(language, body) for language, body in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)]
    rest = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    indented = re.findall(r"(?:^|\n\n)((?: {4}.*\n?|\n(?= {4}))+)", rest)
    return [*fenced, *(Block("", re.sub(r"^ {4}", "", body, flags=re.M)) for body in indented)]


def command_lines(page: Path) -> list[str]:
    """The lines of a page's code blocks that call one of the project's programs, without prompts."""
    text = "\n".join(block.text for block in blocks(page) if block.language in ("", "bash"))
    lines = [line.removeprefix("$ ") for line in re.sub(r"\\\n\s*", "", text).splitlines()]
    return [line for line in lines if re.match(r"(\.venv/bin/)?(ossft |make |python |jobs/\w+\.sh )", line)]


def parse(command: click.Command, arguments: list[str]) -> None:
    """Parse a command line as its program does, without running it; names in capitals stand for any value."""
    names = {"N": "2", "X": "1", "O": "self"}
    command.make_context("ossft", [names.get(argument, argument) for argument in arguments])


def unknown_options(script: str, arguments: list[str]) -> list[str]:
    """The arguments that look like options but do not occur in the repository's `script`."""
    source = (ROOT / script).read_text(encoding="utf-8")
    return [a for a in arguments if a.startswith("--") and f'"{a.partition("=")[0]}"' not in source]


def inline_code(page: Path) -> list[str]:
    prose = re.sub(r"^```.*?^```$|^ {4}[^\n]*$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.findall(r"`([^`\n]+)`", prose)


# Configuration


def reference() -> str:
    """The tables of docs/configuration.md: one per section, a line per key."""
    lines = []
    for name, section in Experiment.model_fields.items():
        lines += [f"## [{name}]", "", "| key | default | meaning |", "|---|---|---|"]
        lines += [*rows(keys_of(section.annotation), f"{name}."), ""]
    return "\n".join(["", *lines])


def rows(fields: dict, prefix: str) -> list[str]:
    lines = []
    for name, field in fields.items():
        key, below = f"{prefix}{name}", keys_of(field.annotation)
        if not below or field.default is None:
            default = "required" if field.default is PydanticUndefined else as_toml(field.default)
            parts = [field.annotation, *typing.get_args(field.annotation)]
            choices = [value for part in parts if typing.get_origin(part) is typing.Literal for value in part.__args__]
            values = (
                f"Values: {', '.join(f'`{json.dumps(choice)}`' for choice in choices)}." if len(choices) > 1 else ""
            )
            lines.append(f"| `{key}` | {default} | {' '.join(filter(None, (field.description, values)))} |")
        lines += rows(below, f"{key}.")
    return lines


def as_toml(value: object) -> str:
    if value is None:
        return "not set"
    if value in (SYSTEM_PROMPT, GUIDED_PROMPT, list(REFERENCE_PHRASES)):
        return "see `ossft_ray/common/prompt_templates.py`"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def test_the_configuration_reference_is_up_to_date() -> None:
    (found,) = GENERATED.findall(CONFIGURATION.read_text(encoding="utf-8"))
    assert found == reference(), "run `python tests/test_docs.py`"


def test_every_key_is_described() -> None:
    undescribed = re.findall(r"^\| `([\w.]+)` \| .* \|  \|$", reference(), re.M)
    assert undescribed == []


@pytest.mark.parametrize("page", **page_names)
def test_experiments_are_valid(page: Path) -> None:
    for block in blocks(page):
        if block.language == "toml":
            settings = tomllib.loads(block.text)
            least = {"policy": {"model": "playground"}, "data": {"path": "train.jsonl"}}
            resolve({name: {**least.get(name, {}), **settings.get(name, {})} for name in {**least, **settings}})


@pytest.mark.parametrize("page", **page_names)
def test_keys_in_the_text_exist(page: Path) -> None:
    keys = dict.fromkeys(re.findall(r"^\| `([\w.]+)` \|", reference(), re.M))
    sections = {key.rpartition(".")[0] for key in keys} | {key.split(".")[0] for key in keys}
    named = [re.match(r"([a-z_]+(?:\.\w+)+)(?<!\.sh)(?<!\.py)(?: = .*)?$", code) for code in inline_code(page)]
    mentioned = {found[1] for found in named if found and found[1].split(".")[0] in sections}
    bracketed = {f"{section}.{key}" for section, key in re.findall(r"`\[(\w[\w.]*)\] (\w+)`", page.read_text())}
    assert [key for key in mentioned | bracketed if key not in keys and key not in sections] == []


def test_the_readmes_experiment_is_the_one_in_jobs() -> None:
    (settings,) = [tomllib.loads(block.text) for block in blocks(README) if block.language == "toml"]
    assert resolve(settings) == load_experiment(ROOT / "jobs/configs/qwen2.5-math-1.5b.toml")


# Commands


@pytest.mark.parametrize("page", **page_names)
def test_command_lines_parse(page: Path) -> None:
    targets = re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.M)
    for line in command_lines(page):
        program, *arguments = shlex.split(line, comments=True)
        if "..." in arguments:
            continue
        if program.endswith("ossft"):
            parse(ossft.commands[arguments[0]], arguments[1:])
        elif program == "make":
            assert arguments[0] in targets, line
        elif program.startswith("jobs/"):
            assert (ROOT / program).exists(), line
            parse(submit, [Path(program).stem, *arguments])
        else:
            assert unknown_options(arguments[0], arguments[1:]) == [], line


@pytest.mark.parametrize("page", **page_names)
def test_commands_in_the_text_exist(page: Path) -> None:
    targets = re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.M)
    every_option = {name for command in ossft.commands.values() for option in command.params for name in option.opts}
    every_option |= {name for option in submit.params for name in option.opts}
    for code in inline_code(page):
        words = code.split()
        if words[0] == "ossft" and len(words) > 1 and not words[1].startswith("-"):
            options = {name for option in ossft.commands[words[1]].params for name in option.opts}
            assert [word for word in words[2:] if word.startswith("-") and word not in options] == [], code
        elif words[0] == "make" and len(words) > 1:
            assert words[1] in targets, code
        elif words[0] == "python" and len(words) > 1:
            assert unknown_options(words[1], words[2:]) == [], code
        elif re.fullmatch(r"--[a-z-]+", words[0]) and page.parent.name == "docs":
            assert words[0] in every_option, code


def test_every_command_is_documented() -> None:
    text = "".join(page.read_text() for page in PAGES)
    assert [name for name in ossft.commands if f"ossft {name}" not in text] == []


@pytest.mark.parametrize("page", **page_names)
def test_python_examples_compile_and_their_imports_exist(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            for statement in ast.walk(ast.parse(block.text)):
                if isinstance(statement, ast.ImportFrom) and str(statement.module).startswith("ossft_ray"):
                    module = importlib.import_module(str(statement.module))
                    assert [alias.name for alias in statement.names if not hasattr(module, alias.name)] == []


# Links, files and figures


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", **page_names)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            path, _, anchor = target.partition("#")
            linked = (page.parent / path).resolve() if path else page
            assert linked.exists(), f"{page.name} links to {target}"
            assert not anchor or anchor in anchors(linked), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", **page_names)
def test_files_in_the_text_exist(page: Path) -> None:
    folders = ("ossft_ray", "tests", "benchmarks", "docs", "examples", "requirements", "cluster", "jobs")
    paths = [code for code in inline_code(page) if code.startswith(tuple(f"{folder}/" for folder in folders))]
    plain = [path for path in paths if re.fullmatch(r"[\w./-]+", path) and not Path(path).stem.isupper()]
    assert [path for path in plain if not (ROOT / path).exists()] == []


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text()
    assert [page.name for page in ROOT.glob("docs/*.md") if page.name != "README.md" and page.name not in index] == []
    readme = README.read_text()
    assert [page.name for page in ROOT.glob("docs/*.md") if f"docs/{page.name}" not in readme] == ["README.md"]


def test_the_package_tree_is_complete() -> None:
    tree = README.read_text().partition("## The package")[2]
    package = [path.name + "/" * path.is_dir() for path in (ROOT / "ossft_ray").iterdir() if path.name[0] not in "_."]
    named = re.findall(r"^ {6}(\S+)", tree, re.M)
    assert sorted(named) == sorted(name for name in package if name != "py.typed")


def test_the_layers_in_contributing_are_those_that_are_tested() -> None:
    (diagram,) = [block.text for block in blocks(ROOT / "CONTRIBUTING.md") if block.text.startswith("cli.py")]
    columns = [re.split(r" {3,}", line)[0] for line in diagram.splitlines()]
    assert [tuple(re.findall(r"\w+(?=/|\.py)", line)) for line in reversed(columns)] == list(LAYERS)


def test_the_run_folder_page_lists_columns_origins_and_reasons() -> None:
    schemas = (EXAMPLE_SCHEMA, DROPPED_SCHEMA, PLAIN_SCORE_SCHEMA, ATTEMPT_SCORE_SCHEMA)
    columns = {name for found in (*schemas, ATTEMPT) for name in pyarrow.schema(list(found)).names}
    texts = [text for text in vars(verdict).values() if isinstance(text, str)]
    reasons = {text for text in texts if re.fullmatch(r"[a-z]+(_[a-z]+)*", text)}
    assert {"correct", "too_far"} < reasons
    assert sorted((columns | reasons | set(ORIGINS)) - set(inline_code(ROOT / "docs/run_folder.md"))) == []


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 170


def test_pictures_are_small() -> None:
    assert [picture.name for picture in ROOT.glob("docs/images/*.png") if picture.stat().st_size > 200_000] == []


def test_the_readmes_figures_are_those_of_the_results_page() -> None:
    readme, results = (path.read_text() for path in (README, ROOT / "benchmarks/results/four_way_preregistered.md"))
    first = results.partition("## Primary contrasts")[2].partition("## Controls and further losses")[0]
    for method in ("base", "SFT", "DFT", "DR+SFT", "DR+DFT"):
        (row,) = re.findall(rf"^\| \**{re.escape(method)}\** \|(.*)\|$", readme, re.M)
        shown = re.findall(r"[-+]?\d+\.\d ± \d\.\d", row)
        accuracy, known = [line for line in first.splitlines() if line.startswith(f"| {method} |")][:2]
        assert accuracy.endswith(f" {shown[0]} |") and f"| {shown[-1]} |" in known
        if method != "base":
            (gain,) = re.findall(rf"^\| {re.escape(method)} − base \| \d+ \| ([^|]+) \|", first, re.M)
            assert shown[1] == gain
    assert f"DR+DFT {gain}" in (ROOT / "docs/evaluation.md").read_text().replace("\n", " ")


if __name__ == "__main__":
    text = CONFIGURATION.read_text(encoding="utf-8")
    CONFIGURATION.write_text(GENERATED.sub(lambda match: reference(), text), encoding="utf-8")
