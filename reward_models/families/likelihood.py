"""The family `likelihood`: the log-probability that a policy gives to an answer.

    score(x, y) = log pi(y | x)        with `normalise: tokens` divided by the number of tokens of y

y is everything that the chat template writes after the generation prompt, the end-of-turn token
included, as in the family `implicit`, whose flags this one has too. Column: `n_tokens` of the
answer.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from mlalign.models import opening, templates
from mlalign.models.engine import chat
from mlalign.models.templates import ChatTemplate
from reward_models.families import implicit
from reward_models.families.implicit import Encoded
from reward_models.items import Item, Scores
from reward_models.networks import causal
from reward_models.networks.encoding import LEFT_OUT, left_out_flags

REPORTS = (*LEFT_OUT, "truncated", "response_truncated", "not_finite", "n_tokens")


@dataclasses.dataclass(frozen=True)
class Settings:
    path: str  # of the policy: directory or hub id
    base: str | None = None  # of an adapter, in place of the one that its configuration names
    revision: str | None = None
    normalise: Literal["none", "tokens"] = "none"
    max_length: int | None = None  # tokens; by default what tokenizer and model allow
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    prefix_reuse: bool = True  # read shared prompts once, where that is exact
    device_batch_tokens: int = 16384  # most padded tokens in a batch (on a CPU 1024 at most)
    # the name of one of the tokenizer's templates, a file of Jinja text, or the text
    chat_template: str | None = None
    chat_template_kwargs: dict = dataclasses.field(default_factory=dict)
    date: str = templates.DATE  # for chat templates that write the date

    @staticmethod
    def problems(values: Mapping, key: str) -> list[str]:
        return [f"{key}.{problem}" for problem in templates.setting_problems(values)]


def prepare(settings: Settings) -> Callable[[Sequence[Item]], Scores]:
    """Load the policy. Raises: UserError if that fails, or its tokenizer does not fit it."""
    from reward_models.networks.logps import Logps

    policy = causal.find(settings.path, settings.revision, settings.base)
    template = _template(settings, policy)
    network = causal.load(policy, settings.dtype)
    vocabulary = network.get_input_embeddings().weight.shape[0]
    opening.check_tokens(template.tokenizer, vocabulary, policy.path, padding_is_read=False)
    max_length = settings.max_length or implicit.room(
        template.tokenizer, network.config.get_text_config()
    )
    logps = Logps(implicit.plain(network), settings.device_batch_tokens, settings.prefix_reuse)

    def run(items: Sequence[Item]) -> Scores:
        whole = [implicit.encode(item, item.prompt, template) for item in items]
        bos = template.tokenizer.bos_token_id
        encoded = [implicit.cut(text, max_length, bos) for text in whole]

        written = [i for i, text in enumerate(encoded) if not text.left_out.answer]
        ids = [tuple(encoded[i].ids) for i in written]
        begins = [encoded[i].begin for i in written]
        logp_by_place = dict(zip(written, logps(ids, begins), strict=True))
        return _scores(encoded, logp_by_place, settings)

    return run


def acceptor(settings: Settings) -> Callable[[Sequence[Item]], None]:
    """A function that raises a UserError for conversations that the policy's template refuses."""
    template = _template(settings, causal.find(settings.path, settings.revision, settings.base))

    def accept(items: Sequence[Item]) -> None:
        for item in items:
            implicit.encode(item, item.prompt, template)

    return accept


def _template(settings: Settings, policy: Any) -> ChatTemplate:
    tokenizer = causal.tokenizer(policy, chat.read_template(settings.chat_template))
    return ChatTemplate(tokenizer, settings.chat_template_kwargs, settings.date)


def _scores(encoded: Sequence[Encoded], logps: Mapping[int, float], settings: Settings) -> Scores:
    """Scores of all items; `logps` has those whose answer the chat template writes."""
    n = len(encoded)
    lengths: list[float | None] = [None] * n
    values: list[float | None] = [None] * n
    not_finite = [False] * n
    for place, logp in logps.items():
        n_tokens = encoded[place].n_answer_tokens
        lengths[place] = float(n_tokens)
        if not math.isfinite(logp):
            not_finite[place] = True
        elif settings.normalise == "tokens":
            values[place] = logp / n_tokens
        else:
            values[place] = logp
    flags = {
        "truncated": [sum(text.lost) > 0 for text in encoded],
        "response_truncated": [text.lost[1] > 0 for text in encoded],
        **left_out_flags([text.left_out for text in encoded]),
        "not_finite": not_finite,
    }
    tokens = sum(len(encoded[place].ids) for place in logps)
    return Scores(values, flags, {"n_tokens": lengths}, tokens=tokens)
