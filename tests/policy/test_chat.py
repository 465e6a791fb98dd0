"""The token that ends a turn, for templates and tokenizers of every kind; models without one are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.common.playground_paths import POLICY_FOLDER
from ossft_ray.config import Policy
from ossft_ray.policy.chat import load_chat

CLOSES_TURN = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
CLOSES_WITH_ANOTHER = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|im_start|>\n{% endfor %}"
CLOSES_WITH_NOTHING = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
CLOSES_WITH_PLAIN_TEXT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}</turn>\n{% endfor %}"
CLOSES_WITH_EOS_VARIABLE = "{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"
LEAVES_OUT_THE_ASSISTANT = "{% for m in messages if m['role'] == 'user' %}<|im_start|>{{ m['content'] }}{% endfor %}"
FAILS = "{{ raise_exception('no system role\\nhere') }}"
LINEAR = {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}}
END_OF_TEXT, TURN_START, TURN_END = 0, 1, 2

MakePolicy = Callable[..., Policy]


@pytest.fixture
def make_policy(tmp_path: Path) -> MakePolicy:
    """A model folder with the playground's tokenizer, another template and another end of text, without weights.

    Not a Qwen2, because transformers adds an end of text to a Qwen2 whose folder names none.
    """

    def make(template: str | None, eos: str | None, config: dict[str, Any] | None = None, **settings: Any) -> Policy:
        folder = tmp_path / "model"
        folder.mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
            shutil.copy(POLICY_FOLDER / name, folder)
        change(folder / "tokenizer_config.json", {"eos_token": eos, "pad_token": None})
        change(folder / "config.json", {"model_type": "gpt_neox", **(config or {})})
        if template is not None:
            (folder / "chat_template.jinja").write_text(template)
        return Policy(model=str(folder), **settings)

    return make


def change(file: Path, changes: dict[str, Any]) -> None:
    values = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


@pytest.mark.parametrize(
    "template, eos, end_of_turn, stop",
    [
        (CLOSES_TURN, "<|endoftext|>", TURN_END, [TURN_END, END_OF_TEXT]),
        (CLOSES_TURN, "<|im_end|>", TURN_END, [TURN_END]),
        (CLOSES_TURN, None, TURN_END, [TURN_END]),
        (CLOSES_WITH_ANOTHER, "<|endoftext|>", TURN_START, [TURN_START, END_OF_TEXT]),
        (CLOSES_WITH_NOTHING, "<|endoftext|>", END_OF_TEXT, [END_OF_TEXT]),
        (CLOSES_WITH_PLAIN_TEXT, "<|endoftext|>", END_OF_TEXT, [END_OF_TEXT]),
        (CLOSES_WITH_EOS_VARIABLE, "<|endoftext|>", END_OF_TEXT, [END_OF_TEXT]),
    ],
)
def test_end_of_turn(
    make_policy: MakePolicy, template: str, eos: str | None, end_of_turn: int, stop: list[int]
) -> None:
    chat = load_chat(make_policy(template, eos))
    assert chat.end_of_turn_id == end_of_turn
    assert chat.stop_token_ids == stop
    assert chat.encode_response("3")[-1] == end_of_turn
    assert chat.decode(chat.encode_response("so 3.")) == "so 3."


@pytest.mark.parametrize(
    "template, eos, words",
    [
        (CLOSES_WITH_NOTHING, None, "has no end token"),
        (CLOSES_WITH_PLAIN_TEXT, None, "has no end token"),
        (None, "<|im_end|>", "has no chat template; give one as [policy] chat_template"),
        (LEAVES_OUT_THE_ASSISTANT, "<|im_end|>", "leaves out the assistant's message"),
        (FAILS, "<|im_end|>", "template fails: no system role"),
        ("{% for %}", "<|im_end|>", "template fails"),
    ],
    ids=["nothing", "plain text", "no template", "no assistant", "raises", "not Jinja"],
)
def test_a_model_without_a_usable_template_or_end_token_is_refused(
    make_policy: MakePolicy, template: str | None, eos: str | None, words: str
) -> None:
    policy = make_policy(template, eos)
    with pytest.raises(InputError) as caught:
        load_chat(policy)
    assert words in str(caught.value)
    assert policy.model in str(caught.value)
    assert str(caught.value).startswith("[policy] ")


@pytest.mark.parametrize("as_file", [False, True], ids=["text", "file"])
def test_a_chat_template_may_be_given(make_policy: MakePolicy, tmp_path: Path, as_file: bool) -> None:
    given = CLOSES_WITH_ANOTHER
    if as_file:
        (tmp_path / "given.jinja").write_text(CLOSES_WITH_ANOTHER)
        given = str(tmp_path / "given.jinja")
    chat = load_chat(make_policy(None, "<|endoftext|>", chat_template=given))
    assert chat.end_of_turn_id == TURN_START
    assert chat.tokenizer.decode(chat.render([{"role": "user", "content": "Hi"}])) == "user: Hi<|im_start|>\n"


def test_a_given_chat_template_replaces_the_models(make_policy: MakePolicy) -> None:
    assert load_chat(make_policy(CLOSES_TURN, None, chat_template=CLOSES_WITH_ANOTHER)).end_of_turn_id == TURN_START


def test_a_chat_template_that_is_neither_text_nor_file_is_refused(make_policy: MakePolicy) -> None:
    with pytest.raises(InputError, match=r"\[policy\] chat_template: .* missing\.jinja"):
        load_chat(make_policy(CLOSES_TURN, None, chat_template="missing.jinja"))


@pytest.mark.parametrize(
    "settings, length",
    [
        ({}, 2048),
        ({"engine": {"max_model_len": 512}}, 512),
        ({"config": {"max_position_embeddings": 99}}, 99),
        # vLLM may take more than the config states
        ({"config": LINEAR, "engine": {"max_model_len": 4096}}, 4096),
        ({"engine": {"max_model_len": 4096, "hf_overrides": LINEAR}}, 4096),
    ],
)
def test_context_length(make_policy: MakePolicy, settings: dict[str, Any], length: int) -> None:
    assert load_chat(make_policy(CLOSES_TURN, None, **settings)).context_length == length


@pytest.mark.parametrize(
    "length, words",
    [
        ("long", "'long' is not a whole number"),
        (-1, "'-1' is not a whole number"),
        (2049, "2049 tokens, but .* holds 2048"),
    ],
)
def test_an_impossible_context_length_is_refused(make_policy: MakePolicy, length: Any, words: str) -> None:
    with pytest.raises(InputError, match=rf"\[policy.engine\] max_model_len: {words}"):
        load_chat(make_policy(CLOSES_TURN, None, engine={"max_model_len": length}))


@pytest.mark.parametrize(
    "name, words",
    [
        ("{tmp}/missing", "no model folder at {tmp}/missing; give a folder, a Hub id, or 'playground'"),
        ("./missing", "no model folder at ./missing"),
        ("~/missing/model", "no model folder at ~/missing/model"),
        ("playgruond", "no model folder at playgruond"),
        ("models/missing", "it is neither a folder here nor a model on the Hub"),
        ("a/b/c", "no model folder at a/b/c"),
        ("{tmp}", "{tmp} holds no config.json; give a Hugging Face model folder"),
    ],
)
def test_missing_models_are_refused(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        load_chat(Policy(model=name.format(tmp=tmp_path)))
    assert words.format(tmp=tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    "name, content",
    [
        ("config.json", "{"),
        ("config.json", '{"model_type": "nothing-known"}'),
        ("tokenizer.json", None),
        ("tokenizer.json", "{"),
    ],
    ids=["broken config", "unknown kind", "no tokenizer", "broken tokenizer"],
)
def test_broken_folders_are_refused(make_policy: MakePolicy, name: str, content: str | None) -> None:
    policy = make_policy(CLOSES_TURN, "<|im_end|>")
    if content is None:
        (Path(policy.model) / name).unlink()
    else:
        (Path(policy.model) / name).write_text(content)
    with pytest.raises(InputError, match=r"cannot load|holds no tokenizer") as caught:
        load_chat(policy)
    assert policy.model in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_without_a_tokenizer_is_refused(make_policy: MakePolicy) -> None:
    policy = make_policy(CLOSES_TURN, "<|im_end|>", config={"model_type": "qwen2"})
    (Path(policy.model) / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="holds no tokenizer"):
        load_chat(policy)  # transformers makes an empty Qwen2 tokenizer, which encodes every text as no tokens


def test_models_of_different_shapes_are_told_apart(tmp_path: Path) -> None:
    def shape(**changes: object) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(POLICY_FOLDER, folder)
        config = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(config))
        return load_chat(Policy(model=str(folder))).model_shape

    base = load_chat(Policy(model="playground")).model_shape
    assert base
    assert shape(_name_or_path="elsewhere", transformers_version="5.0", dtype="bfloat16") == base
    assert shape(intermediate_size=64) != base
    assert shape(dtype="float16") != base
    assert shape(rope_parameters={"rope_theta": 5.0, "rope_type": "default"}) != base


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    shutil.copytree(POLICY_FOLDER, tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(
        InputError, match=r"^\[policy\] model: .*: model\.safetensors is not a complete safetensors file"
    ):
        load_chat(Policy(model=str(tmp_path / "model")))


def test_a_long_text_prints_no_warning(capfd: pytest.CaptureFixture[str]) -> None:
    chat = load_chat(Policy(model="playground"))
    assert len(chat.encode_response("1 " * 3000)) > chat.context_length
    assert "Token indices" not in capfd.readouterr().err
