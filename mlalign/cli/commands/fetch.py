"""`mlalign fetch recipe=NAME …`: bring everything that a plan needs from the hub into the local
cache, at the planned commits.

Run it where there is network, with the arguments of `mlalign plan`; jobs then run with the hub
offline. Weights are taken as safetensors where a repository has them, in other forms only where it
does not; code is never taken. The base of an adapter is fetched with it. What is there already is
not fetched again.
"""

import contextlib
import dataclasses
import glob
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mlalign.core import weight_files
from mlalign.core.errors import UserError
from mlalign.core.identity import COMMIT, hub_cache
from mlalign.core.terminal import say, size, table
from mlalign.recipes.plan import Plan
from mlalign.running import hub
from mlalign.running.hub import Need

CODE = (".py", ".so", ".ipynb", ".sh")
PYTORCH = (".bin",)  # what transformers reads where there are no safetensors
NOT_READ = tuple(
    ".pt .pth .ckpt .h5 .msgpack .ot .onnx .onnx_data .gguf .tflite .mlmodel .pkl".split()
)
OTHER_WEIGHTS = (*PYTORCH, *NOT_READ)
OTHER_FOLDERS = ("original/", "onnx/", "openvino/", "coreml/", "metal/")


@dataclasses.dataclass
class Fetched:
    """What became of one need: how much of it came now, and how much was there before, in bytes."""

    need: Need
    n_files: int = 0
    new: int = 0
    before: int = 0
    note: str = ""


def run(plan: Plan) -> int:
    """Raises: UserError with everything that could not be fetched; the rest is fetched."""
    todo, errors, done = list(hub.needed(plan)), list[str](), list[Fetched]()
    if not todo:
        say("this plan needs nothing from the hub")
        return 0
    seen = set(todo)
    for need in todo:  # grows: an adapter names its base
        say(f"{need} …", file=sys.stderr)
        with _told(need, errors):
            fetched, more = FETCH[need.kind](need)
            done.append(fetched)
            todo += [m for m in dict.fromkeys(more) if m not in seen]
            seen |= set(more)
    if done:
        rows = [
            [
                f.need.kind,
                f.need.id,
                (f.need.commit or "")[:12],
                f.n_files or "",
                size(f.new),
                size(f.before),
                f.note,
            ]
            for f in done
        ]
        say(table(rows, ["what", "id", "commit", "files", "fetched", "was there", "note"]))
        say(f"in all {size(sum(f.new for f in done))} fetched into {hub_cache()}")
    if errors:
        raise UserError(*errors)
    return 0


Result = tuple[Fetched, Sequence[Need]]


# ------------------------------------------------------------------------------------------- models


def _model(need: Need) -> Result:
    """A repository with a model, at its commit."""
    from huggingface_hub import snapshot_download

    revision = _revision(need)
    files = snapshot_download(need.id, revision=revision, dry_run=True)
    commit = _same_commit(need, files[0].commit_hash if files else "")
    need = dataclasses.replace(need, commit=commit)
    wanted = _wanted([file.filename for file in files], need)
    chosen = [file for file in files if file.filename in wanted]
    new = sum(file.file_size or 0 for file in chosen if file.will_download)
    before = sum(file.file_size or 0 for file in chosen if not file.will_download)
    _check_room(new)

    patterns = [glob.escape(file.filename) for file in chosen]
    folder = Path(
        snapshot_download(need.id, revision=_revision(need), allow_patterns=patterns),
    )
    _check_is_model(need, folder)
    is_safe = any(file.filename.endswith(".safetensors") for file in chosen)
    note = "" if is_safe or need.kind != "model" else "no safetensors: PyTorch weights"
    return Fetched(need, len(chosen), new, before, note), list(_stands_on(folder))


def _revision(need: Need) -> str | None:
    """What to ask the hub for: the branch or tag, so that the cache learns what it stands for; the
    commit where it knows."""
    name = need.revision or "main"
    ref = hub_cache() / f"models--{need.id.replace('/', '--')}" / "refs" / name
    if need.commit and (ref.is_file() or COMMIT.fullmatch(name)):
        return need.commit
    return name


def _same_commit(need: Need, found: str) -> str:
    """Raises: UserError if a branch has moved on since the plan was made."""
    if need.commit and found and found != need.commit:
        raise UserError(
            f"{need.id}: {need.revision or 'main'} became {found[:12]} just now; run the same"
            " command again"
        )
    return found or need.commit or ""


def _wanted(names: Sequence[str], need: Need) -> list[str]:
    """The files of a repository to take: no code, no folders of other frameworks, and weights in
    one form only."""
    skipped = (".", *OTHER_FOLDERS)
    names = [n for n in names if not n.endswith(CODE) and not n.startswith(skipped)]
    safe = [n for n in names if n.endswith(".safetensors")]
    if need.kind == "tokenizer":
        unwanted = (".safetensors", *OTHER_WEIGHTS, ".index.json")
        return [n for n in names if not n.endswith(unwanted)]
    if not safe:
        return [n for n in names if not n.endswith(NOT_READ)]
    copies = []
    if any(n.startswith("model") for n in safe):
        copies = [n for n in safe if n.startswith("consolidated")]
    unwanted = (*OTHER_WEIGHTS, "bin.index.json")
    return [n for n in names if n not in copies and not n.endswith(unwanted)]


def _check_room(n_bytes: int) -> None:
    folder = next(p for p in (hub_cache(), *hub_cache().absolute().parents) if p.exists())
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        problem = f"{size(n_bytes)} to fetch, and {size(free)} free in {folder}"
        raise UserError(f"{problem}; make room, or name another place with HF_HOME")


def _check_is_model(need: Need, folder: Path) -> None:
    configs = ("config.json", "adapter_config.json")
    if need.kind == "model" and not any((folder / name).is_file() for name in configs):
        problem = "holds neither config.json nor adapter_config.json"
        raise UserError(f"{need.id}: {problem}, so it is no model for transformers")


def _stands_on(folder: Path) -> Iterator[Need]:
    """The base of an adapter."""
    base = weight_files.base_of(str(folder))
    if base is not None and not Path(base).exists():
        yield Need("model", base)


# ---------------------------------------------------------------------------------- everything else


def _data_set(need: Need) -> Result:
    """A data set, downloaded and prepared by the package that reads it in `prepare`."""
    from datasets import load_dataset

    before = hub.here(need)
    rows = load_dataset(need.id, need.config, split=need.split, revision=need.revision)
    n_bytes = sum(os.path.getsize(f["filename"]) for f in rows.cache_files)
    fetched = Fetched(
        need,
        len(rows.cache_files),
        0 if before else n_bytes,
        n_bytes if before else 0,
        f"{len(rows)} rows",
    )
    return fetched, ()


def _lm_eval(need: Need) -> Result:
    """The data sets of tasks of lm-evaluation-harness, which knows them."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(
        include_path=str(Path(need.include_path).expanduser()) if need.include_path else None
    )
    manager.load_task_or_group(need.id.split(","))
    return Fetched(need, note="the harness has its data sets"), ()


def _sacrebleu(need: Need) -> Result:
    from sacrebleu.metrics.bleu import BLEU

    BLEU(tokenize=need.id).sentence_score("a", ["a"])
    return Fetched(need, note="in ~/.sacrebleu"), ()


FETCH: dict[str, Callable[[Need], Result]] = {
    "model": _model, "tokenizer": _model, "data set": _data_set, "lm-eval tasks": _lm_eval,
    "sacrebleu tokenizer": _sacrebleu,
}  # fmt: skip


# ------------------------------------------------------------------------------------------- errors


@contextlib.contextmanager
def _told(need: Need, errors: list[str]) -> Iterator[None]:
    """What goes wrong with one need becomes a message that names it and the mend."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import httpx

    try:
        yield
    except UserError as error:
        errors.extend(error.messages)
    except GatedRepoError:
        errors.append(
            f"{need}: is gated; accept its terms on its page on the hub, then log in here (hf auth"
            " login)"
        )
    except RepositoryNotFoundError:
        errors.append(
            f"{need}: the hub has no such repository, or hides it; check the name, or log in here"
            " (hf auth login)"
        )
    except RevisionNotFoundError:
        errors.append(
            f"{need}: the repository has no revision {need.revision or need.commit}; name another"
        )
    except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError, KeyError, ImportError) as error:
        errors.append(
            f"{need}: cannot be fetched ({_first(error)}); this needs a machine that reaches"
            " the hub"
        )


def _first(error: Exception) -> str:
    text: Any = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
