"""Where training goes on from: checkpoints that are whole or not there, the two newest of them.

A checkpoint is a folder `step-NNNNNN` into which every worker writes its part; its last file, `complete.json`, is
written when all parts are there. A folder without it was being written when the run died: it is never read, and
removed.
"""

import json
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

_UNIVERSAL = "universal"
NUM_KEPT = 2


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run, on a local path that all workers see, or in an object store."""

    folder: Folder

    def newest(self) -> Folder | None:
        """The newest whole checkpoint; None where there is none."""
        complete = [name for name in self._names() if (self.folder / name).exists(COMPLETE)]
        return self.folder / complete[-1] if complete else None

    def write(self, step: int, rank: int, save: Callable[[Path], None], barrier: Callable[[], None]) -> None:
        """Write a checkpoint together: `save` writes a worker's part into a folder, `barrier` waits for all workers."""
        target = self.folder / f"step-{step:06d}"
        if rank == 0:
            target.delete()  # of a run killed while it wrote this one
        barrier()
        if target.local_path is not None:
            target.local_path.mkdir(parents=True, exist_ok=True)
            save(target.local_path)
        else:
            with tempfile.TemporaryDirectory() as staging:
                save(Path(staging))
                fs.copy_files(staging, target.path, destination_filesystem=target.filesystem)
        barrier()
        if rank == 0:
            target.write_json(COMPLETE, {"step": step})
            self.prune()

    def prune(self) -> None:
        """Remove what was half written, and all but the newest whole ones."""
        complete = [name for name in self._names() if (self.folder / name).exists(COMPLETE)]
        for name in self._names():
            if name not in complete[-NUM_KEPT:]:
                (self.folder / name).delete()

    def _names(self) -> list[str]:
        found = self.folder.filesystem.get_file_info(fs.FileSelector(self.folder.path, allow_not_found=True))
        folders = [info.base_name for info in found if info.type == fs.FileType.Directory]
        return sorted(name for name in folders if name.startswith("step-"))


@contextmanager
def local_copy(checkpoint: Folder) -> Iterator[Path]:
    """The checkpoint as files on this machine."""
    if checkpoint.local_path is not None:
        yield checkpoint.local_path
        return
    with tempfile.TemporaryDirectory() as staging:
        fs.copy_files(checkpoint.path, staging, source_filesystem=checkpoint.filesystem)
        yield Path(staging)


def make_universal(checkpoint: Folder, tag: str) -> Folder:
    """Beside a worker's parts, the same state in a form that any number of workers can load; once.

    Raises:
        JobError: DeepSpeed cannot convert it.
    """
    target = checkpoint / _UNIVERSAL
    if target.exists(COMPLETE):
        return target
    target.delete()
    with local_copy(checkpoint) as source, tempfile.TemporaryDirectory() as staging:
        command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
        paths = ["--input_folder", str(source / tag), "--output_folder", f"{staging}/{tag}"]
        done = subprocess.run([*command, *paths], capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise JobError(
                f"train: {checkpoint.path} cannot be loaded by another number of workers: {reason}; "
                "go on with as many as wrote it, or pass --start-over"
            )
        (Path(staging) / "latest_universal").write_text(tag)
        fs.copy_files(staging, target.path, destination_filesystem=target.filesystem)
    target.write_json(COMPLETE, json.loads(checkpoint.read_bytes(COMPLETE)))
    return target
