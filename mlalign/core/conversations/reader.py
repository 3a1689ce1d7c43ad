"""From the columns of a record to a `Row`: the one place that decides what a row is.

An answer is one message of the assistant, and everything before it is the prompt. Columns, in the
order in which they decide:

    chosen, rejected                  a pair; several answers on a side (RewardBench 2) make a row of several answers
    prompt, responses                 several answers
    prompt, response or completion    one answer
    messages or conversations         one answer, which is its last message
    prompt                            no answer

A prompt may stand beside whole conversations: what both hold is taken once, whether the prompt is
their beginning, their last turns, or lacks their system message. `messages` beside `chosen` and
`rejected` repeats one of them and is not looked at. Text in `system` or `system_prompt` is the
system message of a prompt that has none itself.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

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
SPECIAL = frozenset(
    (*WHOLE, *SEVERAL, *SYSTEM, "completion", "chosen", "rejected", "tools")
)  # beside these a row is not plain

# What people call a prompt or a response where no shape tells which it is.
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

    shape       `prompt` (no answer), `one`, `many`, or `pair`: the chosen answer, then the rejected one
    prompt      messages; not empty
    answers     a message of the assistant each; all follow the same prompt
    n_chosen    with `many` from two sides: so many answers, the first ones, are chosen; else None
    names       the id of each answer, or None
    tools       the tools that the template is given, or None
    """

    shape: Shape
    prompt: list[dict]
    answers: list[dict] = dataclasses.field(default_factory=list)
    n_chosen: int | None = None
    names: list[str | None] = dataclasses.field(default_factory=list)
    tools: list | None = None

    def unstorable(self) -> str | None:
        """The first thing in the row, besides roles and texts, that says something: `tool_calls`,
        `tools`, …; None if nothing does.

        Names of speakers and ids of calls do not count.
        """
        keys = {key for message in (*self.prompt, *self.answers) for key in message}
        said = [key for key in CARRIED if key in keys and key not in ("name", "tool_call_id")]
        return said[0] if said else "tools" if self.tools else None


def is_plain(record: Mapping) -> bool:
    """Whether a record is certainly one prompt and one response in plain text, seen at a glance:
    most are.
    """
    prompt, response = record.get("prompt"), record.get("response")
    if type(prompt) is not str or type(response) is not str:
        return False
    return prompt != "" and plain(prompt) and plain(response) and SPECIAL.isdisjoint(record)


def named(record: Mapping, columns: Mapping[str, Any]) -> dict:
    """A record whose `columns` (our name -> value) a person has named: other columns with answers
    are not looked at beside them.
    """
    answers = (*WHOLE, *ONE, *SEVERAL, "chosen", "rejected")
    hidden = answers if any(name in columns for name in answers) else ()
    return {**{name: value for name, value in record.items() if name not in hidden}, **columns}


def read(record: Mapping, want: Shape | None = None) -> Row:
    """What a record says. `want`: what is looked for first where a record has several things.

        read({"prompt": "Hi", "chosen": "Hello", "rejected": "No"}).shape       pair
        read({"prompt": "Hi", "messages": [U, A]}, "prompt").prompt             [{role: user, content: Hi}]

    Raises: Malformed for a record of another form, Dropped for one that gives nothing.
    """
    if want is None and is_plain(record):
        question = {"role": "user", "content": record["prompt"]}
        answer = {"role": "assistant", "content": record["response"]}
        return Row("one", [question], [answer], names=[None])
    row = _row(by_shape(record), want)
    prompt = _after_system(record, row.prompt)
    return row if prompt is row.prompt else dataclasses.replace(row, prompt=prompt)


def _row(record: Mapping, want: Shape | None) -> Row:
    tools = _tools(record.get("tools"))
    if want == "prompt":
        return Row("prompt", _prompt_alone(record), tools=tools)
    if want == "one" and any(_there(record, name) for name in (*WHOLE, *ONE)):
        return _one(record, tools)
    if _there(record, "chosen") or _there(record, "rejected"):
        return _sides(record, tools)
    if name := next((name for name in SEVERAL if _there(record, name)), None):
        return _many(record, name, tools)
    if any(_there(record, name) for name in (*WHOLE, *ONE)):
        return _one(record, tools)
    if "chosen" in record and "rejected" in record:
        raise Dropped("null_answer", "`chosen` and `rejected` are null")
    raise _needs(record)


def _needs(record: Mapping) -> Malformed:
    has = ", ".join(map(str, record)) or "nothing"
    mends = []
    for theirs, ours in USUAL.items():
        if theirs in record and ours not in record:
            stored = "completion" if ours == "response" else ours
            mends.append(
                f"; if `{theirs}` is the {ours}, say so with --{ours}-column {theirs}, or columns:"
                f" {{{stored}: {theirs}}}"
            )
    return Malformed(f"needs {NEEDED}; it has {has}{''.join(mends)}")


def _there(record: Mapping, name: str) -> bool:
    """Whether a column says something; text may be empty where it is an answer, and tables have no
    null.
    """
    value = record.get(name)
    return value is not None and not (name in WHOLE and value in ("", []))


# ------------------------------------------------------------------------------------------- shapes


def _prompt_alone(record: Mapping) -> list[dict]:
    prompt = conversation(record.get("prompt"), "user", "prompt")
    if prompt:
        return prompt
    if whole := next((name for name in WHOLE if _there(record, name)), None):
        turns = _turns(record, whole)
        return turns[:-1] if turns[-1]["role"] == "assistant" else turns
    if _there(record, "chosen") and _there(record, "rejected"):
        return _sides(record, None).prompt
    if "prompt" in record:
        return []
    raise Malformed(f"needs prompt or messages; it has {', '.join(map(str, record)) or 'nothing'}")


def _one(record: Mapping, tools: list | None) -> Row:
    whole = next((name for name in WHOLE if _there(record, name)), None)
    answer = next((name for name in ONE if _there(record, name)), None)
    if whole is None:
        assert answer is not None
        prompt, message = _answered(_prompt(record), record[answer], answer)
        return Row("one", prompt, [message], names=[_name(record[answer])], tools=tools)
    turns = _turns(record, whole)
    if answer is None or (record[answer] == "" and turns[-1]["role"] == "assistant"):
        prompt, message = _joined([], turns, whole)
        return Row("one", prompt, [message], names=[None], tools=tools)
    if turns[-1]["role"] == "assistant":
        raise Dropped(
            "two_answers", f"has an answer at the end of `{whole}` and another in `{answer}`"
        )
    prompt, message = _answered(turns, record[answer], answer)
    return Row("one", prompt, [message], names=[_name(record[answer])], tools=tools)


def _sides(record: Mapping, tools: list | None) -> Row:
    for side in ("chosen", "rejected"):
        if side not in record:
            raise _needs(record)
        if record[side] is None:
            raise Dropped("null_answer", f"`{side}` is null")
    chosen, rejected = (_several(record[side]) for side in ("chosen", "rejected"))
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
    return Row(
        "many", prompt, answers, names=[_name(response) for response in responses], tools=tools
    )


def _answers(record: Mapping, values: Sequence[tuple[str, Any]]) -> tuple[list[dict], list[dict]]:
    """The prompt that all answers share, and the answers. Raises: Dropped if they do not share one."""
    given = _prompt(record)
    prompts, answers = [], []
    for name, value in values:
        prompt, answer = _answered(given, value, name)
        prompts.append(prompt)
        answers.append(answer)
    names = list(dict.fromkeys(name for name, _ in values))
    if not all(_same(prompt, prompts[0]) for prompt in prompts):
        raise Dropped(
            "prompts_differ",
            f"the conversations of {' and '.join(f'`{n}`' for n in names)} differ before their last"
            " message",
        )
    return prompts[0] if prompts else given, answers


# ------------------------------------------------------------------------------------------ columns


def _prompt(record: Mapping) -> list[dict]:
    return conversation(record.get("prompt") or None, "user", "prompt")


def _turns(record: Mapping, name: str) -> list[dict]:
    """A column of whole conversations; text there must be the JSON of messages."""
    turns = conversation(record[name], "user", name)
    if isinstance(record[name], str) and len(turns) == 1 and turns[0]["content"] == record[name]:
        raise Malformed(
            f"`{name}`: expected a list of messages {{role, content}}, got text that is no JSON"
            " of one"
        )
    if not turns:
        raise Dropped("no_messages", f"`{name}` is empty")
    return turns


def _after_system(record: Mapping, prompt: list[dict]) -> list[dict]:
    """The prompt after the system message of a column. Raises: Dropped if the prompt has another."""
    texts = (record.get(name) for name in SYSTEM)
    told = [text for text in texts if isinstance(text, str) and text.strip()]
    if not told or not prompt:
        return prompt
    messages = [{"role": "system", "content": text} for text in told]
    own = [message for message in prompt[:1] if message["role"] in ("system", "developer")]
    first = [{**message, "role": "system"} for message in own] or messages[:1]
    if not all(_same(first, [message]) for message in messages):
        why = "has a system message in a column (`system`, `system_prompt`) and another one besides"
        raise Dropped("two_system_messages", why)
    return prompt if own else [*first, *prompt]


def _listed(value: Any) -> Any:
    """A list that stands in a table as JSON text is that list."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        found = parsed(value)
        if (
            isinstance(found, list)
            and found
            and all(isinstance(part, str | list) for part in found)
        ):
            return found
    return list(value) if isinstance(value, tuple) else value


def _several(side: Any) -> list:
    """The answers on one side: of a list those in it, unless it is the messages of one answer."""
    side = _listed(side)
    return (
        side
        if isinstance(side, list) and not any(isinstance(part, Mapping) for part in side)
        else [side]
    )


def _text_of(answer: Any) -> Any:
    """What of an answer is text or messages: some sets give an object for each."""
    if not isinstance(answer, Mapping) or "role" in answer or "from" in answer:
        return answer
    for key in ("text", "response", "answer", "content"):
        if key in answer:
            return "" if key == "text" and answer[key] is None else answer[key]
    return answer


def _name(answer: Any) -> str | None:
    name = answer.get("candidate_id") if isinstance(answer, Mapping) else None
    return None if name is None else str(name)


def _tools(value: Any) -> list | None:
    if value is None or value in ("", [], {}):
        return None
    value = parsed(value) if isinstance(value, str) else value
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
        raise Malformed("`tools` must be a list of tools, or the JSON text of one")
    return value


# -------------------------------------------------------------------------- prompt and conversation


def _answered(given: list[dict], value: Any, name: str) -> tuple[list[dict], dict]:
    """(prompt, answer) of what stands in `prompt`, and `value` in the column of an answer.

    Raises: Dropped, Malformed.
    """
    value = _text_of(value)
    if value is None:
        raise Dropped("null_answer", f"`{name}` has an answer that is null")
    if isinstance(value, str) and not given and plain(value):
        raise Malformed(f"needs {NEEDED}: `{name}` is an answer without a prompt")
    return _joined(given, conversation(value, "assistant", name), name)


def _joined(given: list[dict], turns: list[dict], name: str) -> tuple[list[dict], dict]:
    """(prompt, answer) of a prompt and a conversation beside it. Raises: Dropped."""
    if not turns:
        raise Dropped("no_messages", f"`{name}` is empty")
    *before, answer = turns
    if answer["role"] != "assistant":
        raise Dropped(
            f"ends_with_{answer['role']}",
            f"`{name}`: a conversation has a prompt and ends with an assistant's message; this one"
            f" ends with the {answer['role']}'s",
        )
    prompt = _merged(given, before)
    if prompt is None:
        raise Dropped(
            "prompt_not_in_conversation",
            "`prompt` is neither the beginning nor the end of what comes before the answer in"
            f" `{name}`",
        )
    if not prompt:
        raise Dropped(
            "no_prompt",
            f"`{name}`: a conversation has a prompt and ends with an assistant's message; this one"
            " has no prompt",
        )
    return prompt, answer


def _merged(given: list[dict], before: list[dict]) -> list[dict] | None:
    """A prompt, and what stands before the answer in a conversation beside it, as one; None if they
    contradict each other.

    What both hold is taken once, as the conversation has it:

        [U]       [S, U]      -> [S, U]         [S, U]   [U]        -> [S, U]
        [U]       [U, A, V]   -> [U, A, V]      [V]      [U, A, V]  -> [U, A, V]
        [U]       [A, V]      -> [U, A, V]      [U]      [V]        -> None
    """
    if not given or not before:
        return before or given
    system, asked = _without_system(given)
    other_system, turns = _without_system(before)
    if system and other_system and not _same(system, other_system):
        return None
    first = other_system or system
    n = len(asked)
    if _same(turns[:n], asked) or _same(turns[max(len(turns) - n, 0) :], asked):
        return [*first, *turns]
    if _same(asked[max(n - len(turns), 0) :], turns):
        return [*first, *asked]
    if before[0]["role"] in ("assistant", "tool"):
        return [*given, *before]
    return None


def _without_system(messages: list[dict]) -> tuple[list[dict], list[dict]]:
    n = next(
        (i for i, message in enumerate(messages) if message["role"] not in ("system", "developer")),
        len(messages),
    )
    return messages[:n], messages[n:]


def _same(a: Sequence[Mapping], b: Sequence[Mapping]) -> bool:
    """Whether two conversations are the same but for white space."""
    return a == b or (
        len(a) == len(b) and all(_told(x) == _told(y) for x, y in zip(a, b, strict=True))
    )


def _told(message: Mapping) -> dict:
    return {**message, "content": " ".join((message["content"] or "").split()), "name": None}
