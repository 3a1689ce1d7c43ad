"""A tiny random Qwen3 reward model with a tokenizer of its own."""

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{{ eos_token }}{%"
    " endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TEXTS = [
    "The sum is 4.",
    "En büyük sayı 9 olur.",
    "最大的数字是 9 。",
    "Сумма равна 7.",
    "Which number is the largest: 3 1 2?",
    "सबसे बड़ी संख्या 9 है।",
]


def make_tokenizer(**special):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokens = ["<|bos|>", "<|end|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=400, special_tokens=tokens, initial_alphabet=alphabet)
    )
    told = {
        "bos_token": "<|bos|>",
        "eos_token": "<|end|>",
        "pad_token": "<|pad|>",
        "model_max_length": 256,
        **special,
    }
    out = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **told)
    out.chat_template = TEMPLATE
    return out


def make_config(tokenizer, **told):
    from transformers import Qwen3Config

    return Qwen3Config(**{**sizes(tokenizer), "num_key_value_heads": 2, "head_dim": 8, **told})


def sizes(tokenizer):
    """What every tiny network has."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "initializer_range": 0.3,
    }


def save_classifier(path, num_labels=1, tokenizer=None, **told):
    import torch
    from transformers import Qwen3ForSequenceClassification

    tokenizer = tokenizer or make_tokenizer()
    torch.manual_seed(0)
    Qwen3ForSequenceClassification(
        make_config(tokenizer, num_labels=num_labels, **told)
    ).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def save_network(path, config, tokenizer):
    """A random classifier of any architecture, with its tokenizer."""
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def save_encoder(path, kind="xlm-roberta", num_attention_heads=4, **special):
    """A random encoder (`xlm-roberta` or `bert`) that reads its score at the first token, with a
    chat template of its own.
    """
    from transformers import AutoConfig

    tokenizer = make_tokenizer(
        **{"bos_token": None, "cls_token": "<|bos|>", "sep_token": "<|end|>", **special}
    )
    tokenizer.chat_template = (
        "{{ cls_token }}{% for m in messages %}{{ m['content'] }}{{ sep_token }}{% endfor %}"
    )
    told = {**sizes(tokenizer), "num_attention_heads": num_attention_heads}
    config = AutoConfig.for_model(kind, **told, num_labels=1, type_vocab_size=1)
    return save_network(path, config, tokenizer)
