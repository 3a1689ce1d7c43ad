"""The invariance contract of the family `classifier`: a score is a function of its conversation
alone.

Same score within 1e-5 in float32, and the same verdict wherever the margin exceeds that, whatever
the batch size, the padding side and token, the order, the shards, prefix reuse, the backend, saving
and loading, and merging an adapter.
"""

import json
import random
import shutil

import pytest
import torch
from tiny_classifier import TEXTS, make_config, make_tokenizer, save_classifier, save_encoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import reward_models
from reward_models import Item
from reward_models.networks import network

TOLERANCE = 1e-5
BF16_TOLERANCE = (
    0.1  # of the standard deviation of the scores: 0.07 was measured, by batches alone 0.05
)
VLLM_HEAD_SIZE = 32  # the smallest on a CPU


@pytest.fixture(autouse=True)
def large_batches(monkeypatch):
    """A batch may hold all the rows of a test."""
    monkeypatch.setattr(network, "CPU_TOKENS", 10**6)


@pytest.fixture(scope="module")
def pairs():
    """60 answers to 16 prompts: pairs and best-of-n, prompts from 3 to 100 tokens, answers from 1
    to 90.
    """
    draw, out = random.Random(0), []
    for i in range(16):
        prompt = [{"role": "user", "content": " ".join(draw.choices(TEXTS, k=1 + i % 5))}]
        if i % 4 == 3:
            prompt += [{"role": "assistant", "content": "4"}, {"role": "user", "content": "Why?"}]
        answers = [
            " ".join(draw.choices(TEXTS, k=1 + (i + j) % 5)) + f" {j}"
            for j in range(2 + 4 * (i % 4 == 0) + (i % 4 == 1))
        ]
        out += [Item(f"{i}:{j}", prompt, answer, row=str(i)) for j, answer in enumerate(answers)]
    return out


@pytest.fixture(scope="module")
def expected(classifier, pairs):
    """Each conversation alone, without padding, by transformers."""
    return alone(classifier, pairs)


def alone(path, items, dtype=torch.float32):
    tokenizer, model = (
        AutoTokenizer.from_pretrained(path),
        AutoModelForSequenceClassification.from_pretrained(path, dtype=dtype).eval(),
    )
    with torch.no_grad():
        return [
            model(**tokenizer(text(tokenizer, i), add_special_tokens=False, return_tensors="pt"))
            .logits[0, 0]
            .item()
            for i in items
        ]


def text(tokenizer, item):
    return tokenizer.apply_chat_template(
        [*item.prompt, {"role": "assistant", "content": item.response}], tokenize=False
    )


def scores(path, items, **options):
    return reward_models.load(path, **options).score_items(items).values


def agree(found, expected, items, tolerance=TOLERANCE):
    """Same scores, and same verdicts on all pairs of answers in a row with a larger margin."""
    assert found == pytest.approx(expected, abs=tolerance)
    decided = 0
    for a in range(len(items)):
        for b in range(a):
            if items[a].row == items[b].row and abs(expected[a] - expected[b]) > 2 * tolerance:
                assert (found[a] > found[b]) == (expected[a] > expected[b]), (
                    items[a].id,
                    items[b].id,
                )
                decided += 1
    assert decided > len(items) / 2


@pytest.mark.slow
def test_the_rows_would_show_the_bug(classifier, pairs, expected, tmp_path):
    """What people do (pad = eos, padded on the left or right, read at the last token that is no
    padding) changes these scores.
    """
    tokenizer = make_tokenizer(pad_token="<|end|>")
    model = AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    model.config.pad_token_id = tokenizer.pad_token_id
    wrong = {}
    for size in (1, 2, 7):
        wrong[size] = []
        for at in range(0, len(pairs), size):
            batch = tokenizer(
                [text(tokenizer, i) for i in pairs[at : at + size]],
                add_special_tokens=False,
                padding=True,
                return_tensors="pt",
            )
            with torch.no_grad():
                wrong[size] += (
                    model(batch["input_ids"], attention_mask=batch["attention_mask"])
                    .logits[:, 0]
                    .tolist()
                )
    assert all(
        max(abs(a - b) for a, b in zip(found, expected, strict=True)) > 0.01
        for found in wrong.values()
    )


@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 7, 64])
@pytest.mark.slow
def test_batch_size(classifier, pairs, expected, rows, reuse):
    longest = 200
    agree(
        scores(
            classifier,
            pairs,
            device_batch_tokens=rows * longest if rows > 1 else 1,
            prefix_reuse=reuse,
        ),
        expected,
        pairs,
    )


@pytest.mark.parametrize("size", [1, 2, 7, 64])
@pytest.mark.slow
def test_windows(classifier, pairs, expected, size):
    scorer = reward_models.load(classifier)
    agree(
        [
            v
            for i in range(0, len(pairs), size)
            for v in scorer.score_items(pairs[i : i + size]).values
        ],
        expected,
        pairs,
    )


@pytest.mark.parametrize("pad", ["<|pad|>", "<|end|>", None])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.slow
def test_padding_side_and_token(classifier, pairs, expected, tmp_path, side, pad):
    path, tokenizer = (
        shutil.copytree(classifier, tmp_path / "model"),
        make_tokenizer(padding_side=side, pad_token=pad),
    )
    tokenizer.save_pretrained(path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(
        json.dumps({**config, "pad_token_id": tokenizer.pad_token_id})
    )
    for reuse in (True, False):
        agree(scores(path, pairs, prefix_reuse=reuse, device_batch_tokens=600), expected, pairs)


@pytest.mark.slow
def test_order(classifier, pairs):
    """Batches follow from the conversations themselves: not one bit differs."""
    scorer, shuffled = reward_models.load(classifier), random.Random(1).sample(pairs, len(pairs))
    found = dict(zip([i.id for i in shuffled], scorer.score_items(shuffled).values, strict=True))
    assert [found[i.id] for i in pairs] == scorer.score_items(pairs).values


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.slow
def test_shards(classifier, pairs, expected, n):
    scorer, found = reward_models.load(classifier), {}
    for k in range(n):
        shard = pairs[k::n]
        found |= dict(zip([i.id for i in shard], scorer.score_items(shard).values, strict=True))
    agree([found[i.id] for i in pairs], expected, pairs)


@pytest.mark.slow
def test_conversations_that_are_the_same_get_the_same_score(classifier, pairs):
    again = [Item(f"again {i.id}", i.prompt, i.response) for i in pairs]
    found = scores(classifier, [*pairs, *again])
    assert found[: len(pairs)] == found[len(pairs) :]


@pytest.mark.slow
def test_saved_and_loaded_again(classifier, pairs, expected, tmp_path):
    AutoModelForSequenceClassification.from_pretrained(classifier).save_pretrained(
        tmp_path / "again", max_shard_size="20KB"
    )
    AutoTokenizer.from_pretrained(classifier).save_pretrained(tmp_path / "again")
    agree(scores(tmp_path / "again", pairs), expected, pairs)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A LoRA adapter with its own head on a causal base that has none, as TRL saves it; and the
    same merged by peft.
    """
    return save_adapter(tmp_path_factory.mktemp("adapter"))


def save_adapter(root, **told):
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen3ForCausalLM

    tokenizer = make_tokenizer()
    torch.manual_seed(3)
    Qwen3ForCausalLM(make_config(tokenizer, **told)).save_pretrained(root / "base")
    model = AutoModelForSequenceClassification.from_pretrained(
        root / "base", num_labels=1, dtype=torch.float32
    )
    model = get_peft_model(
        model,
        LoraConfig(
            task_type="SEQ_CLS", r=4, modules_to_save=["score"], target_modules=["q_proj", "v_proj"]
        ),
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    for path in (root / "adapter", root / "merged"):
        (
            model.save_pretrained(path)
            if path.name == "adapter"
            else model.merge_and_unload().save_pretrained(path)
        )
        tokenizer.save_pretrained(path)
    return root


@pytest.mark.slow
def test_adapter_merged_or_not(adapter, pairs):
    """Against the adapter beside its base, as peft itself computes it."""
    from peft import PeftModel

    tokenizer = AutoTokenizer.from_pretrained(adapter / "adapter")
    base = AutoModelForSequenceClassification.from_pretrained(
        adapter / "base", num_labels=1, dtype=torch.float32
    )
    model = PeftModel.from_pretrained(base, adapter / "adapter").eval()
    with torch.no_grad():
        inputs = [
            tokenizer(text(tokenizer, i), add_special_tokens=False, return_tensors="pt")[
                "input_ids"
            ]
            for i in pairs
        ]
        unmerged = [model(input_ids=ids).logits[0, 0].item() for ids in inputs]
    agree(scores(adapter / "adapter", pairs), unmerged, pairs)
    agree(scores(adapter / "merged", pairs), unmerged, pairs)


@pytest.mark.slow
def test_bfloat16(classifier, pairs, expected):
    """Rounding to 8 bits costs some hundredths of the spread; batches and reuse add no more than
    that.
    """
    spread = torch.tensor(expected).std().item()
    runs = [
        scores(classifier, pairs, dtype="bfloat16", **o)
        for o in ({}, {"prefix_reuse": False}, {"device_batch_tokens": 1})
    ]
    for found in runs:
        agree(found, expected, pairs, BF16_TOLERANCE * spread)
        agree(found, runs[0], pairs, BF16_TOLERANCE * spread)
    assert len(set(runs[0])) == len(
        set(expected)
    )  # the head computes in float32, so close scores stay apart


@pytest.mark.parametrize("kind", ["xlm-roberta", "bert"])
@pytest.mark.slow
def test_encoders(pairs, tmp_path, kind):
    path = save_encoder(tmp_path / kind, kind)
    expected = alone(path, pairs)
    for options in ({}, {"device_batch_tokens": 1}, {"device_batch_tokens": 700}):
        agree(scores(path, pairs, **options), expected, pairs)


@pytest.mark.slow
def test_vllm(pairs, tmp_path):
    path = save_classifier(tmp_path / "model", head_dim=VLLM_HEAD_SIZE)
    expected = alone(path, pairs)
    for reuse in (True, False):
        scorer = reward_models.load(path, backend="vllm", prefix_reuse=reuse)
        found = scorer.score_items(pairs)
        chosen = random.Random(2).sample(range(len(pairs)), 20)
        again = scorer.score_items([pairs[i] for i in chosen])
        scorer.score_items.close()
        agree(found.values, expected, pairs)
        assert again.values == pytest.approx([expected[i] for i in chosen], abs=TOLERANCE)
    agree(scores(path, pairs), expected, pairs)


@pytest.mark.slow
@pytest.mark.long
def test_vllm_with_an_encoder(pairs, tmp_path):
    path = save_encoder(tmp_path / "encoder", num_attention_heads=1)
    scorer = reward_models.load(path, backend="vllm")
    agree(scorer.score_items(pairs).values, alone(path, pairs), pairs)
    scorer.score_items.close()


@pytest.mark.slow
@pytest.mark.long
def test_vllm_with_an_adapter_and_several_outputs(pairs, tmp_path):
    root = save_adapter(tmp_path, head_dim=VLLM_HEAD_SIZE)
    scorer = reward_models.load(root / "adapter", backend="vllm")
    agree(scorer.score_items(pairs).values, scores(root / "merged", pairs), pairs)
    scorer.score_items.close()
    labels = {"harmless": 0, "helpful": 1}
    named = {
        "num_labels": 2,
        "label2id": labels,
        "id2label": {i: name for name, i in labels.items()},
    }
    path = save_classifier(tmp_path / "several", head_dim=VLLM_HEAD_SIZE, **named)
    scorer = reward_models.load(path, backend="vllm", output="helpful")
    agree(scorer.score_items(pairs).values, scores(path, pairs, output=1), pairs)
    scorer.score_items.close()
