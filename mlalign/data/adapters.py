"""From a record of a data set to the columns of a row. Pure: a mapping in, a mapping out.

An adapter returns the columns of the row's kind, and `key`, `group_id`, `language` and `split` if
the record has them. A record of the wrong form raises `Malformed`; one that gives no row raises
`Dropped`.
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

# kind -> the columns that a source must have, and those that are read if they are there
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
LABELS = {"true": True, "1": True, "false": False, "0": False}
EVAL_SPLITS = ("eval", "evaluation", "test", "validation", "valid", "val", "dev")


def own_columns(kind: str) -> tuple[str, ...]:
    """The names of our columns that a source's `columns` may use."""
    return (*REQUIRED[kind], *OPTIONAL[kind], *PLACING)


# -------------------------------------------------------------------------- any set, by its columns


def columns(record: Record, kind: str, mapping: Mapping[str, Any], match: str = "contains") -> Row:
    """A record of any set that `conversations` can read, as a row of `kind`.

    `mapping`: our column -> theirs.
    Raises: Malformed, Dropped.
    """
    theirs = record if isinstance(record, dict) else {}
    ours = {name: _picked(record, where, name) for name, where in mapping.items()}
    view = conversations.named(theirs, ours)
    try:
        row = _BY_KIND[kind](view)
    except Malformed as error:
        raise Malformed(_with_mend(str(error), view, kind)) from None

    if kind == "prompt":
        row["reference"] = reference(view.get("reference"), match)
    for name in PLACING:
        if view.get(name) is not None:
            row[name] = view[name]
    metadata = view.get("metadata")
    if "metadata" in OPTIONAL[kind] and metadata is not None:
        row["metadata"] = metadata if isinstance(metadata, str) else to_json(metadata)

    if "id" in row:
        row["key"] = str(row.pop("id"))
    if "split" in row:
        row["split"] = split_name(row["split"])
    return row


def _with_mend(message: str, view: Mapping, kind: str) -> str:
    """Why a record cannot be read, and how to name a column that it lacks."""
    if not message.startswith("needs "):
        return message
    for name in REQUIRED[kind]:
        if name not in view:
            return _missing(dict(view), name, name)
    return f"{message}; name its column with columns: {{prompt: THEIRS}}"


def _picked(record: Record, where: str | int | Mapping[str, str | int], name: str) -> Any:
    """The value at `where`, or a mapping of values for `{ours: theirs}` (metadata)."""
    if isinstance(where, Mapping):
        return {key: pick(record, inner, f"{name}.{key}") for key, inner in where.items()}
    return pick(record, where, name)


def pick(record: Record, where: str | int, name: str) -> Any:
    """The value at `where`, for our column `name`.

    `where` is a position, a column, or a path into nested mappings and lists (`answers.0.text`).
    Raises: Malformed if it is not there.
    """
    if not isinstance(record, dict):
        if isinstance(where, int) and where < len(record):
            return record[where]
    elif where in record:
        return record[where]
    elif "." in str(where):
        with contextlib.suppress(KeyError, IndexError):
            return _nested(record, str(where).split("."))
    raise Malformed(_missing(record, where, name))


def _nested(value: Any, path: list[str]) -> Any:
    """The value at a path. Raises: KeyError, IndexError."""
    for part in path:
        if isinstance(value, dict):
            value = value[part]
        elif isinstance(value, list) and part.isdigit():
            value = value[int(part)]
        else:
            raise KeyError(part)
    return value


def _missing(record: Record, where: str | int, name: str) -> str:
    if not isinstance(record, dict):
        return f"only {len(record)} columns, but `{name}` is column {where} (counted from 0)"
    missing = f"no column {str(where)!r}"
    if where != name:
        missing += f" (for `{name}`)"
    hint = nearest(str(where), record)
    return (
        f"{missing}; it has {', '.join(map(str, record))}{hint};"
        f" name it with columns: {{{name}: THEIRS}}"
    )


def _read(view: Mapping, want: conversations.Shape) -> conversations.Row:
    """What the columns say. Raises: Malformed; Dropped, also for what our rows cannot hold."""
    read = conversations.read(view, want)
    key = read.unstorable()
    if key is not None:
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
        columns = ", ".join(map(str, view))
        raise Malformed(f"needs messages, or prompt and completion; it has {columns}")
    return {"prompt": _stored(read.prompt), "completion": _stored(read.answers)}


def _preference(view: Mapping) -> Row:
    read = _read(view, "pair")
    if read.n_chosen is not None:
        n_rejected = len(read.answers) - read.n_chosen
        side = "rejected" if n_rejected > 1 else "chosen"
        raise Malformed(
            f"`{side}` holds several answers, and a preference has one;"
            f" name one with columns: {{{side}: {side}.0}}"
        )
    if read.shape != "pair":
        raise Malformed(f"needs chosen and rejected; it has {', '.join(map(str, view))}")

    chosen, rejected = read.answers
    row: Row = {
        "prompt": _stored(read.prompt),
        "chosen": _stored([chosen]),
        "rejected": _stored([rejected]),
    }
    for name in ("margin", "score_chosen", "score_rejected"):
        row[name] = _number(view.get(name), name)
    for name in ("method", "chosen_lang", "rejected_lang"):
        row[name] = view.get(name)
    return row


def _unpaired(view: Mapping) -> Row:
    row = _answered(view)
    label = str(pick(dict(view), "label", "label")).lower()
    if label not in LABELS:
        raise Malformed(f"`label` must be true or false, found {view['label']!r}")
    return row | {"label": LABELS[label]}


def _ranking(view: Mapping) -> Row:
    read = _read(view, "many")
    ranks = _list_in(pick(dict(view), "ranks", "ranks"))
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
    """A value, or the list in it: tables hold lists as JSON text."""
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
    if name == "train":
        return "train"
    if name in EVAL_SPLITS:
        return "eval"
    raise Malformed(f"`split` must be train or eval (or test, validation, dev), found {value!r}")


def reference(value: Any, match: str) -> str | None:
    """A reference answer as the JSON that verifiers read, `{"answer", "match"}`.

    A value that has `answer` already keeps its own keys.
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
    """A row of `kind` made from a richer one: the chosen side of a preference demonstrates."""
    if kind == "demonstration" and "chosen" in row:
        return {**row, "completion": row["chosen"], "response_lang": row.get("chosen_lang")}
    return row


# ---------------------------------------------------------------------------------- particular sets


def hh_rlhf(record: Record, kind: str) -> Row:
    """Anthropic HH-RLHF (`formats.hh_rlhf`) as a preference, or a row derived from it."""
    return derive(formats.hh_rlhf(record), kind)


def xcopa(record: Record, kind: str, language: str) -> Row:
    """XCOPA (`formats.xcopa`) as a preference, or a row derived from it.

    A prompt (kind `prompt`) also shows both choices, a line each; its reference is the right one.
    """
    row = formats.xcopa(record, language)
    if kind != "prompt":
        return derive(row, kind)
    question = text_of(row["prompt"])
    choices = [pick(record, name, name) for name in ("choice1", "choice2")]
    return {
        "group_id": row["group_id"],
        "metadata": row["metadata"],
        "prompt": messages("\n".join([question, *choices])),
        "reference": reference(text_of(row["chosen"]), "contains"),
    }


def mgsm(record: Record, language: str) -> Row:
    """MGSM (Shi et al. 2022): a problem and, in the second column, the number that answers it.

    English is the original.
    """
    problem = pick(record, 0, "problem")
    answer = pick(record, 1, "answer")
    return {
        "prompt": messages(problem),
        "reference": reference(answer.strip().replace(",", ""), "numeric"),
        "origin": "native" if language == "eng_Latn" else "human_translated",
    }


def rewardbench(record: Record, kind: str) -> Row:
    """RewardBench, M-RewardBench (both `preference`) and RewardBench 2 (`ranking`).

    The subset is in the column `subset`, or `source` in M-RewardBench. Translations of a row share
    its group, and so do the rows `ref:7` and `tied:7` of RewardBench 2, which have one prompt.
    """
    subset = record.get("subset") if isinstance(record, dict) else None
    if subset is None:
        subset = pick(record, "source", "subset")
    identifier = str(pick(record, "id", "id"))
    prefix, colon, number = identifier.partition(":")
    group = number if colon and prefix in ("ref", "tied") else identifier
    placed = {
        "key": f"{subset}:{identifier}",
        "group_id": f"{subset}:{group}",
        "metadata": to_json({"subset": str(subset)}),
    }

    view = {name: pick(record, name, name) for name in ("prompt", "chosen", "rejected")}
    if kind == "preference":
        return {**_preference(view), **placed}
    sides = {side: _several(view[side]) for side in ("chosen", "rejected")}
    return {**_ranked({**view, **sides}), **placed}


def _ranked(view: Mapping) -> Row:
    """Chosen and rejected answers as a ranking: all chosen ones have rank 0, the others rank 1."""
    read = _read(view, "pair")
    n_chosen = 1 if read.n_chosen is None else read.n_chosen
    n_rejected = len(read.answers) - n_chosen
    return {
        "prompt": _stored(read.prompt),
        "responses": [answer["content"] for answer in read.answers],
        "ranks": [0] * n_chosen + [1] * n_rejected,
    }


def _several(side: Any) -> Any:
    items = _list_in(side)
    return items if isinstance(items, list) else side
