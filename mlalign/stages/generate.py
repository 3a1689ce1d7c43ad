"""Sample answers: `n` candidates for every prompt in every language, in one life of the engine.

Reads a model (slot `model`) and prompt, demonstration or preference rows (slot `rows`; of the
latter two the prompts), writes candidates rows, one shard for each shard read; `prompt` is what the
model was asked, system prompt included. The engine starts when the first shard needs it, and not at
all if every shard is done or in the cache. Where a text does not depend on its batch, small shards
go to the engine together, which then idles at the end of the batch only; otherwise one shard at a
time. So a killed run that goes on equals the unbroken one.

Where the chat template ends an assistant's turn, generation ends, whatever the tokenizer's end
token is. What stands between the template's own reasoning tags goes to the column `reasoning`. With
engine=openai the server renders: none of this is known here.

Counted in the manifest by language: prompts that do not fit the context under `dropped`; responses,
tokens, truncated and empty responses, responses with reasoning, characters that were cut at the end
of a text, and prompts of which the chat template leaves something out under `sums`.

With `operator`, a function of `mlalign/methods/operators/` asks the model about each row, as often
as it likes, and makes rows of the answers. From candidates it makes one row for each (parent,
sampler), whose responses name their `parent`. All runs of a shard go on side by side. What an
operator makes nothing of is counted by its reason. Rows other than candidates get ids of their own,
and stay in the split of what they were made from.
"""

import contextlib
import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from mlalign import methods
from mlalign.core import kinds, languages, rows, shards, store
from mlalign.core.alarms import Dropped, Share
from mlalign.core.errors import UserError
from mlalign.core.model import Model
from mlalign.core.schema import hashed, verbatim, what
from mlalign.core.stage import Inputs, Output, Stopped
from mlalign.methods import lockstep, made, operators, outcome
from mlalign.models import engine, leftout, prompts
from mlalign.models.engine import PROMPT_TOO_LONG, EngineConfig, Request, Response, Sampling, chat
from mlalign.models.templates import DATE, ChatTemplate, date_problems, option_problems

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
SAME = "same"  # answers are asked for in the prompt's own language
TOGETHER = 4096  # shards go to the engine together until they hold so many requests
RESERVED = {
    name: f"set {name} on the step"
    for name in ("n", "seed", "max_tokens", "temperature", "top_p", "top_k", "min_p", "stop")
}


def _sampling_source(around: Mapping) -> str:
    return (
        "vllm.sampling_params:SamplingParams"
        if (around.get("engine") or {}).get("name", "vllm") == "vllm"
        else ""
    )


def _templates_of(around: Mapping) -> str | None:
    """The folder of an operator's templates, below conf/."""
    name = around.get("operator")
    return f"prompts/{name.rpartition(':')[2]}" if isinstance(name, str) else None


@dataclasses.dataclass
class Config:
    engine: EngineConfig = dataclasses.field(
        default_factory=EngineConfig, metadata={"doc": "what generates, and with which arguments"}
    )
    n: int = what(1, "candidates per prompt")
    temperature: float = what(1.0, "0 is greedy, and then n must be 1")
    top_p: float = what(
        1.0, "sample from the most probable tokens that add up to this; 1: from all"
    )
    top_k: int = what(0, "sample from so many of the most probable tokens; 0: from all")
    min_p: float = what(
        0.0, "leave out tokens less probable than this fraction of the most probable one"
    )
    max_tokens: int = what(512, "longest answer, in tokens")
    stop: list[str] = what([], "strings that end an answer (not part of it)")
    sampling: dict[str, Any] = verbatim(
        _sampling_source, "more sampling parameters under the engine's own names", reserved=RESERVED
    )
    split: Literal["train", "eval"] | None = what(None, "take one split only")
    system_prompt: str | None = what(
        None,
        "put before every prompt; {language} becomes the English name of the language asked for",
    )
    response_lang: str = what(SAME, "language that answers are asked for; same: the prompt's own")
    max_prompt_tokens: int | None = what(
        None,
        "longer prompts are dropped and counted; null: what the context leaves beside max_tokens",
    )
    chat_template: str | None = what(
        None,
        "a file of Jinja text, the text, or the name of one of the tokenizer's templates; null: the"
        " tokenizer's own",
    )
    chat_template_kwargs: dict[str, Any] = what(
        {}, "passed to the chat template, such as {enable_thinking: false}"
    )
    date: str = what(DATE, "what a chat template that writes the date writes")
    reasoning_tags: list[str] | None = what(
        None,
        "opening and closing tag; what stands between them goes to the column `reasoning`; null:"
        " the chat template's own; []: none",
    )
    seed: int = what(
        0, "mixed into the sampler's fingerprint, and so into every candidate's own seed"
    )
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
    runs_here = engine.ENGINES[cfg.engine.name].takes == "tokens"
    return (
        ["torch", "transformers.generation", "mlalign.models.engine.transformers"]
        if runs_here
        else []
    )


def identity(cfg: Config, digest: Callable[[Path], str]) -> dict[str, Any]:
    """What a fingerprint needs beyond the configuration: the text of the chat template, not its
    place.

    Raises: UserError with every mistake that the types do not catch.
    """
    if found := problems(cfg):
        raise UserError(*found)
    response_lang = (
        cfg.response_lang if cfg.response_lang == SAME else languages.normalise(cfg.response_lang)
    )
    template = chat.read_template(cfg.chat_template)
    identities = {"chat_template": template, "response_lang": response_lang}
    if cfg.operator is not None:
        source = methods.source_digest(operators.__name__, cfg.operator, "operator")
        identities["operator_source"] = source
    return identities


def problems(cfg: Config) -> list[str]:
    """What is wrong with a configuration beyond its types, as messages that begin with the key."""
    found = [*_operator_problems(cfg), *engine.problems(cfg.engine)]
    found += [
        f"{name}: must be at least 1, got {getattr(cfg, name)}"
        for name in ("n", "max_tokens")
        if getattr(cfg, name) < 1
    ]
    if cfg.temperature < 0:
        found.append(f"temperature: must be 0 (greedy) or more, got {cfg.temperature}")
    elif cfg.temperature == 0 and cfg.n > 1:
        found.append(
            f"n: greedy decoding (temperature=0) gives {cfg.n} times the same answer; set n=1, or a"
            " temperature above 0"
        )
    if not 0 < cfg.top_p <= 1:
        found.append(f"top_p: must be above 0 and at most 1, got {cfg.top_p}")
    if not 0 <= cfg.min_p <= 1:
        found.append(f"min_p: must be from 0 to 1, got {cfg.min_p}")
    found += engine.sampling_problems(cfg.engine.name, cfg.sampling, cfg.max_tokens)
    if len(cfg.reasoning_tags or ()) not in (0, 2):
        found.append(f"reasoning_tags: expected [opening, closing], got {cfg.reasoning_tags}")
    found += [*option_problems(cfg.chat_template_kwargs), *date_problems(cfg.date)]
    if engine.ENGINES[cfg.engine.name].takes == "messages":
        own = [
            name
            for name in ("chat_template", "max_prompt_tokens")
            if getattr(cfg, name) is not None
        ]
        found += [
            f"{name}: engine={cfg.engine.name} sends messages, and the server renders them; leave"
            " this out"
            for name in own
        ]
    return found


def _operator_problems(cfg: Config) -> list[str]:
    if cfg.operator is None:
        given = [name for name in ("operator_args", "templates") if getattr(cfg, name)]
        mend = "there is no operator that this belongs to; name one with operator"
        return [f"{name}: {mend}" for name in given]
    try:
        operator = operators.load(cfg.operator)
        methods.options(operator, cfg.operator_args, "operator_args")
    except UserError as error:
        return error.messages
    problems = []
    if operators.speaks(operator):
        problems += prompts.problems(operator.__name__, cfg.templates)
    if cfg.response_lang != SAME and operators.makes(operator) in (made.Prompt, made.Text):
        why = f"{cfg.operator} makes rows in the language of each prompt"
        problems.append(f"response_lang: {why}; leave this out")
    return problems


def sampler(cfg: Config, model: Model, language: str | None = None) -> dict[str, Any]:
    """Everything that shapes a sample, for the manifest, with the `fingerprint` that candidates'
    ids and seeds derive from.

    `n` and `split` are not part of the fingerprint: the first candidates of a prompt are the same
    in any split and for any larger n. Of an operator's templates, the one that is used for
    `language` is.
    """
    settings = hashed(cfg) | identity(cfg, store.sha256)
    shaping = {k: v for k, v in settings.items() if k not in ("n", "split")}
    if language is not None and "templates" in shaping:
        shaping["templates"] = prompts.chosen(cfg.templates, language)
    print_ = store.fingerprint({"version": VERSION, "model": model.identity, **shaping})[:16]
    return {
        "fingerprint": print_,
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
    cfg: Config, n_read: kinds.Count | None, split: str | None, languages: list[str] | None
) -> kinds.Count | None:
    """One row of candidates for each prompt."""
    return n_read


def run(cfg: Config, inputs: Inputs, out: Output) -> None:
    model, sources = inputs.model("model"), rows.shards(inputs.rows("rows"), cfg.split)
    _check_rows(inputs.rows("rows"), sources, cfg)
    out.note(sampler=sampler(cfg, model))
    mine = sources[out.part[0] :: out.part[1]]
    # Nobody knows how many rows an operator makes.
    total, unit = (_n_rows(mine), "prompts") if cfg.operator is None else (None, "rows")

    def on_shard(source: Path, tally: store.Tally) -> None:
        out.tally.merge(tally)
        dropped = sum(by.total() for by in out.tally.dropped.values())
        out.progress(out.tally.rows.total() + dropped, total, unit)

    opened = _Generation(cfg, model) if cfg.operator is None else _Operation(cfg, model)
    with contextlib.closing(opened) as generation:
        for language, of_language in _by_sampler(cfg, mine):
            generation.sample(language)
            key = {
                "stage": "generate",
                "version": VERSION,
                "sampler": generation.sampler,
                "n": cfg.n,
            }
            where = (of_language, out.path, out.store, key)
            generation.ahead = shards.missing(*where)
            asks = (on_shard, out.should_stop, out.check_inputs)
            if not shards.run_shards(*where, generation.shard, *asks):
                raise Stopped
        out.note(template=generation.template_facts())
    if not shards.pending(sources, out.path):
        check_languages(shards.total(sources, out.path))


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


def _by_sampler(cfg: Config, sources: Sequence[Path]) -> list[tuple[str | None, list[Path]]]:
    """The shards that share a sampler: all of them.

    With an operator those of one language, since templates differ by language.
    """
    if cfg.operator is None:
        return [(None, list(sources))]
    by_language: dict[str | None, list[Path]] = defaultdict(list)
    for source in sources:
        by_language[rows.language_of(source)].append(source)
    return list(by_language.items())


def _n_rows(sources: Sequence[Path]) -> int:
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(p).num_rows for p in sources)


def check_languages(tally: store.Tally) -> None:
    """Raises: UserError naming every language of which no prompt is left."""
    tried = {language for by in tally.dropped.values() for language in by}
    empty = [language for language in sorted(tried) if not tally.rows[language]]
    if empty:
        reasons = {
            language: ", ".join(
                f"{by[language]} {reason}" for reason, by in sorted(tally.dropped.items())
            )
            for language in empty
        }
        mend = "raise max_prompt_tokens or engine.args.max_model_len, or lower max_tokens"
        if PROMPT_TOO_LONG not in tally.dropped:
            mend = "see the operator's template, and whether max_tokens is enough"
        raise UserError(
            *(f"{language}: no prompt is left ({reasons[language]}); {mend}" for language in empty)
        )


@dataclasses.dataclass
class _Prompt:
    """One row and what of it goes to the engine.

    `opened`: the rendered prompt ends with the opening reasoning tag. `left_out`: the chat template
        leaves something of it out.
    """

    row: dict
    messages: list[dict]
    token_ids: list[int] | None = None
    opened: bool = False
    left_out: bool = False


class _Generation:
    """Tokenizer, context and engine, each there from its first use on."""

    def __init__(self, cfg: Config, model: Model):
        self.cfg, self.model, self.sampler = cfg, model, ""
        self.ahead: list[Path] = []  # shards that are still to be computed
        self._answered: dict[
            Path, tuple[list[_Prompt], dict[str, Response]]
        ] = {}  # shards whose answers are here already
        told = identity(cfg, store.sha256)
        self.chat_template, self.response_lang = told["chat_template"], told["response_lang"]

    def sample(self, language: str | None) -> None:
        """From now on, sample as for this prompt language; None: as for all."""
        self.sampler = sampler(self.cfg, self.model, language)["fingerprint"]

    @cached_property
    def template(self) -> ChatTemplate | None:
        """What renders the prompts; None if the engine takes messages."""
        if engine.ENGINES[self.cfg.engine.name].takes == "messages":
            return None
        tokenizer = chat.load_tokenizer(self.model, self.chat_template)
        return ChatTemplate(tokenizer, self.cfg.chat_template_kwargs, self.cfg.date)

    @cached_property
    def sampling(self) -> Sampling:
        cfg = self.cfg
        ends, stops = chat.stops_of(self.template) if self.template else ((), ())
        return Sampling(
            cfg.max_tokens,
            cfg.temperature,
            cfg.top_p,
            cfg.top_k,
            cfg.min_p,
            [*cfg.stop, *stops],
            self._extra(),
            end_tokens=ends,
        )

    @cached_property
    def reasoning_tags(self) -> Sequence[str]:
        """The configured tags, else those of the template."""
        if self.cfg.reasoning_tags is not None:
            return self.cfg.reasoning_tags
        return (self.template and self.template.reasoning_tags) or ()

    def template_facts(self) -> dict[str, Any]:
        """What the manifest tells about rendering; the details if any prompt was rendered here."""
        if engine.ENGINES[self.cfg.engine.name].takes == "messages":
            return {"rendered_by": "server"}
        if "template" not in self.__dict__ or self.template is None:
            return {"rendered_by": "mlalign", "date": self.cfg.date}
        return {**self.template.facts(), "reasoning_tags": list(self.reasoning_tags)}

    @cached_property
    def max_model_len(self) -> int | None:
        """Longest prompt and answer together: what the context and `max_prompt_tokens` allow; None:
        no bound is known.
        """
        if engine.ENGINES[self.cfg.engine.name].takes == "messages":
            return None
        context = self.cfg.engine.args.get("max_model_len") or chat.context_length(self.model)
        wanted = (
            None
            if self.cfg.max_prompt_tokens is None
            else self.cfg.max_prompt_tokens + self.cfg.max_tokens
        )
        bound = min((b for b in (context, wanted) if b is not None), default=None)
        if bound is not None and bound <= self.cfg.max_tokens:
            raise UserError(
                f"max_tokens: {self.cfg.max_tokens} leaves no room for a prompt in a context of"
                f" {bound} tokens; lower it"
            )
        return bound

    @cached_property
    def opened(self) -> engine.Engine:
        return engine.open_engine(self.cfg.engine, self.model, self.max_model_len)

    def close(self) -> None:
        if "opened" in self.__dict__:
            self.opened.close()

    def shard(self, source: Path, target: Path, tally: store.Tally) -> None:
        """Candidates for the prompts of one shard; the requests are in the order of the ids, the
        rows in that of the shard.
        """
        if source not in self._answered:
            self._ask(source)
        prompts, answers = self._answered.pop(source)
        found = [row for p in prompts if (row := self._candidates(p, answers, tally))]
        if found:
            rows.write_shard(target, "candidates", found)

    def _ask(self, source: Path) -> None:
        """Send a shard to the engine, and with it the small ones that follow."""
        rendered, requests = {}, {}
        for path in [source, *self._following(source)]:
            rendered[path] = self._render(rows.read_shard(path))
            fitting = sorted(filter(self.fits, rendered[path]), key=lambda p: p.row["id"])
            requests[path] = [r for p in fitting for r in self._requests(p)]
            if sum(map(len, requests.values())) >= TOGETHER:
                break
        sent = [r for of_shard in requests.values() for r in of_shard]
        answers = iter(self.opened.generate(sent, self.sampling) if sent else [])
        for path, of_shard in requests.items():
            self._answered[path] = rendered[path], {r.id: next(answers) for r in of_shard}

    def _following(self, source: Path) -> list[Path]:
        free = engine.ENGINES[
            self.cfg.engine.name
        ].seed_guarantee  # elsewhere a text may depend on what else is in its batch
        return self.ahead[self.ahead.index(source) + 1 :] if free and source in self.ahead else []

    def _extra(self) -> dict[str, Any]:
        sent = (
            engine.ENGINES[self.cfg.engine.name].takes == "messages"
            and self.cfg.chat_template_kwargs
        )
        return {
            **self.cfg.sampling,
            **({"chat_template_kwargs": self.cfg.chat_template_kwargs} if sent else {}),
        }

    def _asked(self, row: Mapping) -> str:
        return row["prompt_lang"] if self.response_lang == SAME else self.response_lang

    def _messages(self, row: Mapping) -> list[dict]:
        """The prompt below the system prompt; a system message of the row's own follows in the same
        message.
        """
        if self.cfg.system_prompt is None:
            return row["prompt"]
        system = self.cfg.system_prompt.replace(
            "{language}", languages.english_name(self._asked(row))
        )
        own = [m["content"] for m in row["prompt"] if m["role"] == "system"]
        return [
            {"role": "system", "content": "\n\n".join([system, *own])},
            *(m for m in row["prompt"] if m["role"] != "system"),
        ]

    def _render(self, given: Sequence[dict]) -> list[_Prompt]:
        prompts = [_Prompt(row, self._messages(row)) for row in given]
        if self.template is None:
            return prompts
        texts = [
            self.template.prompt(p.messages, f"row {p.row['id']} ({p.row['prompt_lang']})")
            for p in prompts
        ]
        opening = self.reasoning_tags[:1]
        for prompt, text, ids in zip(
            prompts, texts, chat.token_ids(self.template.tokenizer, texts), strict=True
        ):
            prompt.token_ids, prompt.opened = (
                ids,
                bool(opening) and text.rstrip().endswith(opening[0]),
            )
            prompt.left_out = not leftout.of_prompt(text, prompt.messages, None)
        return prompts

    def fits(self, prompt: _Prompt, max_tokens: int | None = None) -> bool:
        """Whether a prompt leaves room for an answer of `max_tokens`, by default the step's."""
        answer = self.cfg.max_tokens if max_tokens is None else max_tokens
        n_tokens = len(prompt.token_ids or ())
        return self.max_model_len is None or n_tokens <= self.max_model_len - answer

    def _requests(self, prompt: _Prompt) -> list[Request]:
        ids = [rows.candidate_id(prompt.row["id"], self.sampler, i) for i in range(self.cfg.n)]
        messages = prompt.messages if prompt.token_ids is None else None
        return [Request(i, rows.seed_of(i), prompt.token_ids, messages) for i in ids]

    def _candidates(
        self, prompt: _Prompt, answers: Mapping[str, Response], tally: store.Tally
    ) -> dict | None:
        """The row of one prompt; None (and counted) if it is too long for the context, or the
        server found it so.
        """
        row, language = prompt.row, prompt.row["prompt_lang"]
        found = {r.id: answers[r.id] for r in self._requests(prompt) if r.id in answers}
        if not found or any(a.finish_reason == PROMPT_TOO_LONG for a in found.values()):
            tally.drop(PROMPT_TOO_LONG, language)
            return None
        tally.keep(language)
        if prompt.left_out:
            tally.add("prompt_partly_left_out", language)
        responses = [self.response(i, a, prompt.opened, language, tally) for i, a in found.items()]
        common = {name: row[name] for name in rows.COMMON}
        return {
            **common,
            "prompt": prompt.messages,
            "reference": row.get("reference"),
            "response_lang_requested": self._asked(row),
            "responses": responses,
        }

    def response(
        self,
        id_: str,
        answer: Response,
        opened: bool,
        language: str,
        tally: store.Tally,
    ) -> dict:
        text, reasoning = chat.split_reasoning(answer.text, self.reasoning_tags, opened)
        tally.add("responses", language)
        if reasoning or answer.reasoning:
            tally.add("with_reasoning", language)
        if answer.cut_character:
            tally.add("cut_characters", language)
        tally.add("truncated", language, answer.finish_reason == "length")
        tally.add("empty", language, not text.strip())
        if answer.n_tokens is None:
            tally.add("responses_without_token_count", language)
        else:
            tally.add("tokens", language, answer.n_tokens)
        return {
            "candidate_id": id_,
            "text": text,
            "reasoning": reasoning if reasoning is not None else answer.reasoning,
            "n_tokens": answer.n_tokens,
            "finish_reason": answer.finish_reason,
        }


# --------------------------------------------------------------------------------------- operators


class _Operation(_Generation):
    """Runs an operator on every item of a shard."""

    def __init__(self, cfg: Config, model: Model):
        super().__init__(cfg, model)
        assert cfg.operator is not None
        self.operator = operators.load(cfg.operator)
        self.reads, self.makes = operators.reads(self.operator), operators.makes(self.operator)
        self.options = methods.options(self.operator, cfg.operator_args, "operator_args")

    @cached_property
    def untrusted(self) -> chat.Untrusted:
        """Tokenises prompts that hold what a model wrote."""
        assert self.template is not None
        return chat.Untrusted(self.template)

    def shard(self, source: Path, target: Path, tally: store.Tally) -> None:
        """Rows for the items of one shard, in the order of its rows."""
        batch = _Batch(self, rows.language_of(source), tally)
        given = rows.read_shard(source)
        pool = [row["prompt"] for row in given if self.reads == "prompt"]
        runs_of = []
        for row in given:
            for item in outcome.items_of(row, self.reads, self._asked(row), pool):
                runs_of.append((row, [self._start(item, number) for number in range(self.cfg.n)]))
        runs = [run for _, of_item in runs_of for run in of_item]
        runs.sort(key=lambda run: run.id)
        lockstep.drive(self.operator, runs, batch.answer, PROMPT_TOO_LONG)

        kept = outcome.Outcome(self.operator.__name__, self.reads, self.makes, self.sampler)
        results: list[dict] = []
        for row, of_item in runs_of:
            results += kept.rows_of(row, of_item, batch.replies, tally)
        if results:
            parents = self.reads == "candidate" and self.makes is made.Candidate
            rows.write_shard(target, self.makes.kind, results, parents=parents)

    def _asked(self, row: Mapping) -> str:
        """Of candidates the language that they were asked in, unless the step asks for another."""
        if self.response_lang == SAME and row.get("response_lang_requested"):
            return row["response_lang_requested"]
        return super()._asked(row)

    def _start(self, item: operators.Item, number: int) -> lockstep.Run:
        identifier = rows.candidate_id(item.id, self.sampler, number)
        given: list[Any] = [item]
        options = dict(self.options)
        if operators.speaks(self.operator):
            say = prompts.speaker(
                self.operator.__name__,
                self.cfg.templates,
                item.language,
                prompt=rows.text_of(item.prompt),
                text=item.text,
                reference=item.reference,
            )
            given.append(say)
        if methods.takes(self.operator, "seed"):
            options["seed"] = rows.seed_of(identifier)
        return lockstep.Run(identifier, item, self.operator(*given, **options))

    def prompt_of(self, question: lockstep.Question) -> _Prompt:
        """A question as it goes to the engine; only the chat template writes special tokens."""
        item, asked = question.run.item, question.ask.prompt
        messages = rows.messages(asked) if isinstance(asked, str) else asked
        row = {"id": question.id, "prompt": messages, "prompt_lang": item.language}
        prompt = _Prompt(row, self._messages(row))
        if self.template is None:
            return prompt
        place = f"row {item.id} ({item.language})"
        text = self.template.prompt(prompt.messages, place)
        prompt.token_ids, _ = self.untrusted.prompt_ids(prompt.messages, place)
        opening = self.reasoning_tags[:1]
        prompt.opened = bool(opening) and text.rstrip().endswith(opening[0])
        prompt.left_out = not leftout.of_prompt(text, prompt.messages, None)
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
        self.operation, self.language, self.tally = operation, language, tally
        self.replies: dict[tuple[str, str], dict] = {}

    def answer(self, questions: Sequence[lockstep.Question]) -> list[str | None]:
        """One text for each question, None where it does not fit.

        There is one batch for each set of sampling settings.
        """
        by_settings: dict[str, list[tuple[lockstep.Question, _Prompt]]] = defaultdict(list)
        for question in questions:
            prompt = self.operation.prompt_of(question)
            if prompt.left_out:
                self.tally.add("prompt_partly_left_out", self.language)
            if self.operation.fits(prompt, question.ask.max_tokens):
                by_settings[rows.to_json(question.ask.settings())].append((question, prompt))
        texts: dict[str, str] = {}
        for batch in by_settings.values():
            texts |= self._texts(batch)
        return [texts.get(question.id) for question in questions]

    def _texts(self, batch: Sequence[tuple[lockstep.Question, _Prompt]]) -> dict[str, str]:
        requests = []
        for question, prompt in batch:
            messages = prompt.messages if prompt.token_ids is None else None
            seed = rows.seed_of(question.id)
            requests.append(Request(question.id, seed, prompt.token_ids, messages))
        sampling = self.operation.sampling_of(batch[0][0].ask)
        responses = self.operation.opened.generate(requests, sampling)
        texts = {}
        for (question, prompt), response in zip(batch, responses, strict=True):
            if response.finish_reason == PROMPT_TOO_LONG:
                continue
            counted = (self.language, self.tally)
            column = self.operation.response(question.id, response, prompt.opened, *counted)
            texts[question.id] = column["text"]
            self.replies[question.run.id, column["text"].strip()] = column
        return texts
