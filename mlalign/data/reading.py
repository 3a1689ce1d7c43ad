"""Records of all sources as rows with ids, groups and languages.

A record that gives no row is counted by reason, or noted as a mistake.
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

AN_ARTIFACT = Source()  # the source of rows that an earlier step made

PlacedRow = tuple[dict, Source, str]  # a row, its source, and its file and line for messages


@dataclasses.dataclass
class Reading:
    """What to read, and where to note what could not be read."""

    kind: str
    languages: list[str] | None
    problems: Problems
    tally: Tally
    names: set[tuple[str, str, str | None]] = dataclasses.field(default_factory=set)

    def check_name(self, source: Source, file: File) -> None:
        """Note a file whose rows would get the same ids as another file's.

        Ids are made of source, file name and line.
        """
        source_name = name_of(source, file.name)
        name = (source_name, file.name, file.language)
        if name in self.names:
            self.problems.add(
                f"{file.path}: read twice, or named like another file of source {source_name!r};"
                " name the sources apart (source: NAME)"
            )
        self.names.add(name)


def files(source: Source, wanted: list[str] | None) -> list[File]:
    """The files of a source in the wanted languages, with canonical languages."""
    wanted_files = []
    errors = []
    for file in find(source):
        try:
            language = languages.normalise(file.language) if file.language else None
        except UserError as error:
            errors.append(f"{file.path}: {error}")
            continue
        if language is None or _is_wanted(language, source, wanted):
            wanted_files.append(dataclasses.replace(file, language=language))
    if errors:
        raise UserError(*errors)
    return wanted_files


def _is_wanted(language: str, source: Source, wanted: list[str] | None) -> bool:
    if wanted is not None and language not in wanted:
        return False
    if source.languages is None:
        return True
    return language in [languages.normalise(own) for own in source.languages]


def all_rows(
    work: Reading, sources: Iterable[Source], artifacts: Iterable[Path]
) -> Iterator[PlacedRow]:
    """Every row of the sources in turn, then of rows artifacts.

    A row may still be empty, too long or a duplicate. Besides its columns it has `own_id`: whether
    its id comes from the source, which may hold it twice.
    """
    for source in sources:
        if source.adapter == "tiny_world":
            yield from _of_tiny_world(source, work)
        elif source.hub:
            yield from _of_hub(source, work)
        else:
            yield from _of_files(source, work)
    for path in artifacts:
        yield from _of_artifact(path, work)


def _of_files(source: Source, work: Reading) -> Iterator[PlacedRow]:
    by_position = any(isinstance(theirs, int) for theirs in source.columns.values())
    has_header = source.adapter != "mgsm" and not by_position
    for file in files(source, work.languages):
        work.check_name(source, file)
        records = read(file, has_header, work.problems)
        yield from _of_records(records, file, source, work)


def _of_hub(source: Source, work: Reading) -> Iterator[PlacedRow]:
    for configured, language in _configurations(source, work.languages):
        file = File(Path(str(source.hub)), source.hub_split, language, "parquet")
        work.check_name(configured, file)
        records = read_hub(configured, work.problems)
        yield from _of_records(records, file, configured, work)


def _configurations(
    source: Source, wanted: list[str] | None
) -> Iterator[tuple[Source, str | None]]:
    """A hub data set and its language: one for each language if {lang} is in its configuration."""
    if "{lang}" not in (source.config or ""):
        yield source, None
        return
    for theirs in source.languages or []:
        language = languages.normalise(theirs)
        if wanted is None or language in wanted:
            config = (source.config or "").replace("{lang}", theirs)
            yield dataclasses.replace(source, config=config), language


def _of_tiny_world(source: Source, work: Reading) -> Iterator[PlacedRow]:
    from mlalign.data import tiny_world

    wanted = [
        language
        for language in tiny_world.LANGUAGES
        if _is_wanted(language, source, work.languages)
    ]
    kind = TINY_WORLD_KINDS[work.kind]
    split = source.split or "train"
    for number, row in enumerate(tiny_world.rows(kind, wanted, split=split, **source.options), 1):
        key = f"{kind}:{split}:{row['key']}"
        placed = {
            **row,
            "id": rows.row_id("tiny_world", key, row["prompt_lang"]),
            "group_id": f"tiny_world:{split}:{row['group_id']}",
            "source": "tiny_world",
        }
        yield placed, source, f"tiny_world: row {number}"


def _of_artifact(path: Path, work: Reading) -> Iterator[PlacedRow]:
    """Rows of an earlier step, which keep id, group and split.

    Prompts and demonstrations can be taken out of preferences.
    """
    own_kind = rows.kind_of(path)
    kind = work.kind
    if own_kind not in TAKEN_FROM.get(kind, (kind,)):
        raise UserError(f"rows: {path} holds {own_kind} rows; {kind} rows cannot be made of them")
    for number, row in enumerate(rows.read(path, languages=work.languages), 1):
        derived = adapters.derive(row, kind)
        yield {**derived, "own_id": True}, AN_ARTIFACT, f"{path}: row {number}"


def _of_records(
    records: Iterator[tuple[int, Any]], file: File, source: Source, work: Reading
) -> Iterator[PlacedRow]:
    answers = None
    if source.answers:
        answers = stored.read(source.answers, file.language, work.problems)
    for n, (number, record) in enumerate(records):
        if source.max_rows is not None and n >= source.max_rows:
            return
        row = _row(record, number, file, source, work)
        if row is None:
            continue

        place = file.place(number)
        if answers is not None:
            row = stored.answered(row, answers)
            if "reference" not in row:
                work.problems.add(f"{place}: {source.answers} holds no answer to this prompt")
                continue
        yield row, source, place


def _row(record: Any, number: int, file: File, source: Source, work: Reading) -> dict | None:
    """The row of a record; None if it is dropped or malformed, which is counted or noted."""
    try:
        language = _language(record, file, source)
        if not _is_wanted(language, source, work.languages):
            work.tally.drop("language_not_asked_for", language)
            return None
        columns = _adapt(record, source, work.kind, language)
    except conversations.Dropped as drop:
        work.tally.drop(drop.reason, language)
        return None
    except (conversations.Malformed, UserError) as error:
        work.problems.add(f"{file.place(number)}: {error}", once=(file.path, str(error)))
        return None

    try:
        return _placed(columns, number, language, file, source)
    except UnicodeEncodeError:  # an id with half of a surrogate pair
        work.tally.drop("not_unicode", language)
        return None


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
    """The row with the common columns."""
    name = name_of(source, file.name)
    group = _group_of(row, number, file, source)
    placed = {"chosen_lang": language, "rejected_lang": language, "response_lang": language}
    placed |= {column: value for column, value in row.items() if value is not None}
    has_own_id = "key" in placed
    key = placed.pop("key", f"{file.name}:{number}")
    return placed | {
        "id": rows.row_id(name, key, language),
        "own_id": has_own_id,
        "group_id": f"{name}:{group}",
        "prompt_lang": language,
        "source": name,
        "origin": source.origin or placed.get("origin") or ORIGIN.get(source.adapter, "native"),
        "split": placed.get("split") or source.split,
    }


def _group_of(row: dict, number: int, file: File, source: Source) -> str:
    """The group of a row within its source.

    Without a group of its own, a row belongs with the rows that have the same prompt.
    """
    if "group_id" in row:
        group = str(row["group_id"])
        return f"{file.name}:{group}" if source.adapter == "xcopa" else group
    if source.parallel or source.adapter == "mgsm":
        return f"{file.name}:{number}"
    text = row["text"] if "text" in row else rows.text_of(row["prompt"])
    encodable = text.encode(errors="replace").decode()
    return f"{cleaning.key64(cleaning.normalised(encodable)):016x}"


def name_of(source: Source, file_name: str) -> str:
    """The name that a source's rows carry."""
    if source.source:
        return source.source
    if source.adapter != "columns":
        return source.adapter
    return source.hub or file_name.partition("/")[0]
