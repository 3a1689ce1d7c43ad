"""Rows and a model for `scoring.py`: HH-RLHF pairs, best-of-16 rows, and a random classifier."""

import contextlib
import gzip
import json
import random
from pathlib import Path

N = 16
TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{{ eos_token }}{% endfor %}"


def transcripts(data: Path, n: int) -> list[dict]:
    from mlalign.core.conversations import Dropped
    from mlalign.data import adapters

    """The first `n` pairs of HH-RLHF, as whole conversations."""
    pairs = []
    for file in sorted(data.glob("*.jsonl.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                with contextlib.suppress(Dropped):
                    row = adapters.hh_rlhf(json.loads(line), "preference")
                    chosen = row["prompt"] + row["chosen"]
                    rejected = row["prompt"] + row["rejected"]
                    pairs.append({"chosen": chosen, "rejected": rejected})
    return pairs[:n]


def sentences(rows: list[dict]) -> list[str]:
    """The text of every message in the chosen conversations."""
    texts = []
    for row in rows:
        texts += [message["content"] for message in row["chosen"]]
    return texts


def best_of(n: int, rows: list[dict], tokenizer) -> dict:
    """Prompts of 500 to 600 tokens and answers of 50, made of the transcripts' sentences."""
    draw = random.Random(0)
    texts = sentences(rows)

    def text(n_tokens: int) -> str:
        token_ids: list[int] = []
        while len(token_ids) < n_tokens:
            sentence = draw.choice(texts) + " "
            token_ids += tokenizer(sentence, add_special_tokens=False)["input_ids"]
        return tokenizer.decode(token_ids[:n_tokens])

    items = []
    for _ in range(n):
        prompt = text(500 + draw.randrange(100))
        items.append({"prompt": prompt, "responses": [text(50) for _ in range(N)]})
    return {"rows": items, "interleaved": False}


def hh(rows: list[dict], tokenizer) -> dict:
    """Both sides of HH-RLHF pairs, with the texts of all chosen and of all rejected ones."""
    texts = []
    for side in ("chosen", "rejected"):
        texts.append([rendered(row[side], tokenizer) for row in rows])
    return {"rows": rows, "texts": texts, "interleaved": True}


def best_of_16(n_prompts: int, rows: list[dict], tokenizer) -> dict:
    """Prompts with 16 answers each, and the texts of all conversations in one list."""
    workload = best_of(n_prompts, rows, tokenizer)
    texts = []
    for row in workload["rows"]:
        for response in row["responses"]:
            question = {"role": "user", "content": row["prompt"]}
            answer = {"role": "assistant", "content": response}
            texts.append(rendered([question, answer], tokenizer))
    return {**workload, "texts": [texts]}


def rendered(messages: list[dict], tokenizer) -> str:
    return tokenizer.apply_chat_template(messages, tokenize=False)


def sizes(texts: list[str], tokenizer, max_length: int) -> dict[str, int]:
    """How many rows and tokens there are, and how many tokens without shared beginnings."""
    from reward_models.networks import prefix

    token_ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    sequences = [tuple(ids[-max_length:]) for ids in token_ids]
    distinct = sorted(set(sequences))
    n_saved = sum(group.saved for group in prefix.groups(distinct))
    n_read = sum(map(len, distinct)) - n_saved
    return {"rows": len(sequences), "tokens": sum(map(len, sequences)), "read": n_read}


def save_model(path: Path, texts: list[str]) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForSequenceClassification

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8000,
        special_tokens=["<|end|>", "<|pad|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|pad|>", model_max_length=4096
    )
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=8000,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=4096,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.05,
    )
    Qwen3ForSequenceClassification(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
