"""Any task list of lm-evaluation-harness, in a process of its own, with the results by language.

Reads a model (slot `model`; an adapter goes on its base). Writes `metrics.csv` and `metrics.json`
as `evaluate` does: `metric` is the harness's own with its filter (`acc`,
`exact_match,strict-match`), `by` the task without its language (`belebele` of `belebele_swh_Latn`),
`language` the ending of the task's name (unless `languages_of` gives another one); a task without a
language is under `und`. `results.json` is what the harness wrote. Intervals are value ± z x the
harness's standard error; that of an average treats the languages as independent.
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
    return ["lm_eval", "vllm" if cfg.backend == "vllm" else "transformers"]


def identity(cfg: Config, digest: Any = sha256) -> dict[str, Any]:
    """A person's own task files count by their content, wherever they are."""
    if cfg.include_path is None:
        return {}
    folder = Path(cfg.include_path).expanduser()
    if not folder.is_dir():
        raise UserError(f"include_path: there is no folder {folder}")
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digests[str(path.relative_to(folder))] = digest(path)
    return {"include_path": digests}


def downloads(cfg: Config) -> list[Need]:
    return [Need("lm-eval tasks", ",".join(cfg.tasks), include_path=cfg.include_path)]


def run(cfg: Config, inputs: Inputs, out: Output) -> None:
    if not cfg.tasks:
        raise UserError("tasks: none; name some of the harness's tasks (`lm_eval ls tasks`)")
    from mlalign.methods.metrics.table import to_csv

    model = inputs.model("model")
    base = model.base or model
    opening.check_served(model.path, model.base.path if model.base else None, base.revision)
    with tempfile.TemporaryDirectory(dir=out.path, prefix="harness.") as folder:
        _harness(cfg, command(cfg, model, Path(folder)), out)
        results = _results(Path(folder))

    write_json(out.path / "results.json", results)
    rows = table(cfg, results)
    write_json(out.path / "metrics.json", {"rows": rows, "matrix": {}})
    (out.path / "metrics.csv").write_text(to_csv(rows), encoding="utf-8")
    if cfg.apply_chat_template:
        date = "the clock's, where the template writes the date"
        out.note(template={"rendered_by": "lm_eval", "date": date})
    noted = ("lm_eval_version", "n-shot", "versions")
    out.note(harness={name: results[name] for name in noted if name in results})


def command(cfg: Config, model: Model, folder: Path) -> list[str]:
    """The harness's own command line for this step. Pure."""
    include_path = cfg.include_path and str(Path(cfg.include_path).expanduser())
    options = {
        "--model": cfg.backend,
        "--model_args": _model_args(cfg, model),
        "--tasks": ",".join(cfg.tasks),
        "--output_path": folder,
        "--batch_size": cfg.batch_size,
        "--seed": cfg.seed,
        "--num_fewshot": cfg.num_fewshot,
        "--limit": cfg.limit,
        "--include_path": include_path,
    }
    argv = [sys.executable, "-m", "lm_eval", "run"]
    for name, value in options.items():
        if value is not None:
            argv += [name, str(value)]
    if cfg.apply_chat_template:
        argv.append("--apply_chat_template")
    return argv


def _model_args(cfg: Config, model: Model) -> str:
    base = model.base or model
    arguments: dict[str, Any] = {"pretrained": base.path, "dtype": cfg.dtype}
    if base.revision:
        arguments["revision"] = base.revision
    if model.base and cfg.backend == "hf":
        arguments["peft"] = model.path
    elif model.base:
        arguments["lora_local_path"] = model.path
        arguments["enable_lora"] = True
        arguments["max_lora_rank"] = served_rank(Path(model.path))
    arguments |= cfg.model_args
    return ",".join(f"{name}={value}" for name, value in arguments.items())


def _harness(cfg: Config, argv: Sequence[str], out: Output) -> None:
    """Run the harness to its end.

    Raises: Stopped if the step is asked to stop, UserError with the end of its log if it fails.
    """
    log = out.path / "logs" / "lm_eval.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**processes.python_environment(), "TOKENIZERS_PARALLELISM": "false"}
    with open(log, "wb") as output:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        with process:
            while process.poll() is None:
                if out.should_stop():
                    process.terminate()
                    raise Stopped
                time.sleep(0.2)
    if process.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL:]
        raise UserError(
            f"lm_eval ended with status {process.returncode} on tasks {', '.join(cfg.tasks)}; the"
            " end of its log:\n" + "\n".join(lines)
        )


def _results(folder: Path) -> dict[str, Any]:
    files = sorted(folder.rglob("results*.json"))
    if not files:
        raise UserError(
            "lm_eval ended well but wrote no results; see logs/lm_eval.log of this step"
        )
    return read_json(files[-1])


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


def table(cfg: Config, harness: Mapping[str, Any]) -> list[dict]:
    """Long rows from the harness's results.

    Every task by language, with average, worst language and gap to English.
    """
    tasks = list(harness["results"])
    by_metric: dict[tuple[str, str], list[Result]] = {}
    for task in tasks:
        by, language = place(task, tasks, cfg.languages_of)
        for result in _of_task(task, by, language, harness):
            by_metric.setdefault((result.metric, by), []).append(result)

    z = NormalDist().inv_cdf((1 + cfg.confidence) / 2)
    rows: list[dict] = []
    for results in by_metric.values():
        rows += _rows(results, z)
    return rows


def place(
    task: str,
    tasks: Sequence[str],
    languages_of: Mapping[str, str],
) -> tuple[str, str]:
    """(task without its language, language) from a task's name.

    An ending counts as a language if it is written with its script (`swh_Latn`), or if another task
    of the list has the same stem and another language for an ending (`xcopa_sw`, `xcopa_ta`); else
    words such as `cot` would pass for languages.
    """
    if task in languages_of:
        ending = languages_of[task]
        return task.removesuffix(f"_{ending}"), languages.normalise(ending)
    with_script = re.fullmatch(r"(.+)_([a-z]{3}_[A-Z][a-z]{3})", task)
    if with_script:
        return with_script[1], languages.normalise(with_script[2])

    stem, code = _ending(task)
    siblings = set()
    for other in tasks:
        other_stem, other_code = _ending(other)
        if other_stem == stem and other_code is not None:
            siblings.add(other_code)
    if code and len(siblings) > 1:
        return stem, code
    return task, UNKNOWN


def _ending(task: str) -> tuple[str, str | None]:
    """Stem and language of a name ending in a two- or three-letter code (`mgsm_direct_sw`)."""
    stem, _, word = task.rpartition("_")
    if not stem or not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z]{2,4})?", word):
        return task, None
    try:
        return stem, languages.normalise(word)
    except UserError:
        return task, None


def _of_task(
    task: str,
    by: str,
    language: str,
    harness: Mapping[str, Any],
) -> list[Result]:
    values = harness["results"][task]
    counts = (harness.get("n-samples") or {}).get(task) or {}
    n = int(counts.get("effective", 0))
    results = []
    for key, value in values.items():
        metric, _, filter_ = key.partition(",")
        if not filter_ or metric.endswith("_stderr") or not _is_number(value):
            continue
        name = metric if filter_ == "none" else key
        error = values.get(f"{metric}_stderr,{filter_}")
        if not isinstance(error, float):
            error = None
        results.append(Result(name, by, language, float(value), error, n))
    return results


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _rows(results: Sequence[Result], z: float) -> list[dict]:
    """The rows of one metric: each language, average, worst language, gap to English."""
    rows = [_row(result, result.language, z) for result in results]
    known = [result for result in results if result.language != UNKNOWN]
    if len(known) < 2:
        return rows

    average = _mean(known)
    rows.append(_row(average, AVERAGE, z))
    worst = min(known, key=lambda result: result.value)
    rows.append({**_row(worst, WORST, z), "which": worst.language})
    english = [result for result in known if result.language == "eng_Latn"]
    others = [result for result in known if result.language != "eng_Latn"]
    if english and others:
        mean_of_others = _mean(others)
        gap = dataclasses.replace(
            average,
            value=english[0].value - mean_of_others.value,
            error=_root_of_squares([english[0].error, mean_of_others.error]),
        )
        rows.append(_row(gap, GAP, z))
    return rows


def _mean(results: Sequence[Result]) -> Result:
    """The mean over languages, taken as independent, with all their items."""
    value = sum(result.value for result in results) / len(results)
    error = _root_of_squares([result.error for result in results])
    if error is not None:
        error /= len(results)
    n = sum(result.n for result in results)
    return dataclasses.replace(results[0], value=value, error=error, n=n)


def _root_of_squares(errors: Sequence[float | None]) -> float | None:
    """The standard error of a sum of independent values; None if one is not known."""
    squares = [error**2 for error in errors if error is not None]
    return sum(squares) ** 0.5 if len(squares) == len(errors) else None


def _row(result: Result, language: str, z: float) -> dict:
    low, high = None, None
    if result.error is not None:
        low, high = result.value - z * result.error, result.value + z * result.error
    return {
        "metric": result.metric,
        "by": result.by,
        "language": language,
        "value": result.value,
        "low": low,
        "high": high,
        "n": result.n,
        "n_groups": result.n,
        "which": "",
    }
