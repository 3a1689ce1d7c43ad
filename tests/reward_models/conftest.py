"""A tiny reward model, and answers to score with it."""

import pytest
from tiny_classifier import TEXTS, save_classifier

from reward_models.__main__ import main


@pytest.fixture(scope="session")
def classifier(tmp_path_factory):
    return save_classifier(tmp_path_factory.mktemp("classifier") / "model")


@pytest.fixture(scope="session")
def answers():
    """40 conversations of very different lengths."""
    from reward_models import Item

    prompt = [{"role": "user", "content": "Which number is the largest: 3 1 2?"}]
    return [
        Item(
            f"id{i:02}",
            prompt * (1 + i % 2),
            " ".join(TEXTS[: i % 6 + 1]) * (1 + i % 3),
            "eng_Latn",
        )
        for i in range(40)
    ]


@pytest.fixture
def score(tmp_path, monkeypatch, capfd):
    """The command with the family `length`, in `tmp_path`: `score("--input", …)` -> (exit status,
    stderr).
    """
    monkeypatch.chdir(tmp_path)

    def call(*arguments, family=("--family", "length"), output="scores.jsonl"):
        capfd.readouterr()
        status = main(["score", *family, "--output", str(output), *map(str, arguments)])
        return status, capfd.readouterr().err

    return call
