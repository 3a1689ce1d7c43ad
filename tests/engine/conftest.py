"""The tiny model as an engine gets it, and requests made from its chat template."""

import shutil
from pathlib import Path

import pytest

import mlalign
from mlalign.core import rows
from mlalign.core.stage import Model, local_model
from mlalign.models.engine import Request, chat
from mlalign.models.templates import ChatTemplate

TINY = Path(mlalign.__file__).parent / "data" / "tiny"
PROMPTS = [f"What is {a} + {b}?" for a in range(1, 9) for b in (2, 5)]


@pytest.fixture(scope="session")
def tiny() -> Model:
    return local_model(TINY, "tiny")


@pytest.fixture(scope="session")
def tokenizer(tiny):
    return chat.load_tokenizer(tiny)


@pytest.fixture(scope="session")
def requests(tokenizer) -> list[Request]:
    """Two requests for each of 16 prompts, each with a seed of its own."""
    texts = [ChatTemplate(tokenizer).prompt(rows.messages(p), "") for p in PROMPTS]
    ids = [
        (f"{i}.{k}", tokens)
        for i, tokens in enumerate(chat.token_ids(tokenizer, texts))
        for k in range(2)
    ]
    return [Request(name, rows.seed_of(name), prompt_token_ids=tokens) for name, tokens in ids]


@pytest.fixture(scope="session")
def adapter_and_merged(tmp_path_factory) -> tuple[Model, Model]:
    """A LoRA adapter on the tiny model whose weights say something else, and the same merged into a
    full model.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(TINY),
        LoraConfig(r=5, lora_alpha=10, target_modules=["q_proj", "v_proj", "o_proj"]),
    )
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=1.0)
    model.save_pretrained(folder / "adapter")
    model.merge_and_unload().save_pretrained(folder / "merged")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TINY / name, folder / "merged")
    return local_model(folder / "adapter", "an-adapter"), local_model(folder / "merged", "merged")
