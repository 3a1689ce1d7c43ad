"""Bring data from anywhere into rows: read, check, split, remove duplicates, mix languages.

Reads files, hub data sets, the embedded tiny world (`sources`) and rows of earlier steps (slot
`rows`); writes rows of one `kind`. Everything is streamed. Memory per row is 8 bytes (a hash of its
content), 8 more for each of: ids that the source brings, splits that the source brings,
sub-sampling. Sub-sampling reads the cleaned rows a second time.

What is wrong with single rows (empty, too long, duplicate, …) is dropped and counted by reason and
language. What is wrong with the form (encoding, broken JSON, missing column, unknown language) is
an error; all of it is reported together, with file and line.

A row's fate depends on its own content, its group and earlier rows of its language: another
language changes no shard of the others (unless `total_rows` makes languages share a budget).
Duplicates are looked for within a language; the first stays.

With `builder`, the rows of earlier steps are brought together by `group_id`, and a function of
`mlalign/methods/builders/` makes rows of each item in all its languages. `mixing` names a function
of `mlalign/methods/mixing/`, which says how many rows of each language to take. Where it takes more
than there are, rows are repeated under ids of their own.
"""

import dataclasses
import shutil
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mlalign import methods
from mlalign.core import kinds, rows
from mlalign.core.alarms import Dropped
from mlalign.core.downloads import Need
from mlalign.core.errors import UserError
from mlalign.core.schema import hashed, what
from mlalign.core.sources import Problems, Source, find
from mlalign.core.stage import Inputs, Output, Stopped
from mlalign.core.terminal import say
from mlalign.data import adapters, checks, cleaning, groups, splits
from mlalign.data.reading import AN_ARTIFACT, TAKEN_FROM, Found, Reading, all_rows, files, name_of
from mlalign.methods import builders, made, mixing
from mlalign.methods.mixing.temperature import temperature

VERSION = 3
KIND = "rows"
SLOTS = {"rows": "rows*?"}
SHARDED = None
DISTRIBUTED = False

# Preparing drops rows for many good reasons; this is none.
ALARMS = (Dropped("empty_text", "look at the source's columns"),)

POLL_EVERY = 1024
# Kind of row -> the list of a data file that holds its sources.
DATA_LISTS = {
    "prompt": "prompts",
    "preference": "preferences",
    "demonstration": "demonstrations",
    "text": "texts",
}


def _data_list_of(around: Mapping) -> str:
    return DATA_LISTS.get(around.get("kind", "prompt"), "prompts")


@dataclasses.dataclass
class Config:
    kind: Literal["prompt", "demonstration", "preference", "text", "unpaired", "ranking"] = what(
        doc="what the rows are"
    )
    sources: list[Source] | None = what(
        [],
        "where rows come from, besides rows of earlier steps (slot rows)",
        data_list=_data_list_of,
    )
    languages: list[str] | None = what(
        None, "prompt languages to take; null: all that the sources have"
    )
    eval_frac: float = what(
        0.05, "share of groups held out for eval, where the source does not say"
    )
    max_rows_per_language: int | None = what(
        None, "keep at most so many rows of each language in each split"
    )
    temperature: float | None = what(
        None,
        "mix training rows of languages in proportion to n^(1/T); 1: as they are, large: evenly",
    )
    total_rows: int | None = what(
        None,
        "training rows of all languages together; by default the most that the proportions allow",
    )
    mixing: str | None = what(
        None,
        "rule for mixing training rows: a file in mlalign/methods/mixing, or module:function",
        added=True,
    )
    mixing_args: dict[str, Any] = what(
        {},
        "options of the rule, by the names of its keyword parameters",
        added=True,
    )
    builder: str | None = what(
        None,
        "makes rows of each item: a file in mlalign/methods/builders, or module:function",
        added=True,
    )
    builder_args: dict[str, Any] = what(
        {},
        "options of the builder, by the names of its keyword parameters",
        added=True,
    )
    dedup: bool = what(
        True,
        "drop exact duplicates within a language, compared after NFC and white-space normalisation",
    )
    flip_frac: float = what(
        0.0,
        "share of training preferences whose sides are swapped, at random: a control of what labels"
        " tell",
    )
    max_chars: int | None = what(
        None, "drop rows whose prompt and longer answer have more characters than this"
    )
    seed: int = what(0, "for the split and for sub-sampling")


def packages(cfg: Config) -> list[str]:
    return [
        "pyarrow",
        "langcodes",
        *(["datasets"] if any(s.hub for s in cfg.sources or []) else []),
    ]


def identity(cfg: Config, digest: Callable[[Path], str]) -> dict[str, Any]:
    """What the sources hold instead of where they lie: moving files changes no fingerprint, editing
    them does.

    Raises: UserError with every mistake that shows before a row is read.
    """
    problems = mistakes(cfg)
    if problems:
        raise UserError(*problems)
    told = [hashed(source) for source in cfg.sources or []]
    for source, values in zip(cfg.sources or [], told, strict=True):
        if source.path is not None:
            values["path"] = [
                [f.name, f.language, digest(f.path)] for f in files(source, cfg.languages)
            ]
        if source.answers is not None:
            values["answers"] = [
                [f.name, f.language, digest(f.path)] for f in find(Source(path=source.answers))
            ]
    identities: dict[str, Any] = {"sources": told}
    if cfg.mixing is not None:
        identities["mixing_source"] = methods.source_digest(mixing.__name__, cfg.mixing, "mixing")
    if cfg.builder is not None:
        built_by = methods.source_digest(builders.__name__, cfg.builder, "builder")
        identities["builder_source"] = built_by
    return identities


def accepts(cfg: Config) -> dict[str, tuple[str, ...]]:
    kind = cfg.kind if cfg.builder is None else builders.reads(builders.load(cfg.builder))
    return {"rows": TAKEN_FROM.get(kind, (kind,))}


def gives(cfg: Config, inputs: kinds.Inputs) -> kinds.Gives:
    return kinds.Gives(cfg.kind)


def rows_to_come(
    cfg: Config, n_read: kinds.Count | None, split: str | None, languages: list[str] | None
) -> kinds.Count | None:
    """What the configuration bounds; nobody has counted the rows of its sources."""
    bounds = []
    if cfg.total_rows and split == "train":
        bounds.append(cfg.total_rows)
    named = languages or cfg.languages
    if cfg.max_rows_per_language and named:
        n_splits = 1 if split else 2
        bounds.append(cfg.max_rows_per_language * len(named) * n_splits)
    return kinds.Count(min(bounds), exact=False) if bounds else None


def downloads(cfg: Config) -> list[Need]:
    return [
        Need("data set", source.hub, None, source.revision, source.config, source.hub_split)
        for source in cfg.sources or []
        if source.hub and not Path(source.hub).exists()
    ]


def run(cfg: Config, inputs: Inputs, out: Output) -> None:
    problems = mistakes(cfg)
    if not problems and not (cfg.sources or "rows" in inputs):
        problems.append(
            "sources: none; give some, or rows of an earlier step (inputs: {rows: STEP})"
        )
    if problems:
        raise UserError(*problems)
    if cfg.builder and "rows" not in inputs:
        mend = "give them as inputs: {rows: STEP}"
        raise UserError(f"builder: it makes rows of those of an earlier step; {mend}")
    work = _Work(cfg, out)
    shutil.rmtree(out.path / "rows", ignore_errors=True)
    reading = Reading(cfg.kind, cfg.languages, work.problems, out.tally)
    artifacts = [a.path for a in inputs.artifacts("rows")]
    if cfg.builder:
        ranks = work.write(_built(cfg, artifacts, out))
    else:
        ranks = work.write(all_rows(reading, cfg.sources or [], artifacts))
    work.problems.raise_if_any()
    if ranks:
        work.sample(ranks)
    work.check_languages()
    about: list[dict[str, Any]] = [_about(s) for s in cfg.sources or []] + inputs.sources()
    out.note(sources=about, sensitive=any(a["sensitive"] for a in about), row_kind=cfg.kind)
    say(table(out))


def mistakes(cfg: Config) -> list[str]:
    """What is wrong with the configuration, or with what it points at, as messages that begin with
    the key.
    """
    found = []
    if cfg.sources is None:
        found.append(
            f"sources: null; the chosen data set names no {cfg.kind} rows: choose another data=, or"
            " give some of your own"
        )
    if not 0 <= cfg.eval_frac <= 1:
        found.append(f"eval_frac: a share between 0 and 1, got {cfg.eval_frac}")
    if not 0 <= cfg.flip_frac <= 1:
        found.append(f"flip_frac: a share between 0 and 1, got {cfg.flip_frac}")
    if cfg.flip_frac and cfg.kind != "preference":
        found.append(f"flip_frac: swaps the sides of preferences; {cfg.kind} rows have none")
    if cfg.temperature is not None and cfg.temperature <= 0:
        found.append(f"temperature: must be above 0, got {cfg.temperature}")
    found += [*_mixing_mistakes(cfg), *_builder_mistakes(cfg)]
    for index, source in enumerate(cfg.sources or []):
        found += [
            f"sources[{index}].{message}"
            for message in checks.mistakes(source, cfg.kind, cfg.languages)
        ]
    return found


def _mixing_mistakes(cfg: Config) -> list[str]:
    if cfg.mixing is None:
        if cfg.mixing_args:
            return ["mixing_args: there is no rule that they belong to; name one with mixing"]
        return []
    try:
        rule = mixing.load(cfg.mixing)
        methods.options(rule, cfg.mixing_args, "mixing_args", mixing.FILLED)
    except UserError as error:
        return error.messages
    problems = mixing.problems(rule, cfg.mixing, cfg.total_rows)
    if cfg.temperature is not None:
        same = "is the same as mixing: temperature, and a rule is named"
        problems.append(f"temperature: {same}; leave one out")
    return problems


def _builder_mistakes(cfg: Config) -> list[str]:
    if cfg.builder is None:
        if cfg.builder_args:
            return ["builder_args: there is no builder that they belong to; name one with builder"]
        return []
    try:
        builder = builders.load(cfg.builder)
        methods.options(builder, cfg.builder_args, "builder_args")
    except UserError as error:
        return error.messages
    problems = []
    kind = builders.makes(builder)
    if kind != cfg.kind:
        problems.append(f"kind: {cfg.kind}; the builder {cfg.builder} makes {kind} rows")
    if cfg.sources:
        mend = "read these in a prepare step of their own"
        problems.append(f"sources: a builder reads rows of earlier steps; {mend}")
    return problems


# ---------------------------------------------------------------------------------------- building


def _built(cfg: Config, artifacts: Sequence[Path], out: Output) -> Iterator[Found]:
    """The rows that a builder makes of each group, in the order of slices, splits and groups."""
    assert cfg.builder is not None
    builder = builders.load(cfg.builder)
    shards = [shard for path in artifacts for shard in rows.shards(path)]
    slices = groups.Slices(out.checkpoints / "groups", groups.n_slices(shards))
    slices.make(shards, out.store.digests.file)
    for index in range(slices.n):
        by_group: dict[tuple[str, str], list[dict]] = defaultdict(list)
        for row in sorted(slices.read(index), key=lambda row: (row["prompt_lang"], row["id"])):
            by_group[row["split"], row["group_id"]].append(row)
        for _, members in sorted(by_group.items()):
            yield from _rows_of_group(cfg, builder, members, out)


def _rows_of_group(
    cfg: Config,
    builder: builders.Builder,
    members: Sequence[dict],
    out: Output,
) -> Iterator[Found]:
    by_language: dict[str, list[Any]] = defaultdict(list)
    kind = builders.reads(builder)
    for row in members:
        content = made.of_row(adapters.derive(row, kind), kind)
        by_language[row["prompt_lang"]].append(content)
    identifier = members[0]["group_id"]
    options = methods.options(builder, cfg.builder_args, "builder_args")
    if methods.takes(builder, "seed"):
        options["seed"] = rows.seed_of(f"{cfg.seed}:{identifier}")
    place = f"group {identifier}: builder {cfg.builder}"
    with methods.failures(builder, place):
        built = builder(builders.Group(identifier, dict(by_language)), **options)
    reason = built if isinstance(built, str) else "the builder made nothing"
    for language in by_language if isinstance(built, str) or not built else ():
        out.tally.drop(reason, language)
    for number, content in enumerate([] if isinstance(built, str) else built):
        made_in = getattr(content, "prompt_lang", None)
        if getattr(content, "kind", None) != cfg.kind or made_in is None:
            expected = f"expected {cfg.kind} rows with a prompt_lang"
            raise UserError(f"{place}: gave {content!r}; {expected}")
        if cfg.languages is None or made_in in cfg.languages:
            yield _built_row(cfg, members[0], content, number), AN_ARTIFACT, place
        else:
            out.tally.drop("language_not_asked_for", made_in)


def _built_row(cfg: Config, first: Mapping, content: Any, number: int) -> dict:
    """A row of a group with `first` in it; its id comes from builder, group, language and place."""
    columns = made.columns(content)
    key = f"{first['group_id']}:{number}"
    copied = {name: first[name] for name in ("group_id", "source", "split")}
    identifier = rows.row_id(str(cfg.builder), key, columns["prompt_lang"])
    return {**columns, **copied, "id": identifier, "origin": "synthetic", "own_id": True}


@dataclasses.dataclass
class _Work:
    """One run of the stage: what it has seen so far, and what is wrong."""

    cfg: Config
    out: Output
    problems: Problems = dataclasses.field(default_factory=Problems)
    contents: cleaning.Seen = dataclasses.field(default_factory=cleaning.Seen)
    ids: cleaning.Seen = dataclasses.field(default_factory=cleaning.Seen)
    sides: cleaning.Seen = dataclasses.field(default_factory=cleaning.Seen)
    splits_said: bool = False

    def __post_init__(self) -> None:
        self.splits_said = any(s.split or "split" in s.columns for s in self.cfg.sources or [])

    @property
    def samples(self) -> bool:
        cfg = self.cfg
        bounds = (cfg.max_rows_per_language, cfg.temperature, cfg.total_rows, cfg.mixing)
        return any(bound is not None for bound in bounds)

    @property
    def spool(self) -> Path:
        return self.out.checkpoints / "all"

    def write(self, found: Iterator[Found]) -> dict[tuple[str, str], array]:
        """Write every good row; to sub-sample, into a spool first, with the rank of each row by
        language and split.
        """
        ranks: dict[tuple[str, str], array] = defaultdict(lambda: array("d"))
        shutil.rmtree(self.spool, ignore_errors=True)
        with rows.ShardWriter(
            self.spool if self.samples else self.out.path, self.cfg.kind
        ) as writer:
            for number, (row, source, place) in enumerate(found):
                if number % POLL_EVERY == 0:
                    self._poll(number)
                if self._accept(row, source, place) and not self.problems.n:
                    self.out.tally.keep(row["prompt_lang"])
                    if self.samples:
                        ranks[row["prompt_lang"], row["split"]].append(
                            splits.rank(row["group_id"], self.cfg.seed, source.weight)
                        )
                    writer.write(row)
        return ranks

    def _poll(self, number: int) -> None:
        self.out.progress(number, None, "rows")
        if self.out.should_stop():
            raise Stopped

    def _accept(self, row: dict, source: Source, place: str) -> bool:
        """Whether a row is good, new and on a side; it gets its split here."""
        cfg, kind, tally = self.cfg, self.cfg.kind, self.out.tally
        keep_empty = source.keep_empty_answers
        keep_empty = (
            source.adapter == "hh_rlhf" and kind == "preference"
            if keep_empty is None
            else keep_empty
        )
        reason = cleaning.problem(row, kind, self.cfg.max_chars, keep_empty_answers=keep_empty)
        if (
            reason is None
            and self.cfg.dedup
            and not self.contents.add(cleaning.content_key(row, kind))
        ):
            reason = "duplicate"
        if reason is not None:
            tally.drop(reason, row["prompt_lang"])
            return False
        if keep_empty and not all(text.strip() for text in cleaning.answers(row, kind)):
            tally.add("empty_answers_kept", row["prompt_lang"])
        self.splits_said = self.splits_said or row["split"] is not None
        row["split"] = row["split"] or splits.split_of(
            row["group_id"], self.cfg.seed, self.cfg.eval_frac
        )
        if self.splits_said:
            self._check_side(row, place)
        if (
            row["split"] == "train"
            and cfg.flip_frac
            and splits.fraction("flip", cfg.seed, row["id"]) < cfg.flip_frac
        ):
            _flip(row)
            tally.add("flipped", row["prompt_lang"])
        if row.get("own_id") and not self.ids.add(int(row["id"], 16)):
            self.problems.add(
                f"{place}: an earlier row of source {row['source']!r} has the same id; name the"
                " sources apart (source: NAME), or mend the ids",
                once=(row["source"], "id"),
            )
        return True

    def _check_side(self, row: dict, place: str) -> None:
        """Only where a source says the split: a hash of the group cannot put it on two sides."""
        other = "train" if row["split"] == "eval" else "eval"
        self.sides.add(cleaning.key64(f"{row['split']}\x1f{row['group_id']}"))
        if cleaning.key64(f"{other}\x1f{row['group_id']}") in self.sides:
            self.problems.add(
                f"{place}: its group {row['group_id']!r} is in train and in eval; a group belongs"
                " to one split: mend the split column, or name the sources apart (source: NAME)"
            )

    def sample(self, ranks: Mapping[tuple[str, str], array]) -> None:
        """Copy the rows of lowest rank from the spool; the rest counts as `not_sampled`.

        Where more rows are wanted than there are, they are copied several times.
        """
        import numpy as np

        before = {where: len(r) for where, r in sorted(ranks.items())}
        after = _targets(before, self.cfg)
        times = {}
        for where, r in ranks.items():
            passes, rest = divmod(after[where], len(r))
            times[where] = np.full(len(r), passes)
            times[where][np.argsort(np.frombuffer(r), kind="stable")[:rest]] += 1
        with rows.ShardWriter(self.out.path, self.cfg.kind) as writer:
            at: dict[tuple[str, str], int] = defaultdict(int)
            for row in rows.read(self.spool):
                where = (row["prompt_lang"], row["split"])
                for copy in range(times[where][at[where]]):
                    writer.write(_repeated(row, copy) if copy else row)
                at[where] += 1
        shutil.rmtree(self.spool)
        self._count_sampled(before, after)

    def _count_sampled(
        self, before: Mapping[tuple[str, str], int], after: Mapping[tuple[str, str], int]
    ) -> None:
        for (language, split), n in before.items():
            left_out = n - after[language, split]
            self.out.tally.keep(language, -left_out)
            if left_out > 0:
                self.out.tally.drop("not_sampled", language, left_out)
            if left_out < 0:
                self.out.tally.add("repeated", language, -left_out)
        train = [
            (language, n, after[language, split])
            for (language, split), n in before.items()
            if split == "train"
        ]
        n_all, m_all = sum(n for _, n, _ in train), sum(m for _, _, m in train)
        say("mixing of training rows: language, rows and share before, rows and share after")
        for language, n, m in train:
            say(f"  {language:<14}{n:>9} {n / n_all:>6.1%}{m:>9} {m / max(1, m_all):>6.1%}")

    def check_languages(self) -> None:
        """Raises: UserError if nothing is left, or nothing in a language that was asked for."""
        tally, errors = self.out.tally, []
        for language in self.cfg.languages or []:
            if not tally.rows[language]:
                lost = ", ".join(
                    f"{by[language]} {reason}"
                    for reason, by in sorted(tally.dropped.items())
                    if by[language]
                )
                have = ", ".join(sorted(+tally.rows)) or "nothing"
                errors.append(
                    f"languages: no {self.cfg.kind} row is left in {language}: "
                    + (f"dropped {lost}" if lost else f"no source has it (they have {have})")
                )
        if not errors and not +tally.rows:
            errors.append(
                f"sources: no {self.cfg.kind} row is left:"
                f" {tally.to_dict()['dropped'] or 'they are empty'}"
            )
        if errors:
            raise UserError(*errors)


def _flip(row: dict) -> None:
    """Swap the sides of a preference row in place: answers, their languages and scores.

    A margin stays: the label claims it.
    """
    for chosen, rejected in (
        ("chosen", "rejected"),
        ("chosen_lang", "rejected_lang"),
        ("score_chosen", "score_rejected"),
    ):
        row[chosen], row[rejected] = row.get(rejected), row.get(chosen)


def _targets(available: Mapping[tuple[str, str], int], cfg: Config) -> dict[tuple[str, str], int]:
    """Rows to keep by language and split.

    The mixture concerns training rows; the cap holds for each split.
    """
    cap = cfg.max_rows_per_language
    capped = {where: n if cap is None else min(n, cap) for where, n in available.items()}
    if cfg.temperature is None and cfg.total_rows is None and cfg.mixing is None:
        return capped
    train = {language: n for (language, split), n in capped.items() if split == "train"}
    mixed = _mixed(train, cfg)
    return {
        (language, split): mixed[language] if split == "train" else n
        for (language, split), n in capped.items()
    }


def _mixed(train: Mapping[str, int], cfg: Config) -> dict[str, int]:
    """Training rows to take of each language. Raises: UserError if a rule gives no such numbers."""
    if cfg.mixing is None:
        return temperature(train, temperature=cfg.temperature or 1.0, total=cfg.total_rows)
    rule = mixing.load(cfg.mixing)
    options = methods.options(rule, cfg.mixing_args, "mixing_args", mixing.FILLED)
    if methods.takes(rule, "total"):
        options["total"] = cfg.total_rows
    with methods.failures(rule, f"mixing {cfg.mixing}"):
        taken = rule(train, **options)
    wrong = {name: taken.get(name) for name in train if not _is_count(taken.get(name))}
    if wrong:
        expected = "expected a number of rows for each language"
        raise UserError(f"mixing {cfg.mixing}: gave {wrong}; {expected}")
    return taken


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


def _repeated(row: dict, copy: int) -> dict:
    return {**row, "id": rows.row_id(row["id"], str(copy), row["prompt_lang"])}


def _about(source: Source) -> dict[str, Any]:
    """What travels with the rows into manifests and model cards."""
    told = {
        name: getattr(source, name) for name in ("path", "hub", "revision", "licence", "sensitive")
    }
    return {"source": name_of(source, Path(source.path or "").name), **told}


def table(out: Output) -> str:
    """Rows kept and dropped by language, as text."""
    tally = out.tally
    names = sorted({*tally.rows, *(language for by in tally.dropped.values() for language in by)})
    lines = [f"{'language':<14}{'kept':>9}{'dropped':>9}  by reason"]
    for language in names:
        lost = {
            reason: by[language] for reason, by in sorted(tally.dropped.items()) if by[language]
        }
        reasons = ", ".join(f"{reason} {n}" for reason, n in lost.items())
        lines.append(
            f"{language:<14}{tally.rows[language]:>9}{sum(lost.values()):>9}  {reasons}".rstrip()
        )
    return "\n".join(lines)
