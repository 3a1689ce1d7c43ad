"""A launcher's configuration: `conf/launcher/NAME.yaml`, the package's or a person's own."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from mlalign.core import schema
from mlalign.core.errors import UserError, nearest
from mlalign.core.schema import how
from mlalign.recipes import resources


@dataclasses.dataclass
class Local:
    name: Literal["local"] = how("local", "steps run one after the other on this machine")


@dataclasses.dataclass
class Slurm:
    name: Literal["slurm"] = how("slurm", "steps become Slurm jobs, chained by dependencies")
    wait: bool = how(
        False, "stay until the run has ended and show where it stands; Ctrl-C leaves the jobs alone"
    )
    partition: str | None = how(None, "Slurm's own, for all steps; so are the seven that follow")
    account: str | None = how(None)
    qos: str | None = how(None)
    constraint: str | None = how(None)
    exclude: str | None = how(None)
    reservation: str | None = how(None)
    time: str | None = how(
        None, "limit of a job, such as '12:00:00'; work that takes longer goes on in a further job"
    )
    memory: str | None = how(None, "on each node, such as 64G")
    cpus: int | None = how(None, "on each node")
    sbatch: dict[str, Any] = how(
        {}, "more options of sbatch under its own long names, such as {mail-type: END}"
    )
    resources: dict[str, Any] = how({}, "stage -> resources of its steps, over those of the scale")
    requeue: bool = how(
        True,
        "an interrupted job goes back to the queue; false, where a site forbids that: a new job"
        " goes on in its place",
    )
    grace_s: int = how(
        120, "seconds that a step has to save its state before the time limit or a preemption"
    )
    preamble: list[str] = how(
        [], "lines of shell that every job begins with, such as `module load cuda`"
    )
    environment: dict[str, str] = how({}, "variables that every job sets")
    python: str | None = how(None, "the interpreter on the nodes; null: the one that submits")
    prefix: list[str] = how(
        [], "words before the interpreter, such as [apptainer, exec, --nv, mlalign.sif]"
    )
    srun: list[str] = how([], "more options of srun, such as [--container-image=mlalign.sqsh]")
    offline: bool = how(True, "steps read models and data from the hub's local cache only")
    source: Literal["snapshot", "commit"] = how(
        "snapshot",
        "what queued steps run: a copy of the packages as they are, or the same only if the"
        " checkout has no uncommitted change",
    )


KINDS: dict[str, type] = {"local": Local, "slurm": Slurm}


def build(content: Mapping[str, Any], errors: list[str] | None = None) -> Any:
    """The configuration of the launcher that `content["name"]` names: `Local` or `Slurm`.

    With `errors`, mistakes are appended to that, and the result is None.
    Raises: UserError with every mistake, unless there is a list for them.
    """
    own_errors: list[str] = []
    name = str(content.get("name"))
    launcher = None
    if name in KINDS:
        launcher = schema.build(KINDS[name], content, "launcher", own_errors)
    else:
        hint = nearest(name, KINDS)
        own_errors.append(f"launcher.name: there is no launcher {content.get('name')!r}{hint}")
    if isinstance(launcher, Slurm):
        own_errors += _problems(launcher)

    if not own_errors:
        return launcher
    if errors is None:
        raise UserError(*own_errors)
    errors.extend(own_errors)
    return None


def _problems(cfg: Slurm) -> list[str]:
    """What is wrong with values that have the right type."""
    limits = {}
    for name in resources.OF_LAUNCHER:
        if getattr(cfg, name) is not None:
            limits[name] = getattr(cfg, name)
    messages = resources.problems(limits, "launcher", distributed=True, sharded=True)

    if cfg.grace_s < 10:
        messages.append(f"launcher.grace_s: must be at least 10 seconds, got {cfg.grace_s}")
    for number, line in enumerate(cfg.preamble):
        if "\n" in line:
            messages.append(f"launcher.preamble[{number}]: one line each")
    for name in cfg.environment:
        if not name.isidentifier():
            messages.append(f"launcher.environment.{name}: not a variable's name")
    return messages
