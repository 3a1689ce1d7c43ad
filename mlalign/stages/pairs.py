"""Build training rows from scored candidates: preference pairs, or demonstrations, by the method named in `method`.

Reads candidates (slot `rows`) and their scores (slot `scores`; same shards, joined by `candidate_id`), writes preference or
demonstration rows, one shard for each shard read; memory holds one shard. Methods live in `mlalign/methods/pairing/`.

Counted in the manifest: prompts without a row, by reason, under `dropped`; candidates left out, by reason, under `sums`.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mlalign.core import kinds, rows
from mlalign.core.errors import UserError, nearest
from mlalign.core.schema import what
from mlalign.core.stage import Inputs, Output, Stopped
from mlalign.core.store import has
from mlalign.methods import pairing
from mlalign.methods.pairing import Pair, Scored

VERSION = 1
KIND = "rows"
SLOTS = {"rows": "rows", "scores": "rows"}
SHARDED = None
DISTRIBUTED = False


@dataclasses.dataclass
class Gate:
    """A bound on one score column. A candidate without a value fails it."""

    score: str = what(doc="name of the score column")
    min: float | None = what(None, "lowest value that passes")
    max: float | None = what(None, "highest value that passes")
    applies_to: Literal["chosen", "both"] = what("chosen", "chosen: who fails may still be rejected; both: who fails is left out")

    def passes(self, value: float | None) -> bool:
        return value is not None and (self.min is None or value >= self.min) and (self.max is None or value <= self.max)


@dataclasses.dataclass
class Config:
    method: str = what("best_worst", "a file in mlalign/methods/pairing, or package.module:function of your own")
    args: dict[str, Any] = what({}, "options of the method, by the names of its keyword parameters")
    score: str = what("", "score column to compare; empty: the first one of the scores")
    adherence: str = what("language_adherence", "score column that tells whether the answer is in the requested language")
    min_adherence: float = what(0.5, "an answer counts as in the requested language from this value on")
    gates: list[Gate] = what([], "bounds on other score columns")
    normalise: Literal["none", "prompt", "language"] = what("none", "z-scores within each prompt or each language before comparing")
    min_margin: float = what(0.0, "pairs whose scores differ by less are dropped (in units of the compared score)")
    max_pairs_per_prompt: int | None = what(None, "keep at most so many pairs of one prompt, in the method's order")
    languages: list[str] = what([], "prompt languages to take; none named: all")
    split: Literal["train", "eval"] | None = what(None, "take one split only")
    seed: int = what(0, "for methods that draw at random")


def identity(cfg: Config, digest: Callable[[Path], str]) -> dict[str, str]:
    """What a fingerprint needs beyond the configuration: the text of a method that does not come with this package.

    Raises: UserError if there is no such method or it has not these options.
    """
    method = pairing.load(cfg.method)
    pairing.options(method, cfg.args)
    return {"method_source": digest(pairing.source_file(method))} if ":" in cfg.method else {}


def accepts(cfg: Config) -> dict[str, tuple[str, ...]]:
    return {"rows": ("candidates",), "scores": ("scores",)}


def gives(cfg: Config, inputs: kinds.Inputs) -> kinds.Gives:
    return kinds.Gives(pairing.makes(pairing.load(cfg.method)))


def misfits(cfg: Config, inputs: kinds.Inputs) -> list[str]:
    columns = kinds.columns_of(inputs.get("scores", ()))
    return [] if columns is None else _missing(cfg, pairing.options(pairing.load(cfg.method), cfg.args), columns, "the scores")


def run(cfg: Config, inputs: Inputs, out: Output) -> None:
    options = pairing.options(pairing.load(cfg.method), cfg.args)
    shards = _joined_shards(cfg, inputs)
    cfg = dataclasses.replace(cfg, score=cfg.score or _first_column(shards[0][1]))
    _check_columns(cfg, options, _columns(shards[0][1]), inputs.rows("scores"))
    statistics = _language_statistics(cfg, shards) if cfg.normalise == "language" else {}
    (out.path / "rows").mkdir(parents=True, exist_ok=True)
    for done, shard in enumerate(shards):
        if out.should_stop():
            raise Stopped
        made = list(_shard_rows(cfg, options, shard, statistics, out))
        if made:
            rows.write_shard(out.path / "rows" / shard[0].name, "preference" if "chosen" in made[0] else "demonstration", made)
        out.progress(done + 1, len(shards), "shards")
    if not out.tally.rows:
        reasons = ", ".join(f"{sum(by.values())} x {reason}" for reason, by in sorted(out.tally.dropped.items()))
        raise UserError(f"{out.step or 'pairs'}: no prompt gave a row ({reasons or 'there are no candidates'}); see the gates, "
                        "min_margin and wrong_language")  # fmt: skip
    out.note(method=cfg.method, score=cfg.score)


def _joined_shards(cfg: Config, inputs: Inputs) -> list[tuple[Path, Path]]:
    """(candidates, scores) of every shard; a UserError if a language or a shard of scores is not there."""
    path, scores = inputs.rows("rows"), inputs.rows("scores")
    if (kind := rows.kind_of(path)) != "candidates":
        raise UserError(f"{path}: holds {kind} rows, `pairs` needs candidates (a `generate` step)")
    present = {p.name.split(".")[0] for p in rows.shards(path, cfg.split)}
    if missing := [lang for lang in cfg.languages if lang not in present]:
        raise UserError(*(f"languages: no candidates in {lang!r}{nearest(lang, present)}" for lang in missing))
    shards = [(p, scores / "rows" / p.name) for p in rows.shards(path, cfg.split, cfg.languages or None)]
    if not shards:
        raise UserError(f"{path}: holds no candidates of split {cfg.split!r}")
    if absent := [s for _, s in shards if not has(scores, f"rows/{s.name}")]:
        raise UserError(f"{scores}: lacks {absent[0].name} ({len(absent)} of {len(shards)} shards); score the candidates this step reads")
    return shards


def _columns(shard: Path) -> list[str]:
    """Names of the score columns in file order."""
    import pyarrow.parquet as pq

    return [name.removeprefix("score.") for name in pq.read_schema(shard).names if name.startswith("score.")]


def _first_column(shard: Path) -> str:
    if not (columns := _columns(shard)):
        raise UserError(f"{shard}: has no score columns; give the output of a `score` step")
    return columns[0]


def _check_columns(cfg: Config, options: dict, columns: Sequence[str], scores: Path) -> None:
    if problems := _missing(cfg, options, columns, f"the scores in {scores}"):
        raise UserError(*problems)


def _missing(cfg: Config, options: dict, columns: Iterable[str], where: str) -> list[str]:
    """A message for each score column that the configuration needs and that is not there."""
    wanted = {f"gates[{i}].score": gate.score for i, gate in enumerate(cfg.gates)}
    if cfg.score:
        wanted["score"] = cfg.score
    problems = kinds.missing_columns(wanted, columns, where)
    if options.get("wrong_language", "off") != "off":
        mend = "; add the scorer {family: language_adherence}, name the column, or set args.wrong_language=off"
        problems += [message + mend for message in kinds.missing_columns({"adherence": cfg.adherence}, columns, where)]
    return problems


def _language_statistics(cfg: Config, shards: Sequence[tuple[Path, Path]]) -> dict[str, tuple[float, float]]:
    """language -> (mean, standard deviation) of the compared score over all its candidates (Welford's running sums)."""
    sums: dict[str, tuple[int, float, float]] = {}
    for _, scores in shards:
        for row in rows.read_shard(scores, ["prompt_lang", f"score.{cfg.score}"]):
            value = row[f"score.{cfg.score}"]
            if value is not None and math.isfinite(value):
                n, mean, squares = sums.get(row["prompt_lang"], (0, 0.0, 0.0))
                delta = value - mean
                mean += delta / (n + 1)
                sums[row["prompt_lang"]] = (n + 1, mean, squares + delta * (value - mean))
    return {lang: (mean, math.sqrt(squares / n)) for lang, (n, mean, squares) in sums.items()}


def _shard_rows(cfg: Config, options: dict, shard: tuple[Path, Path], statistics: dict, out: Output) -> Iterator[dict]:
    """The rows of one shard (candidates, scores) in the order of its prompts."""
    method, (candidates, scores) = pairing.load(cfg.method), shard
    by_id = {row["candidate_id"]: row for row in rows.read_shard(scores)}
    for prompt in rows.read_shard(candidates):
        scored = _normalised(cfg, _scored(cfg, prompt, by_id, out), statistics.get(prompt["prompt_lang"]))
        seed = {"seed": rows.seed_of(f"{cfg.seed}:{prompt['id']}")} if pairing.takes_seed(method) else {}
        made = method(scored, **options, **seed) if scored else "no usable candidate"
        yield from _rows_of(cfg, prompt, made, out)


def _scored(cfg: Config, prompt: dict, by_id: dict, out: Output) -> list[Scored]:
    """The usable candidates of one prompt; the others are counted."""
    found, count = [], partial(out.tally.add, language=prompt["prompt_lang"])
    for response in prompt["responses"]:
        row = by_id.get(response["candidate_id"], {})
        values = {name.removeprefix("score."): value for name, value in row.items() if name.startswith("score.")}
        reason = _unusable(cfg, response, values)
        if reason:
            count(f"candidates dropped: {reason}")
            continue
        if (adherence := values.get(cfg.adherence)) is None:
            count("candidates: language not known")
        in_language = None if adherence is None else adherence >= cfg.min_adherence
        languages = {"language": row["response_lang_detected"], "requested": prompt["response_lang_requested"], "in_language": in_language}
        choosable = all(gate.passes(values[gate.score]) for gate in cfg.gates)
        identifier, text = response["candidate_id"], response["text"]
        found.append(Scored(identifier, text, values[cfg.score], values, **languages, choosable=choosable))
    return found


def _unusable(cfg: Config, response: dict, values: dict) -> str | None:
    value = values.get(cfg.score)
    if not (response["text"] or "").strip():
        return "empty text"
    if value is None or not math.isfinite(value):
        return f"no score {cfg.score}"
    return next((f"gate {g.score}" for g in cfg.gates if g.applies_to == "both" and not g.passes(values[g.score])), None)


def _normalised(cfg: Config, scored: list[Scored], of_language: tuple[float, float] | None) -> list[Scored]:
    """Scores as z-scores (population standard deviation; all 0 where it is 0)."""
    if cfg.normalise == "none" or not scored:
        return scored
    mean, deviation = of_language or _mean_and_deviation([c.score for c in scored])
    return [dataclasses.replace(c, score=(c.score - mean) / deviation if deviation else 0.0) for c in scored]


def _mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))


def _rows_of(cfg: Config, prompt: dict, made: pairing.Made, out: Output) -> Iterator[dict]:
    """The rows that a method's answer for one prompt becomes; a prompt that gives none is counted under one reason."""
    language = prompt["prompt_lang"]
    reason, kept = (made, []) if isinstance(made, str) else ("the method returned nothing", made)
    if kept and isinstance(kept[0], Pair):
        kept, refused = pairing.accept(kept, cfg.min_margin, cfg.max_pairs_per_prompt)
        reason = next(iter(refused), reason)
        for why, n in refused.items() if kept else ():
            out.tally.add(f"pairs dropped: {why}", language, n)
    if not kept:
        out.tally.drop(reason, language)
    for item in kept:
        out.tally.keep(language)
        yield _preference(cfg, prompt, item) if isinstance(item, Pair) else _demonstration(cfg, prompt, item)


def _common(cfg: Config, prompt: dict, key: str) -> dict:
    kept = {name: prompt[name] for name in ("group_id", "prompt_lang", "source", "split", "prompt")}
    return {**kept, "id": rows.row_id(cfg.method, key, prompt["prompt_lang"]), "origin": "synthetic"}


def _preference(cfg: Config, prompt: dict, pair: Pair) -> dict:
    """A preference row; `margin` is in units of the compared score, `score_*` are raw."""
    chosen, rejected = pair.chosen, pair.rejected
    ids = {"prompt_id": prompt["id"], "chosen_id": chosen.candidate_id, "rejected_id": rejected.candidate_id}
    return {
        **_common(cfg, prompt, f"{chosen.candidate_id}:{rejected.candidate_id}"),
        "chosen": rows.messages(chosen.text, "assistant"), "rejected": rows.messages(rejected.text, "assistant"),
        "chosen_lang": chosen.language, "rejected_lang": rejected.language, "margin": pair.margin, "method": cfg.method,
        "score_chosen": chosen.scores[cfg.score], "score_rejected": rejected.scores[cfg.score], "metadata": rows.to_json(ids),
    }  # fmt: skip


def _demonstration(cfg: Config, prompt: dict, best: Scored) -> dict:
    ids = {"prompt_id": prompt["id"], "candidate_id": best.candidate_id, "score": best.scores[cfg.score]}
    return {
        **_common(cfg, prompt, best.candidate_id), "completion": rows.messages(best.text, "assistant"),
        "response_lang": best.language or best.requested, "metadata": rows.to_json(ids),
    }  # fmt: skip
