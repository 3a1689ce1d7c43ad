"""The family `implicit`: how much more probable a policy makes an answer than its reference does (a
DPO model as a reward model).

    r(x, y) = beta * (log pi_policy(y | x) - log pi_reference(y | x))        Rafailov et al. 2023, eq. 5

y is everything that the chat template writes after the generation prompt, the end-of-turn token
included, as in TRL's trainers. `condition_on: english_prompt` puts the English version of x in its
place (Implicit Cross-Lingual Rewarding, arXiv 2503.04647).

Sums favour whatever is long where they are positive. `length_normalise: tokens` divides r by the
tokens of y; `length_penalty` subtracts that much for every token, the length control of Chen et al.
2024 (arXiv 2406.09760, eq. 5) that the former paper takes over: there it is chosen so that chosen
and rejected answers are equally long on average.

Prompts that several answers share are read once, with `prefix_reuse`, wherever that is exact
(network.py says how that is found). In float32 on an x86 CPU a value does not depend on its batch,
order, neighbours or shard (within 1e-5 at beta 1 for the whole sum, mostly to the last bit;
logps.py says how). On a GPU matrix products sum in an order that follows from the shape of a batch;
that was not measured.

A conversation longer than `max_length` loses tokens at its beginning (a BOS token stays): flag
`truncated`; where even the answer does not fit, only what is left of it counts: flag
`response_truncated`. None, flagged: `no_english_prompt`, `not_finite`, and `answer_left_out` where
the chat template writes nothing of the answer. `answer_partly_left_out`, `prompt_partly_left_out`:
some of it.
Columns: `logp_policy`, `logp_reference` (nats, summed), `n_tokens` of the answer.
"""

import contextlib
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
from reward_models.networks.encoding import LEFT_OUT, common, left_out_flags
from reward_models.networks.prefix import Ids

ADAPTER = "adapter_config.json"
UNBOUNDED = 10**9  # what tokenizers say who know no limit is larger


REPORTS = (
    *LEFT_OUT, "truncated", "response_truncated", "no_english_prompt", "not_finite",
    "logp_policy", "logp_reference", "n_tokens",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings:
    path: str  # of the policy: directory or hub id
    reference: str | None = (
        None  # directory or hub id; by default the base of a policy that is a LoRA adapter
    )
    base: str | None = (
        None  # of an adapter: another place than the one that its configuration names
    )
    revision: str | None = None  # of the policy
    reference_revision: str | None = None
    beta: float = 0.1
    length_normalise: Literal["none", "tokens"] = "none"
    length_penalty: float = 0.0  # subtracted for every token of the answer
    condition_on: Literal["prompt", "english_prompt"] = "prompt"
    max_length: int | None = None  # tokens; by default what tokenizer and model allow
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    prefix_reuse: bool = (
        True  # prompts that several answers share are read once, where that is exact
    )
    device_batch_tokens: int = 16384  # most padded tokens in a batch (on a CPU 1024 at most)
    chat_template: str | None = (
        # name of one of the tokenizer's templates, if it has several (or a file of Jinja text, or
        # the text)
        None
    )
    chat_template_kwargs: dict = dataclasses.field(default_factory=dict)
    date: str = templates.DATE  # what a template that writes the date writes

    @staticmethod
    def problems(values: Mapping, key: str) -> list[str]:
        if found := templates.setting_problems(values):
            return [f"{key}.{p}" for p in found]
        path = Path(values["path"]).expanduser()
        if values.get("reference") is None and path.is_dir() and not (path / ADAPTER).is_file():
            return [
                f"{key}.reference: missing; {path} is a whole model, so name the model that its"
                " training began with"
            ]
        return []


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A conversation as token ids; the answer begins at `begin`.

    `lost`: tokens of prompt and of answer that did not fit.

    `left_out`: what the chat template left out before.
    """

    ids: list[int]
    begin: int
    lost: tuple[int, int] = (0, 0)
    left_out: LeftOut = NOTHING


def prepare(settings: Settings) -> Callable[[Sequence[Item]], Scores]:
    """Load both models.

    Raises: UserError without a reference, or if the two read tokens differently.
    """
    policy = causal.find(settings.path, settings.revision, settings.base)
    reference = _reference(settings, policy)
    tokenizer = causal.tokenizer(policy, chat.read_template(settings.chat_template))
    template = ChatTemplate(tokenizer, settings.chat_template_kwargs, settings.date)
    _check_same_tokens(tokenizer, policy, reference)
    networks = _load(policy, reference, settings.dtype)
    for network, model in zip(networks, (policy, reference), strict=True):
        if network is not None and model is not None:
            opening.check_tokens(
                tokenizer,
                network.get_input_embeddings().weight.shape[0],
                model.path,
                padding_is_read=False,
            )
    max_length = settings.max_length or room(tokenizer, networks[0].config.get_text_config())
    both = _both(networks, settings)

    def run(items: Sequence[Item]) -> Scores:
        prompts = [
            i.prompt if settings.condition_on == "prompt" else i.english_prompt for i in items
        ]
        known = [i for i, prompt in enumerate(prompts) if prompt is not None]
        encoded = {
            i: cut(encode(items[i], prompts[i] or [], template), max_length, tokenizer.bos_token_id)
            for i in known
        }
        told = {i: e for i, e in encoded.items() if not e.left_out.answer}
        found = both([tuple(e.ids) for e in told.values()], [e.begin for e in told.values()])
        return _scores(len(items), encoded, dict(zip(told, found, strict=True)), settings)

    return run


def acceptor(settings: Settings) -> Callable[[Sequence[Item]], None]:
    """What raises a UserError for a conversation that the policy's chat template refuses, or writes
    no answer for.
    """
    policy = causal.find(settings.path, settings.revision, settings.base)
    tokenizer = causal.tokenizer(policy, chat.read_template(settings.chat_template))
    template = ChatTemplate(tokenizer, settings.chat_template_kwargs, settings.date)

    def accept(items: Sequence[Item]) -> None:
        for item in items:
            prompt = item.prompt if settings.condition_on == "prompt" else item.english_prompt
            if prompt is not None:
                encode(item, prompt, template)

    return accept


def _scores(
    n: int,
    encoded: Mapping[int, Encoded],
    logps: Mapping[int, tuple[float, float]],
    settings: Settings,
) -> Scores:
    n_tokens = {i: len(encoded[i].ids) - encoded[i].begin for i in logps}
    values = {i: reward(*logps[i], n_tokens[i], settings) for i in logps}
    finite = {i for i, value in values.items() if math.isfinite(value)}
    columns = {"logp_policy": 0, "logp_reference": 1}
    return Scores(
        [values[i] if i in finite else None for i in range(n)],
        {
            "truncated": [i in encoded and sum(encoded[i].lost) > 0 for i in range(n)],
            "response_truncated": [i in encoded and encoded[i].lost[1] > 0 for i in range(n)],
            "no_english_prompt": [i not in encoded for i in range(n)],
            **left_out_flags([encoded[i].left_out if i in encoded else NOTHING for i in range(n)]),
            "not_finite": [i in logps and i not in finite for i in range(n)],
        },
        {
            name: [logps[i][k] if i in finite else None for i in range(n)]
            for name, k in columns.items()
        }
        | {"n_tokens": [float(n_tokens[i]) if i in logps else None for i in range(n)]},
        tokens=2 * sum(len(encoded[i].ids) for i in logps),
    )


def reward(logp_policy: float, logp_reference: float, n_tokens: int, settings: Settings) -> float:
    """beta * (log-ratio), by token if asked for, less the penalty of the length."""
    ratio = settings.beta * (logp_policy - logp_reference)
    return (
        ratio / n_tokens if settings.length_normalise == "tokens" else ratio
    ) - settings.length_penalty * n_tokens


def _both(
    networks: tuple[Any, Any | None], settings: Settings
) -> Callable[[Sequence[Ids], Sequence[int]], list[tuple[float, float]]]:
    """What gives the (log-probability by the policy, by the reference) of each answer.

    Without a second network the reference is the first one less its adapter.
    """
    from reward_models.networks.logps import Logps

    policy, reference = networks
    by_policy = Logps(plain(policy), settings.device_batch_tokens, settings.prefix_reuse)
    by_reference = (
        Logps(plain(reference), settings.device_batch_tokens, settings.prefix_reuse)
        if reference is not None
        else by_policy
    )

    def both(ids: Sequence[Ids], begins: Sequence[int]) -> list[tuple[float, float]]:
        first = by_policy(ids, begins)
        with policy.disable_adapter() if reference is None else contextlib.nullcontext():
            return list(zip(first, by_reference(ids, begins), strict=True))

    return both


def encode(item: Item, prompt: Sequence[Mapping], template: ChatTemplate) -> Encoded:
    """The answer begins where the conversation's tokens part from those of the prompt with the
    generation prompt.
    """
    messages = [*prompt, item.answer]
    asked = template.prompt(prompt, item.id, item.tools)
    whole = template.conversation(messages, item.id, item.tools)
    missing = template.left_out(whole, messages, item.id, item.tools)
    if not whole.startswith(asked):
        asked = _until_answer(item, prompt, template, asked, whole)

    before, ids = template.tokenizer([asked, whole], add_special_tokens=False, verbose=False)[
        "input_ids"
    ]
    same = common(before, ids)
    if same >= len(ids):
        raise UserError(
            f"{item.id}: the policy's chat template writes nothing for this answer, not even an end"
            " of turn"
        )
    return Encoded(ids, max(same, 1), left_out=missing)


def _until_answer(
    item: Item, prompt: Sequence[Mapping], template: ChatTemplate, asked: str, whole: str
) -> str:
    """What stands before the answer where the template writes the prompt otherwise once an answer
    follows.

    Some templates mark the last turn of an assistant, say, and the prompt ends with one. The two
    texts then part within the prompt, so the answer is taken to begin behind the last generation
    prompt in front of its own text.
    """
    context = template.conversation(prompt, item.id, item.tools)
    if whole.startswith(context):
        return asked  # they part in the generation prompt or behind it
    stand_in = template.conversation(
        [*prompt, {"role": "assistant", "content": STAND_IN}], item.id, item.tools
    )
    own_text = common(whole, stand_in)
    opening = asked.removeprefix(context) if asked.startswith(context) else ""
    at = whole.rfind(opening, 0, own_text) if opening else -1
    return whole[: own_text if at < 0 else at + len(opening)]


def cut(whole: Encoded, max_length: int, bos: int | None) -> Encoded:
    """The last `max_length` tokens: the beginning of the prompt goes first; one token always stays
    before the answer.
    """
    n = len(whole.ids) - max_length
    if n <= 0:
        return whole
    head = [bos] if bos is not None and whole.ids[0] == bos and max_length > 1 else []
    n += len(head)
    begin = max(len(head) + whole.begin - n, 1)
    ids = [*head, *whole.ids[n:]]
    lost_of_response = (len(whole.ids) - whole.begin) - (len(ids) - begin)
    return Encoded(ids, begin, (len(whole.ids) - len(ids) - lost_of_response, lost_of_response))


# ------------------------------------------------------------------------------------------ loading


def _reference(settings: Settings, policy: Model) -> Model | None:
    """The reference; None: the policy's own base. Raises: UserError if a whole model has none."""
    if settings.reference is None:
        if policy.base is None:
            raise UserError(
                f"{settings.path}: is a whole model, so `reference` must name the model that its"
                " training began with"
            )
        return None
    model = causal.find(settings.reference, settings.reference_revision)
    return None if policy.base and model.base is None and model.path == policy.base.path else model


def _check_same_tokens(tokenizer: Any, policy: Model, reference: Model | None) -> None:
    """Raises: UserError if the reference has a tokenizer with another vocabulary."""
    if reference is None:
        return
    source = chat.tokenizer_source(reference)
    if not opening.has_tokenizer(source.path, source.revision):
        return  # a reference without a tokenizer is read with the policy's
    other = opening.tokenizer(source.path, source.revision)
    ours, theirs = tokenizer.get_vocab(), other.get_vocab()
    differing = next((t for t, i in theirs.items() if ours.get(t, i) != i), None)
    if differing is not None:
        raise UserError(
            f"{reference.path}: its tokenizer numbers {differing!r} otherwise than that of"
            f" {policy.path}: the log-probabilities of the two cannot be compared; give the model"
            " that the policy's training began with"
        )


def _load(policy: Model, reference: Model | None, dtype: str) -> tuple[Any, Any | None]:
    return causal.load(policy, dtype), causal.load(reference, dtype) if reference else None


def plain(network: Any) -> Any:
    """The network with its adapter in it, if it has one, rather than around it."""
    return network.get_base_model() if hasattr(network, "get_base_model") else network


def room(tokenizer: Any, config: Any) -> int:
    """The most tokens that tokenizer and model allow."""
    most = min(tokenizer.model_max_length, UNBOUNDED)
    return min(most, getattr(config, "max_position_embeddings", None) or most)
