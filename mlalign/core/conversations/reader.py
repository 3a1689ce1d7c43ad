"""From the columns of a record to a `Row`: the one place that decides what a row is.

An answer is one message of the assistant, and everything before it is the prompt. Columns, in the
order in which they decide:

    chosen, rejected                  a pair; or several answers, if a side has several of them
                                      (RewardBench 2)
    prompt, responses                 several answers
    prompt, response or completion    one answer
    messages or conversations         one answer, which is its last message
    prompt                            no answer

A prompt may stand beside whole conversations. What both hold is taken once, whether the prompt is
their beginning, their last turns, or lacks their system message. `messages` beside `chosen` and
`rejected` repeats one of them and is ignored. Text in `system` or `system_prompt` is the system
message of a prompt that has none itself.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mlalign.core.conversations.merging import joined, same
from mlalign.core.conversations.messages import (
    CARRIED,
    Dropped,
    Malformed,
    conversation,
    parsed,
    plain,
)
from mlalign.core.conversations.shapes import by_shape

NEEDED = "prompt and response, prompt and responses, messages, or chosen and rejected"
WHOLE = ("messages", "conversations", "conversation")
ONE = ("response", "completion")
SEVERAL = ("responses", "completions")
SYSTEM = ("system", "system_prompt")  # columns whose text is the system message
# A record with one of these columns is not plain.
SPECIAL = frozenset((*WHOLE, *SEVERAL, *SYSTEM, "completion", "chosen", "rejected", "tools"))

# What people call a prompt or a response.
USUAL = {
    "question": "prompt",
    "query": "prompt",
    "instruction": "prompt",
    "history": "prompt",
    "context": "prompt",
    "input": "prompt",
    "problem": "prompt",
    "answer": "response",
    "output": "response",
    "reply": "response",
    "solution": "response",
    "target": "response",
}

Shape = Literal["prompt", "one", "many", "pair"]


@dataclasses.dataclass(frozen=True)
class Row:
    """What a record says: a prompt and its answers.

    shape       `prompt` (no answer), `one`, `many`, or `pair` (the chosen answer, the rejected one)
    prompt      messages; not empty
    answers     messages of the assistant; all follow the same prompt
    n_chosen    how many of the answers, the first ones, are chosen; only for `many` from two sides
    names       the id of each answer, or None
    tools       the tools that the template gets, or None
    """

    shape: Shape
    prompt: list[dict]
    answers: list[dict] = dataclasses.field(default_factory=list)
    n_chosen: int | None = None
    names: list[str | None] = dataclasses.field(default_factory=list)
    tools: list | None = None

    def unstorable(self) -> str | None:
        """The first key that is neither role nor text, such as `tool_calls` or `tools`; or None.

        Names of speakers and ids of calls do not count.
        """
        keys: set[str] = set().union(*self.prompt, *self.answers)
        for key in CARRIED:
            if key in keys and key not in ("name", "tool_call_id"):
                return key
        return "tools" if self.tools else None


def is_plain(record: Mapping) -> bool:
    """Whether a record is certainly a prompt and a response in plain text. Fast, for most are."""
    prompt = record.get("prompt")
    response = record.get("response")
    if type(prompt) is not str or type(response) is not str:
        return False
    return prompt != "" and plain(prompt) and plain(response) and SPECIAL.isdisjoint(record)


def named(record: Mapping, columns: Mapping[str, Any]) -> dict:
    """A record with columns that a person has named (our name -> value).

    If they hold answers, the record's other columns with answers are left out.
    """
    answer_columns = (*WHOLE, *ONE, *SEVERAL, "chosen", "rejected")
    if any(name in columns for name in answer_columns):
        record = {name: value for name, value in record.items() if name not in answer_columns}
    return {**record, **columns}


def read(record: Mapping, want: Shape | None = None) -> Row:
    """What a record says. `want`: what to look for first if a record has several things.

        read({"prompt": "Hi", "chosen": "Hello", "rejected": "No"}).shape    pair
        read({"prompt": "Hi", "messages": [U, A]}, "prompt").prompt          [{role: user, …}]

    Raises: Malformed for a record of another form, Dropped for one that gives no row.
    """
    if want is None and is_plain(record):
        question = {"role": "user", "content": record["prompt"]}
        answer = {"role": "assistant", "content": record["response"]}
        return Row("one", [question], [answer], names=[None])

    row = _row(by_shape(record), want)
    prompt = _after_system(record, row.prompt)
    if prompt is row.prompt:
        return row
    return dataclasses.replace(row, prompt=prompt)


def _row(record: Mapping, want: Shape | None) -> Row:
    tools = _tools(record.get("tools"))
    has_one = _first_with_value(record, (*WHOLE, *ONE)) is not None
    if want == "prompt":
        return Row("prompt", _prompt_alone(record), tools=tools)
    if want == "one" and has_one:
        return _one(record, tools)
    if _first_with_value(record, ("chosen", "rejected")):
        return _sides(record, tools)
    if several := _first_with_value(record, SEVERAL):
        return _many(record, several, tools)
    if has_one:
        return _one(record, tools)
    if "chosen" in record and "rejected" in record:
        raise Dropped("null_answer", "`chosen` and `rejected` are null")
    raise _needs(record)


def _needs(record: Mapping) -> Malformed:
    """An error for a record without the columns of a row, with hints at columns to name."""
    message = f"needs {NEEDED}; it has {_names_in(record)}"
    for theirs, ours in USUAL.items():
        if theirs in record and ours not in record:
            column = "completion" if ours == "response" else ours
            message += (
                f"; if `{theirs}` is the {ours}, say so with --{ours}-column {theirs},"
                f" or columns: {{{column}: {theirs}}}"
            )
    return Malformed(message)


def _names_in(record: Mapping) -> str:
    return ", ".join(map(str, record)) or "nothing"


def _first_with_value(record: Mapping, names: Sequence[str]) -> str | None:
    """The first of these columns that says something.

    An answer may be empty text; whole conversations may not, because tables have no null.
    """
    for name in names:
        value = record.get(name)
        if value is None or (name in WHOLE and value in ("", [])):
            continue
        return name
    return None


# ------------------------------------------------------------------------------------------- shapes


def _prompt_alone(record: Mapping) -> list[dict]:
    prompt = conversation(record.get("prompt"), "user", "prompt")
    if prompt:
        return prompt
    if whole := _first_with_value(record, WHOLE):
        turns = _turns(record, whole)
        return turns[:-1] if turns[-1]["role"] == "assistant" else turns
    if record.get("chosen") is not None and record.get("rejected") is not None:
        return _sides(record, None).prompt
    if "prompt" in record:
        return []
    raise Malformed(f"needs prompt or messages; it has {_names_in(record)}")


def _one(record: Mapping, tools: list | None) -> Row:
    whole = _first_with_value(record, WHOLE)
    column = _first_with_value(record, ONE)
    if whole is None:
        assert column is not None
        before = _prompt(record)
    else:
        before = _turns(record, whole)
        ends_with_answer = before[-1]["role"] == "assistant"
        if column is None or (ends_with_answer and record[column] == ""):
            prompt, answer = joined([], before, whole)
            return Row("one", prompt, [answer], names=[None], tools=tools)
        if ends_with_answer:
            raise Dropped(
                "two_answers", f"has an answer at the end of `{whole}` and another in `{column}`"
            )

    prompt, answer = _answered(before, record[column], column)
    return Row("one", prompt, [answer], names=[_id(record[column])], tools=tools)


def _sides(record: Mapping, tools: list | None) -> Row:
    for side in ("chosen", "rejected"):
        if side not in record:
            raise _needs(record)
        if record[side] is None:
            raise Dropped("null_answer", f"`{side}` is null")

    chosen = _several(record["chosen"])
    rejected = _several(record["rejected"])
    if not chosen or not rejected:
        raise Malformed("needs at least one chosen and one rejected answer")
    values = [("chosen", value) for value in chosen] + [("rejected", value) for value in rejected]
    prompt, answers = _answers(record, values)
    if len(answers) == 2:
        return Row("pair", prompt, answers, names=[None, None], tools=tools)
    return Row("many", prompt, answers, len(chosen), [None] * len(answers), tools)


def _many(record: Mapping, name: str, tools: list | None) -> Row:
    responses = _listed(record[name])
    if not isinstance(responses, list):
        raise Malformed(f"{name}: expected a list, got {type(responses).__name__}")
    if not responses and not _prompt(record):
        raise Malformed(f"needs {NEEDED}: `{name}` stands without a prompt")
    prompt, answers = _answers(record, [(name, value) for value in responses])
    ids = [_id(response) for response in responses]
    return Row("many", prompt, answers, names=ids, tools=tools)


def _answers(record: Mapping, values: Sequence[tuple[str, Any]]) -> tuple[list[dict], list[dict]]:
    """The prompt that all answers share, and the answers. `values`: (column, answer).

    Raises: Dropped if they do not share one.
    """
    own_prompt = _prompt(record)
    prompts = []
    answers = []
    for name, value in values:
        prompt, answer = _answered(own_prompt, value, name)
        prompts.append(prompt)
        answers.append(answer)
    if not prompts:
        return own_prompt, answers

    if not all(same(prompt, prompts[0]) for prompt in prompts):
        columns = " and ".join(dict.fromkeys(f"`{name}`" for name, _ in values))
        raise Dropped(
            "prompts_differ",
            f"the conversations of {columns} differ before their last message",
        )
    return prompts[0], answers


# ------------------------------------------------------------------------------------------ columns


def _prompt(record: Mapping) -> list[dict]:
    return conversation(record.get("prompt") or None, "user", "prompt")


def _turns(record: Mapping, name: str) -> list[dict]:
    """A column of whole conversations; text there must be the JSON of messages."""
    value = record[name]
    turns = conversation(value, "user", name)
    if isinstance(value, str) and len(turns) == 1 and turns[0]["content"] == value:
        raise Malformed(
            f"`{name}`: expected a list of messages {{role, content}},"
            " got text that is no JSON of one"
        )
    if not turns:
        raise Dropped("no_messages", f"`{name}` is empty")
    return turns


def _after_system(record: Mapping, prompt: list[dict]) -> list[dict]:
    """The prompt after the system message of a column. Raises: Dropped if it has another one."""
    messages = []
    for name in SYSTEM:
        text = record.get(name)
        if isinstance(text, str) and text.strip():
            messages.append({"role": "system", "content": text})
    if not messages or not prompt:
        return prompt

    has_own = prompt[0]["role"] in ("system", "developer")
    first = {**prompt[0], "role": "system"} if has_own else messages[0]
    if not all(same([first], [message]) for message in messages):
        raise Dropped(
            "two_system_messages",
            "has a system message in a column (`system`, `system_prompt`) and another one besides",
        )
    return prompt if has_own else [first, *prompt]


def _listed(value: Any) -> Any:
    """A value, or the list in it: tables hold lists as JSON text."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        items = parsed(value)
        if items and isinstance(items, list) and all(map(_is_text_or_list, items)):
            return items
    return list(value) if isinstance(value, tuple) else value


def _is_text_or_list(value: Any) -> bool:
    return isinstance(value, str | list)


def _several(side: Any) -> list:
    """The answers on one side: the items of a list, unless they are the messages of one answer."""
    side = _listed(side)
    if not isinstance(side, list) or any(isinstance(item, Mapping) for item in side):
        return [side]
    return side


def _content_of(answer: Any) -> Any:
    """The text or messages of an answer, which some sets wrap in an object."""
    if not isinstance(answer, Mapping) or "role" in answer or "from" in answer:
        return answer
    for key in ("text", "response", "answer", "content"):
        if key not in answer:
            continue
        if key == "text" and answer[key] is None:
            return ""
        return answer[key]
    return answer


def _id(answer: Any) -> str | None:
    if not isinstance(answer, Mapping) or answer.get("candidate_id") is None:
        return None
    return str(answer["candidate_id"])


def _tools(value: Any) -> list | None:
    if value is None or value in ("", [], {}):
        return None
    if isinstance(value, str):
        value = parsed(value)
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
        raise Malformed("`tools` must be a list of tools, or the JSON text of one")
    return value


def _answered(before: list[dict], value: Any, name: str) -> tuple[list[dict], dict]:
    """(prompt, answer) of the messages before an answer, and `value` in the answer's column.

    Raises: Dropped, Malformed.
    """
    value = _content_of(value)
    if value is None:
        raise Dropped("null_answer", f"`{name}` has an answer that is null")
    if isinstance(value, str) and not before and plain(value):
        raise Malformed(f"needs {NEEDED}: `{name}` is an answer without a prompt")
    return joined(before, conversation(value, "assistant", name), name)
