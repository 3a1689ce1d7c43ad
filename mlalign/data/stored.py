"""Stored answers to the prompts of a source, such as those of a benchmark's baseline.

A file holds objects with `instruction` (or `prompt`) and `output`, as AlpacaEval's model outputs
do.
"""

from typing import Any

from mlalign.core import languages, rows
from mlalign.core.records import read as read_file
from mlalign.core.sources import Problems, Source, find
from mlalign.data import cleaning

PROMPTS = ("instruction", "prompt")
MATCH = "stored"  # in a reference: no answer to be matched, but one to be compared with


def read(path: str, language: str | None, problems: Problems) -> dict[str, str]:
    """prompt -> answer, of the file of one language, or of all files where {lang} is not in the
    path.

    A record without a prompt or an answer is noted in `problems`.
    """
    answers: dict[str, str] = {}
    for file in find(Source(path=path)):
        if file.language is not None and languages.normalise(file.language) != language:
            continue
        for number, record in read_file(file, True, problems):
            prompt = next(
                (record[name] for name in PROMPTS if isinstance(record.get(name), str)), None
            )
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


def answered(row: dict[str, Any], answers: dict[str, str]) -> dict[str, Any]:
    """The row with the stored answer as its reference; without one if none is stored for its
    prompt.
    """
    prompt = cleaning.normalised(row["prompt"][-1]["content"])
    without = {name: value for name, value in row.items() if name != "reference"}
    if prompt not in answers:
        return without
    return {**without, "reference": rows.to_json({"answer": answers[prompt], "match": MATCH})}
