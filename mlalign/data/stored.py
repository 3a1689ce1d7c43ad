"""Stored answers to the prompts of a source, such as those of a benchmark's baseline.

A file holds objects with `instruction` (or `prompt`) and `output`, as AlpacaEval's outputs do.
"""

from collections.abc import Mapping
from typing import Any

from mlalign.core import languages, rows
from mlalign.core.records import read as read_file
from mlalign.core.sources import Problems, Source, find
from mlalign.data import cleaning

PROMPTS = ("instruction", "prompt")
MATCH = "stored"  # in a reference: an answer to compare with, not to match


def read(path: str, language: str | None, problems: Problems) -> dict[str, str]:
    """prompt -> answer, from all files, or with {lang} in the path only those of one language.

    A record without a prompt or an answer is noted in `problems`.
    """
    answers: dict[str, str] = {}
    for file in find(Source(path=path)):
        if file.language is not None and languages.normalise(file.language) != language:
            continue
        for number, record in read_file(file, True, problems):
            prompt = _prompt_of(record)
            answer = record.get("output")
            if prompt is None or not isinstance(answer, str):
                message = (
                    f"{file.place(number)}: stored answers need instruction (or prompt) and output,"
                    " both texts"
                )
                problems.add(message, once=file.path)
                continue
            answers[cleaning.normalised(prompt)] = answer
    return answers


def _prompt_of(record: Mapping[str, Any]) -> str | None:
    for name in PROMPTS:
        if isinstance(record.get(name), str):
            return record[name]
    return None


def answered(row: dict[str, Any], answers: dict[str, str]) -> dict[str, Any]:
    """The row with the stored answer to its prompt as its reference, or without a reference."""
    prompt = cleaning.normalised(row["prompt"][-1]["content"])
    completed = {name: value for name, value in row.items() if name != "reference"}
    if prompt in answers:
        completed["reference"] = rows.to_json({"answer": answers[prompt], "match": MATCH})
    return completed
