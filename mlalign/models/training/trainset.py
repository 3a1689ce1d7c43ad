"""From rows to the data set that a TRL trainer takes.

Reads a rows artifact; writes `checkpoints/train.parquet` with the columns that the trainer reads
and `checkpoints/train.json` with what was kept and dropped. Both are made once: a resumed run loads
the same file through the same cache directory, so TRL reuses what it has computed before.
"""

import itertools
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
# Why the chat template makes an example useless, as messages say it.
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

    `columns` names an entry of COLUMNS; `of_row` gives the examples of a row. `too_long` says what
    the trainer does with sequences above `max_length`: drop them, or truncate them (and drop those
    whose prompt alone is too long). A truncated sequence keeps its beginning, or its end
    (`keep_end`).
    """

    columns: str
    of_row: Callable[[Mapping], list[dict]]
    too_long: Literal["dropped", "truncated"]
    keep_end: bool = False
    further: Sequence[str] = ()  # columns of the rows that examples have too


class Measured(NamedTuple):
    """Numbers of tokens of an example's prompt and of its longest whole sequence.

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
    """The training data set; the first rank makes it while the others wait.

    `ranks` is accelerate's PartialState.

    Raises: UserError if a requested language is not there, or none of its examples is left.
    """
    file = out.checkpoints / "train.parquet"
    counts_file = out.checkpoints / "train.json"
    if examples.columns != "text":
        templates.fix_date(tokenizer, cfg.date)
        out.note(template=ChatTemplate(tokenizer, cfg.chat_template_kwargs, cfg.date).facts())
    try:
        if ranks.is_main_process:
            if not _is_intact(file, counts_file):
                out.checkpoints.mkdir(parents=True, exist_ok=True)
                counts = _write(cfg, source, file, tokenizer, examples)
                out.check_inputs()
                resume.write_value(counts_file, KEY, {**counts, "sha256": sha256(file)})
            _open(file)  # fills the cache, which the other ranks then only read
    finally:
        ranks.wait_for_everyone()

    if not counts_file.is_file():
        raise UserError("the first rank could not prepare the rows; its message says why")
    saved = resume.read_value(counts_file, KEY)
    if saved is None:
        raise UserError(
            f"{counts_file}: was changed while this step began; run the same command again"
        )
    out.tally.merge(Tally(saved["tally"]))
    return TrainSet(_open(file), saved["sources"])


def _open(file: Path) -> "datasets.Dataset":
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset(
        "parquet", data_files=str(file), split="train", cache_dir=str(file.parent / "datasets")
    )


def _is_intact(file: Path, counts_file: Path) -> bool:
    """Whether an earlier try has left the examples, and they are as it wrote them."""
    counts = resume.read_value(counts_file, KEY)
    if counts is None:
        return False
    if file.is_file() and sha256(file) == counts["sha256"]:
        return True
    resume.say_damaged(file)
    return False


def _write(
    cfg: TrainConfig, source: Path, file: Path, tokenizer: Any, examples: Examples
) -> dict[str, Any]:
    """Write the examples of all shards to one file; returns what was kept and dropped."""
    tally = Tally()
    sources = Counter[str]()
    shards = rows.shards(source, cfg.split, cfg.languages)
    _check_present(cfg, source, shards)

    options = cfg.chat_template_kwargs
    extra = {"chat_template_kwargs": options} if options else {}
    with pq.ParquetWriter(file, _schema(examples, options), compression="zstd") as writer:
        for shard in shards:
            kept = []
            for row, example in _fitting(cfg, shard, tokenizer, examples, tally):
                sources[row["source"]] += 1
                kept.append({**example, **extra})
            writer.write_table(pa.Table.from_pylist(kept, schema=writer.schema))
    _check_left(cfg, source, tally)
    return {"tally": tally.to_dict(), "sources": dict(sorted(sources.items()))}


def _schema(examples: Examples, template_kwargs: Mapping) -> pa.Schema:
    kind, names = COLUMNS[examples.columns]
    fields = [rows.schema(kind).field(name) for name in [*names, *examples.further]]
    if template_kwargs:
        options_type = pa.array([dict(template_kwargs)]).type
        fields.append(pa.field("chat_template_kwargs", options_type))
    return pa.schema(fields)


def _check_present(cfg: TrainConfig, source: Path, shards: Sequence[Path]) -> None:
    """Raises: UserError for requested languages without shards, or if there is no shard at all."""
    present = _languages(shards)
    absent = [language for language in cfg.languages or [] if language not in present]
    place = f"languages: {source} has no {cfg.split} rows"
    if absent:
        available = _languages(rows.shards(source, cfg.split))
        errors = []
        for language in absent:
            mend = nearest(language, available)
            errors.append(f"{place} whose prompt is in {language}{mend}")
        raise UserError(*errors)
    if not shards:
        raise UserError(place)


def _languages(shards: Sequence[Path]) -> set[str]:
    return {path.stem.split(".")[0] for path in shards}


def _check_left(cfg: TrainConfig, source: Path, tally: Tally) -> None:
    """Raises: UserError for languages of which every row was dropped."""
    languages: set[str] = set()
    for by_language in tally.dropped.values():
        languages.update(by_language)

    errors = []
    for language in sorted(languages):
        if not tally.rows[language]:
            reasons = _why_dropped(cfg, tally, language)
            errors.append(f"{language}: no row of {source} is left: {reasons}")
    if errors:
        raise UserError(*errors)


def _why_dropped(cfg: TrainConfig, tally: Tally, language: str) -> str:
    reasons = {
        "over_length": f"are longer than max_length={cfg.max_length} tokens; raise it",
        "equal_sides": (
            f"have the same first tokens on both sides; raise max_length={cfg.max_length}"
        ),
        **DROPPED,
    }
    counts = {}
    for reason, by_language in tally.dropped.items():
        if by_language[language]:
            counts[reason] = by_language[language]

    phrases = [f"{n} {reasons[reason]}" for reason, n in counts.items()]
    if len(phrases) == 1:
        return f"all {phrases[0]}"
    return "; ".join(phrases)


def _fitting(
    cfg: TrainConfig, shard: Path, tokenizer: Any, examples: Examples, tally: Tally
) -> list[tuple[dict, dict]]:
    """(row, example) of one shard in order; what cannot be trained on is dropped and counted."""
    pairs = []
    for row in rows.read_shard(shard):
        pairs += [(row, example) for example in examples.of_row(row)]
    template = None
    if examples.columns != "text":
        template = ChatTemplate(tokenizer, cfg.chat_template_kwargs, cfg.date)
    rendered = [_rendered(template, row, example, tally) for row, example in pairs]
    _drop_equal_halves(pairs, rendered, tally)

    pairs = [pair for pair, texts in zip(pairs, rendered, strict=True) if texts]
    rendered = [texts for texts in rendered if texts]
    measures = _measured(rendered, tokenizer, cfg.max_length, examples.keep_end)
    fitting = []
    for (row, example), measured in zip(pairs, measures, strict=True):
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
    """Clear the texts of two halves of a pair that are the same text: it would be good and bad."""
    for i in range(1, len(pairs)):
        row, example = pairs[i]
        previous_row, _ = pairs[i - 1]
        if "label" not in example or row is not previous_row:
            continue
        if rendered[i] and rendered[i] == rendered[i - 1]:
            tally.drop("sides_are_the_same_text", row["prompt_lang"], 2)
            rendered[i - 1] = []
            rendered[i] = []


def _measured(
    rendered: Sequence[list[str]], tokenizer: Any, max_length: int, keep_end: bool
) -> Iterator[Measured]:
    """The token counts of each example's texts: the prompt, then the whole conversations."""
    all_texts = list(itertools.chain.from_iterable(rendered))
    ids = iter(chat.token_ids(tokenizer, all_texts))
    kept = slice(-max_length, None) if keep_end else slice(max_length)
    for texts in rendered:
        sequences = [next(ids) for _ in texts]
        n_prompt = 0
        if len(sequences) > 1:
            n_prompt = len(sequences.pop(0))
        equal_sides = len(sequences) == 2 and sequences[0][kept] == sequences[1][kept]
        n_longest = max(map(len, sequences))
        yield Measured(n_prompt, n_longest, equal_sides)


def _rendered(
    template: ChatTemplate | None, row: Mapping, example: Mapping, tally: Tally
) -> list[str]:
    """The text of the prompt, then of the whole conversation with each answer.

    It is only the text of an example that has no messages. It is empty, with the reason counted, if
    the chat template makes the example useless (`_why_useless`).
    """
    if template is None:
        return [example["text"]]

    language = row["prompt_lang"]
    place = f"row {row['id']} ({language})"
    prompt = template.prompt(example["prompt"], place)
    texts = []
    missing = []
    for side in SIDES:
        if side in example:
            messages = example["prompt"] + example[side]
            text = template.conversation(messages, place)
            texts.append(text)
            missing.append(template.left_out(text, messages, place))

    reason = _why_useless(template, example["prompt"], prompt, texts, missing, place)
    if reason:
        tally.drop(reason, language)
        return []
    if any(left_out.part_of_answer for left_out in missing):
        tally.add("answer_partly_left_out", language)
    if any(left_out.part_of_prompt for left_out in missing):
        tally.add("prompt_partly_left_out", language)
    return [prompt, *texts]


def _why_useless(
    template: ChatTemplate,
    messages: Sequence[Mapping],
    prompt: str,
    texts: Sequence[str],
    missing: Sequence[LeftOut],
    place: str,
) -> str | None:
    """Why an example, as the template writes it, teaches nothing or the wrong thing."""
    if any(left_out.answer for left_out in missing):
        return "answer_left_out"
    if len(texts) > len(set(texts)):
        return "sides_are_the_same_text"
    if not all(text.startswith(prompt) for text in texts):
        # Trainers take the answer to begin where the two texts part. That may be in the generation
        # prompt, but no earlier.
        context = template.conversation(messages, place)
        if prompt.startswith(context) and not all(text.startswith(context) for text in texts):
            return "answer_begins_in_prompt"
    return None
