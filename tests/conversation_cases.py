"""Tiny rows of every published shape, of those that give nothing, and of those that are no rows."""

import json


def say(role, content, **more):
    return {"role": role, "content": content, **more}


U, A, B = say("user", "hi"), say("assistant", "good"), say("assistant", "bad")
S = say("system", "be brief")
TURNS = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "good"}]
TEXT = "\n\nHuman: hi\n\nAssistant: "

SHAPES = {
    "plain": ({"prompt": "hi", "response": "good"}, "one", [U], ["good"]),
    "alpaca": ({"instruction": "hi", "input": "", "output": "good"}, "one", [U], ["good"]),
    "alpaca with input": (
        {"instruction": "add", "input": "1 2", "output": "3"},
        "one",
        [say("user", "add\n1 2")],
        ["3"],
    ),
    "trl prompt-completion": ({"prompt": [U], "completion": [A]}, "one", [U], ["good"]),
    "kto": ({"prompt": "hi", "completion": "good", "label": True}, "one", [U], ["good"]),
    "openai": ({"messages": [S, U, A]}, "one", [S, U], ["good"]),
    "openai with a completion": (
        {"messages": [S, U], "completion": "good"},
        "one",
        [S, U],
        ["good"],
    ),
    "sharegpt": ({"conversations": TURNS}, "one", [U], ["good"]),
    "sharegpt with system": (
        {"conversations": TURNS, "system": "be brief"},
        "one",
        [S, U],
        ["good"],
    ),
    "ultrachat": ({"prompt": "hi", "prompt_id": "x", "messages": [U, A]}, "one", [U], ["good"]),
    "helpsteer": (
        {"prompt": "hi", "response": "good", "helpfulness": 3, "verbosity": 1},
        "one",
        [U],
        ["good"],
    ),
    "ultrafeedback": (
        {
            "instruction": "hi",
            "models": ["a", "b"],
            "completions": [{"response": "good", "overall_score": 7}, {"response": "bad"}],
        },
        "many",
        [U],
        ["good", "bad"],
    ),
    "nectar": (
        {
            "prompt": "\n\nHuman: hi\n\nAssistant: ",
            "answers": [{"answer": "good", "rank": 1}, {"answer": "bad"}],
        },
        "many",
        [U],
        ["good", "bad"],
    ),
    "candidates": (
        {"prompt": [U], "responses": [{"candidate_id": "c", "text": "good"}, "bad"]},
        "many",
        [U],
        ["good", "bad"],
    ),
    "reward bench 2": (
        {"prompt": "hi", "chosen": ["good"], "rejected": ["bad", "worse"], "num_correct": 1},
        "many",
        [U],
        ["good", "bad", "worse"],
    ),
    "reward bench": (
        {"prompt": "hi", "chosen": "good", "rejected": "bad", "subset": "alpacaeval-easy", "id": 3},
        "pair",
        [U],
        ["good", "bad"],
    ),
    "trl explicit": ({"prompt": [U], "chosen": [A], "rejected": [B]}, "pair", [U], ["good", "bad"]),
    "trl implicit": ({"chosen": [U, A], "rejected": [U, B]}, "pair", [U], ["good", "bad"]),
    "ultrafeedback binarized": (
        {
            "prompt": "hi",
            "chosen": [U, A],
            "rejected": [U, B],
            "messages": [U, A],
            "score_chosen": 8.0,
            "score_rejected": 2.0,
        },
        "pair",
        [U],
        ["good", "bad"],
    ),
    "one message a side": (
        {"prompt": "hi", "chosen": A, "rejected": B},
        "pair",
        [U],
        ["good", "bad"],
    ),
    "hh-rlhf": ({"chosen": TEXT + "good", "rejected": TEXT + "bad"}, "pair", [U], ["good", "bad"]),
    "hh-rlhf, nothing said": ({"chosen": TEXT, "rejected": TEXT + "bad"}, "pair", [U], ["", "bad"]),
    "orca": (
        {"system": "be brief", "question": "hi", "chosen": "good", "rejected": "bad"},
        "pair",
        [S, U],
        ["good", "bad"],
    ),
    "sharegpt with sides": (
        {
            "conversations": TURNS[:1],
            "chosen": TURNS[1],
            "rejected": {"from": "gpt", "value": "bad"},
        },
        "pair",
        [U],
        ["good", "bad"],
    ),
    "helpsteer 2": (
        {"prompt": "hi", "response_1": "good", "response_2": "bad", "preference_strength": -2},
        "pair",
        [U],
        ["good", "bad"],
    ),
    "helpsteer 3": (
        {"context": [U], "response1": "bad", "response2": "good", "overall_preference": 1},
        "pair",
        [U],
        ["good", "bad"],
    ),
    "shp": (
        {"history": "hi", "human_ref_A": "good", "human_ref_B": "bad", "labels": 1, "score_A": 9},
        "pair",
        [U],
        ["good", "bad"],
    ),
    "shp, b": (
        {"history": "hi", "human_ref_A": "bad", "human_ref_B": "good", "labels": "0"},
        "pair",
        [U],
        ["good", "bad"],
    ),
    "safe rlhf": (
        {
            "prompt": "hi",
            "response_0": "bad",
            "response_1": "good",
            "better_response_id": 1,
            "safer_response_id": 0,
        },
        "pair",
        [U],
        ["good", "bad"],
    ),
    "arena": (
        {"conversation_a": [U, B], "conversation_b": [U, A], "winner": "model_b", "turn": 1},
        "pair",
        [U],
        ["good", "bad"],
    ),
    "arena in parts": (
        {
            "conversation_a": [
                say("user", [{"type": "text", "text": "hi", "image": None}]),
                say("assistant", [{"type": "text", "text": "good"}]),
            ],
            "conversation_b": [U, B],
            "winner": "model_a",
        },
        "pair",
        [U],
        ["good", "bad"],
    ),
    "arena 55k": (
        {
            "prompt": '["hi"]',
            "response_a": '["good"]',
            "response_b": '["bad"]',
            "winner_model_a": 1,
            "winner_model_b": 0,
            "winner_tie": 0,
        },
        "pair",
        [U],
        ["good", "bad"],
    ),
    "openai preferences": (
        {
            "input": {"messages": [U], "tools": []},
            "preferred_output": [A],
            "non_preferred_output": [B],
        },
        "pair",
        [U],
        ["good", "bad"],
    ),
    "json in text": ({"messages": json.dumps([U, A])}, "one", [U], ["good"]),
    "json in text of sides": (
        {"prompt": "hi", "chosen": json.dumps([U, A]), "rejected": json.dumps([U, B])},
        "pair",
        [U],
        ["good", "bad"],
    ),
    "json list in a table": (
        {"prompt": "hi", "responses": '["good", "bad"]'},
        "many",
        [U],
        ["good", "bad"],
    ),
    "all columns of a table": (
        {"prompt": "hi", "response": "good", "chosen": None, "rejected": None, "messages": None},
        "one",
        [U],
        ["good"],
    ),
}

CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
DROPPED = [
    ({"prompt": "hi", "response_1": "a", "response_2": "b", "preference_strength": 0}, "tie"),
    ({"conversation_a": [U, A], "conversation_b": [U, B], "winner": "tie (bothbad)"}, "tie"),
    ({"messages": [U, A, U]}, "ends_with_user"),
    (
        {"messages": [U, say("assistant", None, tool_calls=[CALL]), say("tool", "5")]},
        "ends_with_tool",
    ),
    ({"chosen": [U, A, U], "rejected": [U, B, U]}, "ends_with_user"),
    ({"messages": [A]}, "no_prompt"),
    ({"chosen": [A], "rejected": [B]}, "no_prompt"),
    ({"chosen": [U, A], "rejected": [say("user", "ho"), B]}, "prompts_differ"),
    ({"chosen": [S, U, A], "rejected": [U, B]}, "prompts_differ"),
    ({"prompt": "ho", "chosen": [U, A], "rejected": [U, B]}, "prompt_not_in_conversation"),
    (
        {"prompt": [S, U], "chosen": [say("system", "talk"), U, A], "rejected": [S, U, B]},
        "prompt_not_in_conversation",
    ),
    ({"prompt": "hi", "chosen": None, "rejected": "b"}, "null_answer"),
    ({"prompt": "hi", "responses": ["a", None]}, "null_answer"),
    ({"messages": [U, say("assistant", None)]}, "null_content"),
    ({"messages": [U, A], "response": "bad"}, "two_answers"),
    ({"messages": [S, U, A], "system": "talk"}, "two_system_messages"),
    (
        {"prompt": "hi", "response": "good", "system": "talk", "system_prompt": "be brief"},
        "two_system_messages",
    ),
    (
        {"messages": [say("user", [{"type": "image_url", "image_url": "x"}]), A]},
        "has_content_parts",
    ),
    ({"messages": [U, say("assistant", "", function_call={"name": "f"})]}, "has_function_call"),
    (
        {
            "messages": (
                '[{"role": "user", "content": "\\ud83d"}, {"role": "assistant", "content": "a"}]'
            )
        },
        "not_unicode",
    ),
]

MALFORMED = [
    (
        {"history": "q"},
        (
            "needs prompt and response.*it has history; if `history` is the prompt, say so with"
            " --prompt-column history"
        ),
    ),
    (
        {"question": "q", "answer": "a"},
        "--prompt-column question.*--response-column answer, or columns: {completion: answer}",
    ),
    (
        {"prompt": "q", "response": 4},
        "`response`: expected text or a list of messages .*got a number",
    ),
    ({"chosen": "a", "rejected": "b"}, "`chosen` is an answer without a prompt"),
    (
        {"messages": [say("Human", "q"), say("Assistant", "a")]},
        "role 'Human' is none of .*call it 'user'",
    ),
    ({"messages": [say("narrator", "q"), A]}, "role 'narrator' is none of"),
    ({"messages": [{"content": "q"}, A]}, "without `role`"),
    ({"conversations": [{"from": "narrator", "value": "q"}]}, "a turn is from 'narrator'"),
    ({"messages": "[{'role': 'user', 'content': 'q'}]"}, "Python list of messages, not JSON"),
    ({"messages": "hi there"}, "text that is no JSON"),
    ({"messages": ["hi", "there"]}, "is a list of texts"),
    ({"messages": [U, say("assistant", 5)]}, "content of a message must be text, got a number"),
    ({"prompt": "q", "responses": "abc"}, "responses: expected a list"),
    ({"prompt": "q", "response": "a", "tools": "weather"}, "`tools` must be a list"),
    ({"conversation_a": [U, A], "conversation_b": [U, B], "winner": "gpt-4"}, "`winner` must be"),
    (
        {"history": "hi", "human_ref_A": "a", "human_ref_B": "b", "labels": 2},
        "`labels` must be 0 or 1",
    ),
    ({"prompt": "q", "chosen": [], "rejected": "b"}, "at least one chosen"),
    ({}, "it has nothing"),
]
