"""Records of all sources as rows with ids, groups and languages.

What gives no row is counted or noted.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mlalign.core import conversations, languages, rows
from mlalign.core.errors import UserError
from mlalign.core.records import read, read_hub
from mlalign.core.sources import File, Problems, Source, find
from mlalign.core.store import Tally
from mlalign.data import adapters, cleaning, stored

TINY_WORLD_KINDS = {
    "demonstration": "demonstrations",
    "preference": "preferences",
    "prompt": "prompts",
}
ORIGIN = {"xcopa": "human_translated"}
TAKEN_FROM = {
    "prompt": ("prompt", "demonstration", "preference", "candidates"),
    "demonstration": ("demonstration", "preference"),
}

AN_ARTIFACT = Source()

Found = tuple[dict, Source, str]  # a row, its source, its place


@dataclasses.dataclass
class Reading:
    """What to read, and where to note what gives no row."""

    kind: str
    languages: list[str] | None
    problems: Problems
    tally: Tally
    names: set[tuple[str, str, str | None]] = dataclasses.field(default_factory=set)

    def check_name(self, source: Source, file: File) -> None:
        """Ids come from source, file name and line: two files must not agree in all of these."""
        name = (name_of(source, file.name), file.name, file.language)
        if name in self.names:
            self.problems.add(
                f"{file.path}: read twice, or named like another file of source {name[0]!r}; name"
                " the sources apart (source: NAME)"
            )
        self.names.add(name)


def files(source: Source, wanted: list[str] | None) -> list[File]:
    """The files of a source, with canonical languages; those of languages that nobody asked for are
    left out.
    """
    found, errors = [], []
    for file in find(source):
        try:
            language = languages.normalise(file.language) if file.language else None
        except UserError as error:
            errors.append(f"{file.path}: {error}")
            continue
        if language is None or _asked(language, source, wanted):
            found.append(dataclasses.replace(file, language=language))
    if errors:
        raise UserError(*errors)
    return found


def _asked(language: str, source: Source, wanted: list[str] | None) -> bool:
    own = source.languages
    return (wanted is None or language in wanted) and (
        own is None or language in [languages.normalise(x) for x in own]
    )


def all_rows(
    work: Reading, sources: Iterable[Source], artifacts: Iterable[Path]
) -> Iterator[Found]:
    """Every row of the sources in turn, then of rows artifacts.

    A row may still be empty, too long or a duplicate.

    Besides its columns a row has `own_id`: whether its id comes from the source, and so may occur
    twice.
    """
    for source in sources:
        if source.adapter == "tiny_world":
            yield from _tiny_world(source, work)
        elif source.hub:
            for part, language in _configurations(source, work.languages):
                file = File(Path(source.hub), source.hub_split, language, "parquet")
                work.check_name(part, file)
                yield from _of_records(read_hub(part, work.problems), file, part, work)
        else:
            header = source.adapter != "mgsm" and not any(
                isinstance(c, int) for c in source.columns.values()
            )
            for file in files(source, work.languages):
                work.check_name(source, file)
                yield from _of_records(read(file, header, work.problems), file, source, work)
    for path in artifacts:
        yield from _of_artifact(path, work)


def _configurations(
    source: Source, wanted: list[str] | None
) -> Iterator[tuple[Source, str | None]]:
    """A hub data set with its language; with {lang} in its configuration, one for each language."""
    if "{lang}" not in (source.config or ""):
        yield source, None
        return
    for theirs in source.languages or []:
        language = languages.normalise(theirs)
        if wanted is None or language in wanted:
            config = (source.config or "").replace("{lang}", theirs)
            yield dataclasses.replace(source, config=config), language


def _tiny_world(source: Source, work: Reading) -> Iterator[Found]:
    from mlalign.data import tiny_world

    asked = [
        language for language in tiny_world.LANGUAGES if _asked(language, source, work.languages)
    ]
    kind, split = TINY_WORLD_KINDS[work.kind], source.split or "train"
    for number, row in enumerate(tiny_world.rows(kind, asked, split=split, **source.options), 1):
        group = f"tiny_world:{split}:{row['group_id']}"
        identifier = rows.row_id("tiny_world", f"{kind}:{split}:{row['key']}", row["prompt_lang"])
        yield (
            {**row, "id": identifier, "group_id": group, "source": "tiny_world"},
            source,
            f"tiny_world: row {number}",
        )


def _of_artifact(path: Path, work: Reading) -> Iterator[Found]:
    """Rows of an earlier step keep id, group and split.

    Prompts and demonstrations can be taken out of preferences.
    """
    found, kind = rows.kind_of(path), work.kind
    if found not in TAKEN_FROM.get(kind, (kind,)):
        raise UserError(f"rows: {path} holds {found} rows; {kind} rows cannot be made of them")
    for number, row in enumerate(rows.read(path, languages=work.languages), 1):
        yield adapters.derive(row, kind) | {"own_id": True}, AN_ARTIFACT, f"{path}: row {number}"


def _of_records(
    records: Iterator[tuple[int, Any]], file: File, source: Source, work: Reading
) -> Iterator[Found]:
    answers = stored.read(source.answers, file.language, work.problems) if source.answers else None
    for n, (number, record) in enumerate(records):
        if source.max_rows is not None and n >= source.max_rows:
            return
        place = file.place(number)
        try:
            language = _language(record, file, source)
            if not _asked(language, source, work.languages):
                work.tally.drop("language_not_asked_for", language)
                continue
            row = _adapt(record, source, work.kind, language)
        except conversations.Dropped as drop:
            work.tally.drop(drop.reason, language)
            continue
        except (conversations.Malformed, UserError) as error:
            work.problems.add(f"{place}: {error}", once=(file.path, str(error)))
            continue
        try:
            placed = _placed(row, number, language, file, source)
        except UnicodeEncodeError:  # an id with half of a surrogate pair
            work.tally.drop("not_unicode", language)
            continue
        if answers is not None:
            placed = stored.answered(placed, answers)
            if "reference" not in placed:
                work.problems.add(f"{place}: {source.answers} holds no answer to this prompt")
                continue
        yield placed, source, place


def _language(record: Any, file: File, source: Source) -> str:
    if "language" in source.columns:
        return languages.normalise(adapters.pick(record, source.columns["language"], "language"))
    return file.language or languages.normalise(source.language or "eng_Latn")


def _adapt(record: Any, source: Source, kind: str, language: str) -> dict:
    match source.adapter:
        case "hh_rlhf":
            return adapters.hh_rlhf(record, kind)
        case "xcopa":
            return adapters.xcopa(record, kind, language)
        case "mgsm":
            return adapters.mgsm(record, language)
        case "rewardbench":
            return adapters.rewardbench(record, kind)
    return adapters.columns(record, kind, source.columns, source.match)


def _placed(row: dict, number: int, language: str, file: File, source: Source) -> dict:
    """Add the common columns.

    Without a group of its own a row belongs with the rows that ask the same.
    """
    name = name_of(source, file.name)
    if "group_id" in row:
        group = (
            f"{file.name}:{row['group_id']}" if source.adapter == "xcopa" else str(row["group_id"])
        )
    elif source.parallel or source.adapter == "mgsm":
        group = f"{file.name}:{number}"
    else:
        group = f"{cleaning.key64(cleaning.normalised(_asks(row))):016x}"
    row = {"chosen_lang": language, "rejected_lang": language, "response_lang": language} | {
        k: v for k, v in row.items() if v is not None
    }
    own_id = "key" in row
    return row | {
        "id": rows.row_id(name, row.pop("key", f"{file.name}:{number}"), language),
        "own_id": own_id,
        "group_id": f"{name}:{group}",
        "prompt_lang": language,
        "source": name,
        "origin": source.origin or row.get("origin") or ORIGIN.get(source.adapter, "native"),
        "split": row.get("split") or source.split,
    }


def name_of(source: Source, default: str) -> str:
    """The name that a source's rows carry."""
    return source.source or (
        source.adapter if source.adapter != "columns" else source.hub or default.partition("/")[0]
    )


def _asks(row: dict) -> str:
    text = row["text"] if "text" in row else rows.text_of(row["prompt"])
    return text.encode(errors="replace").decode()
