"""Trains on a loss of `mlalign.methods.losses`, by additions to TRL's DPOTrainer.

    kind = type("PairLossTrainer", (PairLoss, trl.DPOTrainer), {})
    trainer = kind(model, objective=Objective(…), args=…, train_dataset=…)

TRL's trainer does the rest: tokens, reference log-probabilities and their cache, adapters. Columns
of the rows that the loss reads travel with a batch under `COLUMNS`, and are removed from it before
it reaches a model.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

COLUMNS = "columns"
NOT_FOR_MODEL = ("completion_mask", "ref_chosen_logps", "ref_rejected_logps")


class Objective(NamedTuple):
    """A loss of B pairs from named tensors; `columns` are the columns of the rows that it reads."""

    loss: Callable[[Mapping[str, Any]], torch.Tensor]
    columns: Sequence[str]
    has_reference: bool


class WithColumns:
    """Adds columns of the rows to what TRL's collator makes of them."""

    def __init__(self, collator: Callable[[list[dict]], dict], columns: Sequence[str]):
        self.collator = collator
        self.columns = columns

    def __call__(self, examples: list[dict]) -> dict:
        batch = self.collator(examples)
        batch[COLUMNS] = {}
        for name in self.columns:
            values = [example[name] for example in examples]
            batch[COLUMNS][name] = _stacked(values)
        return batch


def _stacked(values: list) -> torch.Tensor | list[str]:
    if isinstance(values[0], str):
        return values
    return torch.tensor(values, dtype=torch.float32)


class PairLoss:
    """A mixin that replaces the loss; it goes before DPOTrainer among the bases of a trainer."""

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
        columns = inputs[COLUMNS]
        inputs = _for_model(inputs)
        mask = inputs["completion_mask"]
        batch = {name: value for name, value in inputs.items() if name not in NOT_FOR_MODEL}
        batch["use_cache"] = False
        if self.aux_loss_enabled:
            batch["output_router_logits"] = True

        labels = inputs["input_ids"].masked_fill(mask == 0, -100)
        outputs = model(**batch, labels=labels, fused_lm_head=True)
        # Virtual tokens of prompt tuning come first and have no label.
        token_logps = outputs.log_probs[:, 1 - mask.size(1) :]
        logps = _sides("policy_{}_logps", token_logps.sum(dim=1))
        if self.objective.has_reference:
            logps |= self._reference_logps(inputs)
        lengths = _sides("{}_lengths", mask[:, 1:].sum(dim=1))

        loss = self.objective.loss({**columns, **logps, **lengths}).mean()
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss
        self._note_rewards({name: values.detach() for name, values in logps.items()})
        if not return_outputs:
            return loss
        with torch.no_grad():  # again, since the fused head keeps no logits
            return loss, model(**batch)

    def _reference_logps(self: Any, inputs: Mapping) -> dict[str, torch.Tensor]:
        if self.precompute_ref_logps:
            chosen = inputs["ref_chosen_logps"]
            rejected = inputs["ref_rejected_logps"]
        else:
            model = self.model if self.ref_model is None else self.ref_model
            chosen, rejected = self.compute_ref_log_probs(model, inputs)
        return {"reference_chosen_logps": chosen, "reference_rejected_logps": rejected}

    def _note_rewards(self: Any, logps: Mapping[str, torch.Tensor]) -> None:
        """Log means over all devices, under TRL's names."""
        chosen = logps["policy_chosen_logps"]
        rejected = logps["policy_rejected_logps"]
        # r(x, y) = beta * (log pi(y|x) - log pi_ref(y|x))
        chosen_reward = self.beta * (chosen - logps.get("reference_chosen_logps", 0))
        rejected_reward = self.beta * (rejected - logps.get("reference_rejected_logps", 0))
        metrics = {
            "logps/chosen": chosen,
            "logps/rejected": rejected,
            "rewards/chosen": chosen_reward,
            "rewards/rejected": rejected_reward,
            "rewards/margins": chosen_reward - rejected_reward,
            "rewards/accuracies": (chosen_reward > rejected_reward).float(),
        }
        mode = "train" if self.model.training else "eval"
        for name, values in metrics.items():
            mean = self.accelerator.gather(values).mean().item()
            self._metrics[mode][name].append(mean)


def _for_model(inputs: Mapping) -> dict:
    return {name: value for name, value in inputs.items() if name != COLUMNS}


def _sides(name: str, both: torch.Tensor) -> dict[str, torch.Tensor]:
    """The two halves of a batch: TRL puts the chosen answers first."""
    chosen, rejected = both.chunk(2, dim=0)
    return {name.format("chosen"): chosen, name.format("rejected"): rejected}
