"""Scores of answers by a checklist, after Cook et al. 2024 (TICK).

The score is the share of a prompt's YES/NO questions that are answered YES. There is one checklist
per prompt. The judge writes it, greedily, from the English prompt if the row has one (so all
languages of a group share it), else from the prompt itself.

A file keeps checklists: one JSON object per line, only ever appended to, under a lock, so that
several processes share it and agree. A line `{"group_id": …, "questions": […]}` that a person adds
takes precedence.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlalign.core.errors import UserError
from reward_models.items import Item, Scores, readable
from reward_models.judging import prompts
from reward_models.judging.asking import Answers, Asker, Question, Verdict
from reward_models.judging.grading import (
    YES,
    columns_of,
    flags_of,
    mean,
    probability,
    texts_of,
    tokens_of,
    with_rubrics,
    yes_or_no,
)

if TYPE_CHECKING:
    import jinja2

    from reward_models.families.judge import Settings

OUR_BEGINNING = b'{"key": "'  # of every line that this module writes


class Checklist:
    """One question to the judge for each answer and check of its prompt's checklist."""

    def __init__(
        self,
        settings: "Settings",
        asker: Asker,
        texts: prompts.Prompts,
        template: "jinja2.Template",
    ):
        self._settings = settings
        self._asker = asker
        self._texts = texts
        self._template = template
        self._write_template = prompts.template("write")
        path = Path(settings.checklists).expanduser() if settings.checklists else None
        self._store = Store(path)
        self._answers: dict[str, Answers] = {}

    def __call__(self, items: Sequence[Item]) -> Scores:
        codes = [self._texts.language_of(item) for item in items]
        checklists = self._checklists(items, codes)
        questions = []
        for item, code, checks in zip(items, codes, checklists, strict=True):
            for check in checks:
                questions.append(self._question(item, code or "", check))

        samples = iter(self._asker.ask(questions))
        samples_by_check = [list(islice(samples, len(checks))) for checks in checklists]
        scores = self._scores(checklists, samples_by_check)

        no_checklist = []
        for code, checks in zip(codes, checklists, strict=True):
            no_checklist.append(code is not None and not checks)
        scores.flags["no_checklist"] = no_checklist
        return with_rubrics(scores, codes, self._settings)

    def _scores(
        self,
        checklists: Sequence[Sequence[str]],
        samples_by_check: Sequence[Sequence[Sequence[Verdict]]],
    ) -> Scores:
        """Scores of items by their checks and the verdicts on each check, one per sample."""
        values: list[float | None] = []
        n_checks: list[float | None] = []
        quoted: list[str | None] = []
        verdicts: list[list[Verdict]] = []
        for checks, samples in zip(checklists, samples_by_check, strict=True):
            passed = [self._passed(verdicts_on_check) for verdicts_on_check in samples]
            values.append(mean(passed))
            n_checks.append(float(sum(share is not None for share in passed)))
            quoted.append(_quoted(checks, samples))
            verdicts.append(list(chain.from_iterable(samples)))

        columns = {"checks": n_checks, **columns_of(verdicts, self._settings)}
        texts = {**texts_of(verdicts, self._settings), "verdict": quoted}
        return Scores(values, flags_of(verdicts), columns, texts, tokens=tokens_of(verdicts))

    def _passed(self, verdicts: Sequence[Verdict]) -> float | None:
        """The share of YES in the verdicts on one check; None if none of them parsed."""
        passed: list[float | None] = []
        for verdict in verdicts:
            if verdict.label is None:
                passed.append(None)
            elif self._settings.expectation:
                passed.append(probability(verdict, YES))
            else:
                passed.append(float(verdict.label == YES))
        return mean(passed)

    def _question(self, item: Item, code: str, check: str) -> Question:
        text = self._texts.text(
            self._template, item, code, answer=readable(item.answer), check=check
        )
        return Question(f"{item.id}\x1f{check}", text, self._yes_or_no(code))

    def _yes_or_no(self, code: str) -> Answers:
        if code not in self._answers:
            self._answers[code] = yes_or_no(code)
        return self._answers[code]

    def _checklists(self, items: Sequence[Item], codes: Sequence[str | None]) -> list[list[str]]:
        """The checklist of every item; empty where there is none.

        The judge now writes those that do not exist yet.
        """
        keys = []
        to_write: dict[str, Question] = {}
        for item, code in zip(items, codes, strict=True):
            prompt = source(item, code)
            key = self._key(prompt, code)
            keys.append(key)
            if code is None or key in to_write:
                continue
            if self._store.find(item.group_id, key) is None:
                text = self._texts.text(self._write_template, prompt, code)
                to_write[key] = Question(key, text, self._yes_or_no(code))
        self._write(to_write)

        checklists = []
        for item, key, code in zip(items, keys, codes, strict=True):
            checks = None
            if code:
                checks = self._store.find(item.group_id, key)
            checklists.append(checks or [])
        return checklists

    def _write(self, to_write: Mapping[str, Question]) -> None:
        """Let the judge write checklists, and keep those that it wrote."""
        checklists: list[list[str]] = []
        if to_write:
            questions = list(to_write.values())
            checklists = self._asker.write(questions, self._settings.max_questions)

        written = {}
        for key, checks in zip(to_write, checklists, strict=True):
            if checks:
                written[key] = checks
        self._store.add(written)

    def _key(self, prompt: Item, code: str | None) -> str:
        """A digest of what a checklist depends on, whoever writes it.

        That is the prompt, the language and the number of its questions, and the criteria.
        """
        content = [prompt.prompt, code, self._settings.max_questions, self._settings.criteria]
        text = json.dumps(content, ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def source(item: Item, code: str | None) -> Item:
    """What an item's checklist is written from.

    It is the English prompt, if the rubric is in English and the row has one, else the prompt.
    """
    english = item.english_prompt if code == prompts.ENGLISH else None
    return Item(item.id, english or item.prompt, "")


class Store:
    """Checklists by key or by group: in a file, or, without one, in memory."""

    def __init__(self, path: Path | None):
        self._path = path
        self._read_to = 0
        self._by_key: dict[str, list[str]] = {}
        self._by_group: dict[str, list[str]] = {}
        if path and path.is_file():
            self._read(path.read_bytes())

    def find(self, group: str | None, key: str) -> list[str] | None:
        return self._by_group.get(group or "") or self._by_key.get(key)

    def add(self, written: Mapping[str, list[str]]) -> None:
        """Keep checklists, except those that another process has written meanwhile."""
        if self._path is None or not written:
            for key, checks in written.items():
                self._by_key.setdefault(key, checks)
            return

        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(self._read_to)
            torn_line = self._read(file.read())

            if torn_line:
                file.write(b"\n")
            for key, checks in written.items():
                if key not in self._by_key:
                    entry = {"key": key, "questions": checks}
                    file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

            file.seek(self._read_to)
            self._read(file.read())

    def _read(self, data: bytes) -> bytes:
        """Take in lines, and return what follows the last whole one.

        The first checklist for a key or group counts.
        """
        *whole, remainder = data.split(b"\n")
        self._read_to += len(data) - len(remainder)
        for line in (*whole, remainder):
            entry = _entry(line, str(self._path)) if line else None
            if entry is None:
                continue
            if "group_id" in entry:
                self._by_group.setdefault(str(entry["group_id"]), entry["questions"])
            else:
                self._by_key.setdefault(entry["key"], entry["questions"])
        return remainder


def _entry(line: bytes, file: str) -> dict | None:
    """One line of the file; None if a process was killed while it wrote it.

    Raises: UserError for any other line that is no checklist.
    """
    try:
        entry = json.loads(line)
    except ValueError:
        if line.startswith(OUR_BEGINNING[: len(line)]):
            return None
        entry = None
    if _is_checklist(entry):
        return entry

    begun = line[:60].decode("utf-8", "replace")
    raise UserError(
        f'{file}: expected lines {{"group_id": "…", "questions": ["…?"]}}, found one that'
        f" begins with {begun!r}"
    )


def _is_checklist(entry: Any) -> bool:
    if not isinstance(entry, dict) or entry.keys().isdisjoint({"key", "group_id"}):
        return False
    questions = entry.get("questions")
    if not isinstance(questions, list) or not questions:
        return False
    return all(isinstance(question, str) and question.strip() for question in questions)


def _quoted(checks: Sequence[str], samples: Sequence[Sequence[Verdict]]) -> str | None:
    """JSON: check -> the judge's words on it, one per sample."""
    words = {}
    for check, verdicts in zip(checks, samples, strict=True):
        words[check] = [verdict.raw for verdict in verdicts]
    return json.dumps(words, ensure_ascii=False) if words else None
