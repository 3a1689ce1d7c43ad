"""What a network is found to allow, and that rows are read alike in whole and continued; which
beginnings are shared.
"""

import random
from itertools import pairwise

import pytest
import torch
from tiny_classifier import make_tokenizer, save_classifier, save_encoder, save_network, sizes
from transformers import AutoModelForSequenceClassification, LlamaConfig, MistralConfig

import reward_models
from mlalign.core.errors import UserError
from reward_models import Item
from reward_models.networks import network, prefix
from reward_models.networks.prefix import Group


def opened(path, **options):
    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()
    return network.Network(model, options.pop("batch_tokens", 16384), True, **options)


def sequences(n=40, seed=0):
    """Distinct sequences in ascending order, several of them with a long beginning in common."""
    draw = random.Random(seed)
    starts = [tuple(draw.randrange(6, 300) for _ in range(draw.randrange(3, 60))) for _ in range(8)]
    return sorted(
        {
            draw.choice(starts)
            + tuple(draw.randrange(6, 300) for _ in range(draw.randrange(1, 30)))
            for _ in range(n)
        }
    )


# -------------------------------------------------------------------------------- shared beginnings


def test_groups_by_hand():
    a, b = (1, 2, 3, 4), (1, 2, 9, 9)
    rows = sorted([(*a, 5), (*a, 6), (*a, 7), (*b, 5), (8,)])
    assert prefix.groups(rows, shortest=2) == [
        Group(0, 2, 4)
    ]  # 2 x 4 saved, more than 3 x 2 by all four
    assert prefix.groups(rows, shortest=5) == []
    assert prefix.groups(sorted([(*a, 5), (*a, 6), (*b, 5), (*b, 6), (*b, 7)]), shortest=2) == [
        Group(0, 1, 4),
        Group(2, 4, 4),
    ]


def test_a_sequence_that_begins_another_keeps_a_token_of_its_own():
    assert prefix.groups([(1, 2, 3), (1, 2, 3, 4)], shortest=1) == [Group(0, 1, 2)]
    assert prefix.groups([], shortest=1) == prefix.groups([(1, 2)], shortest=1) == []


def test_groups_save_the_most_that_the_tree_of_beginnings_allows():
    """Against the definition: a run of rows is one group, or its parts with more in common are."""
    draw = random.Random(4)
    for _ in range(300):
        rows = sorted(
            {
                tuple(draw.randrange(2) for _ in range(draw.randrange(1, 8)))
                for _ in range(draw.randrange(1, 9))
            }
        )
        found = prefix.groups(rows, shortest=1)
        assert sum(g.saved for g in found) == best(rows)
        covered = [i for g in found for i in range(g.first, g.last + 1)]
        assert len(covered) == len(set(covered))
        assert all(
            rows[i][: g.length] == rows[g.first][: g.length] and len(rows[i]) > g.length
            for g in found
            for i in range(g.first, g.last + 1)
        )


def best(rows):
    if len(rows) < 2:
        return 0
    shared, parts = common(rows), [[rows[0]]]
    for before, row in pairwise(rows):
        parts[-1].append(row) if common([before, row]) > shared else parts.append([row])
    return max((len(rows) - 1) * shared, sum(map(best, parts)))


def common(rows):
    n = min(map(len, rows)) - 1
    return next(k for k in range(n, -1, -1) if len({row[:k] for row in rows}) == 1)


def test_chunks_hold_few_tokens():
    found = [Group(0, 1, 30), Group(2, 3, 10), Group(4, 5, 25)]
    assert list(prefix.chunks(found, 40)) == [[found[1], found[2]], [found[0]]]


# ---------------------------------------------------------------------------------- what is allowed


@pytest.mark.slow
def test_a_decoder_is_causal_and_continues(classifier):
    net = opened(classifier)
    assert net.causal and net.reuses
    rows = sequences()
    assert sum(g.saved for g in prefix.groups(rows)) > 0.3 * sum(map(len, rows))
    net_off = opened(classifier)
    net_off.reuses = False
    assert [v for row in net(rows) for v in row] == pytest.approx(
        [v for row in net_off(rows) for v in row], abs=1e-5
    )


def test_shared_beginnings_are_read_once(classifier, monkeypatch):
    """Best-of-16: as many tokens go through the network as prompt and answers have."""
    net, seen = opened(classifier), []
    embed = net._model.get_input_embeddings()
    embed.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].numel()))
    prompt = tuple(range(10, 110))
    net(sorted((*prompt, i, *range(20, 30)) for i in range(150, 166)))
    assert sum(seen) == 100 + 16 * 11


@pytest.mark.parametrize("batch_tokens", [1, 50, 400])
@pytest.mark.slow
def test_small_batches(classifier, batch_tokens):
    rows = sequences()
    small, large = opened(classifier, batch_tokens=batch_tokens), opened(classifier)
    assert [v for row in small(rows) for v in row] == pytest.approx(
        [v for row in large(rows) for v in row], abs=1e-5
    )


@pytest.mark.parametrize("kind", ["xlm-roberta", "bert"])
def test_encoders_are_read_in_whole(tmp_path, kind):
    net = opened(save_encoder(tmp_path / kind, kind))
    assert not net.causal and not net.reuses


@pytest.mark.slow
def test_sliding_windows_are_read_in_whole(tmp_path):
    tokenizer = make_tokenizer()
    path = save_network(
        tmp_path / "window",
        MistralConfig(**sizes(tokenizer), num_key_value_heads=2, num_labels=1, sliding_window=12),
        tokenizer,
    )
    net = opened(path)
    assert net.causal and not net.reuses
    rows = sequences()
    with torch.no_grad():
        expected = [net._model(torch.tensor([row])).logits[0, 0].item() for row in rows]
    assert [row[0] for row in net(rows)] == pytest.approx(expected, abs=1e-5)


def rope_model(path, tokenizer, rope):
    told = {
        **sizes(tokenizer),
        "max_position_embeddings": 40,
        "num_key_value_heads": 2,
        "num_labels": 1,
    }
    return save_network(
        path, LlamaConfig(**told, rope_parameters={"rope_theta": 10000.0, **rope}), tokenizer
    )


ITEMS = [
    Item(str(n), [{"role": "user", "content": "Which number is the largest?"}], "4 " * n)
    for n in (1, 2, 70, 90)
]


@pytest.mark.slow
def test_longrope_does_not_depend_on_longer_neighbours(tmp_path):
    """Its frequencies change for the whole batch once a row is longer than the length it was
    trained on.
    """
    rope = {
        "rope_type": "longrope",
        "short_factor": [1.0] * 4,
        "long_factor": [8.0] * 4,
        "original_max_position_embeddings": 40,
    }
    path = rope_model(tmp_path / "long", make_tokenizer(), rope)
    scorer = reward_models.load(path, max_length=200)
    alone = [scorer.score_items([item]).values[0] for item in ITEMS]
    assert scorer.score_items(ITEMS).values == pytest.approx(alone, abs=1e-5)


@pytest.mark.slow
def test_dynamic_rope_stays_within_its_length(tmp_path):
    path = rope_model(
        tmp_path / "dynamic", make_tokenizer(), {"rope_type": "dynamic", "factor": 2.0}
    )
    with pytest.raises(UserError, match="max_length 41 is more than its positions allow"):
        reward_models.load(path, max_length=41)
    scorer = reward_models.load(path)
    alone = [scorer.score_items([item]).values[0] for item in ITEMS]
    found = scorer.score_items(ITEMS)
    assert found.values == pytest.approx(alone, abs=1e-5) and found.flags["truncated"] == [
        False,
        False,
        True,
        True,
    ]


@pytest.mark.slow
def test_learned_positions_bound_the_length(tmp_path):
    """RoBERTa's begin behind its padding token: 256 rows, 253 tokens."""
    path = save_encoder(tmp_path / "encoder", model_max_length=10**30)
    found = reward_models.load(path).score_items(
        [Item("x", [{"role": "user", "content": "9" * 400}], "1 2")]
    )
    assert found.tokens == 253 and found.values[0] is not None
    with pytest.raises(UserError, match="max_length 254 is more than its positions allow"):
        reward_models.load(path, max_length=254)


@pytest.mark.slow
def test_head_in_float32_whatever_the_dtype(tmp_path):
    from reward_models.networks import kernels, loading

    for path, head in (
        (save_classifier(tmp_path / "decoder"), "score"),
        (save_encoder(tmp_path / "encoder"), "classifier.out_proj"),
    ):
        model = loading.network(str(path), None, None, "bfloat16", {})
        kernels.float32_head(model)
        assert model.get_submodule(head).weight.dtype == torch.float32
        assert {p.dtype for name, p in model.named_parameters() if not name.startswith(head)} == {
            torch.bfloat16
        }
        assert model(torch.tensor([[5, 6, 7]])).logits.dtype == torch.float32


def test_onednn_gives_what_torch_gives(classifier):
    from reward_models.networks import kernels

    model = AutoModelForSequenceClassification.from_pretrained(
        classifier, dtype=torch.float32
    ).eval()
    ids = torch.arange(5, 45)[None]
    with torch.inference_mode():
        before = model(ids).logits
        kernels.use_onednn(model)
        assert torch.allclose(model(ids).logits, before, atol=1e-5)
