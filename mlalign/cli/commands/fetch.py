"""`mlalign fetch recipe=NAME …`: download all that a plan needs from the hub, at its commits.

Run it where there is network, with the arguments of `mlalign plan`; jobs then run with the hub
offline. Weights are taken as safetensors if a repository has them, and in other forms only if not;
code is never taken. The base of an adapter is fetched with it. What the cache has is not fetched
again.
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
    """How much of one need was fetched now, and how much was there before, in bytes."""

    need: Need
    n_files: int = 0
    new: int = 0
    before: int = 0
    note: str = ""


def run(plan: Plan) -> int:
    """Raises: UserError with everything that could not be fetched; the rest is fetched."""
    needs = list(hub.needed(plan))
    if not needs:
        say("this plan needs nothing from the hub")
        return 0

    errors: list[str] = []
    done: list[Fetched] = []
    for need in needs:  # grows: an adapter names its base
        say(f"{need} …", file=sys.stderr)
        with _collecting(errors, need):
            fetched, further = FETCH[need.kind](need)
            done.append(fetched)
            for other in further:
                if other not in needs:
                    needs.append(other)
    if done:
        rows = [_row(fetched) for fetched in done]
        say(table(rows, ["what", "id", "commit", "files", "fetched", "was there", "note"]))
        say(f"in all {size(sum(fetched.new for fetched in done))} fetched into {hub_cache()}")
    if errors:
        raise UserError(*errors)
    return 0


def _row(fetched: Fetched) -> list[Any]:
    need = fetched.need
    commit = (need.commit or "")[:12]
    n_files = fetched.n_files or ""
    new = size(fetched.new)
    before = size(fetched.before)
    return [need.kind, need.id, commit, n_files, new, before, fetched.note]


Result = tuple[Fetched, Sequence[Need]]


# ------------------------------------------------------------------------------------------- models


def _model(need: Need) -> Result:
    """A repository with a model, at its commit."""
    from huggingface_hub import snapshot_download

    revision = _revision(need)
    files = snapshot_download(need.id, revision=revision, dry_run=True)
    current = files[0].commit_hash if files else ""
    commit = _same_commit(need, current)
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
    """What to ask the hub for: a branch or tag, or its commit if the cache knows that already.

    Asking for the branch lets the cache learn which commit it stands for.
    """
    name = need.revision or "main"
    ref = hub_cache() / f"models--{need.id.replace('/', '--')}" / "refs" / name
    if need.commit and (ref.is_file() or COMMIT.fullmatch(name)):
        return need.commit
    return name


def _same_commit(need: Need, current: str) -> str:
    """The commit to fetch. Raises: UserError if a branch has moved on since the plan was made."""
    if need.commit and current and current != need.commit:
        raise UserError(
            f"{need.id}: {need.revision or 'main'} became {current[:12]} just now; run the same"
            " command again"
        )
    return current or need.commit or ""


def _wanted(names: Sequence[str], need: Need) -> list[str]:
    """The files of a repository to take: no code, nothing of other frameworks, weights once."""
    skipped = (".", *OTHER_FOLDERS)
    names = [name for name in names if not name.endswith(CODE) and not name.startswith(skipped)]
    safe = [name for name in names if name.endswith(".safetensors")]
    if need.kind == "tokenizer":
        unwanted = (".safetensors", *OTHER_WEIGHTS, ".index.json")
        return [name for name in names if not name.endswith(unwanted)]
    if not safe:
        return [name for name in names if not name.endswith(NOT_READ)]
    copies = []
    if any(name.startswith("model") for name in safe):
        copies = [name for name in safe if name.startswith("consolidated")]
    unwanted = (*OTHER_WEIGHTS, "bin.index.json")
    return [name for name in names if name not in copies and not name.endswith(unwanted)]


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

    was_here = hub.here(need)
    rows = load_dataset(need.id, need.config, split=need.split, revision=need.revision)
    n_bytes = sum(os.path.getsize(file["filename"]) for file in rows.cache_files)
    fetched = Fetched(need, len(rows.cache_files), note=f"{len(rows)} rows")
    if was_here:
        fetched.before = n_bytes
    else:
        fetched.new = n_bytes
    return fetched, ()


def _lm_eval(need: Need) -> Result:
    """The data sets of tasks of lm-evaluation-harness, which knows them."""
    from lm_eval.tasks import TaskManager

    include_path = None
    if need.include_path:
        include_path = str(Path(need.include_path).expanduser())
    manager = TaskManager(include_path=include_path)
    manager.load_task_or_group(need.id.split(","))
    return Fetched(need, note="the harness has its data sets"), ()


def _sacrebleu(need: Need) -> Result:
    from sacrebleu.metrics.bleu import BLEU

    BLEU(tokenize=need.id).sentence_score("a", ["a"])
    return Fetched(need, note="in ~/.sacrebleu"), ()


FETCH: dict[str, Callable[[Need], Result]] = {
    "model": _model,
    "tokenizer": _model,
    "data set": _data_set,
    "lm-eval tasks": _lm_eval,
    "sacrebleu tokenizer": _sacrebleu,
}


# ------------------------------------------------------------------------------------------- errors


@contextlib.contextmanager
def _collecting(errors: list[str], need: Need) -> Iterator[None]:
    """Within it, what goes wrong with one need becomes a message that names it and the mend."""
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
            f"{need}: cannot be fetched ({_first_line(error)}); this needs a machine that reaches"
            " the hub"
        )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
