"""Preference rows as people have them, made ready to be scored and judged.

A row has `chosen` and `rejected`: text, messages, or several of them (RewardBench 2: one or more right answers, several wrong ones).
`language` (or `prompt_lang`), `subset`, `section`, `id` and `group_id` are read where they are; a language may also be in the name of
the file or of its folder, as a canonical code (`arb_Arab/test-00000.parquet`, `swh_Latn.jsonl`).
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
from reward_models.items import LANGUAGE_COLUMNS
from reward_models.jobs import identity

CODE = re.compile(r"(?:^|[._/-])([a-z]{3}_[A-Z][a-z]{3}(?:_[A-Z]{2})?)(?=[._/-]|$)")
KEPT = ("id", "group_id", "language", "subset", "section", "n_chosen")
READ = ("id", "group_id", "subset", "section", "reference", "english_prompt")  # columns besides prompt, answers and language
WRITTEN = ".scores.jsonl"
MOST = 10  # mistakes told

Row = dict[str, Any]


def find(inputs: Sequence[str]) -> list[Path]:
    """The files of rows that are named, or lie below the folders that are named, each once; hidden ones and what `evaluate` itself
    writes left out. Raises: UserError if there are none."""
    found: list[Path] = []
    for path in map(Path, inputs):
        if not path.is_dir():
            found += files.expand([str(path)])
            continue
        below = sorted(p for p in path.rglob("*") if p.is_file() and p.name.endswith(files.STREAMED))
        below = [p for p in below if not p.name.startswith(".") and not p.name.endswith(WRITTEN)]
        if not below:
            raise UserError(f"{path}: holds no file that ends in {' or '.join(files.STREAMED)}")
        found += below
    return list(dict.fromkeys(found))


@dataclasses.dataclass(frozen=True)
class Source:
    """Files of preference rows, the form that they are in, and the language of rows which name none and whose file names none."""

    paths: Sequence[Path]
    form: str = formats.ROWS
    language: str | None = None

    def read(self, dropped: Counter | None = None, wrong: list[str] | None = None) -> Iterator[tuple[str, Row]]:
        """(place, row) of all files; what gives no row is counted in `dropped` as (reason, language), mistakes go to `wrong`.

        A row has `prompt`, `chosen` and `rejected` as messages, and its canonical `language` or lacks the column; several right or
        wrong answers have become `responses`, the first `n_chosen` of them the right ones. Raises: UserError naming the row.
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
        """What the rows depend on: the files by name, language and content."""
        names = Counter(path.name for path in self.paths)
        told = {
            path.name if names[path.name] == 1 else str(path): {"language": _language_in(path), "sha256": identity.KNOWN.file(path)[:16]}
            for path in self.paths
        }
        return {"files": told, "format": self.form, "language": self.language, "reader": conversations.VERSION}


def _language_in(path: Path) -> str | None:
    """The canonical code in the name of a file or of its folder."""
    for name in (path.name, path.parent.name):
        found = CODE.findall(name)
        if found:
            return languages.normalise(found[-1])
    return None


def language_of(row: Mapping, where: str) -> str | None:
    """The canonical language that a row names. Raises: UserError naming the row for an unknown one."""
    told = next((row[name] for name in LANGUAGE_COLUMNS if row.get(name)), None)
    try:
        return None if told in (None, UNKNOWN) else languages.normalise(told)
    except UserError as error:
        raise UserError(*(f"{where}: {message}" for message in error.messages)) from None


def _ready(row: Mapping, where: str, default: str | None) -> Row:
    """The row as all scorers are given it. Raises: UserError for one that is no preference, Dropped for one that gives nothing."""
    try:
        read = conversations.read(row)
    except conversations.Malformed as error:
        raise UserError(f"{where}: {error}") from None
    if read.shape != "pair" and read.n_chosen is None:
        raise UserError(f"{where}: needs chosen and rejected; it has {', '.join(map(str, row))}")
    code = language_of(row, where) or default
    out = {name: row[name] for name in READ if row.get(name) is not None} | ({"language": code} if code else {})
    out |= {"prompt": read.prompt} | ({"tools": read.tools} if read.tools else {})
    if read.shape == "pair":
        chosen, rejected = read.answers
        return out | {"chosen": [chosen], "rejected": [rejected]}
    return out | {"responses": [[answer] for answer in read.answers], "n_chosen": read.n_chosen}


def prepared(source: Source, dropped: Counter, acceptors: Sequence[Callable[[list[items.Item]], None]] = ()) -> Iterator[Row]:
    """The rows to score. `id` is one that no two rows share, translations of an item included, since answers of one row are compared;
    `kept` has the columns that evidence needs. What gives no row is counted in `dropped`; `acceptors` raise for items that a
    scorer would refuse.

    Raises, when all rows were seen: UserError with the first mistakes (answers that are no conversation, one id twice in a language
    and subset, no rows at all), so that what a model would stumble over is found before it is loaded.
    """
    wrong: list[str] = []
    seen: dict[int, str] = {}
    n = 0
    for n, (where, row) in enumerate(source.read(dropped, wrong), 1):
        out = {**row, "kept": {name: row[name] for name in KEPT if name in row}, "id": f"{n}:{where.rpartition('/')[2]}"}
        if row.get("id") is not None:
            out["id"] = f"{row.get('language', UNKNOWN)}:{row.get('subset') or ''}:{row['id']}"
            before = seen.setdefault(hash(out["id"]), where)
            if before != where:
                wrong.append(f"{where}: id {row['id']} is that of {before} already, in the same language and subset; make ids unique")
        try:
            own = items.of_row(out, where)
            for accept in acceptors:
                inputs.at_place(where, accept, own)
        except UserError as error:
            wrong += error.messages
        if len(wrong) >= MOST:
            break
        yield out
    if len(wrong) >= MOST:
        raise UserError(*wrong[:MOST], f"(the first {MOST} mistakes; there may be more)")
    if not n and not wrong:
        wrong.append("there are no pairs at all in the input" + (f"; dropped: {dict(dropped)}" if dropped else ""))
    if wrong:
        raise UserError(*wrong)
