"""The small commands: `mlalign NAME key=value …` is `run(pairs) -> exit status` of the module NAME. Here is what they share."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mlalign.core import shapes, store
from mlalign.core.errors import UserError, nearest, system_problem

TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no")


def known(arguments: Mapping[str, str], allowed: Sequence[str]) -> None:
    """Raises: UserError for every key that a command does not have."""
    if unknown := [key for key in arguments if key not in allowed]:
        raise UserError(*(f"{key}: unknown key{nearest(key, allowed)}" for key in unknown))


def root_of(arguments: Mapping[str, str]) -> Path:
    return Path(arguments.get("root", ".")).expanduser().absolute()


def name_of(arguments: Mapping[str, str]) -> str:
    if "name" not in arguments:
        raise UserError("name: missing; say which run, name=RUN (see `mlalign status`)")
    return arguments["name"]


def runs(root: Path) -> list[str]:
    """The runs under a root, those too that cannot be looked into. Raises: OSError for a folder of runs that cannot be listed."""
    folder = root / "runs"
    return sorted(path.name for path in folder.iterdir() if _is_run(path)) if folder.is_dir() else []


def _is_run(path: Path) -> bool:
    try:
        return (path / "plan.json").exists()
    except PermissionError:
        return True


def told(root: Path, name: str) -> dict:
    """The plan of a run. Raises: UserError if there is no such run."""
    path = root / "runs" / name / "plan.json"
    try:
        is_there = path.exists()
    except (OSError, ValueError) as error:  # one that cannot be looked into, or a name that can be no directory's
        raise UserError(f"name: {system_problem(error) or f'{name!r} can be no directory'}") from None
    if not is_there:
        raise UserError(f"name: there is no run {name!r} under {root}{nearest(name, runs(root))}")
    plan = store.read_json(path, shapes.PLAN)
    shapes.check_all(plan["steps"], shapes.STEP_OF_PLAN, f"{path}, steps", "run the command of this run again: it writes the file anew")
    return plan


def steps_named(plan: Mapping, asked: str | None) -> list[dict]:
    """The steps that a person means: all, one by its full name, or all of a name without round and `foreach` value.

    Raises: UserError if there is none.
    """
    steps: list[dict] = plan["steps"]
    found = [s for s in steps if asked is None or asked in short_names(s["step"])]
    if not found:
        raise UserError(f"step: the run has no step {asked!r}{nearest(str(asked), {n for s in steps for n in short_names(s['step'])})}")
    return found


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
    """Raises: UserError for what is no number, or one below 0."""
    try:
        value = float(arguments.get(key, default))
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UserError(f"{key}: expected a number from 0 up, got {arguments[key]!r}")
    return value
