"""A tiny reward model, and answers to score with it."""

import pytest
from tiny_classifier import TEXTS, save_classifier


@pytest.fixture(scope="session")
def classifier(tmp_path_factory):
    return save_classifier(tmp_path_factory.mktemp("classifier") / "model")


@pytest.fixture(scope="session")
def answers():
    """40 conversations of very different lengths."""
    from reward_models import Item

    prompt = [{"role": "user", "content": "Which number is the largest: 3 1 2?"}]
    return [Item(f"id{i:02}", prompt * (1 + i % 2), " ".join(TEXTS[: i % 6 + 1]) * (1 + i % 3), "eng_Latn") for i in range(40)]
