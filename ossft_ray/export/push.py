"""The upload of an export to the Hugging Face Hub, by the Hub's own client, with each error in one line."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from ossft_ray.common.errors import InputError, JobError, brief
from ossft_ray.common.storage import Folder

_REPO = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_ACCESS_ERRORS = {401: "does not know the token", 403: "does not let this token write there"}


def check_can_push(repo: str, folder: Folder) -> None:
    """Check, before anything is written, that a push can succeed.

    Raises:
        InputError: `repo` is not OWNER/NAME, `folder` is in an object store, nobody is logged in, or the Hub is
            switched off (HF_HUB_OFFLINE).
    """
    from huggingface_hub import constants, get_token

    if not _REPO.fullmatch(repo):
        raise InputError(f"--push-to-hub {repo}: write it as OWNER/NAME")
    if folder.local_path is None:
        raise InputError(f"--push-to-hub: {folder.path} is not on a local disk; export into a local folder first")
    if constants.is_offline_mode():
        raise InputError(f"--push-to-hub {repo}: HF_HUB_OFFLINE is set; unset it to reach the Hub")
    if get_token() is None:
        raise InputError(f"--push-to-hub {repo}: nobody is logged in; run `hf auth login`, or set HF_TOKEN")


def push(folder: Path, names: Sequence[str], repo: str, private: bool) -> str:
    """Upload these files of a folder to a data set on the Hub, which is created if necessary; returns its URL.

    Raises:
        InputError: the Hub refuses the token, or the token may not write there.
        JobError: the Hub cannot be reached, or fails.
    """
    from huggingface_hub import HfApi

    api = HfApi(library_name="ossft-ray")
    visibility = private or None  # None: the owner's default
    try:
        url = api.create_repo(repo, repo_type="dataset", private=visibility, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            repo_type="dataset",
            folder_path=folder,
            allow_patterns=list(names),
            commit_message="Examples exported by ossft",
        )
    except Exception as error:  # HfHubHTTPError, or an error of the Hub's HTTP client
        raise _upload_error(error, repo, folder) from error
    return str(url)


def _upload_error(error: Exception, repo: str, folder: Path) -> InputError | JobError:
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    command = f"hf upload {repo} {shlex.quote(str(folder))} --repo-type dataset"
    hint = f"the export is in {folder}; `{command}` uploads it later"
    code = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
    if code in _ACCESS_ERRORS:
        return InputError(
            f"--push-to-hub {repo}: the Hub {_ACCESS_ERRORS[code]} ({code}); run `hf auth login` with a token that "
            f"may write, or set HF_TOKEN; {hint}"
        )
    return JobError(f"--push-to-hub {repo}: the upload to {constants.ENDPOINT} failed: {brief(error)}; {hint}")
