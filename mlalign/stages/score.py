"""Score candidates, both sides of preference rows or responses of rankings with any scorers, and
combine scores.

Reads candidates, preference or ranking rows (slot `rows`), writes one scores row per candidate,
side or response, a shard for each shard: ids, `score.NAME` per scorer (`NAME` is the reward step's
or the scorer's `name`, else its family), further numbers of a scorer as `score.NAME.COLUMN`, a
column per combination, and `response_lang_detected` from the first language_adherence scorer. What
a scorer says in words (a judge's verdict) becomes rows of kind `judgement` in `judgements/SHARD`.

Models are opened when the first shard must be computed. A shard is scored in windows of rows: a run
that is stopped keeps the windows that are done. A scorer conditioned on English prompts finds them,
by `group_id`, in the shards of English prompts of the rows themselves or of the slot `english`.

Counted by language under `sums` in the manifest: `unscored.NAME` (no value), and facts such as
`truncated.NAME`.
"""

import contextlib
import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import reward_models
from mlalign.core import kinds, resume, rows, shards
from mlalign.core.errors import UserError
from mlalign.core.model import models_in, with_models
from mlalign.core.schema import how, what
from mlalign.core.shards import JUDGEMENTS
from mlalign.core.stage import Inputs, Output, Stopped, external_model
from mlalign.core.store import MANIFEST, Artifact, Tally, fingerprint, read_manifest, sha256
from reward_models.families import combine, function
from reward_models.families.combine import Combination
from reward_models.items import Item, Scores, of_candidates, of_preference, of_ranking
from reward_models.jobs.identity import of_path, of_run
from reward_models.jobs.provenance import score_statistics

VERSION = 4
KIND = "scores"
SLOTS = {"rows": "rows", "scorers": "scorer*", "english": "rows?"}
SHARDED = "rows"
DISTRIBUTED = False

ITEMS: dict[str, Callable[[Mapping], list[Item]]] = {
    "candidates": of_candidates, "preference": of_preference, "ranking": of_ranking,
}  # fmt: skip
ENGLISH = "eng_Latn"
NOT_CONTENT = (
    "name",
    "step",
    "checklists",
)  # settings of a scorer that its scores do not depend on: names, and a cache


@dataclasses.dataclass
class Config:
    split: Literal["train", "eval"] | None = what(None, "score the rows of one split only")
    combine: dict[str, Combination] = what(
        {}, "name of a further score -> weights of scorers and gates"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = what(
        "float32", "arithmetic of models that score, where a scorer names none"
    )
    seed: int = what(0, "for scorers that draw at random")
    date: str | None = what(
        None,
        "what scorers' chat templates that write the date write; null: what the card says, else a"
        " fixed day",
    )
    device_batch_tokens: int = how(16384, "padded tokens that a model sees at once")
    window_rows: int = how(256, "rows that are scored before the next look at whether to stop")


def accepts(cfg: Config) -> dict[str, tuple[str, ...]]:
    return {"rows": tuple(ITEMS)}


def gives(cfg: Config, inputs: kinds.Inputs) -> kinds.Gives:
    return kinds.Gives(
        "scores", (*(scorer.name for scorer in inputs.get("scorers", ())), *cfg.combine)
    )


def imports(cfg: Config, inputs: Mapping[str, Any]) -> list[str]:
    """Scorers that name no model need neither torch nor transformers."""
    has_model = any("path" in scorer or any(models_in(scorer)) for scorer in inputs["scorers"])
    heavy = ["reward_models.networks.network", "transformers.models.auto.modeling_auto"]
    return heavy if has_model else []


def run(cfg: Config, inputs: Inputs, out: Output) -> None:
    told = scorer_settings(cfg, inputs)
    _check(cfg, told)
    path = inputs.rows("rows")
    english = inputs.rows("english") if "english" in inputs else path
    english_shards = (
        rows.shards(english, languages=[ENGLISH]) if any(_needs_english(t) for t in told) else []
    )
    sources = rows.shards(path, cfg.split)[out.part[0] :: out.part[1]]
    key = _key(cfg, told, [sha256(p) for p in english_shards])
    scoring = _Scoring(
        cfg, told, english_shards, _items_of(path), out, key, sum(map(_n_rows, sources))
    )
    with contextlib.closing(scoring):
        watch = (scoring.finished, out.should_stop, out.check_inputs)
        if not shards.run_shards(
            sources, out.path, out.store, key, scoring.shard, *watch, beside=[JUDGEMENTS]
        ):
            raise Stopped
    (out.path / "rows").mkdir(exist_ok=True)
    out.note(scorers=[_without_identity(t) for t in told])
    statistics = {t["name"]: found for t in told if (found := score_statistics(t))}
    if statistics:
        out.note(score_statistics=statistics)


@dataclasses.dataclass
class _Scoring:
    """The work on shards: scorers and English prompts are there from their first use on."""

    cfg: Config
    told: Sequence[dict]
    english_shards: Sequence[Path]
    items_of: Callable[[Mapping], list[Item]]
    out: Output
    key: dict
    total: int
    done: int = 0

    @functools.cached_property
    def scorers(self) -> list[reward_models.Scorer]:
        return [reward_models.open_scorer(_without_identity(t)) for t in self.told]

    def close(self) -> None:
        """Give back the engines of judges."""
        for scorer in self.__dict__.get("scorers", ()):
            scorer.close()

    @functools.cached_property
    def english(self) -> dict[str, list[dict]]:
        """group_id -> the English prompt; the first row of a group counts."""
        found: dict[str, list[dict]] = {}
        for shard in self.english_shards:
            for row in rows.read_shard(shard, ["group_id", "prompt"]):
                if row["prompt"]:
                    found.setdefault(row["group_id"], row["prompt"])
        return found

    def shard(self, source: Path, target: Path, tally: Tally) -> None:
        """Score one shard window by window; a step that is stopped keeps the finished windows."""
        size = self.cfg.window_rows
        given = rows.read_shard(source)
        windows = [given[first : first + size] for first in range(0, max(len(given), 1), size)]
        key = fingerprint({**self.key, "shard": sha256(source), "window_rows": size})
        kept = resume.Units(self.out.checkpoints / source.stem, key, self.out.check_inputs)
        done = kept.done()
        keeps = len(windows) > 1
        if keeps:
            kept.folder.mkdir(parents=True, exist_ok=True)

        results = []
        with resume.Writer(kept) as writer:
            for number, window in enumerate(windows):
                if number and self.out.should_stop():
                    raise Stopped
                unit = done.get(str(number))
                result = json.loads(unit.read()) if unit else self._score(window)
                if keeps and not unit:
                    writer.add(str(number), json.dumps(result).encode(), {})
                results.append(result)
                tally.merge(Tally(result["tally"]))
                n_done = self.done + (number + 1) * size
                self.out.progress(min(n_done, self.total), self.total, "rows")
        _write(target, results)
        shutil.rmtree(kept.folder, ignore_errors=True)

    def _score(self, window: Sequence[Mapping]) -> dict:
        items = [self._items(row) for row in window]
        return score_rows(self.cfg, self.scorers, window, items)

    def _items(self, row: Mapping) -> list[Item]:
        items = self.items_of(row)
        if not self.english_shards:
            return items
        prompt = self.english.get(row["group_id"])
        return [dataclasses.replace(item, english_prompt=prompt) for item in items]

    def finished(self, source: Path, tally: Tally) -> None:
        """Count a shard."""
        self.done += _n_rows(source)
        self.out.tally.merge(tally)
        self.out.progress(self.done, self.total, "rows")


def _n_rows(shard: Path) -> int:
    import pyarrow.parquet as pq

    return pq.read_metadata(shard).num_rows


def _write(target: Path, windows: Sequence[Mapping]) -> None:
    """Write the results of a shard's windows."""
    written = [row for window in windows for row in window["rows"]]
    judgements = [row for window in windows for row in window[JUDGEMENTS]]
    beside = target.parent.parent / JUDGEMENTS / target.name
    beside.unlink(missing_ok=True)
    if judgements:
        rows.write_shard(beside, "judgement", judgements)
    rows.write_shard(target, "scores", written, windows[0]["columns"])


def score_rows(
    cfg: Config,
    scorers: Sequence[reward_models.Scorer],
    read: Sequence[Mapping],
    per_row: Sequence[Sequence[Item]],
) -> dict:
    """The scores of some rows, of which `per_row` are the items: `rows`, `columns`, `judgements`
    and `tally`, ready for JSON.
    """
    items = [item for of_row in per_row for item in of_row]
    found = {scorer.name: scorer.score_items(items) for scorer in scorers}
    columns = _columns(found)
    for name, combination in cfg.combine.items():
        columns[name] = _combined(columns, combination, [len(of_row) for of_row in per_row])
    detected = next((f.detected for f in found.values() if f.detected is not None), None)
    owners = [row for row, of_row in zip(read, per_row, strict=True) for _ in of_row]
    common = [
        {**{c: row[c] for c in rows.COMMON}, "candidate_id": item.id}
        for row, item in zip(owners, items, strict=True)
    ]
    written = [
        {
            **row,
            "response_lang_detected": detected and detected[i],
            **{f"score.{name}": values[i] for name, values in columns.items()},
        }
        for i, row in enumerate(common)
    ]
    tally = Tally()
    _count(found, columns, [row["prompt_lang"] for row in owners], tally)
    return {
        "rows": written,
        "columns": list(columns),
        JUDGEMENTS: list(_judgements(found, common)),
        "tally": tally.to_dict(),
    }


def _judgements(found: Mapping[str, Scores], common: Sequence[dict]) -> Iterator[dict]:
    """What scorers said, answer by answer, as rows of kind `judgement`; `parse_status` is the first
    flag of the answer, else `ok`.
    """
    for i, row in enumerate(common):
        for name, scores in found.items():
            flag = next((flag for flag, marks in scores.flags.items() if marks[i]), "ok")
            for what_, texts in scores.texts.items():
                if texts[i] is not None:
                    yield {
                        **row,
                        "scorer": f"{name}.{what_}",
                        "raw": texts[i],
                        "value": scores.values[i],
                        "parse_status": flag,
                    }


def _columns(found: Mapping[str, Scores]) -> dict[str, list[float | None]]:
    """Score column (without `score.`) -> values: the scorers' own first, then what else they tell."""
    further = {
        f"{name}.{column}": values
        for name, scores in found.items()
        for column, values in scores.columns.items()
    }
    return {name: scores.values for name, scores in found.items()} | further


def _combined(
    columns: Mapping[str, Sequence[float | None]], combination: Combination, sizes: Sequence[int]
) -> list[float | None]:
    """A combination over each row's answers in turn."""
    out: list[float | None] = []
    for size in sizes:
        here = {name: values[len(out) : len(out) + size] for name, values in columns.items()}
        out += combine.combine(here, combination)
    return out


def _count(
    found: Mapping[str, Scores],
    columns: Mapping[str, Sequence],
    languages: Sequence[str],
    tally: Tally,
) -> None:
    marks = {f"unscored.{name}": [v is None for v in values] for name, values in columns.items()}
    marks |= {
        f"{flag}.{name}": values
        for name, scores in found.items()
        for flag, values in scores.flags.items()
    }
    for i, language in enumerate(languages):
        tally.keep(language)
        for name in (n for n, values in marks.items() if values[i]):
            tally.add(name, language)


# ----------------------------------------------------------------------------------------- settings


def scorer_settings(cfg: Config, inputs: Inputs) -> list[dict]:
    """What each scorer is opened with, and `identity`: everything that its scores depend on, models
    by their content.

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
    return [
        _settings(cfg, g, s, inputs) for g, s in zip(given, inputs.scorers("scorers"), strict=True)
    ]


def _settings(cfg: Config, given: Artifact | dict, told: dict, inputs: Inputs) -> dict:
    if isinstance(
        given, Artifact
    ):  # a `foreach` binding names the step, it is no setting of the scorer
        told = {k: v for k, v in told.items() if k in ("family", "name", "path", "base")}
        content: dict[str, Any] = {
            "family": told["family"],
            "content": given.manifest["content_digest"],
        }
    else:
        content = {k: v for k, v in given.items() if k not in NOT_CONTENT} | {
            "family": told["family"]
        }
        content = with_models(content, lambda model: {"content": _content(model, inputs)})
        if isinstance(given.get("path"), str):  # may be an artifact that stands in for a step
            told = {**told, "path": external_model(given).path}
            content |= {
                "path": None,
                "content": [_content({**given, "path": told["path"]}, inputs), given.get("base")],
            }
    return {**_with_defaults(told, cfg), "identity": of_run(_with_defaults(content, cfg))["scorer"]}


def _with_defaults(told: Any, cfg: Config) -> Any:
    """Settings with the step's `dtype`, `seed`, `date` and `device_batch_tokens` wherever a scorer
    in them has such a setting and does not set it.
    """
    if isinstance(told, list):
        return [_with_defaults(t, cfg) for t in told]
    if not isinstance(told, Mapping):
        return told
    own = {k: _with_defaults(v, cfg) for k, v in told.items()}
    family = told.get("family")
    if family not in reward_models.FAMILIES and not function.is_function(family):
        return own
    fields = {f.name for f in dataclasses.fields(reward_models.family(str(family)).Settings)}
    given = {
        name: getattr(cfg, name)
        for name in ("dtype", "seed", "device_batch_tokens", "date")
        if name in fields
    }
    return {name: value for name, value in given.items() if value is not None} | own


def _content(model: Mapping, inputs: Inputs) -> Any:
    """The content of a model: its artifact's digest, what the plan found, or the digest of its
    files; else a hub id.
    """
    opened = inputs.opened(model)
    if isinstance(opened, Artifact):
        return opened.manifest["content_digest"]
    if "identity" in model:
        return model["identity"]
    path = Path(model["path"]).expanduser()
    return (
        read_manifest(path.parent)["content_digest"]
        if (path.parent / MANIFEST).is_file()
        else of_path(str(path))
    )


def _without_identity(told: Mapping) -> dict:
    return {k: v for k, v in told.items() if k != "identity"}


def _needs_english(told: Any) -> bool:
    """Whether a scorer, or a part of it, is conditioned on the English prompt."""
    if isinstance(told, list):
        return any(_needs_english(t) for t in told)
    if not isinstance(told, Mapping):
        return False
    return told.get("condition_on") == "english_prompt" or any(
        _needs_english(t) for t in told.values()
    )


def _check(cfg: Config, told: Sequence[Mapping]) -> None:
    """Raises: UserError with every mistake in scorers and combinations; opens nothing."""
    names = [t["name"] for t in told]
    wrong = [
        p
        for i, t in enumerate(told)
        for p in reward_models.problems(_without_identity(t), f"inputs.scorers[{i}]")
    ]
    wrong += [] if told else ["inputs.scorers: empty; name a reward step or a family"]
    wrong += [
        f"inputs.scorers: two are named {n!r}; give one another `name`"
        for n in sorted({n for n in names if names.count(n) > 1})
    ]
    wrong += (
        [f"window_rows: must be at least 1, got {cfg.window_rows}"] if cfg.window_rows < 1 else []
    )
    for name, combination in cfg.combine.items():
        wrong += combine.problems(combination, names, f"config.combine.{name}")
        wrong += [f"config.combine.{name}: a scorer has this name already"] if name in names else []
    if wrong:
        raise UserError(*wrong)


def _items_of(path: Path) -> Callable[[Mapping], list[Item]]:
    kind = rows.kind_of(path)
    if kind not in ITEMS:
        raise UserError(
            f"{path}: holds {kind} rows, and `score` takes {' or '.join(ITEMS)}; make candidates of"
            " prompts with `generate`"
        )
    return ITEMS[kind]


def _key(cfg: Config, told: Sequence[Mapping], english: Sequence[str]) -> dict:
    """Everything but the shard that scores depend on: a model counts by its content, not by where
    it lies.
    """
    scorers = [{"name": t["name"], "identity": t["identity"]} for t in told]
    combinations = {name: dataclasses.asdict(c) for name, c in cfg.combine.items()}
    return {
        "stage": "score",
        "version": VERSION,
        "scorers": scorers,
        "combine": combinations,
        **({"english": english} if english else {}),
    }
