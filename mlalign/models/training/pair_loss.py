"""Trains on a loss of `mlalign.methods.losses`: what is added to TRL's DPOTrainer for that.

    kind = type("PairLossTrainer", (PairLoss, trl.DPOTrainer), {})
    trainer = kind(model, objective=Objective(…), args=…, train_dataset=…)

TRL's trainer does the rest: tokens, reference log-probabilities and their cache, adapters. Columns
of rows that the loss reads travel with a batch under `COLUMNS` and are taken out of it before a
model sees it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

COLUMNS = "columns"


class Objective(NamedTuple):
    """A loss of B pairs from what they give it, by name; `columns` are those of the rows."""

    loss: Callable[[Mapping[str, Any]], torch.Tensor]
    columns: Sequence[str]
    has_reference: bool


class WithColumns:
    """Adds columns of the rows to what TRL's collator makes of them."""

    def __init__(self, collator: Callable[[list[dict]], dict], columns: Sequence[str]):
        self.collator, self.columns = collator, columns

    def __call__(self, examples: list[dict]) -> dict:
        batch = self.collator(examples)
        batch[COLUMNS] = {name: _stacked([e[name] for e in examples]) for name in self.columns}
        return batch


def _stacked(values: list) -> torch.Tensor | list[str]:
    if isinstance(values[0], str):
        return values
    return torch.tensor(values, dtype=torch.float32)


class PairLoss:
    """Before DPOTrainer among the bases of a trainer."""

    def __init__(self: Any, *args: Any, objective: Objective, **kwargs: Any):
        self.objective = objective
        super().__init__(*args, **kwargs)
        self.data_collator = WithColumns(self.data_collator, objective.columns)

    def _set_signature_columns_if_needed(self: Any) -> None:
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()  # type: ignore[misc]
            self._signature_columns += self.objective.columns

    def _precompute_ref_logps(self: Any, dataset: Any, name: str, batch_size: int) -> Any:
        if not self.objective.has_reference:
            return dataset
        return super()._precompute_ref_logps(dataset, name, batch_size)  # type: ignore[misc]

    def compute_ref_log_probs(self: Any, model: Any, inputs: Mapping) -> Any:
        return super().compute_ref_log_probs(model, _for_model(inputs))  # type: ignore[misc]

    def _compute_loss(self: Any, model: Any, inputs: Mapping, return_outputs: bool) -> Any:
        mode = "train" if self.model.training else "eval"
        columns, inputs = inputs[COLUMNS], _for_model(inputs)
        mask = inputs["completion_mask"]
        ours = ("completion_mask", "ref_chosen_logps", "ref_rejected_logps")
        batch = {k: v for k, v in inputs.items() if k not in ours}
        batch["use_cache"] = False
        if self.aux_loss_enabled:
            batch["output_router_logits"] = True

        labels = inputs["input_ids"].masked_fill(mask == 0, -100)
        outputs = model(**batch, labels=labels, fused_lm_head=True)
        n_answers = mask[:, 1:].sum(dim=1)
        # Virtual tokens of prompt tuning come first and have no label.
        logps = outputs.log_probs[:, 1 - mask.size(1) :].sum(dim=1)
        given = {**columns, **_sides("policy_{}_logps", logps), **_sides("{}_lengths", n_answers)}
        if self.objective.has_reference:
            given |= self._reference_logps(inputs)

        loss = self.objective.loss(given).mean()
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss
        self._note_rewards(mode, {k: v.detach() for k, v in given.items() if k.endswith("logps")})
        if return_outputs:  # the fused head keeps no logits
            with torch.no_grad():
                outputs = model(**batch)
        return (loss, outputs) if return_outputs else loss

    def _reference_logps(self: Any, inputs: Mapping) -> dict[str, torch.Tensor]:
        if self.precompute_ref_logps:
            chosen, rejected = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        else:
            model = self.model if self.ref_model is None else self.ref_model
            chosen, rejected = self.compute_ref_log_probs(model, inputs)
        return {"reference_chosen_logps": chosen, "reference_rejected_logps": rejected}

    def _note_rewards(self: Any, mode: str, logps: Mapping[str, torch.Tensor]) -> None:
        """Means over all devices, under TRL's names: a reward is beta times the log-ratio."""
        chosen, rejected = logps["policy_chosen_logps"], logps["policy_rejected_logps"]
        noted = {"logps/chosen": chosen, "logps/rejected": rejected}
        chosen_reward = self.beta * (chosen - logps.get("reference_chosen_logps", 0))
        rejected_reward = self.beta * (rejected - logps.get("reference_rejected_logps", 0))
        noted |= {
            "rewards/chosen": chosen_reward,
            "rewards/rejected": rejected_reward,
            "rewards/margins": chosen_reward - rejected_reward,
            "rewards/accuracies": (chosen_reward > rejected_reward).float(),
        }
        for name, values in noted.items():
            mean = self.accelerator.gather(values).mean().item()
            self._metrics[mode][name].append(mean)


def _for_model(inputs: Mapping) -> dict:
    return {name: value for name, value in inputs.items() if name != COLUMNS}


def _sides(name: str, both: torch.Tensor) -> dict[str, torch.Tensor]:
    """The two halves of a batch: TRL puts the chosen answers first."""
    chosen, rejected = both.chunk(2, dim=0)
    return {name.format("chosen"): chosen, name.format("rejected"): rejected}
