"""Imports point down, heavy libraries stay in the packages that own them, and no folder grows too large."""

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
MAX_MODULES = 12  # in one folder

# From the bottom up. A module may import from its own package and from every layer below it, and from nothing else.
LAYERS = (
    ("common",),
    ("tasks",),
    ("config",),
    ("method", "verification"),
    ("policy",),
    ("data", "engines"),
    ("run_folder",),
    ("distributed", "report", "export", "playground"),
    ("stages",),
    ("terminal",),
    ("cli",),
)

# The stages in the order of the flow: each may import from those before it.
STAGES = ("rewrite", "score", "train", "evaluate", "check")

# Heavy libraries: the modules that may import them, and whether only inside functions.
OWNERS = {
    "ray": (("cli", "distributed", "stages"), False),
    "vllm": (("engines.vllm_policy",), True),
    "deepspeed": (("engines.training.deepspeed_engine",), True),
    "transformers": (("engines", "policy", "stages.selftest"), False),
    "torch": (
        (
            "engines",
            "distributed.train_group",
            "stages.train.worker",
            "stages.selftest",
            "method.coefficients",
        ),
        False,
    ),
    "math_verify": (("verification.kinds.math", "verification.mathematics"), False),
    "sympy": (("verification.mathematics",), False),
    "pint": (("verification.units",), False),
    "matplotlib": (("report",), False),
    "datasets": (("data.hub",), True),
    "huggingface_hub": (("policy", "export"), True),
    "peft": (("engines.adapters",), True),
    "openai": (("stages.rewrite.server",), True),
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
    """All imports under a node except those for type checkers."""
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


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def layer_of(module: str) -> int:
    layers = [layer for layer, packages in enumerate(LAYERS) if any(is_in(module, package) for package in packages)]
    assert layers, f"{module} belongs to no layer: give it one in LAYERS"
    return layers[0]


def is_allowed(found: Import) -> bool:
    """Whether an import stays within its package or goes to a layer below."""
    imported = found.imported.removeprefix("ossft_ray").removeprefix(".")
    if imported == "" or found.importer.split(".")[0] == imported.split(".")[0]:
        return True
    return layer_of(imported) < layer_of(found.importer)


def test_the_walk_sees_imports_of_every_kind() -> None:
    source = """
if TYPE_CHECKING:
    import for_types
else:
    import for_running
import at_top.deep
from ossft_ray import common
from ossft_ray.stages.rewrite.stage import rewrite
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
        ("ossft_ray.common", False),
        ("ossft_ray.stages.rewrite.stage", False),
        ("inside", True),
        ("constructor", True),
    }
    assert len(OWN) > 50


@pytest.mark.parametrize("module", [name for name in MODULES if name])
def test_imports_point_down(module: str) -> None:
    assert [str(found) for found in OWN if found.importer == module and not is_allowed(found)] == []


def test_a_stage_imports_only_stages_before_it() -> None:
    upward = []
    for found in OWN:
        importer, imported = found.importer.split("."), found.imported.removeprefix("ossft_ray.").split(".")
        if importer[0] == imported[0] == "stages" and importer[1] in STAGES:
            known = imported[1] in STAGES
            if not known or STAGES.index(imported[1]) > STAGES.index(importer[1]):
                upward.append(str(found))
    assert upward == []


def test_the_package_itself_imports_nothing() -> None:
    assert [str(found) for found in IMPORTS if found.importer == ""] == []


def test_no_folder_holds_too_many_modules() -> None:
    folders = {file.parent for file in MODULES.values()}
    sizes = {
        str(folder.relative_to(ROOT)): sum(file.name != "__init__.py" for file in folder.glob("*.py"))
        for folder in folders
    }
    assert {folder: size for folder, size in sizes.items() if size > MAX_MODULES} == {}


def test_the_package_root_holds_only_the_commands_and_the_experiment_file() -> None:
    assert sorted(file.name for file in ROOT.glob("*.py")) == ["__init__.py", "cli.py", "config.py"]


def test_imports_form_no_cycle() -> None:
    below: dict[str, set[str]] = {}
    for found in OWN:
        below.setdefault(found.importer, set()).add(found.imported.removeprefix("ossft_ray").removeprefix("."))
    graphlib.TopologicalSorter(below).prepare()


@pytest.mark.parametrize("library", OWNERS)
def test_heavy_libraries_stay_where_they_belong(library: str) -> None:
    owners, only_in_functions = OWNERS[library]
    found = [i for i in IMPORTS if is_in(i.imported, library)]
    assert [str(i) for i in found if not any(is_in(i.importer, owner) for owner in owners)] == []
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


@pytest.mark.thorough
@pytest.mark.parametrize(
    "module, banned",
    [
        ("ossft_ray", "torch ray transformers vllm deepspeed pydantic pyarrow"),
        ("ossft_ray.config", "torch ray transformers vllm deepspeed sympy pyarrow"),
        ("ossft_ray.method.rewriting", "torch ray transformers vllm deepspeed sympy pyarrow"),
        ("ossft_ray.verification", "torch ray transformers vllm deepspeed sympy math_verify"),
        ("ossft_ray.engines.vllm_policy", "torch ray vllm deepspeed sympy"),
        ("ossft_ray.engines.training.trainer", "ray vllm deepspeed"),
        ("ossft_ray.data.problems", "torch ray transformers vllm deepspeed sympy"),
        ("ossft_ray.report", "torch ray transformers vllm deepspeed sympy"),
        ("ossft_ray.run_folder.status", "torch ray transformers vllm deepspeed sympy"),
        ("ossft_ray.terminal.show", "torch ray transformers vllm deepspeed sympy"),
        ("ossft_ray.export", "torch ray transformers vllm deepspeed sympy huggingface_hub"),
        ("ossft_ray.playground.demo", "torch ray transformers vllm deepspeed sympy"),
    ],
)
def test_importing_a_module_loads_no_library_of_another(module: str, banned: str) -> None:
    done = run_python(
        f"import sys, {module}; print('loaded:', *(name for name in {banned.split()!r} if name in sys.modules))"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "loaded:"
