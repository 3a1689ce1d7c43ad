"""The backend `transformers`: token sequences through a network, in batches ordered by length.

Beginnings that sequences share are read once. Rows are padded on the right, and a classifier's
output is read at the last real token, whatever the model calls padding. A causal network gets no
mask, since nothing that is read comes after padding.

Whether a network is causal, and whether continuing from a cache gives the same as reading the whole
row, is not looked up by name: it is tried with a few tokens when the network is opened. A network
with sliding windows, recurrent states or rotary embeddings that depend on length is never
continued: each row is read whole. Encoder-decoders (T5, BART) get one row at a time: they read
their output at a row's last end token, and cannot take rows of different lengths.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, product
from typing import Any

import torch
from torch.nn.functional import pad
from transformers.cache_utils import Cache, DynamicLayer

from mlalign.models.foreign import quiet
from reward_models.networks import attention, prefix
from reward_models.networks.attention import Beginnings
from reward_models.networks.batching import pack
from reward_models.networks.prefix import Group, Ids

CPU_TOKENS = 1024  # in a batch: more would overflow a CPU's caches
PADDING = {"cpu": 32, "cuda": 512}  # tokens in a batch; beyond it another batch costs less
SHARED_TOKENS = 16384  # tokens whose keys and values are kept at once
GATHERED = 8  # copied keys and values of a batch, as a multiple of the tokens in a batch


# (what runs the model, its rows, where in each row the output begins) -> (rows, outputs)
Read = Callable[[Callable[[], Any], Sequence[Ids], Sequence[int]], torch.Tensor]

Outputs = tuple[list[int], torch.Tensor]  # positions of the rows, (rows, outputs)


def last_token(run: Callable[[], Any], rows: Sequence[Ids], begins: Sequence[int]) -> torch.Tensor:
    """A classifier's outputs: those of its head at the last token."""
    return run().logits


class Shared(DynamicLayer):
    """Keys and values of beginnings, given to each row that continues one.

    What the rows add is not kept.
    """

    def __init__(self, beginnings: Beginnings, in_place: bool):
        """`in_place`: the model uses `attention`, which reads beginnings without a copy per row."""
        super().__init__()
        self._beginnings = beginnings
        self._in_place = in_place
        self.is_initialized = True
        visible = 0 if in_place else beginnings.keys.shape[-2]  # the length that masks are made for
        self.keys: torch.Tensor = beginnings.keys[..., :visible, :]
        self.values: torch.Tensor = beginnings.values[..., :visible, :]

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *_: Any,
        **__: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self._in_place:
            key_states.beginnings = self._beginnings  # type: ignore[attr-defined]
            return key_states, value_states

        owners = torch.tensor(self._beginnings.owners, device=key_states.device)
        keys = self.keys.index_select(0, owners)
        values = self.values.index_select(0, owners)
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


class Network:
    """A network as a function from token sequences to rows of outputs.

    `causal` and `reuses` say what it was found to allow.
    """

    def __init__(
        self,
        model: Any,
        batch_tokens: int,
        reuse: bool,
        split_at: int | None = None,
        read: Read = last_token,
        most_read: int | None = None,
        exactly: bool = False,
    ):
        """`batch_tokens`: padded tokens in a batch. `reuse`: read shared beginnings once.

        `split_at`: rows up to this length and longer ones never share a batch. `read` makes
        outputs of what the model gives, for at most `most_read` tokens at once. `exactly`: see
        `attention`.
        """
        self._model = model
        self._config = model.config.get_text_config()
        self._split_at = split_at
        self._read_out = read
        self._most_read = most_read
        on_cpu = model.device.type == "cpu"
        self._tokens = min(batch_tokens, CPU_TOKENS) if on_cpu else batch_tokens
        self._padding = PADDING.get(model.device.type)
        self._in_place = on_cpu and (exactly or reuse) and attention.install(model, exactly)
        self.causal = False

        # An encoder-decoder reads its output at a row's end token, and would count padding as one.
        self.alone = bool(getattr(self._config, "is_encoder_decoder", False))
        with quiet(), torch.inference_mode():
            self.causal = not self.alone and self._finds_causal()
            may_reuse = reuse and self.causal and split_at is None
            self.reuses = may_reuse and self._can_continue()

    @torch.inference_mode()
    def __call__(
        self,
        sequences: Sequence[Ids],
        begins: Sequence[int] | None = None,
    ) -> list[list[float]]:
        """The outputs of each sequence.

        `sequences` are distinct (together with their `begins`), ascending and not empty. `begins`,
        from 1 on: where the tokens that outputs are about begin. By default outputs are about what
        follows the last token.
        """
        if begins is None:
            begins = list(map(len, sequences))
        groups = prefix.groups(sequences, begins) if self.reuses else []
        grouped = chain.from_iterable(group.members for group in groups)
        ungrouped = sorted(set(range(len(sequences))).difference(grouped))

        parts = []
        for batch in self._batches(ungrouped, sequences, begins):
            parts.append(self._whole(batch, sequences, begins))
        for chunk in prefix.chunks(groups, SHARED_TOKENS):
            parts += self._continued(chunk, sequences, begins)

        rows: list[list[float]] = [[] for _ in sequences]
        for batch, outputs in parts:
            for i, row in zip(batch, outputs.tolist(), strict=True):
                rows[i] = row
        return rows

    def close(self) -> None:
        del self._model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # ------------------------------------------------------------------------- rows read in whole

    def _batches(
        self,
        places: Sequence[int],
        sequences: Sequence[Ids],
        begins: Sequence[int],
    ) -> Iterator[list[int]]:
        bound = self._split_at or 0
        short = [i for i in places if len(sequences[i]) <= bound]
        long = [i for i in places if len(sequences[i]) > bound]
        for part in (short, long):
            lengths = [len(sequences[i]) for i in part]
            for batch in pack(lengths, part, self._tokens, self._padding):
                yield from self._readable([part[k] for k in batch], sequences, begins)

    def _readable(
        self,
        batch: list[int],
        sequences: Sequence[Ids],
        begins: Sequence[int],
    ) -> Iterator[list[int]]:
        """The batch in parts that have no more outputs than may be read at once.

        Single rows for a model that takes no batches.
        """
        if self.alone:
            yield from ([i] for i in batch)
            return

        part: list[int] = []
        n_read = 0
        for i in batch:
            more = len(sequences[i]) - begins[i]
            if part and self._most_read is not None and n_read + more > self._most_read:
                yield part
                part = []
                n_read = 0
            part.append(i)
            n_read += more
        yield part

    def _whole(self, batch: list[int], sequences: Sequence[Ids], begins: Sequence[int]) -> Outputs:
        options = {"use_cache": False} if self.causal else {}
        rows = [sequences[i] for i in batch]
        row_begins = [begins[i] for i in batch]
        return batch, self._outputs(rows, row_begins, **options)

    def _outputs(self, rows: Sequence[Ids], begins: Sequence[int], **options: Any) -> torch.Tensor:
        return self._read_out(lambda: self._forward(rows, **options), rows, begins)

    def _forward(self, rows: Sequence[Ids], **options: Any) -> Any:
        """The model on rows of different lengths.

        Padding is an id that ends none of them, since decoders of transformers read their output at
        the last token that is not `pad_token_id`.
        """
        last_ids = {row[-1] for row in rows}
        filler = min(set(range(len(rows) + 1)) - last_ids)
        if not self.alone:  # an encoder-decoder may begin decoding with its padding token
            self._config.pad_token_id = filler
        width = max(map(len, rows))
        padded = []
        for row in rows:
            padding = [filler] * (width - len(row))
            padded.append([*row, *padding])
        if not self.causal and not self.alone and "attention_mask" not in options:
            options["attention_mask"] = (self._arange(width) < self._lengths(rows)).long()
        input_ids = torch.tensor(padded, device=self._model.device)
        return self._model(input_ids=input_ids, **options)

    # -------------------------------------------------------------------------- shared beginnings

    def _continued(
        self,
        chunk: Sequence[Group],
        sequences: Sequence[Ids],
        begins: Sequence[int],
    ) -> Iterator[Outputs]:
        """The outputs of all members of some groups, in batches by the length of their rests."""
        beginnings = [sequences[group.first][: group.length] for group in chunk]
        layers = self._read(beginnings)
        owner = {}
        for k, group in enumerate(chunk):
            owner.update(dict.fromkeys(group.members, k))
        for batch in self._batches_of_rests(chunk, owner, sequences):
            for part in self._readable(batch, sequences, begins):
                owners = [owner[i] for i in part]
                shared = [chunk[k].length for k in owners]
                rests = [sequences[i][n:] for i, n in zip(part, shared, strict=True)]
                rest_begins = [begins[i] - n for i, n in zip(part, shared, strict=True)]
                yield part, self._extend(layers, beginnings, owners, rests, rest_begins)

    def _batches_of_rests(
        self,
        chunk: Sequence[Group],
        owner: dict[int, int],
        sequences: Sequence[Ids],
    ) -> Iterator[list[int]]:
        """Members of groups in batches, those of one group side by side.

        Where keys and values are copied to each row, a batch is kept small enough for that.
        """
        longest = max(group.length for group in chunk)
        members = list(owner)
        lengths = [len(sequences[i]) - chunk[owner[i]].length for i in members]
        for packed in pack(lengths, members, self._tokens, self._padding):
            size = len(packed)
            if not self._in_place:
                size = max(1, GATHERED * self._tokens // (longest + lengths[packed[-1]]))
            batch = sorted(members[k] for k in packed)
            for first in range(0, len(batch), size):
                yield batch[first : first + size]

    def _read(self, beginnings: Sequence[Ids]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of every layer: (beginnings, heads, longest, head size).

        `beginnings` are in order of length.
        """
        lengths = list(map(len, beginnings))
        caches = []
        for batch in pack(lengths, range(len(beginnings)), self._tokens, self._padding):
            rows = [beginnings[k] for k in batch]
            cache = self._forward(rows, use_cache=True).past_key_values
            caches.append([(layer.keys, layer.values) for layer in cache.layers])

        def joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
            padded = []
            for tensor in tensors:
                n_missing = lengths[-1] - tensor.shape[-2]
                padded.append(pad(tensor, (0, 0, 0, n_missing)))
            return torch.cat(padded)

        layers = []
        for layer in zip(*caches, strict=True):
            keys, values = zip(*layer, strict=True)
            layers.append((joined(keys), joined(values)))
        return layers

    def _extend(
        self,
        layers: Sequence[tuple[torch.Tensor, torch.Tensor]],
        beginnings: Sequence[Ids],
        owners: Sequence[int],
        rows: Sequence[Ids],
        begins: Sequence[int],
    ) -> torch.Tensor:
        """The outputs of rows that continue beginnings.

        `layers`: keys and values of the beginnings. `owners`: which beginning each row continues.
        """
        all_lengths = list(map(len, beginnings))
        caches: list[Any] = []
        for keys, values in layers:
            shared_layer = Beginnings(keys, values, all_lengths, owners)
            caches.append(Shared(shared_layer, self._in_place))

        lengths = self._lengths([beginnings[k] for k in owners])
        width = max(map(len, rows))
        options: dict[str, Any] = {"past_key_values": Cache(layers=caches), "use_cache": True}
        options["position_ids"] = lengths + self._arange(width)
        if not self._in_place:
            shared = self._arange(layers[0][0].shape[-2]) < lengths
            rest = shared.new_ones(len(rows), width)
            options["attention_mask"] = torch.cat([shared, rest], dim=1).long()
        return self._outputs(rows, begins, **options)

    def _arange(self, n: int) -> torch.Tensor:
        """(1, n)."""
        return torch.arange(n, device=self._model.device)[None]

    def _lengths(self, rows: Sequence[Ids]) -> torch.Tensor:
        """(rows, 1)."""
        return torch.tensor([[len(row)] for row in rows], device=self._model.device)

    # -------------------------------------------------------------------- what the network allows

    def _finds_causal(self) -> bool:
        """Whether padding on the right, unmasked, leaves the outputs as they are."""
        rows = _trial_rows(self._config.vocab_size, [6, 9, 13, 18])
        begins = [len(row) - 1 for row in rows]
        masked = self._outputs(rows, begins)
        self.causal = True  # leaves the mask away
        return _same(masked, self._outputs(rows, begins))

    def _can_continue(self) -> bool:
        """Whether every layer keeps keys and values of all tokens, and continuing from them works.

        It works if it gives the same outputs as reading the rows whole.
        """
        parameters = inspect.signature(self._model.forward).parameters
        if "position_ids" not in parameters or "past_key_values" not in parameters:
            return False
        vocabulary = self._config.vocab_size
        beginnings = sorted(_trial_rows(vocabulary, [5, 9]))
        cache = getattr(self._forward(beginnings, use_cache=True), "past_key_values", None)
        if not isinstance(cache, Cache):
            return False
        if not all(type(layer) is DynamicLayer for layer in cache.layers):
            return False

        ends = _trial_rows(vocabulary, [3, 4, 7])
        sequences = sorted(beginning + end for beginning, end in product(beginnings, ends))
        begins = [len(ids) - 1 for ids in sequences]
        (chunk,) = prefix.chunks(prefix.groups(sequences, begins, shortest=4), SHARED_TOKENS)
        continued = list(self._continued(chunk, sequences, begins))
        members = list(chain.from_iterable(batch for batch, _ in continued))
        _, whole = self._whole(members, sequences, begins)
        return _same(whole, torch.cat([outputs for _, outputs in continued]))


def _trial_rows(vocabulary: int, lengths: Sequence[int]) -> list[Ids]:
    """Fixed rows of varied tokens."""
    rows = []
    for i, n in enumerate(lengths, 1):
        tokens = (31 * i * i + 17 * j * j + 5 * i * j + 3 for j in range(n))
        rows.append(tuple(token % vocabulary for token in tokens))
    return rows


def _same(expected: torch.Tensor, actual: torch.Tensor) -> bool:
    """Equal up to rounding: within a tenth of the spread over rows; False for non-finite values."""
    difference = (expected - actual).float().abs().amax(0)
    return bool((difference <= 0.1 * expected.float().std(0)).all())
