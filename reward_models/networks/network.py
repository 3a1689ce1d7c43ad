"""The backend `transformers`: token sequences through a network in batches ordered by length, shared beginnings read once.

Rows are padded on the right, and a classifier's output is read at the last real token, whatever the model calls padding. A causal
network gets no mask: nothing that is read stands behind padding. Whether a network is causal, and whether continuing from a cache
gives what reading everything gives, is tried out on a few tokens when it is opened, not looked up under its name. A network with
sliding windows, recurrent states or rotary embeddings that depend on length is never continued: each row is read in whole.
Encoder-decoders (T5, BART) get a row at a time: they read their output at a row's last end token, and take no rows of different lengths.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.nn.functional import pad
from transformers.cache_utils import Cache, DynamicLayer

from mlalign.models.foreign import quiet
from reward_models.networks import attention, prefix
from reward_models.networks.attention import Beginnings
from reward_models.networks.batching import pack
from reward_models.networks.prefix import Group, Ids

CPU_TOKENS = 1024  # in a batch: more overflow a CPU's caches
PADDING = {"cpu": 32, "cuda": 512}  # in a batch, in tokens: where there would be more, another batch costs less
SHARED_TOKENS = 16384  # whose keys and values are kept at once
GATHERED = 8  # keys and values that a batch looks back on, as a multiple of the tokens in a batch


# (what runs the model, its rows, where in each row the output begins) -> (rows, outputs)
Read = Callable[[Callable[[], Any], Sequence[Ids], Sequence[int]], torch.Tensor]


def last_token(run: Callable[[], Any], rows: Sequence[Ids], begins: Sequence[int]) -> torch.Tensor:
    """A classifier's outputs: those of its head at the last token."""
    return run().logits


class Shared(DynamicLayer):
    """Keys and values of beginnings, handed to each row that continues one; what the rows add is not kept."""

    def __init__(self, beginnings: Beginnings, in_place: bool):
        """`in_place`: the model attends by `attention`, which looks at beginnings where they lie; else each row gets a copy."""
        super().__init__()
        self._beginnings, self._in_place, self.is_initialized = beginnings, in_place, True
        n = 0 if in_place else beginnings.keys.shape[-2]  # what masks are made for
        self.keys: torch.Tensor = beginnings.keys[..., :n, :]
        self.values: torch.Tensor = beginnings.values[..., :n, :]

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if self._in_place:
            key_states.beginnings = self._beginnings  # type: ignore[attr-defined]
            return key_states, value_states
        owners = torch.tensor(self._beginnings.owners, device=key_states.device)
        keys, values = self.keys.index_select(0, owners), self.values.index_select(0, owners)
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


class Network:
    """A network as a function from token sequences to rows of outputs. `causal` and `reuses` say what it was found to allow."""

    def __init__(
        self, model: Any, batch_tokens: int, reuse: bool, split_at: int | None = None, read: Read = last_token,
        most_read: int | None = None, exactly: bool = False,
    ):  # fmt: skip
        """`batch_tokens`: padded tokens in a batch. `split_at`: rows up to this length and longer ones share no batch. `read` makes
        outputs of what the model gives, of at most `most_read` tokens at once. `exactly`: see `attention`.
        """
        self._model, self._config, self._split_at, self._read_out = model, model.config.get_text_config(), split_at, read
        on_cpu = model.device.type == "cpu"
        self._tokens = min(batch_tokens, CPU_TOKENS) if on_cpu else batch_tokens
        self._padding, self._most_read = PADDING.get(model.device.type), most_read
        self._in_place = on_cpu and (exactly or reuse) and attention.install(model, exactly)
        self.causal = False
        # An encoder-decoder reads its output at the end token of each row and counts those of padding too: a row at a time.
        self.alone = bool(getattr(self._config, "is_encoder_decoder", False))
        with quiet(), torch.inference_mode():
            self.causal = not self.alone and self._finds_causal()
            self.reuses = reuse and self.causal and split_at is None and self._can_continue()

    @torch.inference_mode()
    def __call__(self, sequences: Sequence[Ids], begins: Sequence[int] | None = None) -> list[list[float]]:
        """The outputs of each sequence; these are distinct (with their `begins`), in ascending order, and not empty.

        `begins`: where in each the tokens begin that outputs are about, from 1 on; what the last token says is all by default.
        """
        begins = [len(ids) for ids in sequences] if begins is None else begins
        found = prefix.groups(sequences, begins) if self.reuses else []
        grouped = {i for group in found for i in range(group.first, group.last + 1)}
        alone = [i for i in range(len(sequences)) if i not in grouped]
        parts = [self._whole(batch, sequences, begins) for batch in self._batches(alone, sequences, begins)]
        parts += [part for chunk in prefix.chunks(found, SHARED_TOKENS) for part in self._continued(chunk, sequences, begins)]
        out = {i: row for batch, outputs in parts for i, row in zip(batch, outputs.tolist(), strict=True)}
        return [out[i] for i in range(len(sequences))]

    def close(self) -> None:
        del self._model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # ---------------------------------------------------------------------------------------------------- rows read in whole

    def _batches(self, wanted: Sequence[int], sequences: Sequence[Ids], begins: Sequence[int]) -> Iterator[list[int]]:
        bound = self._split_at or 0
        for part in ([i for i in wanted if len(sequences[i]) <= bound], [i for i in wanted if len(sequences[i]) > bound]):
            for batch in pack([len(sequences[i]) for i in part], part, self._tokens, self._padding):
                yield from self._readable([part[k] for k in batch], sequences, begins)

    def _readable(self, batch: list[int], sequences: Sequence[Ids], begins: Sequence[int]) -> Iterator[list[int]]:
        """The batch, or parts of it with no more outputs than may be read at once; single rows of a model that takes no batches."""
        if self.alone:
            yield from ([i] for i in batch)
            return
        begun: list[int] = []
        n = 0
        for i in batch:
            more = len(sequences[i]) - begins[i]
            if begun and self._most_read is not None and n + more > self._most_read:
                yield begun
                begun, n = [], 0
            begun.append(i)
            n += more
        yield begun

    def _whole(self, batch: list[int], sequences: Sequence[Ids], begins: Sequence[int]) -> tuple[list[int], torch.Tensor]:
        options = {"use_cache": False} if self.causal else {}
        return batch, self._outputs([sequences[i] for i in batch], [begins[i] for i in batch], **options)

    def _outputs(self, rows: Sequence[Ids], begins: Sequence[int], **options: Any) -> torch.Tensor:
        return self._read_out(lambda: self._forward(rows, **options), rows, begins)

    def _forward(self, rows: Sequence[Ids], **options: Any) -> Any:
        """The model on rows of different lengths. Padding is an id that ends none of them: decoders of transformers read their
        output at the last token that is not `pad_token_id`."""
        filler = min(set(range(len(rows) + 1)) - {row[-1] for row in rows})
        if not self.alone:  # there padding means what it did in training: the decoder may begin with it
            self._config.pad_token_id = filler
        width = max(map(len, rows))
        ids = torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows], device=self._model.device)
        if not self.causal and not self.alone and "attention_mask" not in options:
            options["attention_mask"] = (self._arange(width) < self._lengths(rows)).long()
        return self._model(input_ids=ids, **options)

    # ----------------------------------------------------------------------------------------------------- shared beginnings

    def _continued(
        self, chunk: Sequence[Group], sequences: Sequence[Ids], begins: Sequence[int]
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        """The outputs of all members of some groups, in batches by the length of what each has of its own."""
        beginnings = [sequences[group.first][: group.length] for group in chunk]
        layers, width = self._read(beginnings), max(map(len, beginnings))
        owner = {i: k for k, group in enumerate(chunk) for i in range(group.first, group.last + 1)}
        members = list(owner)
        own = [len(sequences[i]) - chunk[owner[i]].length for i in members]
        for packed in pack(own, members, self._tokens, self._padding):
            size = len(packed) if self._in_place else max(1, GATHERED * self._tokens // (width + own[packed[-1]]))
            batch = sorted(members[k] for k in packed)  # those of one beginning stand together
            for part in (batch[first : first + size] for first in range(0, len(batch), size)):
                for few in self._readable(part, sequences, begins):
                    owners = [owner[i] for i in few]
                    at_own = [chunk[k].length for k in owners]
                    rows = [sequences[i][n:] for i, n in zip(few, at_own, strict=True)]
                    yield few, self._extend(layers, beginnings, owners, rows, [begins[i] - n for i, n in zip(few, at_own, strict=True)])

    def _read(self, beginnings: Sequence[Ids]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of every layer: (beginnings, heads, longest, head size); `beginnings` are in order of length."""
        longest, caches = len(beginnings[-1]), []
        for batch in pack(list(map(len, beginnings)), range(len(beginnings)), self._tokens, self._padding):
            cache = self._forward([beginnings[k] for k in batch], use_cache=True).past_key_values
            caches.append([(layer.keys, layer.values) for layer in cache.layers])

        def joined(kinds: Sequence[torch.Tensor]) -> torch.Tensor:
            return torch.cat([pad(kind, (0, 0, 0, longest - kind.shape[-2])) for kind in kinds])

        return [(joined([keys for keys, _ in layer]), joined([values for _, values in layer])) for layer in zip(*caches, strict=True)]

    def _extend(
        self, layers: Sequence[tuple], beginnings: Sequence[Ids], owners: Sequence[int], rows: Sequence[Ids], begins: Sequence[int]
    ) -> torch.Tensor:
        """The outputs of rows that continue `beginnings`, each the one with its number in `owners`; `layers` are their keys and values."""
        lengths = self._lengths([beginnings[k] for k in owners])
        told = [Beginnings(keys, values, list(map(len, beginnings)), owners) for keys, values in layers]
        options: dict[str, Any] = {"past_key_values": Cache(layers=[Shared(t, self._in_place) for t in told]), "use_cache": True}
        width = max(map(len, rows))
        if not self._in_place:
            shared = self._arange(layers[0][0].shape[-2]) < lengths
            options["attention_mask"] = torch.cat([shared, shared.new_ones(len(rows), width)], dim=1).long()
        return self._outputs(rows, begins, position_ids=lengths + self._arange(width), **options)

    def _arange(self, n: int) -> torch.Tensor:
        return torch.arange(n, device=self._model.device)[None]

    def _lengths(self, rows: Sequence[Ids]) -> torch.Tensor:
        return torch.tensor([[len(row)] for row in rows], device=self._model.device)

    # -------------------------------------------------------------------------------------------- what the network allows

    def _finds_causal(self) -> bool:
        """Whether padding on the right, unmasked, leaves the outputs as they are."""
        rows = _trial(self._config.vocab_size, [6, 9, 13, 18])
        begins = [len(row) - 1 for row in rows]
        masked = self._outputs(rows, begins)
        self.causal = True  # leaves the mask away
        return _same(masked, self._outputs(rows, begins))

    def _can_continue(self) -> bool:
        """Whether every layer keeps keys and values of all tokens, and continuing from those gives the same outputs."""
        if not {"position_ids", "past_key_values"} <= set(inspect.signature(self._model.forward).parameters):
            return False
        rows = sorted(_trial(self._config.vocab_size, [5, 9]))
        cache = getattr(self._forward(rows, use_cache=True), "past_key_values", None)
        if not isinstance(cache, Cache) or not all(type(layer) is DynamicLayer for layer in cache.layers):
            return False
        sequences = sorted(row + end for row in rows for end in _trial(self._config.vocab_size, [3, 4, 7]))
        begins = [len(ids) - 1 for ids in sequences]
        (chunk,) = prefix.chunks(prefix.groups(sequences, begins, shortest=4), SHARED_TOKENS)
        continued = list(self._continued(chunk, sequences, begins))
        members = [i for batch, _ in continued for i in batch]
        return _same(self._whole(members, sequences, begins)[1], torch.cat([outputs for _, outputs in continued]))


def _trial(vocabulary: int, lengths: Sequence[int]) -> list[Ids]:
    return [tuple((31 * i * i + 17 * j * j + 5 * i * j + 3) % vocabulary for j in range(n)) for i, n in enumerate(lengths, 1)]


def _same(expected: torch.Tensor, found: torch.Tensor) -> bool:
    """Equal up to rounding: within a tenth of the spread over rows; False for what is not finite."""
    return bool(((expected - found).float().abs().amax(0) <= 0.1 * expected.float().std(0)).all())
