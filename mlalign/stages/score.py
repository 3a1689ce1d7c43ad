"""Score candidates, both sides of preference rows, or responses of rankings; combine scores.

Reads candidates, preference or ranking rows (slot `rows`). Writes one scores row for each
candidate, side or response, a shard for each shard: ids, and these columns:

    score.NAME              the scorer's value; NAME is the reward step's or the scorer's `name`,
                            else its family
    score.NAME.COLUMN       further numbers of a scorer
    score.COMBINATION       one for each entry of `combine`
    response_lang_detected  from the first language_adherence scorer

What a scorer says in words (a judge's verdict) becomes rows of kind `judgement` in
`judgements/SHARD`.

Models are opened when the first shard must be computed. A shard is scored in windows of rows, and a
run that is stopped keeps those that are done. A scorer conditioned on English prompts finds them,
by `group_id`, in the English shards of the rows themselves or of the slot `english`.

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
WORK = "scoring"

ITEMS: dict[str, Callable[[Mapping], list[Item]]] = {
    "candidates": of_candidates,
    "preference": of_preference,
    "ranking": of_ranking,
}
ENGLISH = "eng_Latn"
# Settings of a scorer that its scores do not depend on: names, and a cache.
NOT_CONTENT = ("name", "step", "checklists")
# Settings of the step that hold for each scorer that has such a setting and does not set it.
DEFAULTS = ("dtype", "seed", "device_batch_tokens", "date")


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
    names = [scorer.name for scorer in inputs.get("scorers", ())]
    return kinds.Gives("scores", (*names, *cfg.combine))


def imports(cfg: Config, inputs: Mapping[str, Any]) -> list[str]:
    """Scorers that name no model need neither torch nor transformers."""
    has_model = any("path" in scorer or any(models_in(scorer)) for scorer in inputs["scorers"])
    heavy = ["reward_models.networks.network", "transformers.models.auto.modeling_auto"]
    return heavy if has_model else []


def run(cfg: Config, inputs: Inputs, out: Output) -> None:
    scorers = scorer_settings(cfg, inputs)
    _check(cfg, scorers)

    path = inputs.rows("rows")
    english_shards = []
    if any(_needs_english(settings) for settings in scorers):
        english = inputs.rows("english") if "english" in inputs else path
        english_shards = rows.shards(english, languages=[ENGLISH])
    index, n_tasks = out.part
    sources = rows.shards(path, cfg.split)[index::n_tasks]
    key = _key(cfg, scorers, [sha256(shard) for shard in english_shards])

    n_rows = sum(map(_n_rows, sources))
    scoring = _Scoring(cfg, scorers, english_shards, _items_of(path), out, key, n_rows)
    with contextlib.closing(scoring):
        is_done = shards.run_shards(
            sources,
            out.path,
            out.store,
            key,
            scoring.shard,
            on_shard=scoring.finished,
            should_stop=out.should_stop,
            check_inputs=out.check_inputs,
            beside=[JUDGEMENTS],
        )
        if not is_done:
            raise Stopped

    (out.path / "rows").mkdir(exist_ok=True)
    out.note(scorers=[_without_identity(settings) for settings in scorers])
    statistics = {settings["name"]: score_statistics(settings) for settings in scorers}
    statistics = {name: known for name, known in statistics.items() if known}
    if statistics:
        out.note(score_statistics=statistics)


@dataclasses.dataclass
class _Scoring:
    """The work on shards. Scorers and English prompts are loaded at their first use."""

    cfg: Config
    settings: Sequence[dict]  # of the scorers
    english_shards: Sequence[Path]
    items_of: Callable[[Mapping], list[Item]]
    out: Output
    key: dict
    total: int  # rows
    done: int = 0

    @functools.cached_property
    def scorers(self) -> list[reward_models.Scorer]:
        return [reward_models.open_scorer(_without_identity(own)) for own in self.settings]

    def close(self) -> None:
        """Give back the engines of judges."""
        for scorer in self.__dict__.get("scorers", ()):
            scorer.close()

    @functools.cached_property
    def english(self) -> dict[str, list[dict]]:
        """group_id -> the English prompt; the first row of a group counts."""
        prompts: dict[str, list[dict]] = {}
        for shard in self.english_shards:
            for row in rows.read_shard(shard, ["group_id", "prompt"]):
                if row["prompt"]:
                    prompts.setdefault(row["group_id"], row["prompt"])
        return prompts

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
    given: Sequence[Mapping],
    items_of_rows: Sequence[Sequence[Item]],
) -> dict:
    """Score the items of some rows.

    Returns `rows`, `columns`, `judgements` and `tally`, ready for JSON.
    """
    items = [item for of_row in items_of_rows for item in of_row]
    scores = {scorer.name: scorer.score_items(items) for scorer in scorers}
    columns = _columns(scores)
    sizes = [len(of_row) for of_row in items_of_rows]
    for name, combination in cfg.combine.items():
        columns[name] = _combined(columns, combination, sizes)
    detected = next((own.detected for own in scores.values() if own.detected is not None), None)

    ids = []
    for row, of_row in zip(given, items_of_rows, strict=True):
        common = {name: row[name] for name in rows.COMMON}
        ids += [{**common, "candidate_id": item.id} for item in of_row]
    written = []
    for i, own in enumerate(ids):
        row = {**own, "response_lang_detected": detected and detected[i]}
        for name, values in columns.items():
            row[f"score.{name}"] = values[i]
        written.append(row)

    tally = _tally(scores, columns, [own["prompt_lang"] for own in ids])
    return {
        "rows": written,
        "columns": list(columns),
        JUDGEMENTS: list(_judgements(scores, ids)),
        "tally": tally.to_dict(),
    }


def _judgements(scores: Mapping[str, Scores], ids: Sequence[dict]) -> Iterator[dict]:
    """What scorers said, answer by answer, as rows of kind `judgement`.

    `parse_status` is the first flag of the answer, else `ok`.
    """
    for i, own in enumerate(ids):
        for name, result in scores.items():
            status = next((flag for flag, marks in result.flags.items() if marks[i]), "ok")
            for kind, texts in result.texts.items():
                if texts[i] is not None:
                    yield {
                        **own,
                        "scorer": f"{name}.{kind}",
                        "raw": texts[i],
                        "value": result.values[i],
                        "parse_status": status,
                    }


def _columns(scores: Mapping[str, Scores]) -> dict[str, list[float | None]]:
    """Score column (without `score.`) -> values; the scorers' values first, then their columns."""
    columns = {name: result.values for name, result in scores.items()}
    for name, result in scores.items():
        for column, values in result.columns.items():
            columns[f"{name}.{column}"] = values
    return columns


def _combined(
    columns: Mapping[str, Sequence[float | None]], combination: Combination, sizes: Sequence[int]
) -> list[float | None]:
    """A combination over each row's answers in turn."""
    combined: list[float | None] = []
    for size in sizes:
        first = len(combined)
        own = {name: values[first : first + size] for name, values in columns.items()}
        combined += combine.combine(own, combination)
    return combined


def _tally(
    scores: Mapping[str, Scores], columns: Mapping[str, Sequence], languages: Sequence[str]
) -> Tally:
    """Counts of answers: all, those without a score, and those with a flag."""
    marks = {}
    for name, values in columns.items():
        marks[f"unscored.{name}"] = [value is None for value in values]
    for name, result in scores.items():
        for flag, flagged in result.flags.items():
            marks[f"{flag}.{name}"] = flagged

    tally = Tally()
    for i, language in enumerate(languages):
        tally.keep(language)
        for name, marked in marks.items():
            if marked[i]:
                tally.add(name, language)
    return tally


# --------------------------------------------------------------------------------------- settings


def scorer_settings(cfg: Config, inputs: Inputs) -> list[dict]:
    """What each scorer is opened with, and its `identity`.

    The identity is everything that its scores depend on, models by their content.

    Raises: UserError for a scorer without a family.
    """
    given = inputs.all("scorers")
    mistakes = []
    for i, scorer in enumerate(given):
        if isinstance(scorer, dict) and not {"family", "path"} & set(scorer):
            mistakes += reward_models.problems(scorer, f"inputs.scorers[{i}]")
    if mistakes:
        raise UserError(*mistakes)
    resolved = inputs.scorers("scorers")
    pairs = zip(given, resolved, strict=True)
    return [_settings(cfg, scorer, settings, inputs) for scorer, settings in pairs]


def _settings(cfg: Config, given: Artifact | dict, settings: dict, inputs: Inputs) -> dict:
    """The settings of a scorer that was `given` as a step's artifact or in the recipe."""
    content: dict[str, Any] = {"family": settings["family"]}
    if isinstance(given, Artifact):
        # A `foreach` binding names the step; it is no setting of the scorer.
        own = ("family", "name", "path", "base")
        settings = {key: value for key, value in settings.items() if key in own}
        content["content"] = given.manifest["content_digest"]
    else:
        named = {key: value for key, value in given.items() if key not in NOT_CONTENT}
        content = with_models(named | content, lambda model: {"content": _content(model, inputs)})
        if isinstance(given.get("path"), str):  # perhaps an artifact in the place of a step
            path = external_model(given).path
            settings = {**settings, "path": path}
            digest = _content({**given, "path": path}, inputs)
            content |= {"path": None, "content": [digest, given.get("base")]}
    identity = of_run(_with_defaults(content, cfg))["scorer"]
    return {**_with_defaults(settings, cfg), "identity": identity}


def _with_defaults(settings: Any, cfg: Config) -> Any:
    """Settings with those of the step in DEFAULTS, in every scorer within them."""
    if isinstance(settings, list):
        return [_with_defaults(value, cfg) for value in settings]
    if not isinstance(settings, Mapping):
        return settings
    own = {key: _with_defaults(value, cfg) for key, value in settings.items()}
    family = settings.get("family")
    if family not in reward_models.FAMILIES and not function.is_function(family):
        return own

    fields = dataclasses.fields(reward_models.family(str(family)).Settings)
    names = {field.name for field in fields}
    defaults = {name: getattr(cfg, name) for name in DEFAULTS if name in names}
    return {name: value for name, value in defaults.items() if value is not None} | own


def _content(model: Mapping, inputs: Inputs) -> Any:
    """What identifies a model's content.

    That is its artifact's digest, what the plan found, or the digest of its files; else a hub id.
    """
    opened = inputs.opened(model)
    if isinstance(opened, Artifact):
        return opened.manifest["content_digest"]
    if "identity" in model:
        return model["identity"]
    path = Path(model["path"]).expanduser()
    if (path.parent / MANIFEST).is_file():
        return read_manifest(path.parent)["content_digest"]
    return of_path(str(path))


def _without_identity(settings: Mapping) -> dict:
    return {key: value for key, value in settings.items() if key != "identity"}


def _needs_english(settings: Any) -> bool:
    """Whether a scorer, or a part of it, is conditioned on the English prompt."""
    if isinstance(settings, list):
        return any(map(_needs_english, settings))
    if not isinstance(settings, Mapping):
        return False
    own = settings.get("condition_on") == "english_prompt"
    return own or any(map(_needs_english, settings.values()))


def _check(cfg: Config, scorers: Sequence[Mapping]) -> None:
    """Raises: UserError with every mistake in scorers and combinations; opens nothing."""
    names = [settings["name"] for settings in scorers]
    mistakes = []
    for i, settings in enumerate(scorers):
        mistakes += reward_models.problems(_without_identity(settings), f"inputs.scorers[{i}]")
    if not scorers:
        mistakes.append("inputs.scorers: empty; name a reward step or a family")
    for name in sorted(set(names)):
        if names.count(name) > 1:
            mistakes.append(f"inputs.scorers: two are named {name!r}; give one another `name`")
    if cfg.window_rows < 1:
        mistakes.append(f"window_rows: must be at least 1, got {cfg.window_rows}")
    for name, combination in cfg.combine.items():
        key = f"config.combine.{name}"
        mistakes += combine.problems(combination, names, key)
        if name in names:
            mistakes.append(f"{key}: a scorer has this name already")
    if mistakes:
        raise UserError(*mistakes)


def _items_of(path: Path) -> Callable[[Mapping], list[Item]]:
    kind = rows.kind_of(path)
    if kind not in ITEMS:
        needed = f"`score` takes {' or '.join(ITEMS)}"
        mend = "make candidates of prompts with `generate`"
        raise UserError(f"{path}: holds {kind} rows, and {needed}; {mend}")
    return ITEMS[kind]


def _key(cfg: Config, scorers: Sequence[Mapping], english: Sequence[str]) -> dict:
    """Everything but the shard that scores depend on.

    A model counts by its content, not by where it lies.
    """
    identities = [{name: settings[name] for name in ("name", "identity")} for settings in scorers]
    combinations = {name: dataclasses.asdict(own) for name, own in cfg.combine.items()}
    key = {
        "stage": "score",
        "version": VERSION,
        "scorers": identities,
        "combine": combinations,
    }
    return {**key, "english": english} if english else key
