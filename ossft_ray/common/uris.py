"""Local paths and URIs: the filesystem behind a location, and locations below it.

A URI may end with pyarrow's options: `s3://bucket/run?endpoint_override=http://host:9000&scheme=http`. Locations below
it keep these options. A URI must not contain secrets, because it is written into files and logs.
"""

import os

import pyarrow as pa
from pyarrow import fs

from ossft_ray.common.errors import InputError, brief
from ossft_ray.common.secrets import HINT, has_secret, mask


def is_uri(location: str) -> bool:
    return "://" in location


def filesystem_at(location: str) -> tuple[fs.FileSystem, str]:
    """The filesystem behind a local path or a URI, and the path within it.

    Raises:
        InputError: the URI's scheme or an option is unknown, its client is not installed, or it contains a secret.
    """
    if not is_uri(location):
        return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(location))
    if has_secret(location):
        raise InputError(f"{mask(location)}: a URI with a secret in it would be written into files and logs; {HINT}")
    try:
        filesystem, path = fs.FileSystem.from_uri(location)
    except (OSError, ValueError, ImportError, pa.ArrowException) as error:
        raise InputError(f"{location}: not a path or URI that can be read or written to: {brief(error)}") from error
    return filesystem, path


def join(location: str, *names: str) -> str:
    """The location of a file or folder below another location.

    >>> join("runs/a", "train", "model"), join("s3://bucket/run/?scheme=http", "round-2")
    ('runs/a/train/model', 's3://bucket/run/round-2?scheme=http')
    """
    bare, options = split_options(location)
    return "/".join([bare.rstrip("/") or bare, *names]) + options


def split_options(location: str) -> tuple[str, str]:
    """A URI without its options, and the options with their question mark; a path has none."""
    bare, mark, options = location.partition("?") if is_uri(location) else (location, "", "")
    return bare, mark + options


def absolute(location: str) -> str:
    """The location, independent of the working directory: an absolute local path, or an object store's URI as is.

    Raises:
        InputError: see `filesystem_at`.
    """
    filesystem, path = filesystem_at(location)
    return path if isinstance(filesystem, fs.LocalFileSystem) else location
