"""Score candidates or both sides of preference rows with any list of scorers, and combine scores.

Reads candidates or preference rows (slot `rows`), writes one scores row per candidate or side, a shard for each shard: ids,
`score.NAME` per scorer (`NAME` is the reward step's or the scorer's `name`, else its family), further numbers of a scorer as
`score.NAME.COLUMN`, a column per combination, and `response_lang_detected` from the first language_adherence scorer. Models
are opened when the first shard must be computed, and each sees a shard's items in batches that depend on the shard alone.

Counted by language under `sums` in the manifest: `unscored.NAME` (no value), and facts such as `truncated.NAME`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import reward_models
from mlalign import rows, shards
from mlalign.errors import UserError
from mlalign.schema import how, what
from mlalign.stage import Inputs, Output, Stopped, external_model
from mlalign.store import Artifact, Tally, fingerprint, read_json, sha256
from reward_models import combine
from reward_models.combine import Combination
from reward_models.items import Item, Scores, of_candidates, of_preference

VERSION = 1
KIND = "scores"
SLOTS = {"rows": "rows", "scorers": "scorer*"}
SHARDED = "rows"
DISTRIBUTED = False

ITEMS: dict[str, Callable[[Mapping], list[Item]]] = {"candidates": of_candidates, "preference": of_preference}


@dataclasses.dataclass
class Config:
    split: Literal["train", "eval"] | None = what(None, "score the rows of one split only")
    combine: dict[str, Combination] = what({}, "name of a further score -> weights of scorers and gates")
    dtype: Literal["float32", "bfloat16", "float16"] = what("float32", "arithmetic of models that score, where a scorer names none")
    seed: int = what(0, "for scorers that draw at random")
    device_batch_tokens: int = how(16384, "padded tokens that a model sees at once")


def run(cfg: Config, inputs: Inputs, out: Output) -> None:
    told = scorer_settings(cfg, inputs)
    _check(cfg, told)
    path = inputs.rows("rows")
    items_of = _items_of(path)
    sources = rows.shards(path, cfg.split)[out.part[0] :: out.part[1]]
    opened = cache(lambda: [reward_models.open_scorer(_without_identity(t)) for t in told])

    def work(source: Path, target: Path, tally: Tally) -> None:
        score_shard(cfg, opened(), rows.read_shard(source), items_of, target, tally)

    done: list[Path] = []

    def on_shard(source: Path, tally: Tally) -> None:
        done.append(source)
        out.tally.merge(tally)
        out.progress(len(done), len(sources), "shards")

    if not shards.run_shards(sources, out.path, out.store, _key(cfg, told), work, on_shard, out.should_stop):
        raise Stopped
    (out.path / "rows").mkdir(exist_ok=True)
    out.note(scorers=[_without_identity(t) for t in told])


def score_shard(
    cfg: Config, scorers: Sequence[reward_models.Scorer], read: Sequence[Mapping], items_of: Callable, target: Path, tally: Tally
) -> None:
    """Score one shard's rows and write its scores."""
    per_row: list[list[Item]] = [items_of(row) for row in read]
    found = {scorer.name: scorer.score_items([item for items in per_row for item in items]) for scorer in scorers}
    columns = _columns(found)
    for name, combination in cfg.combine.items():
        columns[name] = _combined(columns, combination, [len(items) for items in per_row])
    detected = next((f.detected for f in found.values() if f.detected is not None), None)
    owners = [row for row, items in zip(read, per_row, strict=True) for _ in items]
    written = []
    for i, (row, item) in enumerate(zip(owners, (item for items in per_row for item in items), strict=True)):
        scores = {f"score.{name}": values[i] for name, values in columns.items()}
        written.append(
            {**{c: row[c] for c in rows.COMMON}, "candidate_id": item.id, "response_lang_detected": detected and detected[i], **scores}
        )
    _count(found, columns, [row["prompt_lang"] for row in owners], tally)
    rows.write_shard(target, "scores", written, tuple(columns))


def _columns(found: Mapping[str, Scores]) -> dict[str, list[float | None]]:
    """Score column (without `score.`) -> values: the scorers' own first, then what else they tell."""
    further = {f"{name}.{column}": values for name, scores in found.items() for column, values in scores.columns.items()}
    return {name: scores.values for name, scores in found.items()} | further


def _combined(columns: Mapping[str, Sequence[float | None]], combination: Combination, sizes: Sequence[int]) -> list[float | None]:
    """A combination over each row's answers in turn."""
    out: list[float | None] = []
    for size in sizes:
        here = {name: values[len(out) : len(out) + size] for name, values in columns.items()}
        out += combine.combine(here, combination)
    return out


def _count(found: Mapping[str, Scores], columns: Mapping[str, Sequence], languages: Sequence[str], tally: Tally) -> None:
    marks = {f"unscored.{name}": [v is None for v in values] for name, values in columns.items()}
    marks |= {f"{flag}.{name}": values for name, scores in found.items() for flag, values in scores.flags.items()}
    for i, language in enumerate(languages):
        tally.keep(language)
        for name in (n for n, values in marks.items() if values[i]):
            tally.add(name, language)


# --------------------------------------------------------------------------------------------------------------- settings


def scorer_settings(cfg: Config, inputs: Inputs) -> list[dict]:
    """What each scorer is opened with, and `identity`: what its scores depend on besides these settings.

    Raises: UserError for a scorer without a family.
    """
    given = inputs.all("scorers")
    wrong = [
        p
        for i, g in enumerate(given)
        if isinstance(g, dict) and not {"family", "path"} & set(g)
        for p in reward_models.problems(g, f"inputs.scorers[{i}]")
    ]
    if wrong:
        raise UserError(*wrong)
    return [_settings(cfg, g, s) for g, s in zip(given, inputs.scorers("scorers"), strict=True)]


def _settings(cfg: Config, given: Artifact | dict, told: dict) -> dict:
    if isinstance(given, Artifact):  # a `foreach` binding names the step, it is no setting of the scorer
        told = {k: v for k, v in told.items() if k in ("family", "name", "path", "base")}
    elif "path" in given:  # may be an artifact that stands in for a step
        told = {**told, "path": external_model(given).path}
    defaults: dict[str, Any] = {}
    if told["family"] == "classifier":
        defaults = {"dtype": cfg.dtype, "device_batch_tokens": cfg.device_batch_tokens}
    elif told["family"] == "random":
        defaults = {"seed": cfg.seed}
    return {**defaults, **told, "identity": _identity(given, told)}


def _identity(given: Artifact | dict, told: Mapping) -> Any:
    """The content of a scorer's model: its artifact's digest, what the plan found, or the digest of its files."""
    if isinstance(given, Artifact):
        return given.manifest["content_digest"]
    if "identity" in given or "path" not in given:
        return [given.get("identity"), given.get("base")]
    path = Path(told["path"])
    manifest = path.parent / "manifest.json"
    if manifest.is_file():
        return [read_json(manifest)["content_digest"], given.get("base")]
    files = {str(p.relative_to(path)): sha256(p) for p in sorted(path.rglob("*")) if p.is_file()} if path.is_dir() else {}
    return [fingerprint(files) if files else str(path), given.get("base")]


def _without_identity(told: Mapping) -> dict:
    return {k: v for k, v in told.items() if k != "identity"}


def _check(cfg: Config, told: Sequence[Mapping]) -> None:
    """Raises: UserError with every mistake in scorers and combinations; opens nothing."""
    names = [t["name"] for t in told]
    wrong = [p for i, t in enumerate(told) for p in reward_models.problems(_without_identity(t), f"inputs.scorers[{i}]")]
    wrong += [] if told else ["inputs.scorers: empty; name a reward step or a family"]
    wrong += [f"inputs.scorers: two are named {n!r}; give one another `name`" for n in sorted({n for n in names if names.count(n) > 1})]
    for name, combination in cfg.combine.items():
        wrong += combine.problems(combination, names, f"config.combine.{name}")
        wrong += [f"config.combine.{name}: a scorer has this name already"] if name in names else []
    if wrong:
        raise UserError(*wrong)


def _items_of(path: Path) -> Callable[[Mapping], list[Item]]:
    kind = rows.kind_of(path)
    if kind not in ITEMS:
        raise UserError(f"{path}: holds {kind} rows, and `score` takes {' or '.join(ITEMS)}; make candidates of prompts with `generate`")
    return ITEMS[kind]


def _key(cfg: Config, told: Sequence[Mapping]) -> dict:
    """Everything but the shard that scores depend on: a model counts by its content, not by where it lies."""
    how_only = ("device_batch_tokens", "path", "base")
    scorers = [{k: v for k, v in t.items() if k not in how_only} for t in told]
    combinations = {name: dataclasses.asdict(c) for name, c in cfg.combine.items()}
    return {"stage": "score", "version": VERSION, "scorers": scorers, "combine": combinations}
