"""Puts questions with a few allowed answers to a model, and brings verdicts back: over token ids,
or over a server's messages.

An engine that takes tokens gives verdicts that always parse: it says at most an explanation, and
which allowed answer follows is computed from its probabilities (`choices`). A server is asked for
JSON of a schema and what it says is read (`parsing`).
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mlalign.core import rows
from mlalign.core.errors import UserError
from mlalign.core.model import Model, local_model
from mlalign.models import engine
from mlalign.models.engine import PROMPT_TOO_LONG, EngineConfig, Request, Response, Sampling, chat
from mlalign.models.templates import ChatTemplate
from reward_models.judging import choices, parsing

if TYPE_CHECKING:
    from reward_models.families.judge import Settings

SHORT = 64  # tokens of a verdict that nothing precedes, JSON around it included
TOP = 20  # the likeliest first tokens that servers tell
LONGEST = 200  # characters of a question of a checklist
MARKUP = re.compile(
    r"<\|[^<>|\s]{1,40}\|>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>|</?think>|<[be]os>",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """The allowed answers (label -> its forms, the one that is asked for first), and what stands
    before one after an explanation.
    """

    forms: Mapping[str, tuple[str, ...]]
    lead: str


@dataclasses.dataclass(frozen=True)
class Question:
    """One user message to the judge; seeds derive from `id`."""

    id: str
    text: str
    answers: Answers


@dataclasses.dataclass
class Verdict:
    """`label` None: for the reason that is marked, or it did not parse.

    `probabilities` and `mass`: where the engine tells them.
    """

    label: str | None = None
    raw: str | None = None
    probabilities: Mapping[str, float] | None = None
    mass: float | None = None
    explanation: str | None = None
    too_long: bool = False
    special: bool = False
    not_finite: bool = False
    tokens: int = 0


class Asker(Protocol):
    def ask(self, questions: Sequence[Question]) -> list[list[Verdict]]:
        """The verdicts of every question, one for each sample."""

    def write(self, questions: Sequence[Question], most: int) -> list[list[str]]:
        """For every question the list of at most `most` questions that it asks to write; empty if
        it gets none.
        """

    def close(self) -> None:
        """Give back memory, processes and connections."""


@dataclasses.dataclass
class _Job:
    """One sample of one question on its way to a verdict."""

    question: Question
    seed: int
    ids: list[int]
    verdict: Verdict

    def request(self) -> Request:
        return Request(self.question.id, self.seed, prompt_token_ids=self.ids)


def open_asker(settings: "Settings", config: EngineConfig) -> Asker:
    """Raises: UserError if the engine, the model or its tokenizer cannot be opened."""
    model = _model(settings)
    if engine.ENGINES[config.name].takes == "messages":
        return Server(settings, engine.open_engine(config, model, settings.max_length))
    if model is None:
        raise UserError(f"path: missing; engine={config.name} needs a model directory or hub id")
    return Tokens(settings, config, model)


def _model(settings: "Settings") -> Model | None:
    if settings.path is None:
        return None
    path = Path(settings.path).expanduser()
    return (
        local_model(path, settings.path)
        if path.is_dir()
        else Model(settings.path, settings.path, settings.revision)
    )


def seed_of(settings: "Settings", question: Question, sample: int) -> int:
    return rows.seed_of(f"{question.id}\x1f{sample}\x1f{settings.seed}")


class Tokens:
    """A judge on an engine that takes token ids."""

    def __init__(self, settings: "Settings", config: EngineConfig, model: Model):
        self._settings = settings
        self._tokenizer = _tokenizer(settings, model)
        template = ChatTemplate(self._tokenizer, settings.chat_template_kwargs, settings.date)
        self._untrusted = chat.Untrusted(template)
        self._end_tokens, self._stops = chat.stops_of(template)
        self._room = min(
            n
            for n in (
                settings.max_length,
                config.args.get("max_model_len"),
                chat.context_length(model),
                math.inf,
            )
            if n
        )
        self._end = next(iter(self._end_tokens), self._tokenizer.eos_token_id)
        self._trees: dict[Answers, tuple[list[int], choices.Node]] = {}
        self._engine: Any = engine.open_engine(config, model, settings.max_length)

    def ask(self, questions: Sequence[Question]) -> list[list[Verdict]]:
        structured = self._settings.structured
        jobs = [
            self._jobs(
                q, self._settings.max_tokens if self._settings.reasoning or not structured else 0
            )
            for q in questions
        ]
        fitting = [job for of_one in jobs for job in of_one if not job.verdict.too_long]
        if not structured:
            self._say(fitting)
        else:
            if self._settings.reasoning:
                self._explain(fitting)
            self._decide(fitting)
        return [[job.verdict for job in of_one] for of_one in jobs]

    def write(self, questions: Sequence[Question], most: int) -> list[list[str]]:
        jobs = [self._jobs(q, self._settings.max_tokens)[0] for q in questions]
        fitting = [job for job in jobs if not job.verdict.too_long]
        schema = _checklist(self._settings, most)
        sampling = Sampling(
            self._settings.max_tokens,
            0.0,
            stop=self._stops,
            json_schema=schema,
            end_tokens=self._end_tokens,
        )
        said = iter(self._engine.generate([job.request() for job in fitting], sampling))
        return [
            [] if job.verdict.too_long else parsing.questions(next(said).text, most) for job in jobs
        ]

    def close(self) -> None:
        self._engine.close()

    def _jobs(self, question: Question, room: int) -> list[_Job]:
        messages = rows.messages(question.text)
        ids, special = self._untrusted.prompt_ids(messages, question.id)
        too_long = len(ids) + room + SHORT > self._room
        verdicts = [
            Verdict(too_long=too_long, special=special, tokens=0 if too_long else len(ids))
            for _ in range(self._settings.samples)
        ]
        return [
            _Job(question, seed_of(self._settings, question, k), ids, v)
            for k, v in enumerate(verdicts)
        ]

    def _generate(self, jobs: Sequence[_Job], stop: bool) -> Iterable[tuple[_Job, Response]]:
        """What the model says for each; `stop`: up to the verdict.

        One call for each set of answers, since they end differently.
        """
        for answers in _in_order(job.question.answers for job in jobs):
            own = [job for job in jobs if job.question.answers is answers]
            stops = (*self._stops, answers.lead) if stop else self._stops
            sampling = Sampling(
                self._settings.max_tokens,
                self._settings.temperature,
                stop=stops,
                end_tokens=self._end_tokens,
            )
            for job, response in zip(
                own, self._engine.generate([j.request() for j in own], sampling), strict=True
            ):
                job.verdict.tokens += response.n_tokens or 0
                yield job, response

    def _say(self, jobs: Sequence[_Job]) -> None:
        for job, response in self._generate(jobs, stop=False):
            _read(response, job.question, self._settings, job.verdict)

    def _explain(self, jobs: Sequence[_Job]) -> None:
        for job, response in self._generate(jobs, stop=True):
            job.verdict.explanation = response.text.strip()
            job.ids = job.ids + self._untrusted.text_ids(f"{job.verdict.explanation}\n\n")

    def _decide(self, jobs: Sequence[_Job]) -> None:
        known = [self._tree(job.question.answers) for job in jobs]
        contexts = [job.ids + shared for job, (shared, _) in zip(jobs, known, strict=True)]
        exhaustive = self._settings.reads_probabilities
        weights = choices.weigh(
            contexts, [tree for _, tree in known], self._next_logprobs, exhaustive
        )
        for job, found in zip(jobs, weights, strict=True):
            if not found.probabilities:
                job.verdict.not_finite = True
                continue
            label = max(found.probabilities, key=found.probabilities.__getitem__)
            job.verdict.label, job.verdict.raw = label, job.question.answers.forms[label][0]
            job.verdict.probabilities, job.verdict.mass = found

    def _tree(self, answers: Answers) -> tuple[list[int], choices.Node]:
        if answers not in self._trees:
            lead = f"{answers.lead} " if self._settings.reasoning else ""
            self._trees[answers] = choices.tree(self._encode, lead, answers.forms, self._end)
        return self._trees[answers]

    def _encode(self, text: str) -> list[int]:
        return chat.token_ids(self._tokenizer, [text])[0]

    def _next_logprobs(
        self, contexts: list[list[int]], tokens: list[list[int]]
    ) -> list[list[float]]:
        return self._engine.next_logprobs(
            [Request("", 0, prompt_token_ids=ids) for ids in contexts], tokens
        )


class Server:
    """A judge behind a server that takes messages.

    What the server does with special tokens in them cannot be known: they are broken up.
    """

    def __init__(self, settings: "Settings", opened: engine.Engine):
        self._settings, self._engine = settings, opened

    def ask(self, questions: Sequence[Question]) -> list[list[Verdict]]:
        samples = range(self._settings.samples)
        found: dict[tuple[Question, int], Verdict] = {}
        for answers in _in_order(q.answers for q in questions):
            jobs = [(q, k) for q in questions if q.answers is answers for k in samples]
            responses = self._engine.generate(
                [self._request(q, k) for q, k in jobs], self._sampling(answers)
            )
            found |= {
                job: self._verdict(job[0], response)
                for job, response in zip(jobs, responses, strict=True)
            }
        return [[found[q, k] for k in samples] for q in questions]

    def write(self, questions: Sequence[Question], most: int) -> list[list[str]]:
        sampling = Sampling(
            self._settings.max_tokens, 0.0, json_schema=_checklist(self._settings, most)
        )
        responses = self._engine.generate([self._request(q, 0) for q in questions], sampling)
        return [parsing.questions(response.text, most) for response in responses]

    def close(self) -> None:
        self._engine.close()

    def _request(self, question: Question, sample: int) -> Request:
        text = MARKUP.sub(
            lambda found: f"{found.group()[0]}\u200b{found.group()[1:]}", question.text
        )
        return Request(
            question.id, seed_of(self._settings, question, sample), messages=rows.messages(text)
        )

    def _sampling(self, answers: Answers) -> Sampling:
        if self._settings.mode == "yes_no":
            return Sampling(1, 0.0, top_logprobs=TOP)
        schema = (
            parsing.schema(answers.forms, self._settings.reasoning)
            if self._settings.structured
            else None
        )
        longest = self._settings.max_tokens if self._settings.reasoning or not schema else SHORT
        return Sampling(longest, self._settings.temperature, json_schema=schema)

    def _verdict(self, question: Question, response: Response) -> Verdict:
        special = MARKUP.search(question.text) is not None
        verdict = Verdict(
            special=special,
            too_long=response.finish_reason == PROMPT_TOO_LONG,
            tokens=response.n_tokens or 0,
        )
        if self._settings.mode == "yes_no":
            verdict.raw = response.text
            verdict.probabilities, verdict.mass = _first_token(
                response.top_logprobs or {}, question.answers.forms
            )
            verdict.label = (
                max(verdict.probabilities, key=verdict.probabilities.__getitem__)
                if verdict.probabilities
                else None
            )
        else:
            _read(response, question, self._settings, verdict)
        return verdict


def _read(response: Response, question: Question, settings: "Settings", verdict: Verdict) -> None:
    """Fill in what a text says."""
    verdict.raw = response.text
    verdict.label = parsing.verdict(response.text, question.answers.forms, question.answers.lead)
    if settings.reasoning:
        verdict.explanation = (
            parsing.explanation(response.text, question.answers.lead) or response.reasoning
        )


def _first_token(
    top: Mapping[str, float], forms: Mapping[str, Sequence[str]]
) -> tuple[dict[str, float] | None, float | None]:
    """(probabilities of the answers, their mass) from the likeliest first tokens; an answer not
    among them has the least.
    """
    masses = dict.fromkeys(forms, 0.0)
    for token, logprob in top.items():
        begun = parsing.begun(token, forms)
        if begun is not None:
            masses[begun] += math.exp(logprob)
    mass = math.fsum(masses.values())
    if mass == 0.0:
        return None, None
    least = math.exp(min(top.values()))
    bounded = {label: m or least for label, m in masses.items()}
    total = math.fsum(bounded.values())
    return {label: m / total for label, m in bounded.items()}, mass


def _checklist(settings: "Settings", most: int) -> dict[str, Any] | None:
    return parsing.questions_schema(most, LONGEST) if settings.structured else None


def _in_order(answers: Iterable[Answers]) -> list[Answers]:
    return list(dict.fromkeys(answers))


def _tokenizer(settings: "Settings", model: Model) -> Any:
    try:
        return chat.load_tokenizer(model, chat.read_template(settings.chat_template))
    except (OSError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{settings.path}: no judge can be loaded from it ({first}); give a model directory or"
            " hub id"
        ) from None
