"""Build preference pairs or demonstrations from scored candidates, by the method in `method`.

Reads candidates (slot `rows`) and their scores (slot `scores`; same shards, joined by
`candidate_id`), of one sampler or several. Writes preference or demonstration rows. Methods live in
`mlalign/methods/pairing/`. Most get the candidates of one prompt, which gives one shard of rows for
each shard read. Methods that get all languages of an item (`group_id`) work on slices of groups
over all shards, which gives a shard of rows for each slice, language and split.

The manifest counts prompts without a row, by reason, under `dropped`, and candidates left out, by
reason, under `sums`.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mlalign import methods
from mlalign.core import kinds, rows
from mlalign.core.errors import UserError
from mlalign.core.schema import what
from mlalign.core.stage import Inputs, Output, Stopped
from mlalign.core.store import Tally
from mlalign.data import candidates, groups
from mlalign.data.candidates import Gate, Shard
from mlalign.methods import pairing
from mlalign.methods.paired import Paired, misreturned
from mlalign.methods.pairing import Group, Pair, Scored

VERSION = 1
KIND = "rows"
SLOTS = {"rows": "rows*", "scores": "rows*"}
SHARDED = None
DISTRIBUTED = False
NAMED = ("rows",)  # slots whose steps a method sees by name where there are several
ONE_EACH = ("best_worst", "best_of_n")  # methods that make at most one row of a prompt
NOTHING_USABLE = "no usable candidate"


@dataclasses.dataclass
class Config:
    method: str = what(
        "best_worst",
        "a file in mlalign/methods/pairing, or package.module:function of your own",
    )
    args: dict[str, Any] = what({}, "options of the method, by the names of its keyword parameters")
    score: str = what("", "score column to compare; empty: the first one of the scores")
    adherence: str = what(
        "language_adherence",
        "score column that tells whether the answer is in the requested language",
    )
    min_adherence: float = what(
        0.5,
        "an answer counts as in the requested language from this value on",
    )
    gates: list[Gate] = what([], "bounds on other score columns")
    normalise: Literal["none", "prompt", "language"] = what(
        "none",
        "z-scores within each prompt or each language before comparing",
    )
    min_margin: float = what(
        0.0,
        "pairs whose scores differ by less are dropped (in units of the compared score)",
    )
    max_pairs_per_prompt: int | None = what(
        None,
        "keep at most so many pairs of one prompt, in the method's order",
    )
    languages: list[str] = what([], "prompt languages to take; none named: all")
    split: Literal["train", "eval"] | None = what(None, "take one split only")
    seed: int = what(0, "for methods that draw at random")


def identity(cfg: Config, digest: Callable[[Path], str]) -> dict[str, str]:
    """What a fingerprint needs beyond the configuration: what the method does.

    Raises: UserError if there is no such method, or it does not have these options.
    """
    methods.options(pairing.load(cfg.method), cfg.args)
    return {"method_source": methods.source_digest(pairing.__name__, cfg.method)}


def accepts(cfg: Config) -> dict[str, tuple[str, ...]]:
    return {"rows": ("candidates",), "scores": ("scores",)}


def gives(cfg: Config, inputs: kinds.Inputs) -> kinds.Gives:
    return kinds.Gives(pairing.makes(pairing.load(cfg.method)))


def rows_to_come(
    cfg: Config,
    n_read: kinds.Count | None,
    split: str | None,
    languages: list[str] | None,
) -> kinds.Count | None:
    if n_read is None or cfg.method not in ONE_EACH:
        return None
    return n_read._replace(exact=False)


def misfits(cfg: Config, inputs: kinds.Inputs) -> list[str]:
    options = methods.options(pairing.load(cfg.method), cfg.args)
    all_scores = inputs.get("scores", ())
    messages = candidates.unequal(len(inputs.get("rows", ())), len(all_scores))
    for scores in all_scores:
        if scores.columns is not None:
            messages += _missing_columns(cfg, options, scores.columns, "the scores")
    return list(dict.fromkeys(messages))


def run(cfg: Config, inputs: Inputs, out: Output) -> None:
    sources = candidates.sources(inputs.all("rows"), inputs.all("scores"))
    shards = [candidates.shards(source, cfg.split, cfg.languages) for source in sources]
    first_scores = shards[0][0].scores
    cfg = dataclasses.replace(cfg, score=cfg.score or candidates.first_column(first_scores))
    method = pairing.load(cfg.method)
    work = _Work(cfg, method, methods.options(method, cfg.args), shards)
    for source, of_source in zip(sources, shards, strict=True):
        columns = candidates.columns(of_source[0].scores)
        where = f"the scores in {source.scores}"
        messages = _missing_columns(cfg, work.options, columns, where)
        if messages:
            raise UserError(*messages)
    if cfg.normalise == "language":
        every_shard = [shard for of_source in shards for shard in of_source]
        work.statistics = candidates.statistics(cfg.score, every_shard)

    (out.path / "rows").mkdir(parents=True, exist_ok=True)
    if pairing.takes_group(method):
        _run_groups(work, out)
    else:
        _run_prompts(work, out)
    if not out.tally.rows:
        raise UserError(_no_rows(out))
    out.note(method=cfg.method, score=cfg.score)


def _no_rows(out: Output) -> str:
    counts = []
    for reason, by_language in sorted(out.tally.dropped.items()):
        counts.append(f"{sum(by_language.values())} x {reason}")
    why = f"no prompt gave a row ({', '.join(counts) or 'there are no candidates'})"
    mend = "see the gates, min_margin and wrong_language"
    return f"{out.step or 'pairs'}: {why}; {mend}"


@dataclasses.dataclass
class _Work:
    """What the rows are made with: `shards` are those of each source."""

    cfg: Config
    method: pairing.Method
    options: dict[str, Any]
    shards: list[list[Shard]]
    statistics: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

    def apply(self, scored: Any, identifier: str, place: str) -> pairing.Made:
        """The method's answer for a prompt's candidates, or for a group."""
        options = dict(self.options)
        if methods.takes(self.method, "seed"):
            options["seed"] = rows.seed_of(f"{self.cfg.seed}:{identifier}")
        where = f"{place} {identifier}: method {self.cfg.method}"
        with methods.failures(self.method, where):
            made = self.method(scored, **options)
        if returned := misreturned(made):
            expected = "a list of Pair, a list of Scored, or the reason as a text"
            raise UserError(f"{where}: returned {returned}; expected {expected}")
        return made

    @property
    def paired(self) -> Paired:
        cfg = self.cfg
        return Paired(cfg.method, cfg.score, cfg.min_margin, cfg.max_pairs_per_prompt)


# -------------------------------------------------------------------------------------- one prompt


def _run_prompts(work: _Work, out: Output) -> None:
    """One shard of rows for each shard of candidates; memory holds one shard of each source."""
    by_name: dict[str, list[Shard]] = defaultdict(list)
    for of_source in work.shards:
        for shard in of_source:
            by_name[shard.candidates.name].append(shard)

    for n_done, name in enumerate(sorted(by_name), start=1):
        if out.should_stop():
            raise Stopped
        prompts, scores = candidates.read(by_name[name])
        made_rows = list(_rows_of_prompts(work, prompts, scores, out.tally))
        if made_rows:
            rows.write_shard(out.path / "rows" / name, _kind_of(made_rows[0]), made_rows)
        out.progress(n_done, len(by_name), "shards")


def _rows_of_prompts(
    work: _Work,
    prompts: Sequence[dict],
    scores: Mapping[str, dict],
    tally: Tally,
) -> Iterator[dict]:
    for prompt in prompts:
        scored = _usable(work, prompt, scores, tally)
        made = work.apply(scored, prompt["id"], "prompt") if scored else NOTHING_USABLE
        yield from work.paired.rows_of(prompt, made, tally)


def _kind_of(row: Mapping) -> str:
    return "preference" if "chosen" in row else "demonstration"


# --------------------------------------------------------------------------- a group of languages


def _run_groups(work: _Work, out: Output) -> None:
    """Shards of rows for each slice of groups."""
    samplers = [of_source[0].sampler for of_source in work.shards]
    files = [[shard.candidates for shard in of_source] for of_source in work.shards]
    files += [[shard.scores for shard in of_source] for of_source in work.shards]

    def rows_of(parts: list[list[dict]], tally: Tally) -> Iterator[dict]:
        prompts, all_scores = parts[: len(samplers)], parts[len(samplers) :]
        joined = candidates.joined(list(zip(prompts, samplers, strict=True)))
        scores = {row["candidate_id"]: row for of_source in all_scores for row in of_source}
        return _rows_of_groups(work, joined, scores, tally)

    folders = (out.checkpoints / "groups", out.path / "rows")
    slices = groups.run(files, *folders, rows_of, _kind_of, out.store)
    for n_done, (n, tally) in enumerate(slices, start=1):
        out.tally.merge(tally)
        out.progress(n_done, n, "slices")
        if n_done < n and out.should_stop():
            raise Stopped


def _rows_of_groups(
    work: _Work,
    prompts: Sequence[dict],
    scores: Mapping[str, dict],
    tally: Tally,
) -> Iterator[dict]:
    """Rows by group, language and prompt: an order that no shard decides."""
    by_group: dict[tuple[str, str], list[dict]] = defaultdict(list)
    ordered = sorted(prompts, key=lambda prompt: (prompt["prompt_lang"], prompt["id"]))
    for prompt in ordered:
        by_group[prompt["split"], prompt["group_id"]].append(prompt)
    for _, members in sorted(by_group.items()):
        yield from _rows_of_group(work, members, scores, tally)


def _rows_of_group(
    work: _Work,
    members: Sequence[dict],
    scores: Mapping[str, dict],
    tally: Tally,
) -> Iterator[dict]:
    usable = [(prompt, _usable(work, prompt, scores, tally)) for prompt in members]
    able = [(prompt, scored) for prompt, scored in usable if scored]
    made: pairing.Made = NOTHING_USABLE
    if able:
        made = work.apply(_group(able), members[0]["group_id"], "group")

    by_prompt = {} if isinstance(made, str) else _by_prompt(work.cfg, made, able)
    why_none = made if isinstance(made, str) else "the method made nothing in this language"
    for prompt, scored in usable:
        own: pairing.Made = by_prompt.get(prompt["id"], [])
        if not own:
            own = why_none if scored else NOTHING_USABLE
        yield from work.paired.rows_of(prompt, own, tally)


def _group(able: Sequence[tuple[dict, list[Scored]]]) -> Group:
    """Candidates, prompt and reference of each language; of several prompts in one, the first's."""
    scored_of: dict[str, list[Scored]] = defaultdict(list)
    first: dict[str, dict] = {}
    for prompt, scored in able:
        scored_of[prompt["prompt_lang"]] += scored
        first.setdefault(prompt["prompt_lang"], prompt)
    prompts = {language: row["prompt"] for language, row in first.items()}
    references = {language: row["reference"] for language, row in first.items()}
    return Group(able[0][0]["group_id"], dict(scored_of), prompts, references)


def _by_prompt(
    cfg: Config,
    made: Sequence[Pair] | Sequence[Scored],
    able: Sequence[tuple[dict, list[Scored]]],
) -> dict[str, list]:
    """Prompt id -> what the method made for it: each candidate belongs to the prompt it answers."""
    home: dict[str, str] = {}
    first_in: dict[str, str] = {}
    for prompt, scored in able:
        first_in.setdefault(prompt["prompt_lang"], prompt["id"])
        for candidate in scored:
            home[candidate.candidate_id] = prompt["id"]

    by_prompt: dict[str, list] = defaultdict(list)
    for item in made:
        if isinstance(item, Pair):
            candidate, language = item.chosen, item.prompt_language
        else:
            candidate, language = item, None
        if language is None:
            by_prompt[home[candidate.candidate_id]].append(item)
        elif language in first_in:
            by_prompt[first_in[language]].append(item)
        else:
            problem = f"a pair names the prompt of {language}, which its group lacks"
            raise UserError(f"method {cfg.method}: {problem}")
    return by_prompt


def _missing_columns(
    cfg: Config,
    options: dict,
    columns: Iterable[str],
    where: str,
) -> list[str]:
    """A message for each score column that the configuration needs and that is not there."""
    wanted = {f"gates[{i}].score": gate.score for i, gate in enumerate(cfg.gates)}
    if cfg.score:
        wanted["score"] = cfg.score
    messages = kinds.missing_columns(wanted, columns, where)
    if options.get("wrong_language", "off") != "off":
        mend = "add the scorer {family: language_adherence}, name the column, or set "
        for message in kinds.missing_columns({"adherence": cfg.adherence}, columns, where):
            messages.append(f"{message}; {mend}args.wrong_language=off")
    return messages


# -------------------------------------------------------------------------------------- candidates


def _usable(
    work: _Work,
    prompt: dict,
    scores: Mapping[str, dict],
    tally: Tally,
) -> list[Scored]:
    """The usable candidates of one prompt, normalised as configured; the others are counted."""
    scored = _scored(work.cfg, prompt, scores, tally)
    return _normalised(work.cfg, scored, work.statistics.get(prompt["prompt_lang"]))


def _scored(
    cfg: Config,
    prompt: dict,
    scores: Mapping[str, dict],
    tally: Tally,
) -> list[Scored]:
    scored = []
    language = prompt["prompt_lang"]
    for response in prompt["responses"]:
        row = scores.get(response["candidate_id"], {})
        values = {}
        for column, value in row.items():
            if column.startswith("score."):
                values[column.removeprefix("score.")] = value
        reason = _unusable(cfg, response, values)
        if reason:
            tally.add(f"candidates dropped: {reason}", language)
            continue

        adherence = values.get(cfg.adherence)
        if adherence is None:
            tally.add("candidates: language not known", language)
        candidate = Scored(
            response["candidate_id"],
            response["text"],
            values[cfg.score],
            values,
            language=row["response_lang_detected"],
            requested=prompt["response_lang_requested"],
            in_language=None if adherence is None else adherence >= cfg.min_adherence,
            choosable=all(gate.passes(values[gate.score]) for gate in cfg.gates),
            sampler=response["sampler"],
        )
        scored.append(candidate)
    return scored


def _unusable(cfg: Config, response: dict, values: dict) -> str | None:
    value = values.get(cfg.score)
    if not (response["text"] or "").strip():
        return "empty text"
    if value is None or not math.isfinite(value):
        return f"no score {cfg.score}"
    for gate in cfg.gates:
        if gate.applies_to == "both" and not gate.passes(values[gate.score]):
            return f"gate {gate.score}"
    return None


def _normalised(
    cfg: Config,
    scored: list[Scored],
    of_language: tuple[float, float] | None,
) -> list[Scored]:
    """Scores as z-scores (population standard deviation; all 0 where it is 0)."""
    if cfg.normalise == "none" or not scored:
        return scored
    mean, deviation = of_language or candidates.mean_and_deviation([c.score for c in scored])
    normalised = []
    for candidate in scored:
        score = (candidate.score - mean) / deviation if deviation else 0.0
        normalised.append(dataclasses.replace(candidate, score=score))
    return normalised
