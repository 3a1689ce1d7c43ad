"""Bring data from anywhere into rows: read, check, split, remove duplicates, mix languages.

Reads files, hub data sets, the embedded tiny world (`sources`) and rows of earlier steps (slot
`rows`); writes rows of one `kind`. Everything is streamed. Memory per row is 8 bytes (a hash of its
content), 8 more for each of: ids that the source brings, splits that the source brings,
sub-sampling. Sub-sampling reads the cleaned rows a second time.

Single rows that cannot be used (empty, too long, duplicate, …) are dropped and counted by reason
and language. Anything wrong with the form (encoding, broken JSON, missing column, unknown language)
is an error; all of them are reported together, with file and line.

Whether a row is kept depends on its own content, its group and earlier rows of its language, so
adding a language never changes other languages' shards (unless `total_rows` makes languages share a
budget). Of duplicates within a language, the first is kept.

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
from mlalign.core.sources import File, Source, find
from mlalign.core.stage import Inputs, Output, Stopped
from mlalign.core.terminal import say
from mlalign.data import adapters, checks, groups, remainder, sampling, splits
from mlalign.data.intake import Intake
from mlalign.data.reading import (
    AN_ARTIFACT,
    TAKEN_FROM,
    PlacedRow,
    Reading,
    all_rows,
    files,
    name_of,
)
from mlalign.methods import builders, built, made, mixing, mixture
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
    names = ["pyarrow", "langcodes"]
    if any(source.hub for source in cfg.sources or []):
        names.append("datasets")
    return names


def identity(cfg: Config, digest: Callable[[Path], str]) -> dict[str, Any]:
    """What the sources hold, not where they lie: moving files changes no fingerprint.

    Raises: UserError with every mistake that shows before a row is read.
    """
    messages = mistakes(cfg)
    if messages:
        raise UserError(*messages)
    identities: dict[str, Any] = {"sources": []}
    for source in cfg.sources or []:
        identities["sources"].append(_identity_of(source, cfg, digest))
    if cfg.mixing is not None:
        identities["mixing_source"] = methods.source_digest(mixing.__name__, cfg.mixing, "mixing")
    if cfg.builder is not None:
        built_by = methods.source_digest(builders.__name__, cfg.builder, "builder")
        identities["builder_source"] = built_by
    return identities


def _identity_of(
    source: Source,
    cfg: Config,
    digest: Callable[[Path], str],
) -> dict[str, Any]:
    values = hashed(source)

    def content(file: File) -> list:
        return [file.name, file.language, digest(file.path)]

    if source.path is not None:
        values["path"] = [content(file) for file in files(source, cfg.languages)]
    if source.answers is not None:
        answers = Source(path=source.answers)
        values["answers"] = [content(file) for file in find(answers)]
    return values


def accepts(cfg: Config) -> dict[str, tuple[str, ...]]:
    kind: str = cfg.kind
    if cfg.builder is not None:
        kind = builders.reads(builders.load(cfg.builder))
    return {"rows": TAKEN_FROM.get(kind, (kind,))}


def gives(cfg: Config, inputs: kinds.Inputs) -> kinds.Gives:
    return kinds.Gives(cfg.kind)


def rows_to_come(
    cfg: Config,
    n_read: kinds.Count | None,
    split: str | None,
    languages: list[str] | None,
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
    needs = []
    for source in cfg.sources or []:
        if source.hub and not Path(source.hub).exists():
            place = (source.revision, source.config, source.hub_split)
            needs.append(Need("data set", source.hub, None, *place))
    return needs


def run(cfg: Config, inputs: Inputs, out: Output) -> None:
    _check(cfg, inputs)
    intake = Intake(
        cfg.kind,
        cfg.dedup,
        cfg.max_chars,
        cfg.eval_frac,
        cfg.flip_frac,
        cfg.seed,
        splits_said=any(source.split or "split" in source.columns for source in cfg.sources or []),
        tally=out.tally,
    )
    shutil.rmtree(out.path / "rows", ignore_errors=True)
    artifacts = [artifact.path for artifact in inputs.artifacts("rows")]
    if cfg.builder:
        all_read = _built(cfg, artifacts, out)
    else:
        reading = Reading(cfg.kind, cfg.languages, intake.problems, out.tally)
        all_read = all_rows(reading, cfg.sources or [], artifacts)

    ranks = _write(cfg, all_read, intake, out)
    intake.problems.raise_if_any()
    if ranks:
        _sample(cfg, ranks, out)
    remainder.check_languages(cfg.kind, cfg.languages or [], out.tally)

    about = [*map(_about, cfg.sources or []), *inputs.sources()]
    sensitive = any(source["sensitive"] for source in about)
    out.note(sources=about, sensitive=sensitive, row_kind=cfg.kind)
    say(remainder.table(out.tally))


def _check(cfg: Config, inputs: Inputs) -> None:
    """Raises: UserError with what is wrong with the configuration for these inputs."""
    messages = mistakes(cfg)
    if not messages and not cfg.sources and "rows" not in inputs:
        messages.append(
            "sources: none; give some, or rows of an earlier step (inputs: {rows: STEP})"
        )
    if messages:
        raise UserError(*messages)
    if cfg.builder and "rows" not in inputs:
        mend = "give them as inputs: {rows: STEP}"
        raise UserError(f"builder: it makes rows of those of an earlier step; {mend}")


def mistakes(cfg: Config) -> list[str]:
    """What is wrong with the configuration or its sources, as messages that begin with the key."""
    messages = []
    if cfg.sources is None:
        messages.append(
            f"sources: null; the chosen data set names no {cfg.kind} rows: choose another data=, or"
            " give some of your own"
        )
    for name in ("eval_frac", "flip_frac"):
        share = getattr(cfg, name)
        if not 0 <= share <= 1:
            messages.append(f"{name}: a share between 0 and 1, got {share}")
    if cfg.flip_frac and cfg.kind != "preference":
        messages.append(f"flip_frac: swaps the sides of preferences; {cfg.kind} rows have none")
    if cfg.temperature is not None and cfg.temperature <= 0:
        messages.append(f"temperature: must be above 0, got {cfg.temperature}")
    messages += [*_mixing_mistakes(cfg), *_builder_mistakes(cfg)]
    for index, source in enumerate(cfg.sources or []):
        for message in checks.mistakes(source, cfg.kind, cfg.languages):
            messages.append(f"sources[{index}].{message}")
    return messages


def _mixing_mistakes(cfg: Config) -> list[str]:
    if cfg.mixing is None:
        if cfg.mixing_args:
            return ["mixing_args: there is no rule that they belong to; name one with mixing"]
        return []
    messages = mixture.mistakes(cfg.mixing, cfg.mixing_args, cfg.total_rows)
    if cfg.temperature is not None:
        conflict = "is the same as mixing: temperature, and a rule is named"
        messages.append(f"temperature: {conflict}; leave one out")
    return messages


def _builder_mistakes(cfg: Config) -> list[str]:
    if cfg.builder is None:
        if cfg.builder_args:
            return ["builder_args: there is no builder that they belong to; name one with builder"]
        return []
    messages = built.mistakes(cfg.builder, cfg.builder_args, cfg.kind)
    if cfg.sources:
        mend = "read these in a prepare step of their own"
        messages.append(f"sources: a builder reads rows of earlier steps; {mend}")
    return messages


# ---------------------------------------------------------------------------------------- building


def _built(
    cfg: Config,
    artifacts: Sequence[Path],
    out: Output,
) -> Iterator[PlacedRow]:
    """The rows that a builder makes of each group, in the order of slices, splits and groups."""
    assert cfg.builder is not None
    builder = builders.load(cfg.builder)
    shards = [shard for path in artifacts for shard in rows.shards(path)]
    slices = groups.Slices(out.checkpoints / "groups", groups.n_slices(shards))
    slices.make(shards, out.store.digests.file)
    for index in range(slices.n):
        by_group: dict[tuple[str, str], list[dict]] = defaultdict(list)
        of_slice = slices.read(index)
        for row in sorted(of_slice, key=lambda row: (row["prompt_lang"], row["id"])):
            by_group[row["split"], row["group_id"]].append(row)
        for _, members in sorted(by_group.items()):
            yield from _rows_of_group(cfg, builder, members, out)


def _rows_of_group(
    cfg: Config,
    builder: builders.Builder,
    members: Sequence[dict],
    out: Output,
) -> Iterator[PlacedRow]:
    name, group = str(cfg.builder), _group(builders.reads(builder), members)
    options = methods.options(builder, cfg.builder_args, "builder_args")
    if methods.takes(builder, "seed"):
        options["seed"] = rows.seed_of(f"{cfg.seed}:{group.id}")
    for row in built.rows_of(name, builder, options, group, members[0], out.tally):
        if cfg.languages is None or row["prompt_lang"] in cfg.languages:
            yield row, AN_ARTIFACT, f"group {group.id}: builder {name}"
        else:
            out.tally.drop("language_not_asked_for", row["prompt_lang"])


def _group(kind: str, members: Sequence[dict]) -> builders.Group:
    """The rows of a group as a builder reads them."""
    by_language: dict[str, list[Any]] = defaultdict(list)
    for row in members:
        content = made.of_row(adapters.derive(row, kind), kind)
        by_language[row["prompt_lang"]].append(content)
    return builders.Group(members[0]["group_id"], dict(by_language))


# ---------------------------------------------------------------------------- writing and sampling


def _samples(cfg: Config) -> bool:
    """Whether only some of the rows are taken."""
    bounds = (cfg.max_rows_per_language, cfg.temperature, cfg.total_rows, cfg.mixing)
    return any(bound is not None for bound in bounds)


def _spool(out: Output) -> Path:
    return out.checkpoints / "all"


def _write(
    cfg: Config,
    all_read: Iterator[PlacedRow],
    intake: Intake,
    out: Output,
) -> dict[tuple[str, str], array]:
    """Write every good row. To sample from them, write them to a spool first.

    Returns the ranks of the rows by language and split; empty where all are taken.
    """
    ranks: dict[tuple[str, str], array] = defaultdict(lambda: array("d"))
    shutil.rmtree(_spool(out), ignore_errors=True)
    target = _spool(out) if _samples(cfg) else out.path
    with rows.ShardWriter(target, cfg.kind) as writer:
        for number, (row, source, place) in enumerate(all_read):
            if number % POLL_EVERY == 0:
                _poll(number, out)
            if not intake.accept(row, source, place) or intake.problems.n:
                continue
            out.tally.keep(row["prompt_lang"])
            if _samples(cfg):
                rank = splits.rank(row["group_id"], cfg.seed, source.weight)
                ranks[row["prompt_lang"], row["split"]].append(rank)
            writer.write(row)
    return ranks


def _poll(number: int, out: Output) -> None:
    out.progress(number, None, "rows")
    if out.should_stop():
        raise Stopped


def _sample(
    cfg: Config,
    ranks: Mapping[tuple[str, str], array],
    out: Output,
) -> None:
    available = {place: len(ranks_here) for place, ranks_here in sorted(ranks.items())}
    wanted = _targets(available, cfg)
    sampling.copy(_spool(out), out.path, cfg.kind, ranks, wanted)
    shutil.rmtree(_spool(out))
    sampling.count(available, wanted, out.tally)


def _targets(available: sampling.Counts, cfg: Config) -> dict[tuple[str, str], int]:
    """Rows to keep by language and split; the cap holds for each split, the mixture for train."""
    targets = dict(available)
    if cfg.max_rows_per_language is not None:
        for place, n in available.items():
            targets[place] = min(n, cfg.max_rows_per_language)
    if cfg.temperature is None and cfg.total_rows is None and cfg.mixing is None:
        return targets

    train = {language: n for (language, split), n in targets.items() if split == "train"}
    mixed = _mixed(train, cfg)
    for language in train:
        targets[language, "train"] = mixed[language]
    return targets


def _mixed(train: Mapping[str, int], cfg: Config) -> dict[str, int]:
    """Training rows to take of each language."""
    if cfg.mixing is not None:
        return mixture.taken(cfg.mixing, cfg.mixing_args, train, cfg.total_rows)
    return temperature(train, temperature=cfg.temperature or 1.0, total=cfg.total_rows)


def _about(source: Source) -> dict[str, Any]:
    """What travels with the rows into manifests and model cards."""
    about = {"source": name_of(source, Path(source.path or "").name)}
    for name in ("path", "hub", "revision", "licence", "sensitive"):
        about[name] = getattr(source, name)
    return about
