"""The family `implicit`: how much more probable a policy makes an answer than its reference does.

    r(x, y) = beta * (log pi_policy(y | x) - log pi_reference(y | x))    Rafailov et al. 2023, eq. 5

So it uses a DPO model as a reward model. y is everything that the chat template writes after the
generation prompt, the end-of-turn token included, as in TRL's trainers. With
`condition_on: english_prompt`, x is the English version of the prompt (Implicit Cross-Lingual
Rewarding, arXiv 2503.04647).

Where log-ratios are positive, their sum favours long answers. `length_normalise: tokens` divides r
by the number of tokens of y. `length_penalty` subtracts that much for every token, which is the
length control of Chen et al. 2024 (arXiv 2406.09760, eq. 5). The cross-lingual paper uses it too;
there it is chosen so that chosen and rejected answers are equally long on average.

With `prefix_reuse`, a prompt that several answers share is read once wherever that is exact
(network.py says when). In float32 on an x86 CPU a value does not depend on its batch, order,
neighbours or shard: within 1e-5 at beta 1 for the whole sum, mostly to the last bit (logps.py says
how). On a GPU, matrix products sum in an order that depends on the shape of a batch; that was not
measured.

A conversation longer than `max_length` loses tokens at its beginning (a BOS token stays), with the
flag `truncated`. Where even the answer does not fit, only its end counts, with the flag
`response_truncated`. The score is None with the flags `no_english_prompt`, `not_finite`, and
`answer_left_out` where the chat template writes nothing of the answer. `answer_partly_left_out` and
`prompt_partly_left_out` say that it leaves out a part.

Columns: `logp_policy`, `logp_reference` (nats, summed), `n_tokens` of the answer.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mlalign.core.errors import UserError
from mlalign.core.model import Model
from mlalign.models import opening, templates
from mlalign.models.engine import chat
from mlalign.models.leftout import NOTHING, STAND_IN, LeftOut
from mlalign.models.templates import ChatTemplate
from reward_models.items import Item, Scores
from reward_models.networks import causal
from reward_models.networks.encoding import LEFT_OUT, common, left_out_flags, token_ids
from reward_models.networks.prefix import Ids

ADAPTER = "adapter_config.json"
UNBOUNDED = 10**9  # tokenizers without a limit of their own give a larger number


REPORTS = (
    *LEFT_OUT,
    "truncated",
    "response_truncated",
    "no_english_prompt",
    "not_finite",
    "logp_policy",
    "logp_reference",
    "n_tokens",
)

Logp = Callable[[Sequence[Ids], Sequence[int]], list[float]]


@dataclasses.dataclass(frozen=True)
class Settings:
    path: str  # of the policy: directory or hub id
    # directory or hub id; by default the base of a policy that is a LoRA adapter
    reference: str | None = None
    base: str | None = None  # of an adapter, in place of the one that its configuration names
    revision: str | None = None  # of the policy
    reference_revision: str | None = None
    beta: float = 0.1
    length_normalise: Literal["none", "tokens"] = "none"
    length_penalty: float = 0.0  # subtracted for every token of the answer
    condition_on: Literal["prompt", "english_prompt"] = "prompt"
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
        messages = templates.setting_problems(values)
        if messages:
            return [f"{key}.{message}" for message in messages]
        path = Path(values["path"]).expanduser()
        is_whole_model = path.is_dir() and not (path / ADAPTER).is_file()
        if values.get("reference") is None and is_whole_model:
            return [
                f"{key}.reference: missing; {path} is a whole model, so name the model that its"
                " training began with"
            ]
        return []


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A conversation as token ids; the answer begins at `begin`.

    `lost`: how many tokens of the prompt and of the answer did not fit.
    `left_out`: what the chat template had left out already.
    """

    ids: list[int]
    begin: int
    lost: tuple[int, int] = (0, 0)
    left_out: LeftOut = NOTHING

    @property
    def n_answer_tokens(self) -> int:
        return len(self.ids) - self.begin


def prepare(settings: Settings) -> Callable[[Sequence[Item]], Scores]:
    """Load both models.

    Raises: UserError without a reference, or if the two read tokens differently.
    """
    policy = causal.find(settings.path, settings.revision, settings.base)
    reference = _reference(settings, policy)
    template = _template(settings, policy)
    tokenizer = template.tokenizer
    _check_same_tokens(tokenizer, policy, reference)

    policy_network = causal.load(policy, settings.dtype)
    reference_network = None
    _check_vocabulary(tokenizer, policy_network, policy)
    if reference is not None:
        reference_network = causal.load(reference, settings.dtype)
        _check_vocabulary(tokenizer, reference_network, reference)
    max_length = settings.max_length or room(tokenizer, policy_network.config.get_text_config())
    by_policy, by_reference = _logps(policy_network, reference_network, settings)

    def run(items: Sequence[Item]) -> Scores:
        encoded: dict[int, Encoded] = {}
        for i, item in enumerate(items):
            prompt = _prompt(item, settings)
            if prompt is not None:
                whole = encode(item, prompt, template)
                encoded[i] = cut(whole, max_length, tokenizer.bos_token_id)

        written = [i for i, text in encoded.items() if not text.left_out.answer]
        ids = [tuple(encoded[i].ids) for i in written]
        begins = [encoded[i].begin for i in written]
        policy_logps = dict(zip(written, by_policy(ids, begins), strict=True))
        reference_logps = dict(zip(written, by_reference(ids, begins), strict=True))
        return _scores(len(items), encoded, policy_logps, reference_logps, settings)

    return run


def acceptor(settings: Settings) -> Callable[[Sequence[Item]], None]:
    """A function that raises a UserError for conversations that the policy's template cannot write.

    They are those that the chat template refuses, or for which it writes no answer.
    """
    policy = causal.find(settings.path, settings.revision, settings.base)
    template = _template(settings, policy)

    def accept(items: Sequence[Item]) -> None:
        for item in items:
            prompt = _prompt(item, settings)
            if prompt is not None:
                encode(item, prompt, template)

    return accept


def _template(settings: Settings, policy: Model) -> ChatTemplate:
    tokenizer = causal.tokenizer(policy, chat.read_template(settings.chat_template))
    return ChatTemplate(tokenizer, settings.chat_template_kwargs, settings.date)


def _prompt(item: Item, settings: Settings) -> list[dict] | None:
    """What the answer is conditioned on; None if the item has no English prompt."""
    return item.prompt if settings.condition_on == "prompt" else item.english_prompt


def _check_vocabulary(tokenizer: Any, network: Any, model: Model) -> None:
    n_rows = network.get_input_embeddings().weight.shape[0]
    opening.check_tokens(tokenizer, n_rows, model.path, padding_is_read=False)


def _scores(
    n_items: int,
    encoded: Mapping[int, Encoded],
    policy_logps: Mapping[int, float],
    reference_logps: Mapping[int, float],
    settings: Settings,
) -> Scores:
    """Scores of all items, which are numbered from 0.

    `encoded` has those with a prompt, the two `logps` those whose answer the chat template writes.
    """
    values: list[float | None] = [None] * n_items
    of_policy: list[float | None] = [None] * n_items
    of_reference: list[float | None] = [None] * n_items
    n_tokens: list[float | None] = [None] * n_items
    not_finite = [False] * n_items
    for i, logp in policy_logps.items():
        n_answer_tokens = encoded[i].n_answer_tokens
        n_tokens[i] = float(n_answer_tokens)
        value = reward(logp, reference_logps[i], n_answer_tokens, settings)
        if not math.isfinite(value):
            not_finite[i] = True
            continue
        values[i] = value
        of_policy[i] = logp
        of_reference[i] = reference_logps[i]

    nothing = Encoded([], 0)
    texts = [encoded.get(i, nothing) for i in range(n_items)]
    flags = {
        "truncated": [sum(text.lost) > 0 for text in texts],
        "response_truncated": [text.lost[1] > 0 for text in texts],
        "no_english_prompt": [i not in encoded for i in range(n_items)],
        **left_out_flags([text.left_out for text in texts]),
        "not_finite": not_finite,
    }
    columns = {"logp_policy": of_policy, "logp_reference": of_reference, "n_tokens": n_tokens}
    # Each conversation is read by the policy and by the reference.
    n_read = 2 * sum(len(encoded[i].ids) for i in policy_logps)
    return Scores(values, flags, columns, tokens=n_read)


def reward(logp_policy: float, logp_reference: float, n_tokens: int, settings: Settings) -> float:
    """beta * (log pi_policy - log pi_reference) [/ n_tokens] - length_penalty * n_tokens."""
    ratio = settings.beta * (logp_policy - logp_reference)
    if settings.length_normalise == "tokens":
        ratio /= n_tokens
    return ratio - settings.length_penalty * n_tokens


def _logps(policy: Any, reference: Any | None, settings: Settings) -> tuple[Logp, Logp]:
    """Two functions that give the log-probability of each answer: by policy and by reference.

    Without a reference network, the reference is the policy with its adapter disabled.
    """
    from reward_models.networks.logps import Logps

    batch_tokens = settings.device_batch_tokens
    by_policy = Logps(plain(policy), batch_tokens, settings.prefix_reuse)
    if reference is not None:
        return by_policy, Logps(plain(reference), batch_tokens, settings.prefix_reuse)

    def by_base(ids: Sequence[Ids], begins: Sequence[int]) -> list[float]:
        with policy.disable_adapter():
            return by_policy(ids, begins)

    return by_policy, by_base


def encode(item: Item, prompt: Sequence[Mapping], template: ChatTemplate) -> Encoded:
    """A conversation as token ids.

    The answer begins where these differ from the ids of the prompt with the generation prompt.
    """
    messages = [*prompt, item.answer]
    prompt_text = template.prompt(prompt, item.id, item.tools)
    whole_text = template.conversation(messages, item.id, item.tools)
    left_out = template.left_out(whole_text, messages, item.id, item.tools)
    if not whole_text.startswith(prompt_text):
        prompt_text = _until_answer(item, prompt, template, prompt_text, whole_text)

    prompt_ids, ids = token_ids([prompt_text, whole_text], template.tokenizer)
    begin = common(prompt_ids, ids)
    if begin >= len(ids):
        raise UserError(
            f"{item.id}: the policy's chat template writes nothing for this answer, not even an end"
            " of turn"
        )
    return Encoded(ids, max(begin, 1), left_out=left_out)


def _until_answer(
    item: Item, prompt: Sequence[Mapping], template: ChatTemplate, prompt_text: str, whole: str
) -> str:
    """The text before the answer, for templates that change the prompt once an answer follows.

    For example, a template may mark the assistant's last turn, and the prompt may end with one.
    The texts with and without the answer then differ within the prompt, so the answer is taken to
    begin after the last generation prompt in front of its own text.
    """
    context = template.conversation(prompt, item.id, item.tools)
    if whole.startswith(context):
        return prompt_text  # the texts differ in the generation prompt or after it
    stand_in = template.conversation(
        [*prompt, {"role": "assistant", "content": STAND_IN}], item.id, item.tools
    )
    answer_at = common(whole, stand_in)
    if not prompt_text.startswith(context):
        return whole[:answer_at]
    generation_prompt = prompt_text.removeprefix(context)
    at = whole.rfind(generation_prompt, 0, answer_at)
    if at < 0 or not generation_prompt:
        return whole[:answer_at]
    return whole[: at + len(generation_prompt)]


def cut(whole: Encoded, max_length: int, bos: int | None) -> Encoded:
    """The last `max_length` tokens, at least one before the answer; a BOS token stays first."""
    n_lost = len(whole.ids) - max_length
    if n_lost <= 0:
        return whole

    keeps_bos = bos is not None and whole.ids[0] == bos and max_length > 1
    head = whole.ids[:1] if keeps_bos else []
    n_dropped = n_lost + len(head)  # from the beginning, where the BOS token is put back
    ids = [*head, *whole.ids[n_dropped:]]
    begin = max(len(head) + whole.begin - n_dropped, 1)

    lost_of_answer = whole.n_answer_tokens - (len(ids) - begin)
    return Encoded(ids, begin, (n_lost - lost_of_answer, lost_of_answer))


def _reference(settings: Settings, policy: Model) -> Model | None:
    """The reference; None if it is the policy's own base.

    Raises: UserError if the policy is a whole model and none is named.
    """
    if settings.reference is None:
        if policy.base is None:
            raise UserError(
                f"{settings.path}: is a whole model, so `reference` must name the model that its"
                " training began with"
            )
        return None
    model = causal.find(settings.reference, settings.reference_revision)
    is_own_base = policy.base is not None and model.base is None and model.path == policy.base.path
    return None if is_own_base else model


def _check_same_tokens(tokenizer: Any, policy: Model, reference: Model | None) -> None:
    """Raises: UserError if the reference has a tokenizer with another vocabulary."""
    if reference is None:
        return
    source = chat.tokenizer_source(reference)
    if not opening.has_tokenizer(source.path, source.revision):
        return  # a reference without a tokenizer is read with the policy's
    other = opening.tokenizer(source.path, source.revision)
    numbers = tokenizer.get_vocab()
    for token, number in other.get_vocab().items():
        if numbers.get(token, number) != number:
            raise UserError(
                f"{reference.path}: its tokenizer gives {token!r} another number than that of"
                f" {policy.path}, so their log-probabilities cannot be compared; give the model"
                " that the policy's training began with"
            )


def plain(network: Any) -> Any:
    """The network with its adapter in it, if it has one, rather than around it."""
    return network.get_base_model() if hasattr(network, "get_base_model") else network


def room(tokenizer: Any, config: Any) -> int:
    """The most tokens that tokenizer and model allow."""
    most = min(tokenizer.model_max_length, UNBOUNDED)
    return min(most, getattr(config, "max_position_embeddings", None) or most)
