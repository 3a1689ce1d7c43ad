"""Published data sets by the columns that they have: a record in, the same record with the columns
of `reader` out. Pure.

    Alpaca                    instruction, input, output         -> prompt, response
    Alpaca, Orca with sides   instruction or question, chosen, rejected -> prompt, chosen, rejected
    UltraFeedback             instruction, completions           -> prompt, responses
    Nectar                    prompt, answers                    -> prompt, responses
    HelpSteer 2, 3            two responses, a strength          -> prompt, chosen, rejected
    SHP                       history, human_ref_A, …            -> prompt, chosen, rejected
    PKU-SafeRLHF              response_0, response_1, better_response_id -> prompt, chosen, rejected
    Chatbot Arena             conversation_a, conversation_b, winner -> chosen, rejected
    OpenAI's preferences      input, preferred_output, …         -> prompt, chosen, rejected, tools

What `reader` knows already (TRL's formats, HH-RLHF, ShareGPT, RewardBench, binarized UltraFeedback,
KTO) stays as it is. A preference for neither answer is a `Dropped` row with the reason `tie`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from mlalign.core.conversations.messages import Dropped, Malformed, conversation, parsed

Record = Mapping[str, Any]
TIES = ("tie", "tie (bothbad)", "both_bad", "bothbad")


def by_shape(record: Record) -> Record:
    """The record with the columns that `reader` knows; one of no shape that is known here is
    returned as it is.

    Raises: Malformed, Dropped.
    """
    has_sides = "chosen" in record and "rejected" in record
    if not has_sides and any(record.get(name) is not None for name in ANSWERED):
        return record
    for columns, convert in SIDE_SHAPES if has_sides else SHAPES:
        if all(name in record for name in columns):
            return {**record, **convert(record)}
    return record


def _alpaca(record: Record) -> dict:
    return {"prompt": _instruction(record), "response": record["output"]}


def _instructed_sides(record: Record) -> dict:
    return {} if record.get("prompt") else {"prompt": _instruction(record)}


def _asked_sides(record: Record) -> dict:
    return (
        {}
        if record.get("prompt")
        else {"prompt": _with_system(record, [{"role": "user", "content": record["question"]}])}
    )


def _instruction(record: Record) -> list[dict]:
    """Instruction and input as one turn of the user, after the system message and earlier turns
    that some sets have.
    """
    asked = record["instruction"]
    if not isinstance(asked, str):
        raise Malformed(f"`instruction` must be text, got a {type(asked).__name__}")
    more = record.get("input")
    if more is not None and not isinstance(more, str):
        raise Malformed(f"`input` beside `instruction` must be text, got a {type(more).__name__}")
    turns = []
    for said, answer in _history(record.get("history")):
        turns += [{"role": "user", "content": said}, {"role": "assistant", "content": answer}]
    turns.append({"role": "user", "content": f"{asked}\n{more}" if more else asked})
    return _with_system(record, turns)


def _history(value: Any) -> list[tuple[str, str]]:
    if not value:
        return []
    if not isinstance(value, list) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in value
    ):
        raise Malformed("`history` beside `instruction` must be a list of [question, answer]")
    return [(said, answer) for said, answer in value]


def _with_system(record: Record, turns: list[dict]) -> list[dict]:
    system = record.get("system")
    return (
        [{"role": "system", "content": system}, *turns]
        if isinstance(system, str) and system
        else turns
    )


def _ultrafeedback(record: Record) -> dict:
    return {"prompt": record["instruction"], "responses": record["completions"]}


def _nectar(record: Record) -> dict:
    """Elsewhere `answers` are the gold answers of a question, and no responses to score."""
    answers = record["answers"]
    is_nectar = isinstance(answers, list) and all(
        isinstance(a, Mapping) and "answer" in a for a in answers
    )
    return {"responses": answers} if is_nectar else {}


def _helpsteer_2(record: Record) -> dict:
    return _stronger(record, "preference_strength", "response_1", "response_2")


def _helpsteer_3(record: Record) -> dict:
    return {
        "prompt": record["context"],
        **_stronger(record, "overall_preference", "response1", "response2"),
    }


def _stronger(record: Record, strength: str, first: str, second: str) -> dict:
    """HelpSteer: below 0 the first response is better, above 0 the second."""
    value = _whole_number(record, strength)
    if value == 0:
        raise Dropped("tie", f"`{strength}` is 0: neither response is preferred")
    return _sides(record, first, second) if value < 0 else _sides(record, second, first)


def _shp(record: Record) -> dict:
    first = _one_of(record, "labels", (0, 1))  # 1: A is preferred
    sides = (
        _sides(record, "human_ref_A", "human_ref_B")
        if first
        else _sides(record, "human_ref_B", "human_ref_A")
    )
    return {"prompt": record["history"], **sides}


def _safe_rlhf(record: Record) -> dict:
    """PKU-SafeRLHF: the more helpful response is chosen.

    For safety, name columns by `safer_response_id` beforehand.
    """
    better = _one_of(record, "better_response_id", (0, 1))
    return _sides(record, f"response_{better}", f"response_{1 - better}")


def _arena(record: Record) -> dict:
    return _won(record, "conversation_a", "conversation_b")


def _arena_answers(record: Record) -> dict:
    """Arena with prompt, response_a and response_b, each the JSON list of a conversation's turns."""
    prompts, ours, theirs = (
        _turns(record, name) for name in ("prompt", "response_a", "response_b")
    )
    sides = [("response_a", ours), ("response_b", theirs)]
    whole = {name: _interleaved(prompts, answers, name) for name, answers in sides}
    if "winner" in record:
        winner = record["winner"]
    else:
        winner = next(
            (
                w
                for w in ("model_a", "model_b", "tie")
                if str(record.get(f"winner_{w}")) in ("1", "True")
            ),
            None,
        )
    return {"prompt": None, **_won({**whole, "winner": winner}, "response_a", "response_b")}


def _turns(record: Record, name: str) -> list:
    value = record[name]
    if isinstance(value, str):
        value = parsed(value) if value.lstrip().startswith("[") else [value]
    if not isinstance(value, list) or not all(isinstance(turn, str) for turn in value):
        raise Malformed(f"`{name}`: expected text or a JSON list of texts, a turn each")
    return value


def _interleaved(prompts: list, answers: list, name: str) -> list[dict]:
    if len(prompts) != len(answers):
        raise Malformed(f"`{name}`: has {len(answers)} turns for {len(prompts)} of the user")
    turns = []
    for said, answer in zip(prompts, answers, strict=True):
        turns += [{"role": "user", "content": said}, {"role": "assistant", "content": answer}]
    return turns


def _won(record: Record, first: str, second: str) -> dict:
    winner = record["winner"]
    if winner in TIES:
        raise Dropped("tie", f"`winner` is {winner!r}: neither answer is preferred")
    if winner not in ("model_a", "model_b"):
        raise Malformed(f"`winner` must be model_a, model_b, tie or both_bad, got {winner!r}")
    return _sides(record, first, second) if winner == "model_a" else _sides(record, second, first)


def _openai(record: Record) -> dict:
    """OpenAI's preference format: `input` holds messages and tools."""
    given = record["input"]
    if not isinstance(given, Mapping) or "messages" not in given:
        raise Malformed("`input` beside `preferred_output` must be an object with `messages`")
    tools = {"tools": given["tools"]} if given.get("tools") else {}
    return {
        "prompt": given["messages"],
        **tools,
        **_sides(record, "preferred_output", "non_preferred_output"),
    }


def _conversation_sides(record: Record) -> dict:
    """ShareGPT with sides: `conversations` is the shared part."""
    if record.get("prompt"):
        return {}
    return {
        "prompt": _with_system(
            record, conversation(record["conversations"], "user", "conversations")
        )
    }


def _sides(record: Record, chosen: str, rejected: str) -> dict:
    return {"chosen": record[chosen], "rejected": record[rejected]}


def _one_of(record: Record, name: str, allowed: tuple[int, ...]) -> int:
    value = _whole_number(record, name)
    if value not in allowed:
        raise Malformed(f"`{name}` must be {' or '.join(map(str, allowed))}, got {record[name]!r}")
    return value


def _whole_number(record: Record, name: str) -> int:
    try:
        number = float(record[name])
    except (TypeError, ValueError):
        raise Malformed(f"`{name}` must be a whole number, got {record[name]!r}") from None
    if not number.is_integer():
        raise Malformed(f"`{name}` must be a whole number, got {record[name]!r}")
    return int(number)


# The columns that make a shape, and what it becomes. Looked at in order; the first that fits is
# taken.
SIDE_SHAPES: tuple[tuple[tuple[str, ...], Callable[[Record], dict]], ...] = (
    (("conversations",), _conversation_sides),
    (("instruction",), _instructed_sides),
    (("question",), _asked_sides),
)
SHAPES: tuple[tuple[tuple[str, ...], Callable[[Record], dict]], ...] = (
    (("input", "preferred_output", "non_preferred_output"), _openai),
    (("conversation_a", "conversation_b", "winner"), _arena),
    (("response_a", "response_b", "prompt", "winner"), _arena_answers),
    (("response_a", "response_b", "prompt", "winner_tie"), _arena_answers),
    (("history", "human_ref_A", "human_ref_B", "labels"), _shp),
    (("context", "response1", "response2", "overall_preference"), _helpsteer_3),
    (("prompt", "response_1", "response_2", "preference_strength"), _helpsteer_2),
    (("prompt", "response_0", "response_1", "better_response_id"), _safe_rlhf),
    (("instruction", "completions"), _ultrafeedback),
    (("prompt", "answers"), _nectar),
    (("instruction", "output"), _alpaca),
)
ANSWERED = (
    "response",
    "responses",
    "completion",
    "messages",
    "conversations",
)  # beside one of these no shape is looked for
