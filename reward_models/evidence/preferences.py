"""Preference rows as users have them, made ready to be scored and judged.

A row has `chosen` and `rejected`: text, messages, or several of them (RewardBench 2: one or more
right answers, several wrong ones). `language` (or `prompt_lang`), `subset`, `section`, `id` and
`group_id` are optional; a language may also be in the name of the file or of its folder, as a
canonical code (`arb_Arab/test-00000.parquet`, `swh_Latn.jsonl`).
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlalign.core import conversations, formats, languages
from mlalign.core.errors import UserError
from reward_models import files, inputs, items
from reward_models.evidence.verdicts import UNKNOWN
from reward_models.items import named_language
from reward_models.jobs import identity

CODE = re.compile(r"(?:^|[._/-])([a-z]{3}_[A-Z][a-z]{3}(?:_[A-Z]{2})?)(?=[._/-]|$)")
KEPT = ("id", "group_id", "language", "subset", "section", "n_chosen")
# Columns that are read besides prompt, answers and language.
READ = ("id", "group_id", "subset", "section", "reference", "english_prompt")
WRITTEN = ".scores.jsonl"
MOST = 10  # mistakes that are listed

Row = dict[str, Any]


def find(inputs: Sequence[str]) -> list[Path]:
    """The files of rows that are named, or are below the folders that are named, each once.

    Hidden files, and those that `evaluate` itself writes, are left out.
    Raises: UserError if there are none.
    """
    paths: list[Path] = []
    for path in map(Path, inputs):
        paths += _below(path) if path.is_dir() else files.expand([str(path)])
    return list(dict.fromkeys(paths))


def _below(folder: Path) -> list[Path]:
    paths = []
    for path in sorted(folder.rglob("*")):
        is_hidden = path.name.startswith(".")
        is_ours = path.name.endswith(WRITTEN)
        if path.name.endswith(files.STREAMED) and path.is_file() and not is_hidden and not is_ours:
            paths.append(path)
    if not paths:
        raise UserError(f"{folder}: holds no file that ends in {' or '.join(files.STREAMED)}")
    return paths


@dataclasses.dataclass(frozen=True)
class Source:
    """Files of preference rows and the form that they are in.

    `language` is that of rows which name none and whose file names none.
    """

    paths: Sequence[Path]
    form: str = formats.ROWS
    language: str | None = None

    def read(
        self,
        dropped: Counter | None = None,
        wrong: list[str] | None = None,
    ) -> Iterator[tuple[str, Row]]:
        """(place, row) of all files.

        A row has `prompt`, `chosen` and `rejected` as messages, and its canonical `language`, if
        known; several right or wrong answers have become `responses`, the first `n_chosen` of
        them the right ones. What gives no row is counted in `dropped` as (reason, language).
        Mistakes go to `wrong`; without it, or if it is full: Raises: UserError naming the row.
        """
        dropped = Counter() if dropped is None else dropped
        for path in self.paths:
            default = _language_in(path) or self.language
            for where, row in formats.convert(self.form, path, files.read(path), dropped):
                try:
                    yield where, _ready(row, where, default)
                except UserError as error:
                    if wrong is None or len(wrong) >= MOST:
                        raise
                    wrong += error.messages
                except conversations.Dropped as drop:
                    dropped[drop.reason, language_of(row, where) or default or UNKNOWN] += 1

    def identity(self) -> dict[str, Any]:
        """What the rows depend on: above all the files by name, language and content."""
        names = Counter(path.name for path in self.paths)
        by_name = {}
        for path in self.paths:
            name = path.name if names[path.name] == 1 else str(path)
            digest = identity.KNOWN.file(path)[:16]
            by_name[name] = {"language": _language_in(path), "sha256": digest}
        return {
            "files": by_name,
            "format": self.form,
            "language": self.language,
            "reader": conversations.VERSION,
        }


def _language_in(path: Path) -> str | None:
    """The canonical code in the name of a file or of its folder."""
    for name in (path.name, path.parent.name):
        codes = CODE.findall(name)
        if codes:
            return languages.normalise(codes[-1])
    return None


def language_of(row: Mapping, where: str) -> str | None:
    """The canonical language that a row names. Raises: UserError if it is unknown."""
    value = named_language(row)
    if value in (None, UNKNOWN):
        return None
    try:
        return languages.normalise(value)
    except UserError as error:
        messages = [f"{where}: {message}" for message in error.messages]
        raise UserError(*messages) from None


def _ready(row: Mapping, where: str, default: str | None) -> Row:
    """The row in the form that all scorers get.

    Raises: UserError for one that is no preference, Dropped for one without answers to compare.
    """
    try:
        read = conversations.read(row)
    except conversations.Malformed as error:
        raise UserError(f"{where}: {error}") from None
    is_pair = read.shape == "pair"
    if not is_pair and read.n_chosen is None:
        columns = ", ".join(map(str, row))
        raise UserError(f"{where}: needs chosen and rejected; it has {columns}")

    ready = {name: row[name] for name in READ if row.get(name) is not None}
    language = language_of(row, where) or default
    if language:
        ready["language"] = language
    ready["prompt"] = read.prompt
    if read.tools:
        ready["tools"] = read.tools
    if is_pair:
        chosen, rejected = read.answers
        return ready | {"chosen": [chosen], "rejected": [rejected]}
    return ready | {"responses": [[answer] for answer in read.answers], "n_chosen": read.n_chosen}


def prepared(
    source: Source,
    dropped: Counter,
    acceptors: Sequence[Callable[[list[items.Item]], None]] = (),
) -> Iterator[Row]:
    """The rows to score.

    `id` is unique even among translations of an item, since the answers of one row are compared.
    `kept` has the columns that evidence needs. What gives no row is counted in `dropped`.
    `acceptors` raise for items that a scorer would refuse.

    Raises, when all rows were seen: UserError with the first mistakes (answers that are not a
    conversation, one id twice in a language and subset, no rows at all), so that what would stop a
    scorer is found before it is loaded.
    """
    wrong: list[str] = []
    places: dict[int, str] = {}
    n = 0
    for n, (where, row) in enumerate(source.read(dropped, wrong), 1):
        kept = {name: row[name] for name in KEPT if name in row}
        ready = {**row, "kept": kept, "id": _unique_id(row, n, where)}
        if row.get("id") is not None:
            first = places.setdefault(hash(ready["id"]), where)
            if first != where:
                wrong.append(
                    f"{where}: id {row['id']} is that of {first} already,"
                    " in the same language and subset; make ids unique"
                )
        try:
            row_items = items.of_row(ready, where)
            for accept in acceptors:
                inputs.at_place(where, accept, row_items)
        except UserError as error:
            wrong += error.messages
        if len(wrong) >= MOST:
            break
        yield ready

    if len(wrong) >= MOST:
        raise UserError(*wrong[:MOST], f"(the first {MOST} mistakes; there may be more)")
    if not n and not wrong:
        reasons = f"; dropped: {dict(dropped)}" if dropped else ""
        wrong.append(f"there are no pairs at all in the input{reasons}")
    if wrong:
        raise UserError(*wrong)


def _unique_id(row: Mapping, n: int, where: str) -> str:
    """An id that no other row has, from the row's own id if it has one."""
    if row.get("id") is None:
        return f"{n}:{where.rpartition('/')[2]}"
    return f"{row.get('language', UNKNOWN)}:{row.get('subset') or ''}:{row['id']}"
