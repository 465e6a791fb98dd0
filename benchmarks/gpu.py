"""One GPU, section by section: attention, the loss kernel, training against TRL, checkpoints, rewriting, the demo.

    python benchmarks/gpu.py --output OUT                          # all sections
    python benchmarks/gpu.py --output OUT --sections loss trainer
    python benchmarks/gpu.py --output OUT --tiny                   # on any machine: shows that each section runs

Models have random weights in the shapes of Qwen2.5, in bfloat16; lengths are log-normal; the loss is DFT. Each
measurement runs in a separate process, and its line is printed and written to OUT/SECTION.md at once, so a later crash
loses nothing. `attention` to `state` need neither Ray nor vLLM, and run from PYTHONPATH without an installation. Tokens
a second are those of responses; MFU is that of `engines/training/flops.py`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from against_trl import FIGURES, MODEL, run_in_process

Row = dict[str, Any]
_shapes = ["tiny", "0.5b", "1.5b", "7b"]  # that are measured


class Table:
    """Rows of a section, each printed and appended to its file as soon as it is there."""

    def __init__(self, folder: Path, section: str) -> None:
        self._file, self._section, self._columns = folder / f"{section}.md", section, None
        self._file.unlink(missing_ok=True)

    def add(self, row: Row) -> None:
        lines = []
        if self._columns != list(row):
            self._columns = list(row)
            lines = ["", f"| {' | '.join(row)} |", f"|{'---|' * len(row)}"]
        lines.append(f"| {' | '.join(map(str, row.values()))} |")
        with self._file.open("a") as file:
            print(*lines, sep="\n", file=file)
        print(f"{self._section}: {json.dumps(row)}", flush=True)


def attention(tiny: bool, _: Path) -> Iterator[Row]:
    from gpu_sections.kernels import attention

    return attention(tiny)


def loss(tiny: bool, _: Path) -> Iterator[Row]:
    from gpu_sections.kernels import loss

    return loss(tiny)


def trainer(tiny: bool, output: Path) -> Iterator[Row]:
    """Ours, by shape and tokens a pass; OUT/profile.txt has the kernels of one step."""
    if tiny:
        yield from _train("tiny", [("ours", {"lora": lora, "micro_batch_tokens": 2048}) for lora in (False, True)], 2)
        return
    profile = str(output / "profile.txt")
    yield from _train(
        "1.5b",
        [
            ("ours", {"lora": False, "micro_batch_tokens": "auto", "num_steps": 9, "profile": profile}),
            ("ours", {"lora": False, "micro_batch_tokens": 8192}),
            ("ours", {"lora": False, "micro_batch_tokens": 8192, "compile": False}),
        ],
    )
    yield from _train("0.5b", [("ours", {"lora": False, "micro_batch_tokens": 16384})])
    yield from _train("7b", [("ours", {"lora": True, "micro_batch_tokens": "auto", "num_steps": 9})])


def trl(tiny: bool, _: Path) -> Iterator[Row]:
    """TRL's SFTTrainer on the same data, with the same attention; `wide`: its weights and moments are in float32."""
    if tiny:
        yield from _train("tiny", [("trl", {"lora": False, "pass_tokens": 2048, "wide": True})], 2)
        return
    yield from _train("1.5b", [("trl", {"lora": False, "pass_tokens": 8192, "wide": wide}) for wide in (True, False)])
    yield from _train("0.5b", [("trl", {"lora": False, "pass_tokens": 8192, "wide": True})])


def state(tiny: bool, _: Path) -> Iterator[Row]:
    """Save, resume and export."""
    shape = "tiny" if tiny else "0.5b"
    with _model(shape) as folder:
        yield {"shape": shape, **_in_process(folder, "save", {"shape": shape})}


def rollout(tiny: bool, _: Path) -> Iterator[Row]:
    """`benchmarks/rollout.py`: rewriting next to raw vLLM, without and with its repetition check; two engines."""
    shape, requests = ("tiny", ["32"]) if tiny else ("1.5b", ["256", "1024"])
    two_engines = ["--gpus-per-policy", "0.5", "--methods", "ossft_rewrite"]
    variants = [["--methods", "raw_vllm", "raw_vllm_checked", "ossft_rewrite"], *[two_engines] * (not tiny)]
    with _model(shape) as folder:
        program, model = str(Path(__file__).with_name("rollout.py")), str(folder / MODEL)
        for options in variants:
            command = [sys.executable, program, "--model", model, "--rounds", "1", "--requests", *requests, *options]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
                assert process.stdout is not None
                yield from ({"line": line.strip()} for line in process.stdout if "tokens" in line or "fail" in line)


def demo(tiny: bool, _: Path) -> Iterator[Row]:
    """`ossft demo`, whole."""
    program = "from ossft_ray.cli import main; main()"
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", program, "demo", "--output", folder], capture_output=True, text=True
        )
        print((done.stdout + done.stderr)[-3000:], flush=True)
        yield {"exit code": done.returncode, "seconds": round(time.monotonic() - began, 1)}


SECTIONS: dict[str, Callable[[bool, Path], Iterator[Row]]] = {
    section.__name__: section for section in (attention, loss, trainer, trl, state, rollout, demo)
}


class _model:  # noqa: N801  # read as `with _model("1.5b") as folder`
    """A folder with a random model of a shape, made in a separate process."""

    def __init__(self, shape: str) -> None:
        self._shape, self._folder = shape, tempfile.TemporaryDirectory()

    def __enter__(self) -> Path:
        folder = Path(self._folder.name)
        figures = run_in_process(__file__, folder, ["--make", self._shape])
        if "failed" in figures:
            raise SystemExit(f"making a model of shape {self._shape} failed: {figures['failed']}")
        return folder

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


def _train(shape: str, variants: list[tuple[str, Row]], num_steps: int = 6) -> Iterator[Row]:
    if shape not in _shapes:
        return
    with _model(shape) as folder:
        for way, options in variants:
            figures = _in_process(folder, way, {"shape": shape, "num_steps": num_steps, **options})
            shown = ", ".join(f"{name} {value}" for name, value in options.items())
            yield {"shape": shape, "way": way, "options": shown, **figures}


def _in_process(folder: Path, way: str, arguments: Row) -> Row:
    return run_in_process(__file__, folder, ["--way", way, "--arguments", json.dumps(arguments)])


def main() -> None:
    parser = argparse.ArgumentParser(description="measure one GPU, section by section")
    parser.add_argument("--output", type=Path, default=Path("gpu"))
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--shapes", nargs="+", default=_shapes, help="of `trainer` and `trl`")
    parser.add_argument("--tiny", action="store_true", help="small shapes, for a machine without a GPU")
    parser.add_argument("--make", help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--arguments", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make is not None:
        from gpu_sections.shapes import make_model

        figures: Row = {"parameters": make_model(arguments.folder / MODEL, arguments.make)}
        (arguments.folder / FIGURES).write_text(json.dumps(figures))
        return
    if arguments.way is not None:
        from gpu_sections.training import run

        (arguments.folder / FIGURES).write_text(json.dumps(run(arguments.way, arguments.folder, arguments.arguments)))
        return
    _shapes[:] = arguments.shapes
    arguments.output = arguments.output.resolve()
    arguments.output.mkdir(parents=True, exist_ok=True)
    if len(arguments.sections) > 1:  # each in a separate process, so that none keeps GPU memory
        options = ["--output", str(arguments.output), "--shapes", *arguments.shapes, *["--tiny"] * arguments.tiny]
        for name in arguments.sections:
            subprocess.run([sys.executable, __file__, *options, "--sections", name])
        return
    (name,) = arguments.sections
    began, table = time.monotonic(), Table(arguments.output, name)
    for row in SECTIONS[name](arguments.tiny, arguments.output):
        table.add(row)
    print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    main()
