"""What the small commands share.

`mlalign NAME key=value …` calls `run(arguments) -> exit status` in the module NAME.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mlalign.core import shapes, store
from mlalign.core.errors import UserError, nearest, system_problem

TRUE = ("true", "1", "yes")
FALSE = ("false", "0", "no")


def known(arguments: Mapping[str, str], allowed: Sequence[str]) -> None:
    """Raises: UserError for every key that a command does not have."""
    errors = []
    for key in arguments:
        if key not in allowed:
            errors.append(f"{key}: unknown key{nearest(key, allowed)}")
    if errors:
        raise UserError(*errors)


def root_of(arguments: Mapping[str, str]) -> Path:
    return Path(arguments.get("root", ".")).expanduser().absolute()


def name_of(arguments: Mapping[str, str]) -> str:
    if "name" not in arguments:
        raise UserError("name: missing; say which run, name=RUN (see `mlalign status`)")
    return arguments["name"]


def runs(root: Path) -> list[str]:
    """The runs under a root, including unreadable ones.

    Raises: OSError if the folder of runs cannot be listed.
    """
    folder = root / "runs"
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if _is_run(path))


def _is_run(path: Path) -> bool:
    try:
        return (path / "plan.json").exists()
    except PermissionError:
        return True


def read_plan(root: Path, name: str) -> dict:
    """The plan of a run. Raises: UserError if there is no such run."""
    path = root / "runs" / name / "plan.json"
    try:
        exists = path.exists()
    except (OSError, ValueError) as error:
        # A directory that cannot be read, or a name that no directory can have.
        problem = system_problem(error) or f"{name!r} cannot name a directory"
        raise UserError(f"name: {problem}") from None
    if not exists:
        raise UserError(f"name: there is no run {name!r} under {root}{nearest(name, runs(root))}")
    plan = store.read_json(path, shapes.PLAN)
    mend = "run the command of this run again: it writes the file anew"
    shapes.check_all(plan["steps"], shapes.STEP_OF_PLAN, f"{path}, steps", mend)
    return plan


def steps_named(plan: Mapping, name: str | None) -> list[dict]:
    """The steps with this name, in full or without round and `foreach` value; None means all.

    Raises: UserError if there is none.
    """
    steps: list[dict] = plan["steps"]
    if name is None:
        return steps
    matching = []
    names = set[str]()
    for step in steps:
        names_of_step = short_names(step["step"])
        names |= names_of_step
        if name in names_of_step:
            matching.append(step)
    if not matching:
        raise UserError(f"step: the run has no step {name!r}{nearest(name, names)}")
    return matching


def short_names(step: str) -> set[str]:
    """`reward.r1[eng_Latn]`, `reward.r1` and `reward` name one step."""
    plain = step.partition("[")[0]
    return {step, plain, plain.partition(".")[0]}


def flag(arguments: Mapping[str, str], key: str) -> bool:
    value = arguments.get(key, "false").lower()
    if value not in (*TRUE, *FALSE):
        raise UserError(f"{key}: expected true or false, got {arguments[key]!r}")
    return value in TRUE


def number(arguments: Mapping[str, str], key: str, default: float) -> float:
    """Raises: UserError for anything but a number from 0 up."""
    try:
        value = float(arguments.get(key, default))
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UserError(f"{key}: expected a number from 0 up, got {arguments[key]!r}")
    return value
