"""Imports point one way, light modules stay light, and every module can be imported. No module
outside `mlalign/stages/` asks for a stage's name.

The first table is the layout. `scripts/structure.py` counts what runs against it.
"""

import ast
import functools
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import PROJECT

import mlalign
import reward_models

# folder -> the folders that its modules may import, besides its own. `reward_models` is the
# package.
MAY_IMPORT = {
    "core": (),
    "methods": ("core",),
    "models": ("core",),
    "reward_models": ("methods", "models", "core"),
    "data": ("models", "core"),
    "evidence": ("methods", "core"),
    "stages": ("methods", "models", "data", "evidence", "reward_models", "core"),
    "recipes": ("declarations", "core"),
    "planner": ("recipes", "declarations", "models", "core"),
    "running": ("recipes", "declarations", "core"),
    "sweep": ("running", "recipes", "declarations", "evidence", "methods", "core"),
    "cli": ("sweep", "planner", "running", "recipes", "declarations", "evidence", "models", "core"),
    "step": ("running",),  # `python -m mlalign.step` and `python -m mlalign`
    "__main__": ("cli",),
}
# What a plan reads of stages and scorers: which there are, and what they say of themselves.
DECLARATIONS = ("mlalign.stages", "reward_models", "reward_models.settings")
# Who trains, and who says what training takes. Nobody else imports these.
TRAINING = ("mlalign.models.training", "mlalign.models.modelling")
TRAINERS = ("mlalign.models.training", "mlalign.stages", "mlalign.planner")
# Within core, the modules that stand alone or nearly so -> what they may import of core.
BOTTOM = {
    "errors": (),
    "json_text": (),
    "language_names": (),
    "stopping": (),
    "versions": (),
    "visible": (),
    "conversations": ("json_text",),
    "languages": ("errors", "language_names", "yaml_files"),
    "rows": ("errors", "store"),
    "schema": ("errors",),
}
HEAVY = (
    "optuna",
    "torch",
    "transformers",
    "trl",
    "vllm",
    "datasets",
    "deepspeed",
    "peft",
    "lingua",
    "pyarrow",
    "numpy",
)


def modules(package):
    return [
        m.name
        for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
        if not m.name.endswith("__main__")
    ]


def sources(root: Path) -> dict[str, Path]:
    """Module -> file, of both packages in a checkout."""
    found = {}
    for package in ("mlalign", "reward_models"):
        for path in sorted((root / package).rglob("*.py")):
            words = path.relative_to(root).with_suffix("").parts
            name = ".".join(words).removesuffix(".__init__")
            found[name] = path
    return found


@functools.cache
def import_statements(path: Path) -> list[ast.Import | ast.ImportFrom]:
    """Those at a file's top and inside its functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Every module of the two packages that a file imports."""
    for node in import_statements(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        else:
            assert node.level == 0, f"{path}: a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                name = whole if whole in known else str(node.module)
                if name in known:
                    yield name


def folder_of(module: str) -> str:
    """`core` of `mlalign.core.rows`; "" for `mlalign` itself, which everybody may import."""
    words = module.split(".")
    if words[0] == "reward_models":
        return "reward_models"
    return words[1] if len(words) > 1 else ""


def allowed(module: str, target: str) -> bool:
    """Whether a module may import another."""
    own, other = folder_of(module), folder_of(target)
    if other in ("", own) or own == "":
        return True
    may = MAY_IMPORT.get(own, ())
    return other in may or ("declarations" in may and target in DECLARATIONS)


def against_layout(root: Path = PROJECT) -> list[str]:
    """The imports of a checkout that run against the layout,
    `mlalign/core/rows.py imports mlalign.cli`.
    """
    known = sources(root)
    wrong = []
    for module, path in known.items():
        for target in sorted(set(imported(path, known))):
            if not allowed(module, target):
                wrong.append(f"{path.relative_to(root)} imports {target}")
    return wrong


def below(module: str, parents: tuple[str, ...]) -> bool:
    return any(module == parent or module.startswith(f"{parent}.") for parent in parents)


# Stages whose names are also words for something else: a kind of rows, a column, a folder of a run.
AMBIGUOUS = ("preference", "report", "reward", "score")


def asking_for_a_stage(root: Path = PROJECT) -> list[str]:
    """Where modules of a checkout outside `stages/` test or look up the name of a stage,
    `mlalign/cli/show.py:12: step.stage == 'prepare'`.

    That is a comparison with a stage's name, or a table or list of nothing but such names. A step
    that is built (`{"stage": "prepare", …}`) and a module that is loaded by name are none.
    """
    folder = root / "mlalign" / "stages"
    stages = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    asking = []
    for path in sorted((root / "mlalign").rglob("*.py")):
        if folder in path.parents:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if asks_for_a_stage(node, stages):
                asking.append(f"{path.relative_to(root)}:{node.lineno}: {ast.unparse(node)}")
    return asking


def asks_for_a_stage(node: ast.AST, stages: set[str]) -> bool:
    clear = stages - set(AMBIGUOUS)
    if isinstance(node, ast.Compare):
        operands = [node.left, *node.comparators]
        named = {text for operand in operands for text in strings(operand)}
        return bool(named & clear) or (any(map(is_a_stage, operands)) and bool(named & stages))
    if isinstance(node, ast.Match):
        patterns = [case.pattern for case in node.cases]
        named = {text for pattern in patterns for text in strings(pattern)}
        return bool(named & clear) or (is_a_stage(node.subject) and bool(named & stages))
    if isinstance(node, ast.Dict):
        members = node.keys
    elif isinstance(node, ast.Tuple | ast.List | ast.Set):
        members = node.elts
    else:
        return False
    names = {getattr(member, "value", None) for member in members}
    return names <= stages and (bool(names & clear) or len(names) > 1)


def is_a_stage(node: ast.AST) -> bool:
    """Whether an expression says by itself that it is a stage's name: `step.stage`, `stage`."""
    words = ast.unparse(node).removesuffix("_").replace("_name", "")
    return words.endswith(("stage", "['stage']", "get('stage')"))


def strings(node: ast.AST) -> set[str]:
    """All texts in an expression."""
    constants = (inner for inner in ast.walk(node) if isinstance(inner, ast.Constant))
    return {constant.value for constant in constants if isinstance(constant.value, str)}


KNOWN = sources(PROJECT)


@pytest.mark.slow
def test_imports_point_one_way():
    assert against_layout() == []


def test_every_folder_has_its_place_in_the_layout():
    folders = {folder_of(module) for module in KNOWN} - {""}
    assert folders == set(MAY_IMPORT)


def test_the_layout_has_no_circle():
    """Take away folders whose imports are all gone already; nothing may be left."""
    left = {folder: {f for f in may if f in MAY_IMPORT} for folder, may in MAY_IMPORT.items()}
    while left:
        free = {folder for folder, may in left.items() if not may & set(left)}
        assert free, left
        left = {folder: may for folder, may in left.items() if folder not in free}


@pytest.mark.parametrize(
    ("module", "target", "may"),
    [
        ("mlalign.core.rows", "mlalign.stages", False),
        ("mlalign.recipes.plan", "mlalign.stages", True),
        ("mlalign.recipes.plan", "mlalign.stages.sft", False),
        ("mlalign.running.step", "mlalign.cli.show", False),
        ("mlalign.stages.sft", "mlalign.recipes.plan", False),
        ("reward_models.files", "mlalign.core.sources", True),
        ("reward_models.files", "mlalign.data.reading", False),
    ],
)
def test_the_rule_itself(module, target, may):
    assert allowed(module, target) is may


def test_an_import_inside_a_function_counts(tmp_path):
    for folder in ("core", "cli"):
        (tmp_path / "mlalign" / folder).mkdir(parents=True)
    (tmp_path / "mlalign/cli/show.py").write_text("")
    (tmp_path / "mlalign/core/rows.py").write_text("def f():\n    from mlalign.cli import show\n")
    assert against_layout(tmp_path) == ["mlalign/core/rows.py imports mlalign.cli.show"]


def test_nobody_outside_stages_asks_for_the_name_of_one():
    assert asking_for_a_stage() == []


@pytest.mark.parametrize(
    ("code", "asks"),
    [
        ("node.step.stage == 'reward'", True),
        ("told['stage'] in ('report', 'other')", True),
        ("name == 'prepare'", True),
        ("rates = {'sft': 2e-5, 'reward': 1e-4}", True),
        ("trains = ('sft', 'preference')", True),
        ("match stage:\n    case 'report': pass", True),
        ("kind == 'preference'", False),
        ("kinds = ('preference', 'ranking')", False),
        ("mends = {'lm_eval': 'install it', 'vllm': 'install it'}", False),
        ("step = {'stage': 'prepare', 'config': config}", False),
        ("cfg = stages.load('generate').Config", False),
    ],
)
def test_asking_for_a_stage(code, asks, tmp_path):
    for folder in ("stages", "cli"):
        (tmp_path / "mlalign" / folder).mkdir(parents=True)
    for stage in ("generate", "lm_eval", "prepare", "preference", "report", "reward", "sft"):
        (tmp_path / f"mlalign/stages/{stage}.py").write_text("")
    (tmp_path / "mlalign/cli/show.py").write_text(code)
    assert bool(asking_for_a_stage(tmp_path)) is asks


def test_stages_never_import_stages():
    for module in KNOWN:
        if module.startswith("mlalign.stages."):
            assert not [
                name for name in imported(KNOWN[module], KNOWN) if below(name, ("mlalign.stages",))
            ], module


def test_only_stages_train():
    for module, path in KNOWN.items():
        if not below(module, (*TRAINING, *TRAINERS)):
            assert not [name for name in imported(path, KNOWN) if below(name, TRAINING)], module


@pytest.mark.parametrize("name", BOTTOM)
def test_the_bottom_of_core_stands_alone(name):
    own = f"mlalign.core.{name}"
    may = (own, *(f"mlalign.core.{other}" for other in BOTTOM[name]))
    for module, path in KNOWN.items():
        if below(module, (own,)):
            assert not [target for target in imported(path, KNOWN) if not below(target, may)], (
                module
            )


@pytest.mark.slow
@pytest.mark.parametrize("name", [*modules(mlalign), *modules(reward_models)])
def test_every_module_can_be_imported(name):
    assert importlib.import_module(name).__doc__ or name.count(".") > 1


def run_python(code):
    return subprocess.run(
        [sys.executable, "-c", code], text=True, capture_output=True, timeout=120, check=False
    )


@pytest.mark.slow
def test_planning_imports_nothing_heavy():
    stages = [n for n in modules(mlalign) if n.startswith(("mlalign.stages", "mlalign.sweep"))]
    stages.remove("mlalign.sweep.proposals")  # Optuna's: for a search that begins
    code = (
        "import sys, mlalign.cli, mlalign.recipes.plan, mlalign.running.run, mlalign.cli.show,"
        f" {', '.join(stages)}; print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = run_python(code)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.slow
def test_light_dependency_set_is_enough_to_import():
    """Everything that needs no training imports with trl, deepspeed, hydra, vllm and datasets
    absent.
    """
    code = f"""
import sys
for name in ("trl", "deepspeed", "hydra", "omegaconf", "vllm", "datasets"):
    sys.modules[name] = None
import importlib
for name in {modules(mlalign) + modules(reward_models)!r}:
    importlib.import_module(name)
from mlalign.cli import main
assert main(["--help"]) == 0
assert main(["run", "recipe=candidates"]) == 1
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert "mlalign[train]" in done.stderr
