"""How does an export reach the Hugging Face Hub? Through the Hub's own client, with its errors in one line each."""

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ossft_ray.common.errors import InputError, JobError

_REPO = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_ACCESS_CODES = (401, 403)


def check_can_push(repo: str) -> None:
    """See, before anything is written, whether a push has a chance.

    Raises:
        InputError: `repo` is no OWNER/NAME, nobody is logged in, or the Hub is switched off (HF_HUB_OFFLINE).
    """
    from huggingface_hub import constants, get_token

    if not _REPO.fullmatch(repo):
        raise InputError(f"--push-to-hub {repo}: write it as OWNER/NAME")
    if constants.is_offline_mode():
        raise InputError(f"--push-to-hub {repo}: HF_HUB_OFFLINE is set; unset it to reach the Hub")
    if get_token() is None:
        raise InputError(f"--push-to-hub {repo}: nobody is logged in; run `hf auth login`, or set HF_TOKEN")


def push(folder: Path, names: Sequence[str], repo: str, private: bool) -> str:
    """Upload these files of a folder into a data set on the Hub, which is made where there is none; returns its URL.

    Raises:
        InputError: the Hub refuses the token, or the token may not write there.
        JobError: the Hub cannot be reached, or fails.
    """
    from huggingface_hub import HfApi

    api = HfApi(library_name="ossft-ray")
    with _errors_in_a_line(repo, folder):
        url = api.create_repo(
            repo, repo_type="dataset", private=private or None, exist_ok=True
        )  # None: as its owner wants it
        api.upload_folder(
            repo_id=repo,
            repo_type="dataset",
            folder_path=folder,
            allow_patterns=list(names),
            commit_message="Examples exported by ossft",
        )
    return str(url)


@contextmanager
def _errors_in_a_line(repo: str, folder: Path) -> Iterator[None]:
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # of the major version that the client uses

    place = shlex.quote(str(folder))
    again = f"the export lies in {folder}; `hf upload {repo} {place} --repo-type dataset` sends it later"
    try:
        yield
    except HfHubHTTPError as error:
        code = error.response.status_code if error.response is not None else None
        if code in _ACCESS_CODES:
            who = "does not know the token" if code == 401 else "does not let this token write there"
            mend = "run `hf auth login` with a token that may write, or set HF_TOKEN"
            raise InputError(f"--push-to-hub {repo}: the Hub {who} ({code}); {mend}; {again}") from error
        raise JobError(f"--push-to-hub {repo}: the Hub refused it: {_line(error)}; {again}") from error
    except httpx.TransportError as error:
        raise JobError(
            f"--push-to-hub {repo}: {constants.ENDPOINT} cannot be reached: {_line(error)}; {again}"
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise JobError(f"--push-to-hub {repo}: the upload failed: {_line(error)}; {again}") from error


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
