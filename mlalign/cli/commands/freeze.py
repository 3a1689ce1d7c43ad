"""`mlalign freeze recipe=NAME only=STEP …`: write a step's frozen configuration and print its path.

The step is not run. This is for scripts of your own (see `slurm/`): `python -m mlalign.step PATH`
then runs the step, as one process or under torchrun, and `python -m mlalign.step PATH --part I/N`
one of N shares of it. The steps before it must be done. For a step that is done, no path is
printed.
"""

import sys

from mlalign.core.errors import UserError
from mlalign.core.terminal import say
from mlalign.recipes.plan import Plan
from mlalign.recipes.selection import groups_of
from mlalign.running import run_dir, step
from mlalign.running.state import state


def run(plan: Plan) -> int:
    """Raises: UserError if `only=` names no single step, an input is missing, or it is claimed."""
    only = set(plan.settings.controls.get("only", []))
    nodes = [node for node in plan.nodes if groups_of(node.step) & only]
    if len(nodes) != 1:
        names = ", ".join(node.name for node in plan.nodes)
        raise UserError(f"only: name the one step to freeze, only=STEP; the steps are {names}")
    problems = plan.problems()
    if problems:
        raise UserError(*problems)
    node = nodes[0]
    status, why = state(node, plan.store)
    if status in ("done", "skipped"):
        say(f"{node.name}: is done ({plan.store.root / node.artifact})", file=sys.stderr)
        return 0
    if status in ("stale", "damaged"):
        mend = f"compute it again with mlalign run … force={node.step.template}"
        raise UserError(f"{node.name}: is {status} ({why}); {mend}")
    plan.check_name()
    run_dir.open_run(plan)
    say(step.begin(plan.store, run_dir.frozen(plan, node)) / "config.yaml")
    return 0
