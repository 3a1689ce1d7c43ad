"""Scores of answers by a checklist, after Cook et al. 2024 (TICK): the share of a prompt's YES/NO
questions that are answered YES.

One checklist per prompt: the judge writes it, greedily, from the prompt in English where rows tell
that (so all languages of a group share it), else from the prompt itself. A file keeps them: one
JSON object per line, only ever appended to, under a lock, so that several processes share it and
agree. A line `{"group_id": …, "questions": […]}` that a person puts there goes before all others.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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

WRITTEN = b'{"key": "'  # what every line that is written here begins with


class Checklist:
    """One question for each answer and question of its prompt's checklist."""

    def __init__(
        self,
        settings: "Settings",
        asker: Asker,
        texts: prompts.Prompts,
        template: "jinja2.Template",
    ):
        self._settings, self._asker, self._texts, self._template = settings, asker, texts, template
        self._write = prompts.template("write")
        self._kept = Kept(Path(settings.checklists).expanduser() if settings.checklists else None)
        self._answers: dict[str, Answers] = {}

    def __call__(self, items: Sequence[Item]) -> Scores:
        codes = [self._texts.language_of(item) for item in items]
        checks = self._checklists(items, codes)
        asked = [
            self._question(item, code or "", c)
            for item, code, own in zip(items, codes, checks, strict=True)
            for c in own
        ]
        found = iter(self._asker.ask(asked))
        verdicts = [[next(found) for _ in own] for own in checks]
        passed = [[mean([self._passed(v) for v in samples]) for samples in own] for own in verdicts]
        flat = [[v for samples in own for v in samples] for own in verdicts]
        flags = {
            **flags_of(flat),
            "no_checklist": [
                code is not None and not own for code, own in zip(codes, checks, strict=True)
            ],
        }
        columns: dict[str, list[float | None]] = {
            "checks": [float(sum(p is not None for p in own)) for own in passed]
        }
        columns |= columns_of(flat, self._settings)
        texts = {
            **texts_of(flat, self._settings),
            "verdict": [_told(c, v) for c, v in zip(checks, verdicts, strict=True)],
        }
        scores = Scores(
            [mean(own) for own in passed], flags, columns, texts, tokens=tokens_of(flat)
        )
        return with_rubrics(scores, codes, self._settings)

    def _passed(self, verdict: Verdict) -> float | None:
        if verdict.label is None:
            return None
        return (
            probability(verdict, YES) if self._settings.expectation else float(verdict.label == YES)
        )

    def _question(self, item: Item, code: str, check: str) -> Question:
        return Question(
            f"{item.id}\x1f{check}",
            self._texts.text(self._template, item, code, answer=readable(item.answer), check=check),
            self._of(code),
        )

    def _of(self, code: str) -> Answers:
        if code not in self._answers:
            self._answers[code] = yes_or_no(code)
        return self._answers[code]

    def _checklists(self, items: Sequence[Item], codes: Sequence[str | None]) -> list[list[str]]:
        """The checklist of every item; empty where there is none.

        Those that nobody has written yet are written now.
        """
        sources = [source(item, code) for item, code in zip(items, codes, strict=True)]
        keys = [self._key(s, code) for s, code in zip(sources, codes, strict=True)]
        missing: dict[str, Question] = {}
        for item, code, key, prompt in zip(items, codes, keys, sources, strict=True):
            if (
                code is not None
                and key not in missing
                and self._kept.find(item.group_id, key) is None
            ):
                missing[key] = Question(
                    key, self._texts.text(self._write, prompt, code), self._of(code)
                )
        written = (
            self._asker.write(list(missing.values()), self._settings.max_questions)
            if missing
            else []
        )
        self._kept.add(
            {key: questions for key, questions in zip(missing, written, strict=True) if questions}
        )
        return [
            self._kept.find(i.group_id, key) or [] if code else []
            for i, key, code in zip(items, keys, codes, strict=True)
        ]

    def _key(self, prompt: Item, code: str | None) -> str:
        """What a checklist depends on, whoever writes it: the prompt, the language of its
        questions, how many, and criteria.
        """
        told = [prompt.prompt, code, self._settings.max_questions, self._settings.criteria]
        return hashlib.sha256(
            json.dumps(told, ensure_ascii=False, sort_keys=True).encode()
        ).hexdigest()[:16]


def source(item: Item, code: str | None) -> Item:
    """What an item's checklist is written from: its prompt in English, if the rubric is in English
    and the row tells it, else its own.
    """
    english = item.english_prompt if code == prompts.ENGLISH else None
    return Item(item.id, english or item.prompt, "")


class Kept:
    """Checklists by key or by group: in a file, or, without one, in memory."""

    def __init__(self, path: Path | None):
        self._path, self._read_to = path, 0
        self._by_key: dict[str, list[str]] = {}
        self._by_group: dict[str, list[str]] = {}
        if path and path.is_file():
            with open(path, "rb") as f:
                self._read(f.read())

    def find(self, group: str | None, key: str) -> list[str] | None:
        return self._by_group.get(group or "") or self._by_key.get(key)

    def add(self, written: Mapping[str, list[str]]) -> None:
        """Keep checklists. One that another process has written meanwhile stands, here too."""
        if self._path is None or not written:
            self._by_key |= {
                key: questions for key, questions in written.items() if key not in self._by_key
            }
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a+b") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            f.seek(self._read_to)
            remainder = self._read(f.read())
            mine = [
                {"key": key, "questions": questions}
                for key, questions in written.items()
                if key not in self._by_key
            ]
            lines = b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in mine)
            f.write((b"\n" if remainder else b"") + lines)
            f.flush()
            os.fsync(f.fileno())
            f.seek(self._read_to)
            self._read(f.read())

    def _read(self, data: bytes) -> bytes:
        """Take in lines, and give back what follows the last whole one.

        The first checklist for a key or group counts.
        """
        *whole, remainder = data.split(b"\n")
        self._read_to += len(data) - len(remainder)
        for line in filter(None, (*whole, remainder)):
            told = _entry(line, str(self._path))
            if told is not None and "group_id" in told:
                self._by_group.setdefault(str(told["group_id"]), told["questions"])
            elif told is not None:
                self._by_key.setdefault(told["key"], told["questions"])
        return remainder


def _entry(line: bytes, where: str) -> dict | None:
    """One line of the file; None if a killed process tore it.

    Raises: UserError for another line that is no checklist.
    """
    try:
        told = json.loads(line)
    except ValueError:
        if line.startswith(WRITTEN[: len(line)]):
            return None
        told = None
    questions = (
        told.get("questions")
        if isinstance(told, dict) and {"key", "group_id"} & set(told)
        else None
    )
    if (
        not isinstance(questions, list)
        or not questions
        or not all(isinstance(q, str) and q.strip() for q in questions)
    ):
        begun = line[:60].decode("utf-8", "replace")
        raise UserError(
            f'{where}: expected lines {{"group_id": "…", "questions": ["…?"]}}, found one that'
            f" begins with {begun!r}"
        )
    return told


def _told(checks: Sequence[str], verdicts: Sequence[Sequence[Verdict]]) -> str | None:
    """JSON: question -> what the judge said."""
    told = {
        check: [v.raw for v in samples] for check, samples in zip(checks, verdicts, strict=True)
    }
    return json.dumps(told, ensure_ascii=False) if told else None
