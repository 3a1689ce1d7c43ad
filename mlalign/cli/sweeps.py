"""`mlalign run|plan … -m` and `mlalign results`: sweeps and searches from the command line."""

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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

    Raises: UserError with all mistakes of all variants; at the end, after the results are written, with what failed.
    """
    gc.disable()  # see `cli`: planning keeps all that it makes
    try:
        asked = grid.read(argv, recipe)
        search = _search(asked, recipe, dry) if asked.searches else None
        planned = search.probed if search else united.build(asked, recipe, to_look_at=dry)
    finally:
        gc.freeze()
        gc.enable()
    metric, direction = (asked.options.get(k) for k in ("metric", "direction"))
    results.check_metric(metric, direction, harness=any(n.step.stage == "lm_eval" for n in planned.nodes))
    if dry:
        say(f"{search.outline() if search else united.outline(planned)}\n\n{show.show_plan(planned)}")
        return 0
    if search:
        return search.run()
    return _grid(planned, metric, direction)


def _search(asked: grid.Asked, recipe: Mapping | None, to_look_at: bool) -> "Search":
    from mlalign.sweep.search import Search

    return Search(asked, recipe, to_look_at=to_look_at)


def _grid(planned: Plan, metric: str | None, direction: str | None) -> int:
    from mlalign.sweep.board import Board

    board = Board(planned, metric)
    say(united.outline(planned))
    try:
        status = run.run(planned, board)
    except UserError:
        if (planned.run_dir / "plan.json").is_file():  # something was begun
            board.close()
            results.tell(planned, metric, direction)
        raise
    board.close()
    results.tell(planned, metric, direction)
    return status


def _is_sweep(root: Path, name: str) -> bool:
    try:
        return bool(commands.told(root, name).get("variants"))
    except UserError:  # another run's trouble
        return False


KEYS = ("name", "root", "metric", "direction")


def show_results(argv: Sequence[str]) -> int:
    """The command `mlalign results name=SWEEP [metric=NAME]`: the results of a sweep as they stand, by any metric."""
    given = dict(a.split("=", 1) for a in argv if "=" in a)
    if wrong := [a for a in argv if "=" not in a or a.partition("=")[0] not in KEYS]:
        raise UserError(*(f"{a.partition('=')[0]}: unknown key{nearest(a.partition('=')[0], KEYS)}" for a in wrong))
    root = Path(given.get("root", ".")).expanduser().absolute()
    run_dir = root / "runs" / given.get("name", "")
    told = commands.told(root, given["name"]) if "name" in given and (run_dir / "plan.json").is_file() else {}
    if not told.get("variants"):
        sweeps = [name for name in commands.runs(root) if _is_sweep(root, name)]
        raise UserError(f"name: there is no sweep {given.get('name', '')!r} under {root}{nearest(given.get('name', ''), sweeps)}")
    asked, direction = (given.get(k) or told["sweep"].get(k) for k in ("metric", "direction"))
    results.check_metric(asked, direction, harness=any(s["stage"] == "lm_eval" for s in told["steps"]))
    say(results.summary(results.publish(run_dir, store.Store(root / "store"), asked, direction), run_dir))
    return 0
