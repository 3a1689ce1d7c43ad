"""Sample answers: `n` candidates for every prompt in every language, in one life of the engine.

Reads a model (slot `model`) and rows with prompts (slot `rows`: prompts, demonstrations or
preferences). Writes candidates rows, one shard for each shard read; their `prompt` is what the
model was asked, system prompt included. The engine starts when the first shard needs it, and not at
all if every shard is done or in the cache. Where a text does not depend on its batch, small shards
share one batch to keep the engine busy; otherwise each shard has its own. So a killed run that goes
on equals the unbroken one.

Generation ends where the chat template ends an assistant's turn, whatever the tokenizer's end token
is. What stands between the template's reasoning tags goes to the column `reasoning`. With
engine=openai the server renders the prompts, and none of this is known here.

The manifest counts by language, under `dropped`, prompts that do not fit the context; under `sums`,
responses, tokens, truncated and empty responses, responses with reasoning, characters cut at the
end of a text, and prompts of which the chat template leaves something out.

With `operator`, a function of `mlalign/methods/operators/` asks the model about each row as often
as it likes, and makes rows of the answers. From candidates it makes one row for each (parent,
sampler), whose responses name their `parent`. All runs of a shard go on side by side. An item of
which an operator makes nothing is counted by the reason. Rows other than candidates get ids of
their own, and stay in the split of the row they were made from.
"""

import contextlib
import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from mlalign import methods
from mlalign.core import kinds, rows, shards, store
from mlalign.core.alarms import Dropped, Share
from mlalign.core.errors import UserError
from mlalign.core.model import Model
from mlalign.core.schema import hashed, what
from mlalign.core.stage import Inputs, Output, Stopped
from mlalign.methods import lockstep, made, operators, outcome
from mlalign.models import engine, prompts
from mlalign.models.engine import PROMPT_TOO_LONG, Response, Sampling, chat
from mlalign.models.generation import config
from mlalign.models.generation.answers import Generation, Prompt
from mlalign.models.generation.config import SAME, GenerationConfig

VERSION = 3
KIND = "rows"
SLOTS = {"model": "model", "rows": "rows"}
SHARDED = "rows"
DISTRIBUTED = False
WORK = "generation"
ALARMS = (
    Share(
        "empty",
        "responses",
        "answers are empty",
        "look at the end of turn, reasoning_tags and max_tokens",
    ),
    Share(
        "truncated",
        "responses",
        "answers were cut off at max_tokens",
        "raise it, or look at the end of turn",
    ),
    Dropped(
        PROMPT_TOO_LONG,
        "raise max_prompt_tokens or engine.args.max_model_len, or lower max_tokens",
    ),
    Dropped(),
)

READS = ("prompt", "demonstration", "preference")


def _templates_of(around: Mapping) -> str | None:
    """The folder of an operator's templates, below conf/."""
    name = around.get("operator")
    return f"prompts/{name.rpartition(':')[2]}" if isinstance(name, str) else None


@dataclasses.dataclass
class Config(GenerationConfig):
    operator: str | None = what(
        None,
        "asks the model: a file in mlalign/methods/operators, or module:function; null: sampling",
        added=True,
    )
    operator_args: dict[str, Any] = what(
        {},
        "options of the operator, by the names of its keyword parameters",
        added=True,
    )
    templates: dict[str, str] = what(
        {},
        "the operator's templates by language; by default conf/prompts/OPERATOR/LANGUAGE.j2",
        added=True,
        texts=_templates_of,
    )


def packages(cfg: Config) -> list[str]:
    return [engine.ENGINES[cfg.engine.name].package]


def imports(cfg: Config, inputs: Mapping[str, Any]) -> list[str]:
    if engine.ENGINES[cfg.engine.name].takes == "messages":
        return []
    return ["torch", "transformers.generation", "mlalign.models.engine.transformers"]


def identity(cfg: Config, digest: Callable[[Path], str]) -> dict[str, Any]:
    """What a fingerprint needs beyond the configuration, such as the text of the chat template.

    Raises: UserError with every mistake that the types do not catch.
    """
    messages = problems(cfg)
    if messages:
        raise UserError(*messages)
    identities = config.identity(cfg)
    if cfg.operator is not None:
        source = methods.source_digest(operators.__name__, cfg.operator, "operator")
        identities["operator_source"] = source
    return identities


def problems(cfg: Config) -> list[str]:
    """What is wrong with a configuration beyond its types, as messages that begin with the key."""
    return [*_operator_problems(cfg), *config.problems(cfg)]


def _operator_problems(cfg: Config) -> list[str]:
    if cfg.operator is None:
        unused = [name for name in ("operator_args", "templates") if getattr(cfg, name)]
        mend = "there is no operator that this belongs to; name one with operator"
        return [f"{name}: {mend}" for name in unused]
    try:
        operator = operators.load(cfg.operator)
        methods.options(operator, cfg.operator_args, "operator_args")
    except UserError as error:
        return error.messages
    messages = []
    if operators.speaks(operator):
        messages += prompts.problems(operator.__name__, cfg.templates)
    if cfg.response_lang != SAME and operators.makes(operator) in (made.Prompt, made.Text):
        reason = f"{cfg.operator} makes rows in the language of each prompt"
        messages.append(f"response_lang: {reason}; leave this out")
    return messages


def sampler(
    cfg: Config,
    model: Model,
    language: str | None = None,
) -> dict[str, Any]:
    """Everything that shapes a sample, for the manifest.

    The ids and seeds of candidates derive from its `fingerprint`. `n` and `split` are not part of
    that: the first candidates of a prompt are the same in any split and for any larger n. Of an
    operator's templates, only the one for `language` is part of it.
    """
    settings = hashed(cfg) | identity(cfg, store.sha256)
    shaping = {name: value for name, value in settings.items() if name not in ("n", "split")}
    if language is not None and "templates" in shaping:
        shaping["templates"] = prompts.chosen(cfg.templates, language)
    fingerprint = store.fingerprint({"version": VERSION, "model": model.identity, **shaping})
    return {
        "fingerprint": fingerprint[:16],
        "model": model.identity,
        "seed_guarantee": engine.ENGINES[cfg.engine.name].seed_guarantee,
        **settings,
    }


def _reads(cfg: Config) -> tuple[str, ...]:
    """The kinds of rows that are read."""
    if cfg.operator is None:
        return READS
    return operators.READS[operators.reads(operators.load(cfg.operator))]


def accepts(cfg: Config) -> dict[str, tuple[str, ...]]:
    return {"rows": _reads(cfg)}


def gives(cfg: Config, inputs: kinds.Inputs) -> kinds.Gives:
    if cfg.operator is None:
        return kinds.Gives("candidates")
    return kinds.Gives(operators.makes(operators.load(cfg.operator)).kind)


def rows_to_come(
    cfg: Config,
    n_read: kinds.Count | None,
    split: str | None,
    languages: list[str] | None,
) -> kinds.Count | None:
    """One row of candidates for each prompt."""
    return n_read


def run(cfg: Config, inputs: Inputs, out: Output) -> None:
    model = inputs.model("model")
    sources = rows.shards(inputs.rows("rows"), cfg.split)
    _check_rows(inputs.rows("rows"), sources, cfg)
    out.note(sampler=sampler(cfg, model))

    part, n_parts = out.part
    own_sources = sources[part::n_parts]
    on_shard = _progress(cfg, own_sources, out)
    generation = Generation(cfg, model) if cfg.operator is None else _Operation(cfg, model)
    with contextlib.closing(generation):
        for language, of_language in _by_sampler(cfg, own_sources):
            generation.sampler = sampler(cfg, model, language)["fingerprint"]
            key = {
                "stage": "generate",
                "version": VERSION,
                "sampler": generation.sampler,
                "n": cfg.n,
            }
            work = (of_language, out.path, out.store, key)
            generation.ahead = shards.missing(*work)
            callbacks = (on_shard, out.should_stop, out.check_inputs)
            if not shards.run_shards(*work, generation.shard, *callbacks):
                raise Stopped
        out.note(template=generation.template_facts())

    if not shards.pending(sources, out.path):
        _check_languages(shards.total(sources, out.path))


def _check_rows(path: Path, sources: Sequence[Path], cfg: Config) -> None:
    kind = rows.kind_of(path)
    if kind not in _reads(cfg):
        reader = "generate" if cfg.operator is None else f"the operator {cfg.operator}"
        raise UserError(f"{path}: holds {kind} rows; {reader} reads {', '.join(_reads(cfg))} rows")
    if not sources:
        raise UserError(
            f"{path}: holds no rows of split {cfg.split!r}; set split to another one, or to null"
            " for all rows"
        )


def _progress(
    cfg: Config,
    sources: Sequence[Path],
    out: Output,
) -> Callable[[Path, store.Tally], None]:
    """What to do after each shard: add its counts, and say how far the step is."""
    if cfg.operator is None:
        total, unit = _n_rows(sources), "prompts"
    else:
        total, unit = None, "rows"  # nobody knows how many rows an operator makes

    def on_shard(source: Path, tally: store.Tally) -> None:
        out.tally.merge(tally)
        n_dropped = sum(by_language.total() for by_language in out.tally.dropped.values())
        out.progress(out.tally.rows.total() + n_dropped, total, unit)

    return on_shard


def _n_rows(sources: Sequence[Path]) -> int:
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(source).num_rows for source in sources)


def _by_sampler(cfg: Config, sources: Sequence[Path]) -> list[tuple[str | None, list[Path]]]:
    """The shards that share a sampler, with their language; None where all share one.

    An operator's templates differ by language, so each language has a sampler of its own.
    """
    if cfg.operator is None:
        return [(None, list(sources))]
    by_language: dict[str | None, list[Path]] = defaultdict(list)
    for source in sources:
        by_language[rows.language_of(source)].append(source)
    return list(by_language.items())


def _check_languages(tally: store.Tally) -> None:
    """Raises: UserError naming every language of which no prompt is left."""
    mend = "raise max_prompt_tokens or engine.args.max_model_len, or lower max_tokens"
    if PROMPT_TOO_LONG not in tally.dropped:
        mend = "see the operator's template, and whether max_tokens is enough"

    reasons: dict[str, list[str]] = defaultdict(list)
    tried = {language for by_language in tally.dropped.values() for language in by_language}
    for language in sorted(tried):
        if tally.rows[language]:
            continue
        for reason, by_language in sorted(tally.dropped.items()):
            reasons[language].append(f"{by_language[language]} {reason}")
    messages = []
    for language, counts in reasons.items():
        messages.append(f"{language}: no prompt is left ({', '.join(counts)}); {mend}")
    if messages:
        raise UserError(*messages)


# --------------------------------------------------------------------------------------- operators


class _Operation(Generation):
    """Runs an operator on every item of a shard."""

    def __init__(self, cfg: Config, model: Model):
        super().__init__(cfg, model)
        assert cfg.operator is not None
        self.templates = cfg.templates
        self.operator = operators.load(cfg.operator)
        self.reads = operators.reads(self.operator)
        self.makes = operators.makes(self.operator)
        self.options = methods.options(self.operator, cfg.operator_args, "operator_args")

    @cached_property
    def untrusted(self) -> chat.Untrusted:
        """Tokenises prompts that hold what a model wrote."""
        assert self.template is not None
        return chat.Untrusted(self.template)

    def shard(self, source: Path, target: Path, tally: store.Tally) -> None:
        """Write the rows made of the items of one shard, in the order of its rows."""
        runs_of_items = self._runs(rows.read_shard(source))
        runs = [run for _, of_item in runs_of_items for run in of_item]
        runs.sort(key=lambda run: run.id)
        batch = _Batch(self, rows.language_of(source), tally)
        lockstep.drive(self.operator, runs, batch.answer, PROMPT_TOO_LONG)

        made_rows = outcome.Outcome(self.operator.__name__, self.reads, self.makes, self.sampler)
        results: list[dict] = []
        for row, of_item in runs_of_items:
            results += made_rows.rows_of(row, of_item, batch.replies, tally)
        if results:
            parents = self.reads == "candidate" and self.makes is made.Candidate
            rows.write_shard(target, self.makes.kind, results, parents=parents)

    def _runs(self, shard_rows: Sequence[dict]) -> list[tuple[dict, list[lockstep.Run]]]:
        """Each item's row, and the item's `n` runs."""
        pool = [row["prompt"] for row in shard_rows if self.reads == "prompt"]
        runs_of_items = []
        for row in shard_rows:
            for item in outcome.items_of(row, self.reads, self.asked_language(row), pool):
                runs = [self._start(item, number) for number in range(self.cfg.n)]
                runs_of_items.append((row, runs))
        return runs_of_items

    def asked_language(self, row: Mapping) -> str:
        """Candidates keep the language they were asked in, unless the step asks for another."""
        if self.response_lang == SAME and row.get("response_lang_requested"):
            return row["response_lang_requested"]
        return super().asked_language(row)

    def _start(self, item: operators.Item, number: int) -> lockstep.Run:
        identifier = rows.candidate_id(item.id, self.sampler, number)
        arguments: list[Any] = [item]
        options = dict(self.options)
        if operators.speaks(self.operator):
            say = prompts.speaker(
                self.operator.__name__,
                self.templates,
                item.language,
                prompt=rows.text_of(item.prompt),
                text=item.text,
                reference=item.reference,
            )
            arguments.append(say)
        if methods.takes(self.operator, "seed"):
            options["seed"] = rows.seed_of(identifier)
        return lockstep.Run(identifier, item, self.operator(*arguments, **options))

    def prompt_of(self, question: lockstep.Question) -> Prompt:
        """A question as it goes to the engine; only the chat template writes special tokens."""
        item, asked = question.run.item, question.ask.prompt
        messages = rows.messages(asked) if isinstance(asked, str) else asked
        row = {"id": question.id, "prompt": messages, "prompt_lang": item.language}
        prompt = Prompt(row, self.messages_of(row))
        if self.template is not None:
            place = f"row {item.id} ({item.language})"
            text = self.template.prompt(prompt.messages, place)
            token_ids, _ = self.untrusted.prompt_ids(prompt.messages, place)
            self.rendered(prompt, text, token_ids)
        return prompt

    def sampling_of(self, ask: operators.Ask) -> Sampling:
        """The step's sampling settings with those of a request; its stops come on top."""
        settings = ask.settings()
        if ask.stop is not None:
            settings["stop"] = [*ask.stop, *self.sampling.stop]
        return dataclasses.replace(self.sampling, **settings)


class _Batch:
    """Answers what the runs of one shard ask; `replies` keeps the responses by run and text."""

    def __init__(self, operation: _Operation, language: str, tally: store.Tally):
        self.operation = operation
        self.language = language
        self.tally = tally
        self.replies: dict[tuple[str, str], dict] = {}

    def answer(self, questions: Sequence[lockstep.Question]) -> list[str | None]:
        """One text for each question, None where it does not fit.

        Questions with the same sampling settings go to the engine in one batch.
        """
        by_settings: dict[str, list[tuple[lockstep.Question, Prompt]]] = defaultdict(list)
        for question in questions:
            prompt = self.operation.prompt_of(question)
            if prompt.left_out:
                self.tally.add("prompt_partly_left_out", self.language)
            if self.operation.fits(prompt, question.ask.max_tokens):
                settings = rows.to_json(question.ask.settings())
                by_settings[settings].append((question, prompt))
        texts: dict[str, str] = {}
        for batch in by_settings.values():
            texts |= self._texts(batch)
        return [texts.get(question.id) for question in questions]

    def _texts(self, batch: Sequence[tuple[lockstep.Question, Prompt]]) -> dict[str, str]:
        """The answers by the question's id, without those that the server found too long."""
        requests = [prompt.request(question.id) for question, prompt in batch]
        first_question, _ = batch[0]
        sampling = self.operation.sampling_of(first_question.ask)
        responses = self.operation.opened.generate(requests, sampling)
        texts = {}
        for (question, prompt), response in zip(batch, responses, strict=True):
            if response.finish_reason != PROMPT_TOO_LONG:
                texts[question.id] = self._keep(question, prompt, response)
        return texts

    def _keep(self, question: lockstep.Question, prompt: Prompt, response: Response) -> str:
        column = self.operation.response(
            question.id, response, prompt.opened, self.language, self.tally
        )
        text = column["text"]
        self.replies[question.run.id, text.strip()] = column
        return text
