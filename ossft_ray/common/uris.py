"""What does a path or a URI name? Its filesystem, and what lies below it.

A URI may end with options, as pyarrow has them: `s3://bucket/run?endpoint_override=http://host:9000&scheme=http`. What
lies below it has the same options. Secrets are no part of it: it is written into files and logs.
"""

import os

import pyarrow as pa
from pyarrow import fs

from ossft_ray.common.errors import InputError
from ossft_ray.common.secrets import MEND, has_secret, mask


def is_uri(location: str) -> bool:
    return "://" in location


def filesystem_at(location: str) -> tuple[fs.FileSystem, str]:
    """The filesystem behind a local path or a URI, and the path within it.

    Raises:
        InputError: the URI's scheme or an option is unknown, its client is not installed, or it carries a secret.
    """
    if not is_uri(location):
        return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(location))
    if has_secret(location):
        raise InputError(f"{mask(location)}: a URI with a secret in it would be written into files and logs; {MEND}")
    try:
        filesystem, path = fs.FileSystem.from_uri(location)
    except (OSError, ValueError, ImportError, pa.ArrowException) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{location}: not a path or URI that can be read or written to: {reason}") from error
    return filesystem, path


def join(location: str, *names: str) -> str:
    """What lies below a folder.

    >>> join("runs/a", "train", "model"), join("s3://bucket/run/?scheme=http", "round-2")
    ('runs/a/train/model', 's3://bucket/run/round-2?scheme=http')
    """
    bare, options = split_options(location)
    return "/".join([bare.rstrip("/") or bare, *names]) + options


def split_options(location: str) -> tuple[str, str]:
    """A URI without its options, and these with their question mark; a path has none."""
    bare, mark, options = location.partition("?") if is_uri(location) else (location, "", "")
    return bare, mark + options


def absolute(location: str) -> str:
    """The same place from any working directory: a local path in full, a URI of a store as it is.

    Raises:
        InputError: see `filesystem_at`.
    """
    filesystem, path = filesystem_at(location)
    return path if isinstance(filesystem, fs.LocalFileSystem) else location
