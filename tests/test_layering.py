"""The floors of the house hold: imports point down only, and heavy libraries stay in their rooms."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import ossft_ray

ROOT = Path(ossft_ray.__file__).parent

# From the ground up. A module is named by its longest prefix here; it may import from its own floor and those below.
FLOORS = (
    # prompts.py and leaks.py hold wording, and config.py's defaults are that wording
    ("errors", "builtin", "latex", "masking", "locations", "method.prompts", "method.leaks"),
    ("config", "schema"),
    ("method", "verification", "data.records", "data.hub", "data.layouts", "data.seen"),
    ("engines", "storage", "data", "provenance", "run_folder"),
    ("stages", "report", "playground", "show", "export", "status", "stage_status"),
    ("cli", "summary", "terminal", "status_lines", "check_tables"),
)

# Rooms on one floor that do not lead into each other, whatever the floors say: importer, imported.
CLOSED_DOORS = (
    ("engines", "data"),
    ("engines", "provenance"),
    ("storage", "engines"),
    ("method", "verification"),
    ("verification", "method"),
    ("report", "stages"),
    ("report", "playground"),
    ("show", "stages"),
    ("export", "stages"),
    ("status", "stages"),
    ("stage_status", "stages"),
    ("status_lines", "stages"),
    ("stages", "playground"),
    ("playground", "stages"),
    ("playground", "report"),
    ("terminal", "summary"),
    ("terminal", "stages"),
    ("schema", "config"),
)

# Heavy libraries: the modules that may import them, and whether only inside functions.
ROOMS = {
    "ray": (("cli", "stages"), False),
    "vllm": (("engines.vllm_policy",), True),
    "deepspeed": (("engines.deepspeed_engine",), True),
    "transformers": (("engines", "playground.pretrain", "stages.selftest"), False),
    "torch": (
        ("engines", "stages.train_worker", "stages.selftest", "playground.pretrain", "method.coefficients"),
        False,
    ),
    "math_verify": (("verification.kinds.math", "verification.mathematics"), False),
    "sympy": (("verification.mathematics",), False),
    "pint": (("verification.kinds.number",), False),
    "matplotlib": (("report",), False),
    "datasets": (("data.hub",), True),
    "huggingface_hub": (
        ("engines.chat", "engines.hub_models", "engines.model_access", "export.card", "export.push"),
        True,
    ),
    "peft": (("engines.policy_model",), True),
}


@dataclass(frozen=True)
class Import:
    importer: str  # without "ossft_ray."
    imported: str  # in full
    inside_function: bool

    def __str__(self) -> str:
        return f"{self.importer} imports {self.imported}"


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_name(file): file for file in sorted(ROOT.rglob("*.py"))}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_of(importer: str, node: ast.AST, inside_function: bool = False) -> Iterator[Import]:
    """All imports under a node but those for type checkers."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(importer, alias.name, inside_function)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{importer}: relative import"
        for alias in node.names:
            submodule = f"{node.module}.{alias.name}"
            is_module = submodule.removeprefix("ossft_ray.") in MODULES
            yield Import(importer, submodule if is_module else str(node.module), inside_function)
    children = node.orelse if isinstance(node, ast.If) and is_type_checking(node) else ast.iter_child_nodes(node)
    is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in children:
        yield from imports_of(importer, child, inside_function or is_function)


IMPORTS = [found for name, file in MODULES.items() for found in imports_of(name, ast.parse(file.read_text()))]
OWN = [found for found in IMPORTS if found.imported.split(".")[0] == "ossft_ray"]


def is_in(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


def floor_of(module: str) -> int:
    matches = [(len(room), floor) for floor, rooms in enumerate(FLOORS) for room in rooms if is_in(module, room)]
    assert matches, f"{module} stands on no floor: give it one in FLOORS"
    return max(matches)[1]


def test_the_walk_sees_imports_of_every_kind() -> None:
    source = """
if TYPE_CHECKING:
    import for_types
else:
    import for_running
import at_top.deep
from ossft_ray import builtin
from ossft_ray.stages.rewrite import rewrite
def f():
    async def g():
        from inside import x
class C:
    def __init__(self):
        try:
            import constructor
        except ImportError:
            pass
"""
    found = {(i.imported, i.inside_function) for i in imports_of("m", ast.parse(source))}
    assert found == {
        ("for_running", False),
        ("at_top.deep", False),
        ("ossft_ray.builtin", False),
        ("ossft_ray.stages.rewrite", False),
        ("inside", True),
        ("constructor", True),
    }
    assert len(OWN) > 50


@pytest.mark.parametrize("module", [name for name in MODULES if name])
def test_imports_point_down(module: str) -> None:
    upward = [
        str(found)
        for found in OWN
        if found.importer == module
        and found.imported != "ossft_ray"
        and floor_of(found.imported.removeprefix("ossft_ray.")) > floor_of(module)
    ]
    assert upward == []


def test_the_package_itself_imports_nothing() -> None:
    assert [str(found) for found in IMPORTS if found.importer == ""] == []


@pytest.mark.parametrize("importer, imported", CLOSED_DOORS)
def test_rooms_of_one_floor_that_stay_apart(importer: str, imported: str) -> None:
    through = [
        str(found)
        for found in OWN
        if is_in(found.importer, importer) and is_in(found.imported.removeprefix("ossft_ray."), imported)
    ]
    assert through == []


def test_there_is_no_circle() -> None:
    below: dict[str, set[str]] = {}
    for found in OWN:
        below.setdefault(found.importer, set()).add(found.imported.removeprefix("ossft_ray").removeprefix("."))
    graphlib.TopologicalSorter(below).prepare()


@pytest.mark.parametrize("library", ROOMS)
def test_heavy_libraries_stay_in_their_rooms(library: str) -> None:
    rooms, only_in_functions = ROOMS[library]
    found = [i for i in IMPORTS if is_in(i.imported, library)]
    assert [str(i) for i in found if not any(is_in(i.importer, room) for room in rooms)] == []
    assert [str(i) for i in found if only_in_functions and not i.inside_function] == []
    assert found or library in ("sympy", "matplotlib"), f"nothing imports {library}: is the walk blind?"


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    "arguments, banned",
    [
        (["--help"], "torch ray transformers vllm deepspeed sympy pyarrow pydantic"),
        (["--version"], "torch ray transformers vllm deepspeed sympy pyarrow pydantic"),
        (["rewrite", "--help"], "torch ray transformers vllm deepspeed sympy"),
        (["rewrite", "--set", "nothing=1"], "torch ray transformers vllm deepspeed sympy"),
        (["show", "--help"], "torch ray transformers vllm deepspeed sympy pyarrow pydantic"),
        (["export", "--help"], "torch ray transformers vllm deepspeed sympy pyarrow pydantic"),
    ],
    ids=["help", "version", "a command's help", "a refusal", "show's help", "export's help"],
)
def test_a_light_command_loads_no_heavy_library(arguments: list[str], banned: str) -> None:
    done = run_python(f"""
import sys
sys.argv = ["ossft", *{arguments!r}]
from ossft_ray.cli import main
try:
    main()
except SystemExit:
    pass
print("loaded:", *(name for name in {banned.split()!r} if name in sys.modules))
""")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded:"


@pytest.mark.parametrize(
    "module, banned",
    [
        ("ossft_ray", "torch ray transformers vllm deepspeed pydantic pyarrow"),
        ("ossft_ray.config", "torch ray transformers vllm deepspeed sympy pyarrow"),
        ("ossft_ray.method.rewriting", "torch ray transformers vllm deepspeed sympy pyarrow"),
        ("ossft_ray.verification", "torch ray transformers vllm deepspeed sympy math_verify"),
        ("ossft_ray.engines.vllm_policy", "torch ray vllm deepspeed sympy"),
        ("ossft_ray.engines.deepspeed_engine", "ray vllm deepspeed"),
        ("ossft_ray.data.problems", "torch ray transformers vllm deepspeed sympy"),
        ("ossft_ray.report", "torch ray transformers vllm deepspeed sympy"),
        ("ossft_ray.status", "torch ray transformers vllm deepspeed sympy"),
        ("ossft_ray.show", "torch ray transformers vllm deepspeed sympy"),
        ("ossft_ray.export", "torch ray transformers vllm deepspeed sympy huggingface_hub"),
        ("ossft_ray.playground.demo", "torch ray transformers vllm deepspeed sympy"),
    ],
)
def test_importing_a_module_loads_no_library_of_another_room(module: str, banned: str) -> None:
    done = run_python(
        f"import sys, {module}; print('loaded:', *(name for name in {banned.split()!r} if name in sys.modules))"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "loaded:"
