"""`arpo`: pushes a rejected answer away less, the more it is like the chosen one.

A contrastive loss: adaptive-rejection preference optimisation (ARPO; Xu et al. 2025, "X-ALMA: Plug
& Play Modules and Adaptive Rejection for Quality Translation at Scale"). Translations of one text
are close to each other, and CPO (tau = 1) unlearns good ones with the bad.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def arpo(
    policy_chosen_logps: "Tensor",
    policy_rejected_logps: "Tensor",
    chosen_lengths: "Tensor",
    rejected_lengths: "Tensor",
    *,
    beta: float,
    nll: float = 1.0,
    scale: float = 0.9,
    rate: float = 0.4,
) -> "Tensor":
    """Shapes: all B, and so is the loss. Without a reference.

        d    = |lp_w / n_w - lp_l / n_l|                      nats per token
        tau  = min(scale * exp(rate * d) - 1, 1), at least 0
        loss = -log sigmoid(beta * (lp_w - tau * lp_l)) - nll * lp_w / n_w

    lp are summed log-probabilities, n tokens, w the chosen and l the rejected answer. The gradient
    goes through tau, as in the authors' code. Ours: tau is not below 0 (theirs is -0.1 at d = 0),
    and the likelihood term is a mean per answer, theirs per token of the batch.

        lp_w = -2, n_w = 2, lp_l = -6, n_l = 2, beta = 0.1: d = 2, tau = 1, loss = 0.513 + 1
    """
    from torch.nn.functional import logsigmoid

    chosen_mean = policy_chosen_logps / chosen_lengths
    rejected_mean = policy_rejected_logps / rejected_lengths
    distance = (chosen_mean - rejected_mean).abs()
    tau = (scale * (rate * distance).exp() - 1).clamp(min=0, max=1)
    preferred = logsigmoid(beta * (policy_chosen_logps - tau * policy_rejected_logps))
    return -preferred - nll * chosen_mean
