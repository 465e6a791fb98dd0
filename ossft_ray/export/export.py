"""The command `ossft export`: write a run's examples in one trainer's format, and the data-set card last."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pyarrow import fs

from ossft_ray.common.errors import InputError, brief
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import ORIGINS
from ossft_ray.export.card import CARD, TAG, UNKNOWN_LICENSE, CardFacts, render_card
from ossft_ray.export.data_file import DATA_FILE, read_rows, write_rows
from ossft_ray.export.formats import FORMATS
from ossft_ray.export.push import check_can_push, push
from ossft_ray.run_folder.reader import RunFolder, open_run

DATASET_INFO = "dataset_info.json"  # LLaMA-Factory's list of data sets


@dataclass(frozen=True)
class Exported:
    """The result of an export."""

    num_rows: int
    origins: dict[str, int]
    files: tuple[str, ...]
    url: str | None  # on the Hub


def export(
    run: str,
    format: str,
    output: str,
    origins: Sequence[str] = (),
    partial: bool = False,
    overwrite: bool = False,
    license: str = UNKNOWN_LICENSE,
    push_to_hub: str | None = None,
    private: bool = False,
) -> Exported:
    """Write a run's examples for another trainer into the folder `output`, and a README.md last.

    Args:
        run: a run's folder, a local path or an object-store URI.
        format: `trl`, `sharegpt` or `verl`.
        output: likewise a folder, new or empty; with `overwrite`, the files of an earlier export in it are replaced.
        origins: keep only these of `self`, `guided`, `external`, `expert`; empty keeps all.
        partial: export the examples so far if the rewriting is not complete.
        license: the identifier of the data set's licence.
        push_to_hub: OWNER/NAME of a data set on the Hugging Face Hub, created if necessary.
        private: create that data set as a private one.

    Raises:
        InputError: the run has no such examples or is not complete, `output` is in use, or the Hub refuses the user.
        JobError: the Hub cannot be reached.
    """
    folder = Folder.at(output)
    if push_to_hub is not None:
        check_can_push(push_to_hub, folder)
    source = open_run(run)
    if not partial:
        _check_complete(source)
    old = _files_to_replace(folder, output, overwrite)
    counts: Counter[str] = Counter()
    batches = read_rows(source, origins, counts)
    first = next(batches, None)
    if first is None:
        of_origin = f" of origin {' or '.join(origins)}" if origins else ""
        raise InputError(f"{source.rewrite.path}: has no examples{of_origin} so far")
    try:
        for name in old:
            folder.delete_file(name)
        file = write_rows(folder, FORMATS[format], itertools.chain([first], batches))
    except OSError as error:
        raise InputError(f"{output}: cannot be written to: {brief(error)}") from error

    facts = CardFacts(
        run=source,
        policy=source.policy.model if source.policy else first[0]["policy"],
        origins={origin: counts[origin] for origin in ORIGINS if counts[origin]},
        file=file,
        format=FORMATS[format],
        name=(push_to_hub or folder.path).rpartition("/")[2],
        location=push_to_hub or output.rstrip("/"),
        is_remote=folder.local_path is None,
        license=license,
        only_origins=tuple(origins),
    )
    names = [file]
    if format == "sharegpt":
        entry = {"file_name": file, "formatting": "sharegpt", "columns": {"messages": "conversations"}}
        folder.write_json(DATASET_INFO, {"train": entry})
        names.append(DATASET_INFO)
    folder.write_bytes(CARD, render_card(facts).encode())
    names.append(CARD)
    url = push(folder.local_path, names, push_to_hub, private) if push_to_hub and folder.local_path else None
    return Exported(facts.num_rows, facts.origins, tuple(names), url)


def _check_complete(source: RunFolder) -> None:
    if not source.rewrite_manifest:
        done, total = source.progress()
        so_far = f"{done} of {total} problems so far" if total is not None else "its input is still being read"
        raise InputError(
            f"{source.rewrite.path}: is not complete ({so_far}); let `ossft rewrite` finish it, or pass --partial "
            "to export the examples so far"
        )


def _files_to_replace(folder: Folder, output: str, overwrite: bool) -> list[str]:
    """The files of an earlier export in `folder`, its card first, because a card means a complete export.

    Raises:
        InputError: the folder holds anything but an export, or an export that may not be replaced.
    """
    try:
        found = folder.filesystem.get_file_info(fs.FileSelector(folder.path, allow_not_found=True))
    except OSError as error:
        raise InputError(f"{output}: is not a folder that can be written to: {brief(error)}") from error
    names = [info.base_name for info in found if info.type == fs.FileType.File]
    if found and not overwrite:
        raise InputError(
            f"{output}: is not empty; give another folder, or --overwrite to replace an earlier export in it"
        )
    exported = [name for name in names if name in (CARD, DATASET_INFO) or DATA_FILE.fullmatch(name)]
    if CARD in names:
        is_export = TAG in folder.read_bytes(CARD).decode(errors="replace")
    else:
        is_export = len(exported) == len(names)
    if not is_export:
        raise InputError(f"{output}: holds files that are not from an export; give another folder")
    return sorted(exported, key=lambda name: name != CARD)
