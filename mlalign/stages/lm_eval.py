"""Any task list of lm-evaluation-harness, in a process of its own, with the results by language.

Reads a model (slot `model`; an adapter goes on its base). Writes `metrics.csv` and `metrics.json`
as `evaluate` does: `metric` is the harness's own with its filter (`acc`,
`exact_match,strict-match`), `by` the task without its language (`belebele` of `belebele_swh_Latn`),
`language` what the task's name ends in (`languages_of` says otherwise); a task without a language
stands under `und`. `results.json` is what the harness wrote. Intervals are value ± z x the
harness's standard error; that of an average takes the languages for independent.
"""

import dataclasses
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

from mlalign.core import languages, processes
from mlalign.core.adapters import served_rank
from mlalign.core.downloads import Need
from mlalign.core.errors import UserError
from mlalign.core.model import Model
from mlalign.core.schema import how, verbatim, what
from mlalign.core.stage import Inputs, Output, Stopped
from mlalign.core.store import read_json, sha256, write_json
from mlalign.methods.metrics import AVERAGE, GAP, WORST
from mlalign.models import opening

VERSION = 1
KIND = "metrics"
SLOTS = {"model": "model"}
SHARDED = None
DISTRIBUTED = False

UNKNOWN = "und"
LOG_TAIL = 12
OF_THE_STEP = ("pretrained", "peft", "revision", "lora_local_path", "trust_remote_code", "model")
RESERVED = dict.fromkeys(
    OF_THE_STEP,
    "not set here: the model is an input of the step, and code from its repository is never run",
)


def _arguments_of(around: Mapping) -> str:
    return "vllm.engine.arg_utils:EngineArgs" if around.get("backend") == "vllm" else ""


@dataclasses.dataclass
class Config:
    tasks: list[str] = what(
        [], "tasks, groups or tags of the harness (`lm_eval ls tasks`), or of include_path"
    )
    include_path: str | None = what(None, "a folder with task files of one's own")
    backend: Literal["hf", "vllm"] = what("hf", "what runs the model inside the harness")
    model_args: dict[str, Any] = verbatim(
        _arguments_of, "more arguments of that backend, under its own names", reserved=RESERVED
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = what(
        "auto", "arithmetic of the model"
    )
    num_fewshot: int | None = what(None, "examples before each question; null: what the task says")
    limit: int | None = what(None, "items of each task; null: all")
    apply_chat_template: bool = what(False, "ask in the model's chat template")
    languages_of: dict[str, str] = what(
        {}, "task -> language, where a task's name does not end in it"
    )
    confidence: float = what(0.95, "confidence of the intervals")
    seed: int = what(0, "of the harness's few-shot examples")
    batch_size: str = how("8", "rows at once: a number, or auto")


def packages(cfg: Config) -> list[str]:
    return ["lm_eval", *(["vllm"] if cfg.backend == "vllm" else ["transformers"])]


def identity(cfg: Config, digest: Any = sha256) -> dict[str, Any]:
    """A person's own task files count by their content, wherever they lie."""
    if cfg.include_path is None:
        return {}
    folder = Path(cfg.include_path).expanduser()
    if not folder.is_dir():
        raise UserError(f"include_path: there is no folder {folder}")
    return {
        "include_path": {
            str(p.relative_to(folder)): digest(p) for p in sorted(folder.rglob("*")) if p.is_file()
        }
    }


def downloads(cfg: Config) -> list[Need]:
    return [Need("lm-eval tasks", ",".join(cfg.tasks), include_path=cfg.include_path)]


def run(cfg: Config, inputs: Inputs, out: Output) -> None:
    if not cfg.tasks:
        raise UserError("tasks: none; name some of the harness's tasks (`lm_eval ls tasks`)")
    model = inputs.model("model")
    opening.check_served(
        model.path, model.base.path if model.base else None, (model.base or model).revision
    )
    with tempfile.TemporaryDirectory(dir=out.path, prefix="harness.") as folder:
        _harness(cfg, command(cfg, model, Path(folder)), out)
        told = _results(Path(folder))
    write_json(out.path / "results.json", told)
    rows = table(cfg, told)
    write_json(out.path / "metrics.json", {"rows": rows, "matrix": {}})
    from mlalign.methods.metrics.table import to_csv

    (out.path / "metrics.csv").write_text(to_csv(rows), encoding="utf-8")
    if cfg.apply_chat_template:
        out.note(
            template={
                "rendered_by": "lm_eval",
                "date": "the clock's, where the template writes the date",
            }
        )
    out.note(
        harness={k: told.get(k) for k in ("lm_eval_version", "n-shot", "versions") if k in told}
    )


def command(cfg: Config, model: Model, folder: Path) -> list[str]:
    """The harness's own command line for this step. Pure."""
    told: list[str | None] = [
        "--model",
        cfg.backend,
        "--model_args",
        _model_args(cfg, model),
        "--tasks",
        ",".join(cfg.tasks),
        "--output_path",
        str(folder),
        "--batch_size",
        cfg.batch_size,
        "--seed",
        str(cfg.seed),
    ]
    optional = {
        "--num_fewshot": cfg.num_fewshot,
        "--limit": cfg.limit,
        "--include_path": cfg.include_path and str(Path(cfg.include_path).expanduser()),
    }
    told += [
        str(part) for name, value in optional.items() if value is not None for part in (name, value)
    ]
    told += ["--apply_chat_template"] if cfg.apply_chat_template else []
    return [sys.executable, "-m", "lm_eval", "run", *(part for part in told if part is not None)]


def _model_args(cfg: Config, model: Model) -> str:
    base = model.base or model
    told: dict[str, Any] = {"pretrained": base.path, "dtype": cfg.dtype}
    told |= {"revision": base.revision} if base.revision else {}
    if model.base and cfg.backend == "hf":
        told["peft"] = model.path
    elif model.base:
        told |= {
            "lora_local_path": model.path,
            "enable_lora": True,
            "max_lora_rank": served_rank(Path(model.path)),
        }
    return ",".join(f"{name}={value}" for name, value in (told | cfg.model_args).items())


def _harness(cfg: Config, argv: Sequence[str], out: Output) -> None:
    """Run the harness to its end.

    Raises: Stopped if the step is asked to stop, UserError with the end of its log if it fails.
    """
    log = out.path / "logs" / "lm_eval.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**processes.python_environment(), "TOKENIZERS_PARALLELISM": "false"}
    with open(log, "wb") as output, subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
    ) as process:  # fmt: skip
        while (status := process.poll()) is None:
            if out.should_stop():
                process.terminate()
                raise Stopped
            time.sleep(0.2)
    if status:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL:]
        raise UserError(
            f"lm_eval ended with status {status} on tasks {', '.join(cfg.tasks)}; the end of its"
            " log:\n" + "\n".join(lines)
        )


def _results(folder: Path) -> dict[str, Any]:
    found = sorted(folder.rglob("results*.json"))
    if not found:
        raise UserError(
            "lm_eval ended well but wrote no results; see logs/lm_eval.log of this step"
        )
    return read_json(found[-1])


# ------------------------------------------------------------------------------------------ results


@dataclasses.dataclass(frozen=True)
class Result:
    """One metric of one task; `error` is its standard error, None where the harness gives none."""

    metric: str
    by: str
    language: str
    value: float
    error: float | None
    n: int


def table(cfg: Config, told: Mapping[str, Any]) -> list[dict]:
    """Long rows from the harness's results: every task by language, with average, worst language
    and gap to English.
    """
    names = list(told["results"])
    placed = {name: place(name, names, cfg.languages_of) for name in names}
    results = [r for name in names for r in _of_task(name, *placed[name], told)]
    rows: list[dict] = []
    for metric, by in dict.fromkeys((r.metric, r.by) for r in results):
        rows += _rows(
            [r for r in results if (r.metric, r.by) == (metric, by)],
            NormalDist().inv_cdf((1 + cfg.confidence) / 2),
        )
    return rows


def place(task: str, tasks: Sequence[str], languages_of: Mapping[str, str]) -> tuple[str, str]:
    """(task without its language, language) from a task's name.

    An ending counts as a language if it is written with its script (`swh_Latn`), or if another task
    of the list has the same stem and another language for an ending (`xcopa_sw`, `xcopa_ta`); else
    words such as `cot` would pass for languages.
    """
    if task in languages_of:
        return re.split(rf"_{re.escape(languages_of[task])}$", task)[0], languages.normalise(
            languages_of[task]
        )
    if found := re.fullmatch(r"(.+)_([a-z]{3}_[A-Z][a-z]{3})", task):
        return found[1], languages.normalise(found[2])
    stem, code = _ending(task)
    siblings = {_ending(other)[1] for other in tasks if _ending(other)[0] == stem}
    return (stem, code) if code and len(siblings - {None}) > 1 else (task, UNKNOWN)


def _ending(task: str) -> tuple[str, str | None]:
    """Stem and language of a name whose last word is a code of two or three letters
    (`mgsm_direct_sw`).
    """
    stem, _, word = task.rpartition("_")
    if not stem or not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z]{2,4})?", word):
        return task, None
    try:
        return stem, languages.normalise(word)
    except UserError:
        return task, None


def _of_task(task: str, by: str, language: str, told: Mapping[str, Any]) -> list[Result]:
    values, counts = told["results"][task], (told.get("n-samples") or {}).get(task) or {}
    found = []
    for key, value in values.items():
        metric, _, filter_ = key.partition(",")
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not filter_
            or metric.endswith("_stderr")
        ):
            continue
        error = values.get(f"{metric}_stderr,{filter_}")
        name = metric if filter_ == "none" else key
        found.append(
            Result(
                name,
                by,
                language,
                float(value),
                error if isinstance(error, float) else None,
                int(counts.get("effective", 0)),
            )
        )
    return found


def _rows(results: Sequence[Result], z: float) -> list[dict]:
    out = [_row(r, r.language, r.value, r.error, r.n, z) for r in results]
    known = [r for r in results if r.language != UNKNOWN]
    if len(known) < 2:
        return out
    mean = sum(r.value for r in known) / len(known)
    out.append(_row(known[0], AVERAGE, mean, _error_of_mean(known), sum(r.n for r in known), z))
    worst = min(known, key=lambda r: r.value)
    out.append(
        {**_row(worst, WORST, worst.value, worst.error, worst.n, z), "which": worst.language}
    )
    english, others = (
        [r for r in known if r.language == "eng_Latn"],
        [r for r in known if r.language != "eng_Latn"],
    )
    if english and others:
        gap = english[0].value - sum(r.value for r in others) / len(others)
        errors = (english[0].error, _error_of_mean(others))
        error = None if None in errors else sum(e**2 for e in errors if e is not None) ** 0.5
        out.append(_row(known[0], GAP, gap, error, sum(r.n for r in known), z))
    return out


def _error_of_mean(results: Sequence[Result]) -> float | None:
    if any(r.error is None for r in results):
        return None
    return sum(r.error**2 for r in results if r.error is not None) ** 0.5 / len(results)


def _row(
    result: Result, language: str, value: float, error: float | None, n: int, z: float
) -> dict:
    low, high = (None, None) if error is None else (value - z * error, value + z * error)
    return {
        "metric": result.metric,
        "by": result.by,
        "language": language,
        "value": value,
        "low": low,
        "high": high,
        "n": n,
        "n_groups": n,
        "which": "",
    }
