"""Build training rows from scored candidates: preference pairs, or demonstrations, by the method
named in `method`.

Reads candidates (slot `rows`) and their scores (slot `scores`; same shards, joined by
`candidate_id`), of one sampler or several. Writes preference or demonstration rows. Methods live in
`mlalign/methods/pairing/`: most get the candidates of one prompt, and then there is one shard of
rows for each shard read. Methods that get all languages of an item (`group_id`) work on slices of
groups over all shards, and there is a shard of rows for each slice, language and split.

Counted in the manifest: prompts without a row, by reason, under `dropped`; candidates left out, by
reason, under `sums`.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
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

    Raises: UserError if there is no such method or it has not these options.
    """
    methods.options(pairing.load(cfg.method), cfg.args)
    return {"method_source": methods.source_digest(pairing.__name__, cfg.method)}


def accepts(cfg: Config) -> dict[str, tuple[str, ...]]:
    return {"rows": ("candidates",), "scores": ("scores",)}


def gives(cfg: Config, inputs: kinds.Inputs) -> kinds.Gives:
    return kinds.Gives(pairing.makes(pairing.load(cfg.method)))


def rows_to_come(
    cfg: Config, n_read: kinds.Count | None, split: str | None, languages: list[str] | None
) -> kinds.Count | None:
    if n_read is None or cfg.method not in ONE_EACH:
        return None
    return n_read._replace(exact=False)


def misfits(cfg: Config, inputs: kinds.Inputs) -> list[str]:
    options = methods.options(pairing.load(cfg.method), cfg.args)
    counts = len(inputs.get("rows", ())), len(inputs.get("scores", ()))
    problems = candidates.unequal(*counts)
    for given in inputs.get("scores", ()):
        if given.columns is not None:
            problems += _missing(cfg, options, given.columns, "the scores")
    return list(dict.fromkeys(problems))


def run(cfg: Config, inputs: Inputs, out: Output) -> None:
    sources = candidates.sources(inputs.all("rows"), inputs.all("scores"))
    shards = [candidates.shards(source, cfg.split, cfg.languages) for source in sources]
    cfg = dataclasses.replace(cfg, score=cfg.score or candidates.first_column(shards[0][0].scores))
    method = pairing.load(cfg.method)
    work = _Work(cfg, method, methods.options(method, cfg.args), shards)
    for source, of_source in zip(sources, shards, strict=True):
        _check_columns(cfg, work.options, candidates.columns(of_source[0].scores), source.scores)
    if cfg.normalise == "language":
        every_shard = [shard for of_source in shards for shard in of_source]
        work.statistics = candidates.statistics(cfg.score, every_shard)
    (out.path / "rows").mkdir(parents=True, exist_ok=True)
    (_run_groups if pairing.takes_group(method) else _run_prompts)(work, out)
    if not out.tally.rows:
        counts = sorted(out.tally.dropped.items())
        reasons = ", ".join(f"{sum(by.values())} x {reason}" for reason, by in counts)
        why = f"no prompt gave a row ({reasons or 'there are no candidates'})"
        mend = "see the gates, min_margin and wrong_language"
        raise UserError(f"{out.step or 'pairs'}: {why}; {mend}")
    out.note(method=cfg.method, score=cfg.score)


@dataclasses.dataclass
class _Work:
    """What the rows are made with. `shards` are those of each source."""

    cfg: Config
    method: pairing.Method
    options: dict[str, Any]
    shards: list[list[Shard]]
    statistics: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

    def apply(self, given: Any, identifier: str, place: str) -> pairing.Made:
        """The method's answer for a prompt's candidates, or a group."""
        more = dict(self.options)
        if methods.takes(self.method, "seed"):
            more["seed"] = rows.seed_of(f"{self.cfg.seed}:{identifier}")
        with methods.failures(self.method, f"{place} {identifier}: method {self.cfg.method}"):
            return self.method(given, **more)


# ------------------------------------------------------------------------------ one prompt


def _run_prompts(work: _Work, out: Output) -> None:
    """One shard of rows for each shard of candidates; memory holds one shard of each source."""
    by_name: dict[str, list[Shard]] = defaultdict(list)
    for shard in (shard for of_source in work.shards for shard in of_source):
        by_name[shard.candidates.name].append(shard)
    for done, (name, files) in enumerate(sorted(by_name.items())):
        if out.should_stop():
            raise Stopped
        prompts, marks = candidates.read(files)
        made = list(_rows_of_prompts(work, prompts, marks, out.tally))
        if made:
            rows.write_shard(out.path / "rows" / name, _kind_of(made[0]), made)
        out.progress(done + 1, len(by_name), "shards")


def _rows_of_prompts(
    work: _Work,
    prompts: Sequence[dict],
    marks: Mapping[str, dict],
    tally: Tally,
) -> Iterator[dict]:
    for prompt in prompts:
        scored = _usable(work, prompt, marks, tally)
        made = work.apply(scored, prompt["id"], "prompt") if scored else NOTHING_USABLE
        yield from _rows_of(work.cfg, prompt, made, tally)


def _kind_of(row: Mapping) -> str:
    return "preference" if "chosen" in row else "demonstration"


# --------------------------------------------------------------------- a group of languages


def _run_groups(work: _Work, out: Output) -> None:
    """Shards of rows for each slice of groups."""
    samplers = [of_source[0].sampler for of_source in work.shards]
    files = [[shard.candidates for shard in of_source] for of_source in work.shards]
    files += [[shard.scores for shard in of_source] for of_source in work.shards]

    def rows_of(parts: list[list[dict]], tally: Tally) -> Iterator[dict]:
        prompts, scores = parts[: len(samplers)], parts[len(samplers) :]
        joined = candidates.joined(list(zip(prompts, samplers, strict=True)))
        marks = {row["candidate_id"]: row for of_source in scores for row in of_source}
        return _rows_of_groups(work, joined, marks, tally)

    folders = (out.checkpoints / "groups", out.path / "rows")
    for done, (n, tally) in enumerate(groups.run(files, *folders, rows_of, _kind_of, out.store)):
        out.tally.merge(tally)
        out.progress(done + 1, n, "slices")
        if done + 1 < n and out.should_stop():
            raise Stopped


def _rows_of_groups(
    work: _Work,
    prompts: Sequence[dict],
    marks: Mapping[str, dict],
    tally: Tally,
) -> Iterator[dict]:
    """Rows by group, language and prompt, so in an order that no shard decides."""
    by_group: dict[tuple[str, str], list[dict]] = defaultdict(list)
    for prompt in sorted(prompts, key=lambda p: (p["prompt_lang"], p["id"])):
        by_group[prompt["split"], prompt["group_id"]].append(prompt)
    for _, members in sorted(by_group.items()):
        yield from _rows_of_group(work, members, marks, tally)


def _rows_of_group(
    work: _Work,
    members: Sequence[dict],
    marks: Mapping[str, dict],
    tally: Tally,
) -> Iterator[dict]:
    usable = [(prompt, _usable(work, prompt, marks, tally)) for prompt in members]
    able = [(prompt, scored) for prompt, scored in usable if scored]
    made: pairing.Made = NOTHING_USABLE
    if able:
        made = work.apply(_group(able), members[0]["group_id"], "group")
    by_prompt = _by_prompt(work.cfg, made, able)
    for prompt, scored in usable:
        own: pairing.Made = by_prompt.get(prompt["id"], [])
        if not own:
            reason = made if isinstance(made, str) else "the method made nothing in this language"
            own = reason if scored else NOTHING_USABLE
        yield from _rows_of(work.cfg, prompt, own, tally)


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
    made: pairing.Made,
    able: Sequence[tuple[dict, list[Scored]]],
) -> dict[str, list]:
    """Prompt id -> what the method made for it: each candidate belongs to the prompt it answers."""
    home = {c.candidate_id: prompt["id"] for prompt, scored in able for c in scored}
    first = {prompt["prompt_lang"]: prompt["id"] for prompt, _ in reversed(able)}
    by_prompt: dict[str, list] = defaultdict(list)
    for item in () if isinstance(made, str) else made:
        candidate = item.chosen if isinstance(item, Pair) else item
        language = item.prompt_language if isinstance(item, Pair) else None
        if language is None:
            by_prompt[home[candidate.candidate_id]].append(item)
        elif language in first:
            by_prompt[first[language]].append(item)
        else:
            lacks = f"a pair names the prompt of {language}, which its group lacks"
            raise UserError(f"method {cfg.method}: {lacks}")
    return by_prompt


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
        mend = "add the scorer {family: language_adherence}, name the column, or set "
        for problem in kinds.missing_columns({"adherence": cfg.adherence}, columns, where):
            problems.append(f"{problem}; {mend}args.wrong_language=off")
    return problems


# ------------------------------------------------------------------------------- candidates


def _usable(work: _Work, prompt: dict, marks: Mapping[str, dict], tally: Tally) -> list[Scored]:
    """The usable candidates of one prompt, normalised as configured; the others are counted."""
    scored = _scored(work.cfg, prompt, marks, tally)
    return _normalised(work.cfg, scored, work.statistics.get(prompt["prompt_lang"]))


def _scored(cfg: Config, prompt: dict, marks: Mapping[str, dict], tally: Tally) -> list[Scored]:
    scored, count = [], partial(tally.add, language=prompt["prompt_lang"])
    for response in prompt["responses"]:
        row = marks.get(response["candidate_id"], {})
        columns = {name: value for name, value in row.items() if name.startswith("score.")}
        values = {name.removeprefix("score."): value for name, value in columns.items()}
        reason = _unusable(cfg, response, values)
        if reason:
            count(f"candidates dropped: {reason}")
            continue
        adherence = values.get(cfg.adherence)
        if adherence is None:
            count("candidates: language not known")
        scored.append(
            Scored(
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
        )
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


def _rows_of(cfg: Config, prompt: dict, made: pairing.Made, tally: Tally) -> Iterator[dict]:
    """What a method made of one prompt as rows.

    A prompt that gives none is counted under one reason.
    """
    language = prompt["prompt_lang"]
    reason, kept = "the method returned nothing", []  # type: tuple[str, list[Any]]
    if isinstance(made, str):
        reason = made
    else:
        kept = list(made)
    if kept and isinstance(kept[0], Pair):
        kept, refused = pairing.accept(kept, cfg.min_margin, cfg.max_pairs_per_prompt)
        reason = next(iter(refused), reason)
        for why, n in refused.items() if kept else ():
            tally.add(f"pairs dropped: {why}", language, n)
    if not kept:
        tally.drop(reason, language)
    for item in kept:
        tally.keep(language)
        if isinstance(item, Pair):
            yield _preference(cfg, prompt, item)
        else:
            yield _demonstration(cfg, prompt, item)


def _common(cfg: Config, prompt: dict, key: str) -> dict:
    copied = ("group_id", "prompt_lang", "source", "split", "prompt")
    identifier = rows.row_id(cfg.method, key, prompt["prompt_lang"])
    return {**{name: prompt[name] for name in copied}, "id": identifier, "origin": "synthetic"}


def _preference(cfg: Config, prompt: dict, pair: Pair) -> dict:
    """A preference row; `margin` is in units of what was compared, `score_*` are raw."""
    chosen, rejected = pair.chosen, pair.rejected
    ids = {
        "prompt_id": prompt["id"],
        "chosen_id": chosen.candidate_id,
        "rejected_id": rejected.candidate_id,
    }
    return {
        **_common(cfg, prompt, f"{chosen.candidate_id}:{rejected.candidate_id}"),
        "chosen": rows.messages(chosen.text, "assistant"),
        "rejected": rows.messages(rejected.text, "assistant"),
        "chosen_lang": chosen.language,
        "rejected_lang": rejected.language,
        "margin": pair.margin,
        "method": cfg.method,
        "score_chosen": chosen.scores[cfg.score],
        "score_rejected": rejected.scores[cfg.score],
        "metadata": rows.to_json(ids),
    }


def _demonstration(cfg: Config, prompt: dict, best: Scored) -> dict:
    ids = {
        "prompt_id": prompt["id"],
        "candidate_id": best.candidate_id,
        "score": best.scores[cfg.score],
    }
    return {
        **_common(cfg, prompt, best.candidate_id),
        "completion": rows.messages(best.text, "assistant"),
        "response_lang": best.language or best.requested,
        "metadata": rows.to_json(ids),
    }
