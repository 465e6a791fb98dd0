"""The checkpoints from which training resumes: each is whole or absent, and the two newest are kept.

A checkpoint is a folder `step-NNNNNN` to which every worker writes its part. Its last file, `complete.json`, is written
once all parts are there. A folder without it was being written when the run died: it is never read, and is removed.
"""

import fcntl
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

from ossft_ray.common.errors import JobError
from ossft_ray.common.storage import Folder
from ossft_ray.run_folder.names import COMPLETE

UNIVERSAL = "universal"
NUM_KEPT = 2


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run, on a local path that all workers see, or in an object store."""

    folder: Folder

    def newest(self) -> Folder | None:
        """The newest whole checkpoint, if there is one."""
        complete = self._complete()
        return self.folder / complete[-1] if complete else None

    def write(self, step: int, rank: int, save: Callable[[Path], None], barrier: Callable[[], None]) -> None:
        """Write a checkpoint together: `save` writes a worker's part into a folder, `barrier` waits for all workers."""
        target = self.folder / f"step-{step:06d}"
        if rank == 0:
            target.delete()  # left by a run that was killed while writing it
        barrier()
        with local_staging(target) as staging:
            save(staging)
        barrier()
        if rank == 0:
            target.write_json(COMPLETE, {"step": step})
            self.prune()

    def prune(self) -> None:
        """Remove half-written checkpoints, and all but the newest whole ones."""
        kept = self._complete()[-NUM_KEPT:]
        for name in self._names():
            if name not in kept:
                (self.folder / name).delete()

    def _complete(self) -> list[str]:
        return [name for name in self._names() if (self.folder / name).exists(COMPLETE)]

    def _names(self) -> list[str]:
        found = self.folder.filesystem.get_file_info(fs.FileSelector(self.folder.path, allow_not_found=True))
        folders = [info.base_name for info in found if info.type == fs.FileType.Directory]
        return sorted(name for name in folders if name.startswith("step-"))


@contextmanager
def local_copy(folder: Folder) -> Iterator[Path]:
    """The folder's files on this machine, to be read."""
    if folder.local_path is not None:
        yield folder.local_path
        return
    with tempfile.TemporaryDirectory() as staging:
        fs.copy_files(folder.path, staging, source_filesystem=folder.filesystem)
        yield Path(staging)


@contextmanager
def node_copy(checkpoint: Folder, rank: int, universal: bool, token: str) -> Iterator[Path]:
    """A checkpoint's files that a worker loads, on its node's disk; the last worker of the node removes them.

    The workers of a node share the files, each of which is downloaded once. A worker waits for a file that another one
    is downloading, however long that takes. `token` is a secret of the group, because nobody else may write there.
    """
    if checkpoint.local_path is not None:
        yield checkpoint.local_path
        return
    target = Path(tempfile.gettempdir()) / f"ossft_ray-{token}-{checkpoint.path.rpartition('/')[2]}"
    files = target / "files"  # apart from the locks, because DeepSpeed reads whatever lies in a checkpoint's folders
    with target.with_suffix(".lock").open("w") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        try:
            names = _files_to_load(checkpoint, rank, universal)
            start = rank % len(names)  # neighbours begin with different files, so they download in parallel
            for name in names[start:] + names[:start]:
                _download_once(checkpoint, name, files, target / "locks")
            yield files
        finally:
            fcntl.flock(users, fcntl.LOCK_UN)
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(target, ignore_errors=True)
                Path(users.name).unlink(missing_ok=True)
            except BlockingIOError:
                pass  # neighbours are still reading


def _files_to_load(checkpoint: Folder, rank: int, universal: bool) -> list[str]:
    """The files that a worker opens, relative to the checkpoint: those of all workers, and its own shards."""
    selector = fs.FileSelector(checkpoint.path, recursive=True)
    found = [info for info in checkpoint.filesystem.get_file_info(selector) if info.type == fs.FileType.File]
    names = sorted(info.path.removeprefix(f"{checkpoint.path}/") for info in found)
    if universal:
        return [name for name in names if name.startswith(f"{UNIVERSAL}/") or "/" not in name]
    shards = {name: re.search(r"zero_pp_rank_(\d+)_", name) for name in names if not name.startswith(f"{UNIVERSAL}/")}
    return [name for name, shard in shards.items() if shard is None or int(shard[1]) == rank]


def _download_once(folder: Folder, name: str, target: Path, locks: Path) -> None:
    """Download a file unless another process has; wait for one that is downloading it."""
    local, busy = target / name, locks / name
    for path in (local, busy):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with busy.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not local.exists():
            partial = busy.with_name(f"{busy.name}.partial")
            fs.copy_files(f"{folder.path}/{name}", str(partial), source_filesystem=folder.filesystem)
            partial.rename(local)


@contextmanager
def local_staging(folder: Folder) -> Iterator[Path]:
    """A path on this machine whose files end up in the folder."""
    if folder.local_path is not None:
        folder.local_path.mkdir(parents=True, exist_ok=True)
        yield folder.local_path
        return
    with tempfile.TemporaryDirectory() as staging:
        yield Path(staging)
        fs.copy_files(staging, folder.path, destination_filesystem=folder.filesystem)


def make_universal(checkpoint: Folder, tag: str) -> None:
    """Convert a checkpoint, once, into a sub-folder that any number of workers can load; raises JobError on failure."""
    target = checkpoint / UNIVERSAL
    if target.exists(COMPLETE):
        return
    target.delete()
    with local_copy(checkpoint) as source, local_staging(target) as staging:
        command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
        paths = ["--input_folder", str(source / tag), "--output_folder", str(staging / tag)]
        done = subprocess.run([*command, *paths], capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise JobError(
                f"train: {checkpoint.path} cannot be loaded by another number of workers: {reason}; "
                "resume with as many as wrote it, or pass --start-over"
            )
        (staging / "latest_universal").write_text(tag)
    target.write_json(COMPLETE, json.loads(checkpoint.read_bytes(COMPLETE)))
