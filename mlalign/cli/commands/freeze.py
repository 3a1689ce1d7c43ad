"""`mlalign freeze recipe=NAME only=STEP …`: write the frozen configuration of a step and print its
path, without running it.

For scripts of your own (see `slurm/`): `python -m mlalign.step PATH` then runs the step, as one
process or under torchrun, and `python -m mlalign.step PATH --part I/N` one of N shares of it. The
steps before it must be done. Of a step that is done itself, nothing is printed.
"""

import sys

from mlalign.core.errors import UserError
from mlalign.core.terminal import say
from mlalign.recipes.plan import Plan, groups_of
from mlalign.running import run_dir, step
from mlalign.running.state import state


def run(plan: Plan) -> int:
    """Raises: UserError if `only=` does not name one step, if an input is missing, or if another
    process works on the step."""
    asked = plan.settings.controls.get("only", [])
    found = [n for n in plan.nodes if groups_of(n.step) & set(asked)]
    if len(found) != 1:
        raise UserError(f"only: name the one step to freeze, only=STEP; the steps are {', '.join(n.name for n in plan.nodes)}")
    if problems := plan.problems():
        raise UserError(*problems)
    node = found[0]
    now, why = state(node, plan.store)
    if now in ("done", "skipped"):
        say(f"{node.name}: is done ({plan.store.root / node.artifact})", file=sys.stderr)
        return 0
    if now in ("stale", "damaged"):
        raise UserError(f"{node.name}: is {now} ({why}); compute it again with mlalign run … force={node.step.template}")
    plan.check_name()
    run_dir.open_run(plan)
    say(step.begin(plan.store, run_dir.frozen(plan, node)) / "config.yaml")
    return 0
