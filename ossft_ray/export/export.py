"""What does `ossft export` do? Read a run's examples, write them as one trainer wants them, and the card last."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass

from pyarrow import fs

from ossft_ray.common.errors import InputError
from ossft_ray.common.storage import Folder
from ossft_ray.config import Policy, Train
from ossft_ray.export.card import CARD, TAG, UNKNOWN_LICENSE, CardFacts, render_card
from ossft_ray.export.files import DATA_FILE, Contents, read_rows, write_rows
from ossft_ray.export.formats import LAYOUTS
from ossft_ray.export.push import check_can_push, push
from ossft_ray.export.train_command import SCRIPT, TEMPLATE, Recipe, train_script
from ossft_ray.policy.chat import Chat, load_chat
from ossft_ray.run_folder.reader import RunFolder, open_run

DATASET_INFO = "dataset_info.json"  # LLaMA-Factory's register of data sets
_OURS = (CARD, SCRIPT, TEMPLATE, DATASET_INFO)


@dataclass(frozen=True)
class Exported:
    """What an export came to."""

    num_rows: int
    origins: dict[str, int]
    files: tuple[str, ...]
    url: str | None  # on the Hub
    remarks: tuple[str, ...]  # what its user should know


def export(
    run: str,
    layout: str,
    output: str,
    origins: Sequence[str] = (),
    partial: bool = False,
    overwrite: bool = False,
    license: str = UNKNOWN_LICENSE,
    push_to_hub: str | None = None,
    private: bool = False,
) -> Exported:
    """Write a run's examples for another trainer into the folder `output`, with `train.sh` and, last, a README.md.

    Args:
        run: a run's folder, a local path or an object-store URI.
        layout: `trl`, `sharegpt` or `verl`.
        output: a folder that is empty or not there, likewise; with `overwrite`, files of an export in it are replaced.
        origins: keep only these of `self`, `guided`, `expert`; empty keeps all.
        partial: export what is there, though the rewriting is not complete.
        license: the identifier of the data set's licence.
        push_to_hub: OWNER/NAME of a data set on the Hugging Face Hub, made where there is none.

    Raises:
        InputError: the run has no such examples or is not complete, `output` is in use, or the Hub refuses the user.
        JobError: the Hub cannot be reached.
    """
    folder = Folder.at(output)
    if push_to_hub is not None:
        if folder.local_path is None:
            raise InputError(f"--push-to-hub: {output} is not on this machine's disk; export into a local folder first")
        check_can_push(push_to_hub)
    source = open_run(run)
    _check_complete(source, partial)
    old = _files_to_replace(folder, output, overwrite)

    form, contents = LAYOUTS[layout], Contents()
    batches = read_rows(source, origins, contents)
    first = next(batches, None)
    if first is None:
        of = f" of origin {' or '.join(origins)}" if origins else ""
        raise InputError(f"{source.rewrite.path}: has no examples{of} so far")
    try:
        for name in old:
            folder.filesystem.delete_file(f"{folder.path}/{name}")
        file = write_rows(folder, form, itertools.chain([first], batches))
    except OSError as error:
        raise InputError(f"{output}: cannot be written to: {error.strerror or str(error).splitlines()[0]}") from error

    policy = source.policy or Policy(model=contents.policies.most_common(1)[0][0])
    chat, remarks = _try_chat(policy)
    files = {SCRIPT: train_script(layout, _recipe(source, policy, file, contents, chat))}
    if (template := _template(policy, chat)) is not None:
        files[TEMPLATE] = template
    if layout == "sharegpt":
        files[DATASET_INFO] = _dataset_info(file)
    files[CARD] = render_card(
        CardFacts(
            name=push_to_hub.partition("/")[2] if push_to_hub else folder.path.rpartition("/")[2],
            location=push_to_hub or output.rstrip("/"),
            is_remote=folder.local_path is None,
            layout=layout,
            file=file,
            license=license,
            num_rows=contents.num_rows,
            origins=_by_origin(contents),
            only_origins=tuple(origins),
            progress=source.progress(),
            manifest=source.rewrite_manifest,
            policy=policy.model,
            config=source.config,
        ),
        form,
    )
    for name, text in files.items():
        folder.write_bytes(name, text.encode())
    names = (file, *files)
    url = push(folder.local_path, names, push_to_hub, private) if push_to_hub and folder.local_path else None
    return Exported(contents.num_rows, _by_origin(contents), names, url, remarks)


def _check_complete(run: RunFolder, partial: bool) -> None:
    if run.rewrite_manifest is None and not partial:
        done, total = run.progress()
        so_far = f"{done} of {total} problems so far" if total is not None else "its input is still being read"
        raise InputError(
            f"{run.rewrite.path}: is not complete ({so_far}); let `ossft rewrite` finish it, or pass --partial "
            "to export what is there"
        )


def _files_to_replace(folder: Folder, output: str, overwrite: bool) -> list[str]:
    """The files of an earlier export in `folder`, oldest promise first: a card stands for a whole export.

    Raises:
        InputError: the folder is in use, and not by an export that may be replaced.
    """
    try:
        found = folder.filesystem.get_file_info(fs.FileSelector(folder.path, allow_not_found=True))
    except OSError as error:
        raise InputError(f"{output}: is not a folder that can be written to: {str(error).splitlines()[0]}") from error
    names = [info.base_name for info in found if info.type == fs.FileType.File]
    if found and not overwrite:
        raise InputError(
            f"{output}: is not empty; give another folder, or --overwrite to replace an earlier export in it"
        )
    ours = [name for name in names if name in _OURS or DATA_FILE.fullmatch(name)]
    is_export = TAG in folder.read_bytes(CARD).decode(errors="replace") if CARD in names else len(ours) == len(names)
    if not is_export:
        raise InputError(f"{output}: holds files that no export wrote; give another folder")
    return sorted(ours, key=lambda name: name != CARD)


def _recipe(run: RunFolder, policy: Policy, file: str, contents: Contents, chat: Chat | None) -> Recipe:
    end_of_turn = None
    if chat is not None and chat.end_of_turn_id != chat.tokenizer.eos_token_id:
        end_of_turn = str(chat.tokenizer.convert_ids_to_tokens(chat.end_of_turn_id))
    return Recipe(
        file=file,
        model=policy.model,
        revision=policy.revision,
        lora=policy.lora,
        has_template=_template(policy, chat) is not None,
        end_of_turn=end_of_turn,
        max_tokens=contents.max_tokens,
        num_rows=contents.num_rows,
        train=Train().model_dump() | run.experiment.get("train", {}),
    )


def _try_chat(policy: Policy) -> tuple[Chat | None, tuple[str, ...]]:
    """The policy's chat, to learn its end of turn; an export can do without, and then says so."""
    try:
        return load_chat(policy), ()
    except InputError as error:
        return None, (f"train.sh does not set the end-of-turn token, since the policy is not at hand: {error}",)


def _template(policy: Policy, chat: Chat | None) -> str | None:
    """The chat template that the experiment gave the policy; None where the model's own was used."""
    return chat.tokenizer.chat_template if chat is not None and policy.chat_template else None


def _dataset_info(file: str) -> str:
    entry = {"file_name": file, "formatting": "sharegpt", "columns": {"messages": "conversations"}}
    return json.dumps({"train": entry}, indent=2) + "\n"


def _by_origin(contents: Contents) -> dict[str, int]:
    return {origin: contents.origins[origin] for origin in ("self", "guided", "expert") if contents.origins[origin]}
