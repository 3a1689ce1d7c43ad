"""Losses that are functions: equal to TRL's where TRL has them, exact by hand where it does not."""

import json
import math
import sys

import pytest
import torch
from safetensors.torch import load_file
from training_cases import LANGUAGES, StopAt, config, losses, train, write

from mlalign.core import rows, stage
from mlalign.core.errors import UserError
from mlalign.methods import losses as pair_losses
from mlalign.methods.losses.arpo import arpo
from mlalign.stages import preference

LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
OWN = '''
from torch.nn.functional import logsigmoid


def sigmoid(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, *, beta):
    """DPO: equation 7 of Rafailov et al. (2023)."""
    logits = (policy_chosen_logps - policy_rejected_logps) - (reference_chosen_logps - reference_rejected_logps)
    return -logsigmoid(beta * logits)


def robust(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, *, beta, label_smoothing):
    """Equation 3.2 of Chowdhury et al. (2024), for labels of which a share is flipped."""
    logits = (policy_chosen_logps - policy_rejected_logps) - (reference_chosen_logps - reference_rejected_logps)
    kept = (1 - label_smoothing) * logsigmoid(beta * logits)
    return (label_smoothing * logsigmoid(-beta * logits) - kept) / (1 - 2 * label_smoothing)


def ipo(policy_chosen_logps, reference_chosen_logps, policy_rejected_logps, reference_rejected_logps, chosen_lengths, rejected_lengths, *, beta):
    """Equation 17 of Azar et al. (2023), on means per token as in TRL."""
    chosen = (policy_chosen_logps - reference_chosen_logps) / chosen_lengths
    rejected = (policy_rejected_logps - reference_rejected_logps) / rejected_lengths
    return (chosen - rejected - 1 / (2 * beta)) ** 2


def weighted(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, margin, prompt_lang, *, beta, weights: dict = {}):
    """Reads a column of numbers and one of texts."""
    logits = (policy_chosen_logps - policy_rejected_logps) - (reference_chosen_logps - reference_rejected_logps)
    factor = margin.new_tensor([weights.get(language, 1.0) for language in prompt_lang])
    return -factor * logsigmoid(beta * logits - margin)


def typo(policy_chosen_logps, margn, *, beta):
    return policy_chosen_logps


def scalar(policy_chosen_logps):
    return policy_chosen_logps.mean()


def detached(policy_chosen_logps):
    return -policy_chosen_logps.detach()


def before_the_star(policy_chosen_logps, beta, alpha=1.0):
    return policy_chosen_logps


def fails(policy_chosen_logps):
    return policy_chosen_logps + len(1)
'''


@pytest.fixture(scope="module", autouse=True)
def own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_losses.py").write_text(OWN, encoding="utf-8")
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write(tmp_path_factory.mktemp("rows") / "pairs", "preference", margin=0.5)


def weights(out: stage.Output) -> dict[str, torch.Tensor]:
    return load_file(next((out.path / "model").glob("*.safetensors")))


def logged(out: stage.Output, name: str) -> list[float]:
    return [entry[name] for entry in json.loads((out.path / "log_history.json").read_text())]


# The 32 rows in steps of 12: the last has 8 rows, so that its batches are weighed.
CASES = {
    "robust": {"trainer": {"label_smoothing": 0.1}, "device_batch_size": 4, "batch_size": 12},
    "ipo": {"peft": LORA},
    "sigmoid": {"trainer": {"precompute_ref_log_probs": False}},
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_a_loss_that_trl_has_trains_as_trls(name, pairs, tmp_path):
    given = CASES[name]
    theirs = train("preference", pairs, tmp_path / "theirs", loss=name, **given)
    ours = train("preference", pairs, tmp_path / "ours", loss=f"own_losses:{name}", **given)
    assert losses(ours) == pytest.approx(losses(theirs), abs=1e-6)
    assert len(set(losses(ours))) == 4
    for noted in ("rewards/chosen", "rewards/margins", "rewards/accuracies", "logps/rejected"):
        assert logged(ours, noted) == pytest.approx(logged(theirs, noted), abs=1e-5), noted
    ends = weights(theirs), weights(ours)
    assert ends[0].keys() == ends[1].keys()
    for key, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][key], tensor, atol=1e-6, rtol=0)


def values(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def softplus(value: float) -> float:
    return math.log1p(math.exp(-value))  # -log sigmoid


def test_arpo_by_hand():
    # Means per token -1 and -3: far apart, tau = min(0.9 * exp(0.8) - 1, 1) = 1, so it is CPO.
    # Means -1 and -1.5: tau = 0.9 * exp(0.2) - 1. Equal means: 0.9 - 1 < 0, so tau = 0.
    chosen, rejected = values(-2, -4, -3), values(-6, -3, -2)
    lengths = values(2, 4, 3), values(2, 2, 2)
    tau = 0.9 * math.exp(0.2) - 1
    expected = [
        softplus(0.1 * (-2 + 6)) + 1,
        softplus(0.1 * (-4 + tau * 3)) + 1,
        softplus(0.1 * -3) + 1,
    ]
    assert arpo(chosen, rejected, *lengths, beta=0.1).tolist() == pytest.approx(expected, abs=1e-12)
    assert expected[0] == pytest.approx(1.513015, abs=1e-6)
    without = [e - 1 for e in expected]
    assert arpo(chosen, rejected, *lengths, beta=0.1, nll=0.0).tolist() == pytest.approx(
        without, abs=1e-12
    )


def test_arpos_gradient_goes_through_tau():
    chosen, rejected = values(-4).requires_grad_(), values(-3).requires_grad_()
    lengths = values(4), values(2)
    assert torch.autograd.gradcheck(lambda c, r: arpo(c, r, *lengths, beta=0.1), (chosen, rejected))


@pytest.mark.slow
def test_a_loss_without_a_reference_needs_none(pairs, tmp_path):
    out = train("preference", pairs, tmp_path, loss="arpo", loss_args={"nll": 0.5})
    assert len(losses(out)) == 4 and losses(out)[-1] < losses(out)[0]
    cached = [p for p in tmp_path.rglob("cache-*.arrow")]
    import datasets

    assert not [
        p for p in cached if "ref_chosen_logps" in datasets.Dataset.from_file(str(p)).column_names
    ]
    with pytest.raises(UserError, match=r"inputs\.reference: arpo has no reference model"):
        train(
            "preference", pairs, tmp_path / "other", loss="arpo", reference=tmp_path / "somewhere"
        )


@pytest.mark.slow
def test_columns_reach_the_loss_and_no_model(pairs, tmp_path, monkeypatch):
    """In training, in the precomputing before it and in evaluation.

    The first loss is log 2 moved by the margin, weighted by the language of each prompt.
    """
    import transformers

    from mlalign.models.training import loop

    seen, metrics = [], []
    forward, fit = transformers.PreTrainedModel.__call__, loop.fit

    def spying(model, *args, **kwargs):
        seen.append(set(kwargs))
        return forward(model, *args, **kwargs)

    def with_evaluation(trainer, cfg, out):
        fit(trainer, cfg, out)
        rows_again = trainer.train_dataset.remove_columns(
            ["ref_chosen_logps", "ref_rejected_logps"]
        )
        metrics.append(trainer.evaluate(rows_again))

    monkeypatch.setattr(transformers.PreTrainedModel, "__call__", spying)
    monkeypatch.setattr(loop, "fit", with_evaluation)
    given = {
        "loss": "own_losses:weighted",
        "batch_size": 32,
        "peft": LORA,
        "trainer": {"max_steps": 1, "learning_rate": 0.0},
    }
    out = train("preference", pairs, tmp_path, loss_args={"weights": {"eng_Latn": 3.0}}, **given)
    expected = softplus(-0.5) * (3 + 1) / 2
    assert losses(out)[0] == pytest.approx(expected, abs=1e-6)
    assert metrics[0]["eval_loss"] == pytest.approx(expected, abs=1e-6)
    assert metrics[0]["eval_rewards/margins"] == pytest.approx(0.0, abs=1e-6)
    assert len(seen) > 3 and not any({"columns", "margin", "prompt_lang"} & names for names in seen)
    assert out.tally.rows == dict.fromkeys(LANGUAGES, 16)


@pytest.mark.long
def test_a_stopped_step_goes_on_as_if_it_had_not_been(pairs, tmp_path):
    given = {"loss": "own_losses:weighted"}
    unbroken = train("preference", pairs, tmp_path / "unbroken", **given)
    with pytest.raises(stage.Stopped):
        train("preference", pairs, tmp_path / "stopped", kind=StopAt, **given)
    again = train("preference", pairs, tmp_path / "stopped", **given)
    assert losses(again) == losses(unbroken)
    assert all(
        torch.equal(a, b)
        for a, b in zip(weights(again).values(), weights(unbroken).values(), strict=True)
    )


@pytest.mark.slow
def test_a_row_without_a_column_is_named(tmp_path):
    without = write(tmp_path / "rows", "preference")
    with pytest.raises(
        UserError, match=r"row \w+ \(eng_Latn\): has no margin, which the loss reads"
    ):
        train("preference", without, tmp_path / "none", loss="own_losses:weighted")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "scalar",
            r"loss own_losses:scalar: returned shape \(\); it has to return shape \(2,\)",
        ),
        ("detached", r"loss own_losses:detached: the losses have no gradient"),
        ("fails", r"loss own_losses:fails: .*own_losses\.py:\d+: "),
    ],
)
def test_a_loss_that_gives_something_else_is_named(name, message):
    with pytest.raises(UserError, match=message):
        logps = values(1, 2).requires_grad_()
        pair_losses.apply(f"own_losses:{name}", {}, {"policy_chosen_logps": logps})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": "arppo"}, "loss: unknown loss 'arppo'; did you mean 'arpo'"),
        (
            {"loss": "own_losses:sigmod"},
            "loss: own_losses has no function 'sigmod'; did you mean 'sigmoid'",
        ),
        (
            {"loss": "own_losses:typo"},
            (
                "loss: own_losses:typo reads 'margn', which no preference row has; did you mean"
                " 'margin'"
            ),
        ),
        (
            {"loss": "own_losses:before_the_star"},
            r"has the option 'beta' before `\*`; [\s\S]* has the option 'alpha' before `\*`",
        ),
        (
            {"loss": "arpo", "loss_args": {"nl": 1}},
            r"loss_args\.nl: unknown key; did you mean 'nll'",
        ),
        (
            {"loss": "arpo", "trainer": {"label_smoothing": 0.1}},
            r"trainer\.label_smoothing: arpo does not take it",
        ),
        (
            {"loss": "arpo", "trainer": {"precompute_ref_log_probs": True}},
            r"trainer\.precompute_ref_log_probs: arpo does not use it",
        ),
        (
            {"loss": "own_losses:ipo", "trainer": {"ld_alpha": 0.5}},
            r"trainer\.ld_alpha: own_losses:ipo does not use it",
        ),
        (
            {"loss": "sigmoid+arpo"},
            "arpo is a function of its own and cannot be summed with others",
        ),
        ({"loss": "sigmoid", "loss_args": {"nll": 1}}, "loss_args: sigmoid is TRL's"),
    ],
)
def test_mistakes_are_told_before_anything_runs(values, message):
    with pytest.raises(UserError, match=message):
        preference.identity(config("preference", **values), lambda path: "")


def test_a_loss_is_hashed_into_the_step_that_uses_it():
    def identity(**values):
        return preference.identity(config("preference", **values), lambda path: "")

    assert "loss_source" not in identity()
    assert (
        identity(loss="own_losses:ipo")["loss_source"]
        == identity(loss="own_losses:sigmoid")["loss_source"]
    )
    assert identity(loss="arpo")["loss_source"] != identity(loss="own_losses:ipo")["loss_source"]


def test_every_shipped_loss_is_none_of_trls_and_reads_columns_that_there_are():
    every = preference.dpo_losses() | set(preference.OTHERS)
    for name in pair_losses.names():
        assert name not in every
        assert pair_losses.load(name).__name__ == name
        assert pair_losses.problems(name, {}) == []
    assert "margin" in rows.COLUMNS["preference"]
