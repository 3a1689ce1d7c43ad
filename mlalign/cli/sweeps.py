"""`mlalign run|plan … -m` and `mlalign results`: sweeps and searches from the command line."""

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from mlalign import stages
from mlalign.cli import commands, show
from mlalign.core import store
from mlalign.core.errors import UserError, nearest
from mlalign.core.terminal import say
from mlalign.recipes.plan import Plan
from mlalign.running import run
from mlalign.sweep import grid, results, united

if TYPE_CHECKING:
    from mlalign.sweep.search import Search


def carry_out(argv: Sequence[str], *, dry: bool, recipe: Mapping | None = None) -> int:
    """Plan a sweep or a search, show it or run it; returns the exit status.

    Raises: UserError with all mistakes of all variants; at the end, after the results are written,
    with what failed.
    """
    gc.disable()  # see `cli`: planning keeps all that it makes
    try:
        request = grid.read(argv, recipe)
        search = _search(request, recipe, dry) if request.searches else None
        planned = search.probed if search else united.build(request, recipe, to_look_at=dry)
    finally:
        gc.freeze()
        gc.enable()
    metric, direction = request.options.get("metric"), request.options.get("direction")
    any_metric = any(_has_metrics_of_its_own(node.module) for node in planned.nodes)
    results.check_metric(metric, direction, any_metric=any_metric)
    if dry:
        outline = search.outline() if search else united.outline(planned)
        say(f"{outline}\n\n{show.show_plan(planned)}")
        return 0
    if search:
        return search.run()
    return _grid(planned, metric, direction)


def _has_metrics_of_its_own(module: ModuleType) -> bool:
    """Whether nobody knows before it runs which metrics a stage gives."""
    return module.KIND == "metrics" and not hasattr(module, "gives")


def _search(request: grid.Request, recipe: Mapping | None, to_look_at: bool) -> "Search":
    from mlalign.sweep.search import Search

    return Search(request, recipe, to_look_at=to_look_at)


def _grid(planned: Plan, metric: str | None, direction: str | None) -> int:
    from mlalign.sweep.board import Board

    board = Board(planned, metric)
    say(united.outline(planned))
    try:
        status = run.run(planned, board)
    except UserError:
        has_begun = (planned.run_dir / "plan.json").is_file()
        if has_begun:
            board.close()
            results.tell(planned, metric, direction)
        raise
    board.close()
    results.tell(planned, metric, direction)
    return status


def _is_sweep(root: Path, name: str) -> bool:
    try:
        return bool(commands.read_plan(root, name).get("variants"))
    except UserError:  # another run's trouble
        return False


KEYS = ("name", "root", "metric", "direction")


def show_results(argv: Sequence[str]) -> int:
    """The command `mlalign results name=SWEEP [metric=NAME]`: a sweep's results so far, by any
    metric."""
    arguments = _arguments(argv)
    root = commands.root_of(arguments)
    name = arguments.get("name", "")
    run_dir = root / "runs" / name
    has_plan = "name" in arguments and (run_dir / "plan.json").is_file()
    plan = commands.read_plan(root, name) if has_plan else {}
    if not plan.get("variants"):
        sweeps = [run_name for run_name in commands.runs(root) if _is_sweep(root, run_name)]
        raise UserError(f"name: there is no sweep {name!r} under {root}{nearest(name, sweeps)}")

    metric = arguments.get("metric") or plan["sweep"].get("metric")
    direction = arguments.get("direction") or plan["sweep"].get("direction")
    modules = [stages.load(step["stage"]) for step in plan["steps"]]
    any_metric = any(map(_has_metrics_of_its_own, modules))
    results.check_metric(metric, direction, any_metric=any_metric)
    published = results.publish(run_dir, store.Store(root / "store"), metric, direction)
    say(results.summary(published, run_dir))
    return 0


def _arguments(argv: Sequence[str]) -> dict[str, str]:
    """Raises: UserError for every argument that is not KEY=value with a known key."""
    arguments = {}
    errors = []
    for argument in argv:
        key, equals, value = argument.partition("=")
        if not equals or key not in KEYS:
            errors.append(f"{key}: unknown key{nearest(key, KEYS)}")
        arguments[key] = value
    if errors:
        raise UserError(*errors)
    return arguments
