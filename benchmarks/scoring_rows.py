"""Rows and a model for `scoring.py`: HH-RLHF pairs, best-of-16 rows made of their sentences, a
random classifier.
"""

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

    out = []
    for file in sorted(data.glob("*.jsonl.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                with contextlib.suppress(Dropped):
                    row = adapters.hh_rlhf(json.loads(line), "preference")
                    out.append({side: row["prompt"] + row[side] for side in ("chosen", "rejected")})
    return out[:n]


def best_of(n: int, rows: list[dict], tokenizer) -> dict:
    """Prompts of 500 to 600 tokens and answers of 50, made of the transcripts' sentences."""
    draw, said = random.Random(0), [m["content"] for row in rows for m in row["chosen"]]

    def text(least: int) -> str:
        out: list[int] = []
        while len(out) < least:
            out += tokenizer(draw.choice(said) + " ", add_special_tokens=False)["input_ids"]
        return tokenizer.decode(out[:least])

    found = [
        {"prompt": text(500 + draw.randrange(100)), "responses": [text(50) for _ in range(N)]}
        for _ in range(n)
    ]
    return {"rows": found, "interleaved": False}


def save_model(path: Path, texts: list[str]) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForSequenceClassification

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    special = ["<|end|>", "<|pad|>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=8000, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
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
