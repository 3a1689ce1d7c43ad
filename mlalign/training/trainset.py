"""From rows to the data set that a TRL trainer takes.

Reads a rows artifact; writes `checkpoints/train.parquet` with the columns that the trainer reads and `checkpoints/train.json`
with what was kept and dropped. Both are made once: a continued run loads the same file through the same cache directory, so
that TRL finds what it has computed before.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from mlalign import rows
from mlalign.engine import chat
from mlalign.errors import UserError, nearest
from mlalign.stage import Output
from mlalign.store import Tally, read_json, write_json
from mlalign.training.config import TrainConfig

if TYPE_CHECKING:
    import datasets

# The columns of training examples, with the kind of row whose Arrow types they have.
COLUMNS = {
    "text": ("text", ["text"]),
    "demonstration": ("demonstration", ["prompt", "completion"]),
    "preference": ("preference", ["prompt", "chosen", "rejected"]),
    "margin": ("preference", ["prompt", "chosen", "rejected", "margin"]),
    "unpaired": ("unpaired", ["prompt", "completion", "label"]),
}
SIDES = ("completion", "chosen", "rejected")


class TrainSet(NamedTuple):
    """`dataset` in TRL's format, and how many examples came from which source."""

    dataset: "datasets.Dataset"
    sources: dict[str, int]


class Examples(NamedTuple):
    """How rows become training examples.

    `columns` names an entry of COLUMNS; `of_row` gives the examples of a row; `too_long` says what the trainer does with
    sequences above `max_length`: drop them, or truncate them (and drop those whose prompt alone is too long). What is left of a
    truncated sequence is its beginning, or its end (`keep_end`).
    """

    columns: str
    of_row: Callable[[Mapping], list[dict]]
    too_long: Literal["dropped", "truncated"]
    keep_end: bool = False


class Measured(NamedTuple):
    """Tokens of an example's prompt, tokens of its longest whole sequence, and whether both sides of a pair are the same tokens."""

    n_prompt: int
    n_longest: int
    equal_sides: bool


def load(cfg: TrainConfig, source: Path, out: Output, tokenizer: PreTrainedTokenizerBase, examples: Examples, ranks: Any) -> TrainSet:
    """The training data set; the first rank makes it while the others wait (`ranks` is accelerate's PartialState).

    Raises: UserError if a requested language is not there, or none of its examples is left.
    """
    file, told = out.checkpoints / "train.parquet", out.checkpoints / "train.json"
    try:
        if ranks.is_main_process and not told.is_file():
            out.checkpoints.mkdir(parents=True, exist_ok=True)
            _write(cfg, source, file, told, tokenizer, examples)
        if ranks.is_main_process:
            _open(file)
    finally:
        ranks.wait_for_everyone()
    if not told.is_file():
        raise UserError("the first rank could not prepare the rows; its message says why")
    counts = read_json(told)
    out.tally.merge(Tally(counts["tally"]))
    return TrainSet(_open(file), counts["sources"])


def _open(file: Path) -> "datasets.Dataset":
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset("parquet", data_files=str(file), split="train", cache_dir=str(file.parent / "datasets"))


def _write(cfg: TrainConfig, source: Path, file: Path, told: Path, tokenizer: Any, examples: Examples) -> None:
    tally, sources = Tally(), Counter[str]()
    found = rows.shards(source, cfg.split, cfg.languages)
    _check_present(cfg, source, found)
    with pq.ParquetWriter(file, _schema(examples.columns, cfg.chat_template_kwargs), compression="zstd") as writer:
        for shard in found:
            kept = []
            for row, example in _fitting(cfg, shard, tokenizer, examples, tally):
                sources[row["source"]] += 1
                kept.append({**example, "chat_template_kwargs": cfg.chat_template_kwargs} if cfg.chat_template_kwargs else example)
            writer.write_table(pa.Table.from_pylist(kept, schema=writer.schema))
    _check_left(cfg, source, tally)
    write_json(told, {"tally": tally.to_dict(), "sources": dict(sorted(sources.items()))})


def _schema(columns: str, template_kwargs: Mapping) -> pa.Schema:
    kind, names = COLUMNS[columns]
    fields = [rows.schema(kind).field(name) for name in names]
    return pa.schema(fields + ([pa.field("chat_template_kwargs", pa.array([dict(template_kwargs)]).type)] if template_kwargs else []))


def _check_present(cfg: TrainConfig, source: Path, found: Sequence[Path]) -> None:
    there = {p.stem.split(".")[0] for p in found}
    absent = [language for language in cfg.languages or [] if language not in there]
    if absent or not found:
        every = {p.stem.split(".")[0] for p in rows.shards(source, cfg.split)}
        place = f"languages: {source} has no {cfg.split} rows"
        raise UserError(*(f"{place} whose prompt is in {language}{nearest(language, every)}" for language in absent) if absent else [place])


def _check_left(cfg: TrainConfig, source: Path, tally: Tally) -> None:
    tried = {language for by in tally.dropped.values() for language in by}
    empty = sorted(language for language in tried if not tally.rows[language])
    if empty:
        raise UserError(*(f"{language}: no row of {source} is left: {_reasons(cfg, language, tally)}" for language in empty))


def _reasons(cfg: TrainConfig, language: str, tally: Tally) -> str:
    """Why the rows of a language were dropped, and what to change."""
    says = {
        "over_length": f"are longer than max_length={cfg.max_length} tokens; raise it",
        "equal_sides": f"have the same tokens on both sides; raise max_length={cfg.max_length}, or look at what the chat template "
        "leaves out",
    }
    counts = {reason: by[language] for reason, by in sorted(tally.dropped.items()) if by[language]}
    if len(counts) == 1:
        return "".join(f"all {n} {says[reason]}" for reason, n in counts.items())
    return "; ".join(f"{n} {says[reason]}" for reason, n in counts.items())


def _fitting(cfg: TrainConfig, shard: Path, tokenizer: Any, examples: Examples, tally: Tally) -> list[tuple[dict, dict]]:
    """(row, example) of one shard in order, without those that are too long; counted by language."""
    pairs = [(row, example) for row in rows.read_shard(shard) for example in examples.of_row(row)]
    fitting = []
    for (row, example), measured in zip(pairs, _measured(cfg, pairs, tokenizer, examples.keep_end), strict=True):
        language = row["prompt_lang"]
        over = measured.n_longest > cfg.max_length if examples.too_long == "dropped" else measured.n_prompt >= cfg.max_length
        if over or measured.equal_sides:
            tally.drop("over_length" if over else "equal_sides", language)
            continue
        if measured.n_longest > cfg.max_length:
            tally.add("truncated", language)
        tally.keep(language)
        fitting.append((row, example))
    return fitting


def _measured(cfg: TrainConfig, pairs: Sequence[tuple[dict, dict]], tokenizer: Any, keep_end: bool) -> list[Measured]:
    """What the tokens of each example tell."""
    texts: list[str] = []
    spans = []
    for row, example in pairs:
        begin = len(texts)
        texts += [example["text"]] if "text" in example else _rendered(cfg, row["id"], example, tokenizer)
        spans.append((begin, len(texts)))
    ids = chat.token_ids(tokenizer, texts)
    kept = slice(-cfg.max_length, None) if keep_end else slice(cfg.max_length)
    found = []
    for begin, end in spans:
        sequences = ids[begin + 1 : end] or ids[begin:end]
        n_prompt = len(ids[begin]) if end - begin > 1 else 0
        equal = len(sequences) == 2 and sequences[0][kept] == sequences[1][kept]
        found.append(Measured(n_prompt, max(map(len, sequences)), equal))
    return found


def _rendered(cfg: TrainConfig, row: str, example: Mapping, tokenizer: Any) -> list[str]:
    """The prompt as the model is asked, then the whole conversation with each answer."""
    import jinja2

    prompt = chat.render(tokenizer, example["prompt"], cfg.chat_template_kwargs, f"row {row}")
    try:
        whole = [
            tokenizer.apply_chat_template(example["prompt"] + example[side], tokenize=False, **cfg.chat_template_kwargs)
            for side in SIDES if side in example
        ]  # fmt: skip
    except jinja2.TemplateError as error:
        raise UserError(f"row {row}: the chat template refuses the conversation ({error}); set another one with chat_template=") from None
    return [prompt, *whole]
