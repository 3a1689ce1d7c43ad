"""Merges a prompt and a conversation beside it: what both hold is taken once."""

from collections.abc import Mapping, Sequence

from mlalign.core.conversations.messages import Dropped


def joined(prompt: list[dict], turns: list[dict], name: str) -> tuple[list[dict], dict]:
    """(prompt, answer) of a prompt and a conversation beside it. Raises: Dropped."""
    if not turns:
        raise Dropped("no_messages", f"`{name}` is empty")
    expected = f"`{name}`: a conversation has a prompt and ends with an assistant's message"
    *before, answer = turns
    role = answer["role"]
    if role != "assistant":
        raise Dropped(f"ends_with_{role}", f"{expected}; this one ends with the {role}'s")

    merged = _merged(prompt, before)
    if merged is None:
        raise Dropped(
            "prompt_not_in_conversation",
            "`prompt` is neither the beginning nor the end of what comes before the answer"
            f" in `{name}`",
        )
    if not merged:
        raise Dropped("no_prompt", f"{expected}; this one has no prompt")
    return merged, answer


def _merged(prompt: list[dict], before: list[dict]) -> list[dict] | None:
    """A prompt and the messages before the answer in a conversation, merged.

    What both hold is taken once, as the conversation has it. None if they contradict each other:

        [U]       [S, U]      -> [S, U]         [S, U]   [U]        -> [S, U]
        [U]       [U, A, V]   -> [U, A, V]      [V]      [U, A, V]  -> [U, A, V]
        [U]       [A, V]      -> [U, A, V]      [U]      [V]        -> None
    """
    if not prompt or not before:
        return before or prompt
    own_system, own_turns = _split_system(prompt)
    other_system, other_turns = _split_system(before)
    if own_system and other_system and not same(own_system, other_system):
        return None

    system = other_system or own_system
    if _starts_or_ends_with(other_turns, own_turns):
        return [*system, *other_turns]
    if same(_last(own_turns, len(other_turns)), other_turns):
        return [*system, *own_turns]
    if before[0]["role"] in ("assistant", "tool"):
        return [*prompt, *before]
    return None


def _starts_or_ends_with(turns: list[dict], part: list[dict]) -> bool:
    n = len(part)
    return same(turns[:n], part) or same(_last(turns, n), part)


def _last(turns: list[dict], n: int) -> list[dict]:
    return turns[max(len(turns) - n, 0) :]


def _split_system(messages: list[dict]) -> tuple[list[dict], list[dict]]:
    """The system messages at the beginning, and the others."""
    n = 0
    while n < len(messages) and messages[n]["role"] in ("system", "developer"):
        n += 1
    return messages[:n], messages[n:]


def same(a: Sequence[Mapping], b: Sequence[Mapping]) -> bool:
    """Whether two conversations are the same but for white space and names of speakers."""
    if a == b:
        return True
    return list(map(_comparable, a)) == list(map(_comparable, b))


def _comparable(message: Mapping) -> dict:
    text = " ".join((message["content"] or "").split())
    return {**message, "content": text, "name": None}
