"""The family `likelihood`: the log-probability of an answer, as one plain forward pass gives it."""

from pathlib import Path

import pytest

import mlalign
import reward_models
from mlalign.core.rows import messages
from reward_models import Item

TINY = Path(mlalign.__file__).parent / "data" / "tiny"
PROMPT = messages("Which number is the largest: 3 1 2?")


def by_hand(text: str) -> tuple[float, int]:
    """(sum of log-probabilities of the answer's tokens, their number)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network = AutoModelForCausalLM.from_pretrained(TINY, dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    before = tokenizer.apply_chat_template(PROMPT, add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template(
        [*PROMPT, {"role": "assistant", "content": text}], tokenize=False
    )
    begin = len(tokenizer(before, add_special_tokens=False)["input_ids"])
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logps = network(torch.tensor([ids])).logits[0].log_softmax(-1)
    return (
        sum(float(logps[place - 1, ids[place]]) for place in range(begin, len(ids))),
        len(ids) - begin,
    )


@pytest.mark.slow
@pytest.mark.parametrize("normalise", ["none", "tokens"])
def test_the_score_is_the_log_probability_of_the_answer(normalise):
    texts = ["The largest number is 3.", "The sum is 6."]
    items = [Item(str(n), PROMPT, text, "eng_Latn") for n, text in enumerate(texts)]
    with reward_models.open_scorer(
        {"family": "likelihood", "path": str(TINY), "normalise": normalise}
    ) as scorer:
        scores = scorer.score_items(items)
    expected = [by_hand(text) for text in texts]
    divisors = [n if normalise == "tokens" else 1 for _, n in expected]
    told = [total / divisor for (total, _), divisor in zip(expected, divisors, strict=True)]
    assert scores.values == pytest.approx(told, abs=1e-4)
    assert scores.columns["n_tokens"] == [float(n) for _, n in expected]
    assert scores.values[0] > scores.values[1]


def test_a_model_that_is_not_there_is_named(tmp_path):
    from mlalign.core.errors import UserError

    with pytest.raises(UserError, match="none"):
        reward_models.open_scorer({"family": "likelihood", "path": str(tmp_path / "none")})
