"""From a record, as a data set has it, to the columns of a row. Pure: a mapping in, a mapping out.

An adapter returns the row's own columns (plus `key`, `group_id`, `language`, `split` where the
record brings them). A record of the wrong form raises `Malformed`; one that gives no row raises
`Dropped`, with the reason in a word.
"""

import contextlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlalign.core import conversations, formats
from mlalign.core.conversations import Dropped, Malformed
from mlalign.core.conversations.messages import parsed
from mlalign.core.errors import nearest
from mlalign.core.rows import messages, text_of, to_json

Row = dict[str, Any]
Record = dict[str, Any] | list[str]

# kind -> the columns a source must have, and those that are taken where they are
REQUIRED = {
    "text": ("text",),
    "prompt": ("prompt",),
    "demonstration": ("prompt", "completion"),
    "preference": ("chosen", "rejected"),
    "unpaired": ("prompt", "completion", "label"),
    "ranking": ("prompt", "responses", "ranks"),
}
OPTIONAL = {
    "text": (),
    "prompt": ("messages", "reference", "metadata"),
    "demonstration": ("messages", "response_lang", "metadata"),
    "preference": (
        "prompt",
        "margin",
        "method",
        "score_chosen",
        "score_rejected",
        "chosen_lang",
        "rejected_lang",
        "metadata",
    ),
    "unpaired": (),
    "ranking": ("metadata",),
}
PLACING = ("id", "group_id", "language", "split")
EVAL_SPLITS = ("eval", "evaluation", "test", "validation", "valid", "val", "dev")


def own_columns(kind: str) -> tuple[str, ...]:
    """The names that may stand on the left in `columns`."""
    return (*REQUIRED[kind], *OPTIONAL[kind], *PLACING)


# -------------------------------------------------------------------------- any set, by its columns


def columns(record: Record, kind: str, mapping: Mapping[str, Any], match: str = "contains") -> Row:
    """A record of any set that `conversations` can read, as a row of `kind`; `mapping` gives our
    column -> theirs.

    Raises: Malformed, Dropped.
    """
    theirs = record if isinstance(record, dict) else {}
    view = conversations.named(
        theirs, {name: _picked(record, where, name) for name, where in mapping.items()}
    )
    try:
        row = _BY_KIND[kind](view)
    except Malformed as error:
        raise Malformed(_with_mend(str(error), view, kind)) from None
    if kind == "prompt":
        row["reference"] = reference(view.get("reference"), match)
    row |= {name: view[name] for name in PLACING if view.get(name) is not None}
    if "metadata" in OPTIONAL[kind] and (metadata := view.get("metadata")) is not None:
        row["metadata"] = metadata if isinstance(metadata, str) else to_json(metadata)
    if "id" in row:
        row["key"] = str(row.pop("id"))
    if "split" in row:
        row["split"] = split_name(row["split"])
    return row


def _with_mend(message: str, view: Mapping, kind: str) -> str:
    """Why a record cannot be read; where a column is not there, that it can be named."""
    if not message.startswith("needs "):
        return message
    absent = next((name for name in REQUIRED[kind] if name not in view), None)
    return (
        _missing(dict(view), absent, absent)
        if absent
        else f"{message}; name its column with columns: {{prompt: THEIRS}}"
    )


def _picked(record: Record, where: str | int | Mapping[str, str | int], name: str) -> Any:
    """The value at `where`; for metadata of several columns, `{ours: theirs}`, a mapping."""
    if isinstance(where, Mapping):
        return {key: pick(record, inner, f"{name}.{key}") for key, inner in where.items()}
    return pick(record, where, name)


def pick(record: Record, where: str | int, name: str, default: Any = Malformed) -> Any:
    """The value at `where`: a position, a column, or a dotted path into nested mappings and lists
    (`answers.0.text`).

    Raises: Malformed if it is not there and there is no default.
    """
    if isinstance(record, dict):
        if where in record:
            return record[where]
        value = _nested(record, str(where).split(".")) if "." in str(where) else Malformed
    else:
        value = record[where] if isinstance(where, int) and where < len(record) else Malformed
    value = default if value is Malformed else value
    if value is Malformed:
        raise Malformed(_missing(record, where, name))
    return value


def _nested(value: Any, parts: list[str]) -> Any:
    for part in parts:
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return Malformed
    return value


def _missing(record: Record, where: str | int, name: str) -> str:
    if not isinstance(record, dict):
        return f"only {len(record)} columns, but `{name}` is column {where} (counted from 0)"
    wanted = f"no column {str(where)!r}" + (f" (for `{name}`)" if where != name else "")
    return (
        f"{wanted}; it has {', '.join(map(str, record))}{nearest(str(where), record)}; name it with"
        f" columns: {{{name}: THEIRS}}"
    )


def _read(view: Mapping, want: conversations.Shape) -> conversations.Row:
    """What the columns say.

    Raises: Malformed, and Dropped, also for what stored rows have no place for.
    """
    read = conversations.read(view, want)
    if (key := read.unstorable()) is not None:
        raise Dropped(f"has_{key}", f"has {key}, and rows hold roles and texts only")
    return read


def _stored(messages: Sequence[Mapping]) -> list[dict]:
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _prompt(view: Mapping) -> Row:
    return {"prompt": _stored(_read(view, "prompt").prompt)}


def _demonstration(view: Mapping) -> Row:
    return _answered(view) | {"response_lang": view.get("response_lang")}


def _answered(view: Mapping) -> Row:
    """Prompt and completion of a row with one answer."""
    read = _read(view, "one")
    if read.shape != "one":
        raise Malformed(
            f"needs messages, or prompt and completion; it has {', '.join(map(str, view))}"
        )
    return {"prompt": _stored(read.prompt), "completion": _stored(read.answers)}


def _preference(view: Mapping) -> Row:
    read = _read(view, "pair")
    if read.n_chosen is not None:
        several = "rejected" if len(read.answers) > read.n_chosen + 1 else "chosen"
        raise Malformed(
            f"`{several}` holds several answers, and a preference has one; name one with columns:"
            f" {{{several}: {several}.0}}"
        )
    if read.shape != "pair":
        raise Malformed(f"needs chosen and rejected; it has {', '.join(map(str, view))}")
    chosen, rejected = read.answers
    numbers = {
        name: _number(view.get(name), name) for name in ("margin", "score_chosen", "score_rejected")
    }
    texts = {name: view.get(name) for name in ("method", "chosen_lang", "rejected_lang")}
    return {
        "prompt": _stored(read.prompt),
        "chosen": _stored([chosen]),
        "rejected": _stored([rejected]),
        **numbers,
        **texts,
    }


def _unpaired(view: Mapping) -> Row:
    row = _answered(view)
    label = {"true": True, "1": True, "false": False, "0": False}.get(
        str(pick(dict(view), "label", "label")).lower()
    )
    if label is None:
        raise Malformed(f"`label` must be true or false, found {view['label']!r}")
    return row | {"label": label}


def _ranking(view: Mapping) -> Row:
    read, ranks = _read(view, "many"), _list_in(pick(dict(view), "ranks", "ranks"))
    if read.shape != "many" or not isinstance(ranks, list) or len(read.answers) != len(ranks):
        raise Malformed("`responses` and `ranks` must be lists of the same length")
    if not all(type(rank) is int for rank in ranks):
        raise Malformed("`ranks` must hold whole numbers")
    return {
        "prompt": _stored(read.prompt),
        "responses": [answer["content"] for answer in read.answers],
        "ranks": ranks,
    }


def _list_in(value: Any) -> Any:
    """A list that stands in a table as JSON text is that list."""
    return parsed(value) if isinstance(value, str) else value


def _text(view: Mapping) -> Row:
    text = pick(dict(view), "text", "text")
    if not isinstance(text, str | None):
        raise Malformed(f"`text` must be text, found a {type(text).__name__}")
    return {"text": text or ""}


_BY_KIND: dict[str, Callable[[Mapping], Row]] = {
    "text": _text,
    "prompt": _prompt,
    "demonstration": _demonstration,
    "preference": _preference,
    "unpaired": _unpaired,
    "ranking": _ranking,
}


def _number(value: Any, name: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise Malformed(f"`{name}` must be a number, found {value!r}") from None
    if not math.isfinite(number):
        raise Malformed(f"`{name}` must be a finite number or null, found {value!r}")
    return number


def split_name(value: Any) -> str:
    """`train` or `eval` for the usual names of splits."""
    name = str(value).lower()
    if name != "train" and name not in EVAL_SPLITS:
        raise Malformed(
            f"`split` must be train or eval (or test, validation, dev), found {value!r}"
        )
    return "train" if name == "train" else "eval"


def reference(value: Any, match: str) -> str | None:
    """A reference answer as the JSON that verifiers read: `{"answer", "match"}`; what is that
    already stays as it is.
    """
    if value is None:
        return None
    if isinstance(value, str) and value.lstrip().startswith("{"):
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    if isinstance(value, dict) and "answer" in value:
        return to_json({"match": match, **value})
    return to_json({"answer": str(value), "match": match})


def derive(row: Row, kind: str) -> Row:
    """A prompt or a demonstration (its chosen side) out of a richer row; a row of the right kind
    stays as it is.
    """
    if kind == "demonstration" and "chosen" in row:
        return {**row, "completion": row["chosen"], "response_lang": row.get("chosen_lang")}
    return row


# ---------------------------------------------------------------------------------- particular sets


def hh_rlhf(record: Record, kind: str) -> Row:
    """Anthropic HH-RLHF (`formats.hh_rlhf`) as a preference, or what derives from it."""
    return derive(formats.hh_rlhf(record), kind)


def xcopa(record: Record, kind: str, language: str) -> Row:
    """XCOPA (`formats.xcopa`) as a preference, or what derives from it.

    A prompt (kind `prompt`) also shows both choices, a line each, and its reference is the right
    one.
    """
    row = formats.xcopa(record, language)
    if kind != "prompt":
        return derive(row, kind)
    asked, right = text_of(row.pop("prompt")), text_of(row.pop("chosen"))
    shown = "\n".join(
        [asked, pick(record, "choice1", "choice1"), pick(record, "choice2", "choice2")]
    )
    placed = {name: row[name] for name in ("group_id", "metadata")}
    return placed | {"prompt": messages(shown), "reference": reference(right, "contains")}


def mgsm(record: Record, language: str) -> Row:
    """MGSM (Shi et al. 2022): a problem and, in the second column, the number that answers it.

    English is the original.
    """
    problem, answer = pick(record, 0, "problem"), pick(record, 1, "answer")
    origin = "native" if language == "eng_Latn" else "human_translated"
    return {
        "prompt": messages(problem),
        "reference": reference(answer.strip().replace(",", ""), "numeric"),
        "origin": origin,
    }


def rewardbench(record: Record, kind: str) -> Row:
    """RewardBench, M-RewardBench (both `preference`) and RewardBench 2 (`ranking`).

    The subset is in the column `subset`, or `source` in M-RewardBench. Translations of a row share
    its group. The rows `ref:7` and `tied:7` of RewardBench 2 belong to one prompt and share one
    too.
    """
    view = record if isinstance(record, dict) else {}
    subset = str(
        view["subset"] if view.get("subset") is not None else pick(record, "source", "subset")
    )
    identifier = str(pick(record, "id", "id"))
    prefix, colon, number = identifier.partition(":")
    group = number if colon and prefix in ("ref", "tied") else identifier
    placed = {
        "key": f"{subset}:{identifier}",
        "group_id": f"{subset}:{group}",
        "metadata": to_json({"subset": subset}),
    }
    asked = {name: pick(record, name, name) for name in ("prompt", "chosen", "rejected")}
    if kind == "preference":
        return {**_preference(asked), **placed}
    read = _read(
        {**asked, **{side: _several(asked[side]) for side in ("chosen", "rejected")}}, "pair"
    )
    n_right = 1 if read.n_chosen is None else read.n_chosen
    texts = [answer["content"] for answer in read.answers]
    ranks = [0 if place < n_right else 1 for place in range(len(texts))]
    return {"prompt": _stored(read.prompt), "responses": texts, "ranks": ranks, **placed}


def _several(side: Any) -> Any:
    value = _list_in(side)
    return value if isinstance(value, list) else side
