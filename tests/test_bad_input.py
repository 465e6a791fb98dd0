"""Bad input: exit code 2 and one clear line before anything is spent, or a row set aside with its reason."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ossft_ray.cli import main
from ossft_ray.common.errors import InputError
from ossft_ray.common.playground_paths import POLICY_FOLDER
from ossft_ray.common.schema import REJECTED_SCHEMA
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment, resolve
from ossft_ray.data.problem_index import ProblemIndex
from ossft_ray.data.problems import Rejection
from ossft_ray.data.screening import InputCounts, screen_problems
from ossft_ray.policy.chat import load_chat
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.stages.rewrite.ingest import shard_input

GOOD = {"problem": "What is 1 + 1?", "answer": "2", "solution": r"It is \boxed{2}."}
EXPERIMENT = '[run]\noutput = "run"\n[policy]\nmodel = "playground"\n[data]\npath = "problems.jsonl"\n'
NO_END = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"

Refuse = Callable[..., str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The commands' working directory: a good experiment, and files that spoil it in many ways."""
    monkeypatch.chdir(tmp_path)
    Path("experiment.toml").write_text(EXPERIMENT)
    Path("problems.jsonl").write_text(json.dumps(GOOD) + "\n")
    Path("not.toml").write_text("[run\n")
    Path("binary.toml").write_bytes(b"\xff\xfe\x00")
    Path("typo.toml").write_text('[verify]\nkind = "chioce"\n')
    Path("empty.jsonl").touch()
    Path("blank.jsonl").write_text("\n\n")
    Path("broken.jsonl").write_text('{"problem": \nnot JSON either\n')
    Path("answerless.jsonl").write_text(json.dumps({"problem": "q", "solution": "no idea"}) + "\n")
    Path("columns.jsonl").write_text(json.dumps({"question": "q", "answer": "2"}) + "\n")
    Path("notes.txt").write_text("text")
    Path("fake.parquet").write_text("this is no Parquet file at all")
    pq.write_table(
        pa.table({"problem": pa.array([], pa.string()), "solution": pa.array([], pa.string())}), "no.parquet"
    )
    Path("folder").mkdir()
    make_policy(Path("endless"), NO_END, {})
    make_policy(Path("templateless"), None, {"eos_token": "<|im_end|>"})
    return tmp_path


def make_policy(folder: Path, template: str | None, tokenizer_config: dict[str, Any]) -> None:
    """Write a model folder with the playground's tokenizer, this template and these end tokens, but no weights.

    It is not a Qwen2, because transformers adds an end-of-text token to a Qwen2 that names none.
    """
    folder.mkdir()
    shutil.copy(POLICY_FOLDER / "tokenizer.json", folder)
    config = json.loads((POLICY_FOLDER / "config.json").read_text()) | {"model_type": "gpt_neox"}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer_config = {"tokenizer_class": "PreTrainedTokenizerFast", **tokenizer_config}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)


@pytest.fixture
def refuse(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """Run a command that must spend nothing and be refused with code 2 and one line. Return the line."""

    def run(*arguments: str) -> str:
        import ray

        started: list[str] = []
        monkeypatch.setattr(ray, "init", lambda *args, **keywords: started.append("ray"))
        monkeypatch.setattr(sys, "argv", ["ossft", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            main()
        line = capsys.readouterr().err
        assert leaving.value.code == 2, line
        assert line.startswith("error: ") and line.count("\n") == 1 and line.endswith("\n"), line
        assert "Traceback" not in line and "Errno" not in line, line
        assert started == [], "Ray was started before the input was refused"
        for stage in ("rewrite", "score", "train", "evaluate"):
            assert not (here / "run" / stage).exists(), f"{stage}/ was left behind"
        return line

    return run


SETS = [
    ("verify.kind=maths", "error: [verify] kind: there is no verification kind 'maths'; did you mean 'math'?"),
    ("run.task=typo.toml", "error: typo.toml: [verify] kind: there is no verification kind 'chioce'; did you mean"),
    ("data.path=missing.jsonl", "missing.jsonl: no such file; give a JSONL or Parquet file"),
    ("data.path=*.json", "*.json: no such file"),
    ("data.path=folder", "folder: is a folder; name its files, for instance folder/*.parquet"),
    ("data.path=notes.txt", "notes.txt: unknown kind of file; give .jsonl or .parquet"),
    ("data.path=fake.parquet", "fake.parquet: cannot be read"),
    ("data.path=nowhere://bucket/a.jsonl", "nowhere://bucket/a.jsonl: not a path or URI"),
    (
        "data.path=columns.jsonl",
        "columns.jsonl: no column 'solution'; found: question, answer; name it in [data] columns.expert_solution",
    ),
    ("data.columns.expert_solution=how", "problems.jsonl: no column 'how'; found: problem, answer, solution"),
    ("data.path=empty.jsonl", "[data] path: empty.jsonl holds no usable problem; it is empty"),
    ("data.path=blank.jsonl", "[data] path: blank.jsonl holds no usable problem; it is empty"),
    ("data.path=no.parquet", "[data] path: no.parquet holds no usable problem; it is empty"),
    ("data.path=[]", "holds no usable problem"),
    ("data.path=broken.jsonl", "holds no usable problem; broken.jsonl, row 1: broken_row: not valid JSON"),
    ("data.path=answerless.jsonl", "holds no usable problem; answerless.jsonl, row 1: no_answer"),
    ("train.learning_rat=1", "unknown key 'train.learning_rat'; did you mean 'learning_rate'?"),
    ("run.seed=one", "'run.seed': should be a valid integer, not \"one\""),
    ("rewrite.self_alignment.top_p=2", "'rewrite.self_alignment.top_p': should be less than or equal to 1, not 2"),
    ("policy.model=./missing", "[policy] model: no model folder at ./missing; give a folder, a Hub id"),
    ("policy.model=folder", "[policy] model: folder holds no config.json; give a Hugging Face model folder"),
    ("policy.model=playgruond", "[policy] model: no model folder at playgruond"),
    ("policy.model=endless", "[policy] model: endless has no end token"),
    ("policy.model=templateless", "has no chat template; give one as [policy] chat_template"),
    ("policy.chat_template=missing.jinja", "neither Jinja text nor a readable file: missing.jinja"),
    ("policy.chat_template={{ oops", "[policy] chat_template: playground's template fails"),
    ("run.output=notes.txt", "notes.txt/rewrite cannot be written to"),
    ("run.output=nowhere://bucket/run", "nowhere://bucket/run: not a path or URI that can be read or written to"),
    ("run.seed", "--set run.seed: write it as section.key=value"),
    ("policy.model.size=7", "'model' is not a section"),
]


@pytest.mark.parametrize("override, words", SETS, ids=[override for override, _ in SETS])
def test_rewrite_refuses_bad_settings(refuse: Refuse, override: str, words: str) -> None:
    line = refuse("rewrite", "--config", "experiment.toml", "--set", override)
    assert words in line


CHECKED = [row for row in SETS if not row[0].startswith("run.output=notes")]


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(
    "override, words",
    [row for row in CHECKED if row[0].startswith(("run.task", "data.path=bro", "policy.model=end", "run.seed=o"))],
    ids=["task", "data", "policy", "key"],
)
def test_other_commands_refuse_the_same_settings(refuse: Refuse, command: str, override: str, words: str) -> None:
    benchmarks = ["--set", 'evaluate.benchmarks=["playground/level1"]']
    assert words in refuse(command, "--config", "experiment.toml", *benchmarks, "--set", override)


@pytest.mark.parametrize("command", ["check", "run", "evaluate"])
@pytest.mark.parametrize(
    "overrides, words",
    [
        (["evaluate.benchmarks=['playground/levle1']"], "did you mean 'playground/level1'?"),
        (["evaluate.benchmarks=['math50']"], "[evaluate] unknown benchmark 'math50'; did you mean 'math500'?"),
        ([], "[evaluate] benchmark 'math500': HuggingFaceH4/MATH-500: there is no such file here, and"),
        (["evaluate.data_dir=folder"], "[evaluate] benchmark 'math500': no math500.jsonl in folder"),
        (["evaluate.benchmarks=['missing.jsonl']"], "missing.jsonl: no such file"),
        (["evaluate.benchmarks=['broken.jsonl']"], "broken.jsonl, row 1: not valid JSON"),
        (["evaluate.benchmarks=['answerless.jsonl']"], "answerless.jsonl, row 1: no answer"),
    ],
)
def test_unusable_benchmarks_are_refused(refuse: Refuse, command: str, overrides: list[str], words: str) -> None:
    options = [option for override in overrides for option in ("--set", override)]
    assert words in refuse(command, "--config", "experiment.toml", *options)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["rewrite"], "'policy.model' is required; set it in the experiment file or with --set"),
        (["rewrite", "--config", "missing.toml"], "missing.toml: no such experiment file"),
        (["rewrite", "--config", "not.toml"], "not.toml: not valid TOML"),
        (["rewrite", "--config", "binary.toml"], "binary.toml: cannot be read"),
        (["rewrite", "--config", "folder"], "folder: cannot be read"),
        (["rewrite", "--config"], "Option '--config' requires an argument; see `ossft"),
        (["rewrite", "--confg", "x"], "'--confg'"),
        (["rewrite", "extra"], "extra argument (extra); see `ossft rewrite --help`"),
        (["rewirte"], "No such command 'rewirte'"),
        (["--nonsense"], "No such option '--nonsense'; see `ossft --help`"),
        (["train", "--config", "experiment.toml"], "run/rewrite: no complete examples (no manifest.json); run `ossft"),
        (["score", "--config", "experiment.toml"], "run/rewrite: no complete examples (no manifest.json); run `ossft"),
        (["report", "--config", "experiment.toml"], "run: no such folder; give a run's folder, its [run] output"),
        (["report"], "'policy.model' is required"),
        (["report", "missing"], "missing: no such folder; give a run's folder, its [run] output"),
        (
            ["report", "folder"],
            "folder: holds no run, neither an experiment's config.json nor a stage; give",
        ),
        (["report", "folder", "--config", "experiment.toml"], "give RUN or --config, not both; see `ossft report"),
        (["demo", "--output", "notes.txt"], "--output notes.txt: cannot be written to"),
        (["verify", "missing.jsonl"], "missing.jsonl: no such file"),
        (["verify", "notes.txt"], "notes.txt: unknown kind of file"),
        (["verify", "empty.jsonl"], "empty.jsonl: the file has no rows"),
        (["verify", "columns.jsonl"], "columns.jsonl:1: column 'response' is missing; found question, answer"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_usage_is_refused(refuse: Refuse, arguments: list[str], words: str) -> None:
    assert words in refuse(*arguments)


def test_a_relative_output_in_a_submitted_job_is_refused(refuse: Refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    line = refuse("rewrite", "--config", "experiment.toml")
    assert "[run] output: 'run' is relative, and this is a submitted job; give an absolute path" in line


def test_without_a_command_ossft_shows_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ossft"])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == 0
    assert "ossft demo" in capsys.readouterr().out


def test_debug_shows_the_traceback(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ossft", "check", "--config", "missing.toml", "--debug"])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == 2
    assert "Traceback" in capsys.readouterr().err


def experiment_on(path: Path, **prompts: str) -> Experiment:
    settings = {"policy": {"model": "playground"}, "data": {"path": str(path), "max_broken": 1.0}, "prompts": prompts}
    return resolve(settings | {"run": {"output": str(path.parent / "run")}})


SET_ASIDE = [
    ('{"problem": "What', "broken_row: not valid JSON"),
    (json.dumps({"problem": "q", "solution": "I do not know."}), "no_answer"),
    (json.dumps({**GOOD, "problem": ""}), "no_question"),
    (json.dumps({**GOOD, "solution": None}), "no_expert_solution"),
    (json.dumps({**GOOD, "problem": "word " * 5000}), "prompt_too_long: "),
    (json.dumps({**GOOD, "problem": "\ud800"}), "broken_row: half of a surrogate pair"),
]


def test_unusable_rows_are_set_aside_with_their_reason(tmp_path: Path) -> None:
    file = tmp_path / "problems.jsonl"
    good = json.dumps(GOOD)
    file.write_text("\n".join([good, *(line for line, _ in SET_ASIDE), good]))
    experiment = experiment_on(file)
    folder = Folder.at(experiment.run.output) / "rewrite"
    layout = shard_input(Run(experiment), folder)
    assert (layout.problems, layout.rejected) == (2, len(SET_ASIDE))
    rows = folder.read_tables("rejected-*.parquet", REJECTED_SCHEMA).to_pylist()
    assert [row["row"] for row in rows] == [number for number, _ in enumerate(SET_ASIDE, start=2)]
    assert {row["source"] for row in rows} == {str(file)}
    for row, (line, reason) in zip(rows, SET_ASIDE, strict=True):
        assert row["reason"].startswith(reason)
        assert row["content"] == line or json.loads(row["content"]) == json.loads(line)
    problems = (folder / "problems").read_table("part-00000.parquet").to_pylist()
    assert [problem["question"] for problem in problems] == [GOOD["problem"]] * 2
    assert shard_input(Run(experiment), folder) == layout, "read once"


@pytest.mark.parametrize("fits", [True, False])
def test_a_prompt_is_too_long_if_no_token_of_a_response_fits(tmp_path: Path, fits: bool) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text("".join(json.dumps({**GOOD, "problem": "1" * length}) + "\n" for length in (1, 1000)))
    experiment = experiment_on(file, system="")
    chat = load_chat(experiment.policy)
    num_tokens = len(chat.render([{"role": "user", "content": "1" * 1000}]))
    chat = type(chat)(chat.tokenizer, chat.end_of_turn_id, context_length=num_tokens + fits)
    _, item = screen_problems(experiment, chat, ProblemIndex(), InputCounts())
    assert isinstance(item, Rejection) is not fits
    if isinstance(item, Rejection):
        assert item.reason == f"prompt_too_long: {num_tokens} tokens, and the policy's context is {num_tokens}"


def test_input_without_a_usable_row_leaves_nothing_behind(tmp_path: Path) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text("\n".join(line for line, _ in SET_ASIDE))
    experiment = experiment_on(file)
    folder = Folder.at(experiment.run.output) / "rewrite"
    with pytest.raises(InputError, match="holds no usable problem"):
        shard_input(Run(experiment), folder)
    assert not folder.exists()
