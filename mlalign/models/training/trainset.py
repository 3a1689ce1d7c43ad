"""From rows to the data set that a TRL trainer takes.

Reads a rows artifact; writes `checkpoints/train.parquet` with the columns that the trainer reads
and `checkpoints/train.json` with what was kept and dropped. Both are made once: a continued run
loads the same file through the same cache directory, so that TRL finds what it has computed before.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from mlalign.core import resume, rows
from mlalign.core.errors import UserError, nearest
from mlalign.core.stage import Output
from mlalign.core.store import Tally, sha256
from mlalign.models import templates
from mlalign.models.engine import chat
from mlalign.models.leftout import LeftOut
from mlalign.models.templates import ChatTemplate
from mlalign.models.training.config import TrainConfig

if TYPE_CHECKING:
    import datasets

KEY = "train"
# The columns of training examples, with the kind of row whose Arrow types they have.
COLUMNS = {
    "text": ("text", ["text"]),
    "demonstration": ("demonstration", ["prompt", "completion"]),
    "preference": ("preference", ["prompt", "chosen", "rejected"]),
    "margin": ("preference", ["prompt", "chosen", "rejected", "margin"]),
    "unpaired": ("unpaired", ["prompt", "completion", "label"]),
}
SIDES = ("completion", "chosen", "rejected")
# Why the chat template makes an example useless, as a message tells it.
DROPPED = {
    "answer_left_out": (
        "have an answer that the chat template leaves out whole; set another one with"
        " chat_template="
    ),
    "sides_are_the_same_text": (
        "have a chosen and a rejected answer that the chat template makes the same text"
    ),
    "answer_begins_in_prompt": (
        "have a prompt that the chat template writes otherwise once an answer follows"
    ),
}


class TrainSet(NamedTuple):
    """`dataset` in TRL's format, and how many examples came from which source."""

    dataset: "datasets.Dataset"
    sources: dict[str, int]


class Examples(NamedTuple):
    """How rows become training examples.

    `columns` names an entry of COLUMNS; `of_row` gives the examples of a row; `too_long` says what
    the trainer does with sequences above `max_length`: drop them, or truncate them (and drop those
    whose prompt alone is too long). What is left of a truncated sequence is its beginning, or its
    end (`keep_end`).
    """

    columns: str
    of_row: Callable[[Mapping], list[dict]]
    too_long: Literal["dropped", "truncated"]
    keep_end: bool = False
    further: Sequence[str] = ()  # columns of the rows that examples have too


class Measured(NamedTuple):
    """Tokens of an example's prompt and of its longest whole sequence.

    `equal_sides`: both sides of the pair are the same tokens once they are truncated.
    """

    n_prompt: int
    n_longest: int
    equal_sides: bool


def load(
    cfg: TrainConfig,
    source: Path,
    out: Output,
    tokenizer: PreTrainedTokenizerBase,
    examples: Examples,
    ranks: Any,
) -> TrainSet:
    """The training data set; the first rank makes it while the others wait (`ranks` is accelerate's
    PartialState).

    Raises: UserError if a requested language is not there, or none of its examples is left.
    """
    file, told = out.checkpoints / "train.parquet", out.checkpoints / "train.json"
    if examples.columns != "text":
        templates.fix_date(tokenizer, cfg.date)
        out.note(template=ChatTemplate(tokenizer, cfg.chat_template_kwargs, cfg.date).facts())
    try:
        if ranks.is_main_process and not _is_kept(file, told):
            out.checkpoints.mkdir(parents=True, exist_ok=True)
            counts = _write(cfg, source, file, tokenizer, examples)
            out.check_inputs()
            resume.write_value(told, KEY, {**counts, "sha256": sha256(file)})
        if ranks.is_main_process:
            _open(file)
    finally:
        ranks.wait_for_everyone()
    if not told.is_file():
        raise UserError("the first rank could not prepare the rows; its message says why")
    kept = resume.read_value(told, KEY)
    if kept is None:
        raise UserError(f"{told}: was changed while this step began; run the same command again")
    out.tally.merge(Tally(kept["tally"]))
    return TrainSet(_open(file), kept["sources"])


def _open(file: Path) -> "datasets.Dataset":
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset(
        "parquet", data_files=str(file), split="train", cache_dir=str(file.parent / "datasets")
    )


def _is_kept(file: Path, told: Path) -> bool:
    """Whether an earlier try left the examples, as it wrote them."""
    counts = resume.read_value(told, KEY)
    if counts is None:
        return False
    is_whole = file.is_file() and sha256(file) == counts["sha256"]
    if not is_whole:
        resume.say_damaged(file)
    return is_whole


def _write(
    cfg: TrainConfig, source: Path, file: Path, tokenizer: Any, examples: Examples
) -> dict[str, Any]:
    tally, sources = Tally(), Counter[str]()
    found = rows.shards(source, cfg.split, cfg.languages)
    _check_present(cfg, source, found)
    with pq.ParquetWriter(
        file, _schema(examples, cfg.chat_template_kwargs), compression="zstd"
    ) as writer:
        for shard in found:
            kept = []
            for row, example in _fitting(cfg, shard, tokenizer, examples, tally):
                sources[row["source"]] += 1
                kept.append(
                    {**example, "chat_template_kwargs": cfg.chat_template_kwargs}
                    if cfg.chat_template_kwargs
                    else example
                )
            writer.write_table(pa.Table.from_pylist(kept, schema=writer.schema))
    _check_left(cfg, source, tally)
    return {"tally": tally.to_dict(), "sources": dict(sorted(sources.items()))}


def _schema(examples: Examples, template_kwargs: Mapping) -> pa.Schema:
    kind, names = COLUMNS[examples.columns]
    fields = [rows.schema(kind).field(name) for name in [*names, *examples.further]]
    return pa.schema(
        fields
        + (
            [pa.field("chat_template_kwargs", pa.array([dict(template_kwargs)]).type)]
            if template_kwargs
            else []
        )
    )


def _check_present(cfg: TrainConfig, source: Path, found: Sequence[Path]) -> None:
    there = {p.stem.split(".")[0] for p in found}
    absent = [language for language in cfg.languages or [] if language not in there]
    if absent or not found:
        every = {p.stem.split(".")[0] for p in rows.shards(source, cfg.split)}
        place = f"languages: {source} has no {cfg.split} rows"
        raise UserError(
            *(
                (
                    f"{place} whose prompt is in {language}{nearest(language, every)}"
                    for language in absent
                )
                if absent
                else [place]
            )
        )


def _check_left(cfg: TrainConfig, source: Path, tally: Tally) -> None:
    tried = {language for by in tally.dropped.values() for language in by}
    empty = sorted(language for language in tried if not tally.rows[language])
    if empty:
        raise UserError(
            *(
                f"{language}: no row of {source} is left: {_why_dropped(cfg, tally, language)}"
                for language in empty
            )
        )


def _why_dropped(cfg: TrainConfig, tally: Tally, language: str) -> str:
    counts = {reason: by[language] for reason, by in tally.dropped.items() if by[language]}
    reasons = {
        "over_length": f"are longer than max_length={cfg.max_length} tokens; raise it",
        "equal_sides": (
            f"have the same first tokens on both sides; raise max_length={cfg.max_length}"
        ),
        **DROPPED,
    }
    total = sum(counts.values())
    return "; ".join(
        f"{'all ' if n == total else ''}{n} {reasons[reason]}" for reason, n in counts.items()
    )


def _fitting(
    cfg: TrainConfig, shard: Path, tokenizer: Any, examples: Examples, tally: Tally
) -> list[tuple[dict, dict]]:
    """(row, example) of one shard in order, without those that cannot be trained on; counted by
    reason and language.
    """
    pairs = [(row, example) for row in rows.read_shard(shard) for example in examples.of_row(row)]
    template = (
        None
        if examples.columns == "text"
        else ChatTemplate(tokenizer, cfg.chat_template_kwargs, cfg.date)
    )
    rendered = [_rendered(template, row, example, tally) for row, example in pairs]
    _drop_equal_halves(pairs, rendered, tally)
    kept = [(pair, texts) for pair, texts in zip(pairs, rendered, strict=True) if texts]

    measures = _measured([texts for _, texts in kept], tokenizer, cfg.max_length, examples.keep_end)
    fitting = []
    for ((row, example), _), measured in zip(kept, measures, strict=True):
        language = row["prompt_lang"]
        needed = measured.n_longest if examples.too_long == "dropped" else measured.n_prompt + 1
        if needed > cfg.max_length:
            tally.drop("over_length", language)
            continue
        if measured.equal_sides:
            tally.drop("equal_sides", language)
            continue
        if measured.n_longest > cfg.max_length:
            tally.add("truncated", language)
        tally.keep(language)
        fitting.append((row, example))
    return fitting


def _drop_equal_halves(
    pairs: Sequence[tuple[dict, dict]], rendered: list[list[str]], tally: Tally
) -> None:
    """Clear the texts of a pair that was taken apart if both halves are the same text: it would be
    called good and bad.
    """
    for i in range(1, len(pairs)):
        (row, example), (other, _) = pairs[i], pairs[i - 1]
        if "label" in example and row is other and rendered[i] and rendered[i] == rendered[i - 1]:
            tally.drop("sides_are_the_same_text", row["prompt_lang"], 2)
            rendered[i - 1 : i + 1] = [], []


def _measured(
    rendered: Sequence[list[str]], tokenizer: Any, max_length: int, keep_end: bool
) -> Iterator[Measured]:
    """What the tokens of each example's texts tell: the prompt, then the whole conversations."""
    every_text = [text for texts in rendered for text in texts]
    ids = iter(chat.token_ids(tokenizer, every_text))
    kept = slice(-max_length, None) if keep_end else slice(max_length)
    for texts in rendered:
        own = [next(ids) for _ in texts]
        sequences = own[1:] or own
        n_prompt = len(own[0]) if len(own) > 1 else 0
        equal = len(sequences) == 2 and sequences[0][kept] == sequences[1][kept]
        yield Measured(n_prompt, max(map(len, sequences)), equal)


def _rendered(
    template: ChatTemplate | None, row: Mapping, example: Mapping, tally: Tally
) -> list[str]:
    """The prompt as the model is asked, then the whole conversation with each answer; or the text
    of an example without messages.

    Empty, with the reason counted, if the chat template makes it useless: an answer is left out
    whole, both answers are the same text, or the answer would begin within the prompt.
    """
    if template is None:
        return [example["text"]]
    place, language = f"row {row['id']} ({row['prompt_lang']})", row["prompt_lang"]
    prompt = template.prompt(example["prompt"], place)
    conversations = [example["prompt"] + example[side] for side in SIDES if side in example]
    whole = [template.conversation(messages, place) for messages in conversations]
    missing = [
        template.left_out(text, messages, place)
        for text, messages in zip(whole, conversations, strict=True)
    ]

    reason = _useless(template, example["prompt"], prompt, whole, missing, place)
    if reason:
        tally.drop(reason, language)
        return []
    if any(m.part_of_answer for m in missing):
        tally.add("answer_partly_left_out", language)
    if any(m.part_of_prompt for m in missing):
        tally.add("prompt_partly_left_out", language)
    return [prompt, *whole]


def _useless(
    template: ChatTemplate, messages: Sequence[Mapping], prompt: str, whole: Sequence[str], missing: Sequence[LeftOut], place: str
) -> str | None:  # fmt: skip
    """Why an example as the template writes it teaches nothing, or the wrong thing."""
    if any(m.answer for m in missing):
        return "answer_left_out"
    if len(whole) > len(set(whole)):
        return "sides_are_the_same_text"
    if not all(text.startswith(prompt) for text in whole):
        # Trainers take the answer to begin where the two texts part. That may be in the generation
        # prompt, but no earlier.
        context = template.conversation(messages, place)
        if prompt.startswith(context) and not all(text.startswith(context) for text in whole):
            return "answer_begins_in_prompt"
    return None
