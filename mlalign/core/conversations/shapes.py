"""Published data sets by their columns: a record in, the same with `reader`'s columns out. Pure.

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
KTO) is unchanged. A preference for neither answer is a `Dropped` row with the reason `tie`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from mlalign.core.conversations.messages import Dropped, Malformed, conversation, parsed

Record = Mapping[str, Any]
TIES = ("tie", "tie (bothbad)", "both_bad", "bothbad")


def by_shape(record: Record) -> Record:
    """The record with the columns that `reader` knows; a record of no known shape is unchanged.

    Raises: Malformed, Dropped.
    """
    has_sides = "chosen" in record and "rejected" in record
    is_answered = any(record.get(name) is not None for name in ANSWERED)
    if is_answered and not has_sides:
        return record
    shapes = SIDE_SHAPES if has_sides else SHAPES
    for columns, convert in shapes:
        if all(name in record for name in columns):
            return {**record, **convert(record)}
    return record


def _alpaca(record: Record) -> dict:
    return {"prompt": _instruction(record), "response": record["output"]}


def _instructed_sides(record: Record) -> dict:
    if record.get("prompt"):
        return {}
    return {"prompt": _instruction(record)}


def _asked_sides(record: Record) -> dict:
    if record.get("prompt"):
        return {}
    return {"prompt": _with_system(record, [_user(record["question"])])}


def _instruction(record: Record) -> list[dict]:
    """Instruction and input as one turn of the user, after system message and history if any."""
    instruction = record["instruction"]
    if not isinstance(instruction, str):
        raise Malformed(f"`instruction` must be text, got a {type(instruction).__name__}")
    context = record.get("input")
    if context is not None and not isinstance(context, str):
        kind = type(context).__name__
        raise Malformed(f"`input` beside `instruction` must be text, got a {kind}")

    text = f"{instruction}\n{context}" if context else instruction
    turns = _history(record.get("history"))
    return _with_system(record, [*turns, _user(text)])


def _history(value: Any) -> list[dict]:
    """The turns of `history`, a list of [question, answer]."""
    if not value:
        return []
    if not isinstance(value, list) or not all(map(_is_pair, value)):
        raise Malformed("`history` beside `instruction` must be a list of [question, answer]")
    turns = []
    for question, answer in value:
        turns += [_user(question), _assistant(answer)]
    return turns


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2


def _user(content: Any) -> dict:
    return {"role": "user", "content": content}


def _assistant(content: Any) -> dict:
    return {"role": "assistant", "content": content}


def _with_system(record: Record, turns: list[dict]) -> list[dict]:
    system = record.get("system")
    if not isinstance(system, str) or not system:
        return turns
    return [{"role": "system", "content": system}, *turns]


def _ultrafeedback(record: Record) -> dict:
    return {"prompt": record["instruction"], "responses": record["completions"]}


def _nectar(record: Record) -> dict:
    """In other sets, `answers` are the gold answers of a question and not responses to score."""
    answers = record["answers"]
    if not isinstance(answers, list):
        return {}
    if not all(isinstance(answer, Mapping) and "answer" in answer for answer in answers):
        return {}
    return {"responses": answers}


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
    prefers_a = _one_of(record, "labels", (0, 1))
    chosen, rejected = ("A", "B") if prefers_a else ("B", "A")
    sides = _sides(record, f"human_ref_{chosen}", f"human_ref_{rejected}")
    return {"prompt": record["history"], **sides}


def _safe_rlhf(record: Record) -> dict:
    """PKU-SafeRLHF: the more helpful response is chosen (`safer_response_id` is not used)."""
    better = _one_of(record, "better_response_id", (0, 1))
    return _sides(record, f"response_{better}", f"response_{1 - better}")


def _arena(record: Record) -> dict:
    return _won(record, "conversation_a", "conversation_b")


def _arena_answers(record: Record) -> dict:
    """Arena with prompt, response_a and response_b, each a JSON list of one speaker's turns."""
    names = ("response_a", "response_b")
    prompts = _turns(record, "prompt")
    answers = {name: _turns(record, name) for name in names}
    whole = {name: _interleaved(prompts, answers[name], name) for name in names}
    return {"prompt": None, **_won({**whole, "winner": _winner(record)}, *names)}


def _winner(record: Record) -> Any:
    """The column `winner`, or else the name of the column `winner_NAME` that is set."""
    if "winner" in record:
        return record["winner"]
    for name in ("model_a", "model_b", "tie"):
        if str(record.get(f"winner_{name}")) in ("1", "True"):
            return name
    return None


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
    for prompt, answer in zip(prompts, answers, strict=True):
        turns += [_user(prompt), _assistant(answer)]
    return turns


def _won(record: Record, first: str, second: str) -> dict:
    """Arena's two columns as sides, by the column `winner`."""
    winner = record["winner"]
    if winner in TIES:
        raise Dropped("tie", f"`winner` is {winner!r}: neither answer is preferred")
    if winner not in ("model_a", "model_b"):
        raise Malformed(f"`winner` must be model_a, model_b, tie or both_bad, got {winner!r}")
    return _sides(record, first, second) if winner == "model_a" else _sides(record, second, first)


def _openai(record: Record) -> dict:
    """OpenAI's preference format: `input` holds messages and tools."""
    request = record["input"]
    if not isinstance(request, Mapping) or "messages" not in request:
        raise Malformed("`input` beside `preferred_output` must be an object with `messages`")
    columns = _sides(record, "preferred_output", "non_preferred_output")
    if request.get("tools"):
        columns["tools"] = request["tools"]
    return {"prompt": request["messages"], **columns}


def _conversation_sides(record: Record) -> dict:
    """ShareGPT with sides: `conversations` is the shared part."""
    if record.get("prompt"):
        return {}
    turns = conversation(record["conversations"], "user", "conversations")
    return {"prompt": _with_system(record, turns)}


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


# The columns of a shape, and the function that converts it. The first shape that fits is taken.
Shapes = tuple[tuple[tuple[str, ...], Callable[[Record], dict]], ...]
SIDE_SHAPES: Shapes = (  # with `chosen` and `rejected`
    (("conversations",), _conversation_sides),
    (("instruction",), _instructed_sides),
    (("question",), _asked_sides),
)
SHAPES: Shapes = (
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
# No shape is looked for in a record that has one of these columns.
ANSWERED = ("response", "responses", "completion", "messages", "conversations")
