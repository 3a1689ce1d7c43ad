"""Asks a model questions with a few allowed answers, by token ids or by a server's messages.

An engine that takes tokens gives verdicts that always parse: it writes an explanation at most, and
the allowed answer that follows is computed from its probabilities (`choices`). A server is asked
for JSON of a schema, and its reply is parsed (`parsing`).
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
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

SHORT = 64  # tokens of a verdict without an explanation, including JSON around it
TOP = 20  # most of the likeliest first tokens that servers return
LONGEST = 200  # characters of a question of a checklist
# What may be a special token of some model.
MARKUP = re.compile(
    r"<\|[^<>|\s]{1,40}\|>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>|</?think>|<[be]os>",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """The allowed answers.

    `forms`: label -> its forms; the first one is the form that the judge is asked for.
    `lead`: the text between an explanation and the answer.
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
    """A judge's answer; `label` is None for one of the reasons below, or if it did not parse.

    `probabilities` of the labels and their `mass` are None unless the engine returns them.
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

    @property
    def is_unparsed(self) -> bool:
        return self.label is None and not (self.too_long or self.not_finite)


class Asker(Protocol):
    def ask(self, questions: Sequence[Question]) -> list[list[Verdict]]:
        """The verdicts of every question, one for each sample."""

    def write(self, questions: Sequence[Question], most: int) -> list[list[str]]:
        """For every question the checklist that it asks for, of at most `most` checks, or none."""

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
    if path.is_dir():
        return local_model(path, settings.path)
    return Model(settings.path, settings.path, settings.revision)


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
        limits = [
            settings.max_length,
            config.args.get("max_model_len"),
            chat.context_length(model),
        ]
        self._room = min(filter(None, limits), default=math.inf)
        self._end = next(iter(self._end_tokens), self._tokenizer.eos_token_id)
        self._trees: dict[Answers, tuple[list[int], choices.Node]] = {}
        self._engine: Any = engine.open_engine(config, model, settings.max_length)

    def ask(self, questions: Sequence[Question]) -> list[list[Verdict]]:
        structured = self._settings.structured
        writes_text = self._settings.reasoning or not structured
        room = self._settings.max_tokens if writes_text else 0
        fitting = []
        verdicts = []
        for question in questions:
            jobs = self._jobs(question, room)
            fitting += [job for job in jobs if not job.verdict.too_long]
            verdicts.append([job.verdict for job in jobs])

        # The jobs fill in their verdicts.
        if not structured:
            self._answer_freely(fitting)
            return verdicts
        if self._settings.reasoning:
            self._explain(fitting)
        self._decide(fitting)
        return verdicts

    def write(self, questions: Sequence[Question], most: int) -> list[list[str]]:
        fitting = []
        places = []
        for place, question in enumerate(questions):
            job = self._jobs(question, self._settings.max_tokens)[0]
            if not job.verdict.too_long:
                fitting.append(job)
                places.append(place)

        schema = _checklist_schema(self._settings, most)
        sampling = Sampling(
            self._settings.max_tokens,
            0.0,
            stop=self._stops,
            json_schema=schema,
            end_tokens=self._end_tokens,
        )
        responses = self._engine.generate([job.request() for job in fitting], sampling)
        checklists: list[list[str]] = [[] for _ in questions]
        for place, response in zip(places, responses, strict=True):
            checklists[place] = parsing.questions(response.text, most)
        return checklists

    def close(self) -> None:
        self._engine.close()

    def _jobs(self, question: Question, room: int) -> list[_Job]:
        """One job per sample; `room`: the most tokens that the judge may write before a verdict."""
        messages = rows.messages(question.text)
        ids, special = self._untrusted.prompt_ids(messages, question.id)
        too_long = len(ids) + room + SHORT > self._room
        n_tokens = 0 if too_long else len(ids)
        jobs = []
        for sample in range(self._settings.samples):
            verdict = Verdict(too_long=too_long, special=special, tokens=n_tokens)
            seed = seed_of(self._settings, question, sample)
            jobs.append(_Job(question, seed, ids, verdict))
        return jobs

    def _generate(self, jobs: Sequence[_Job], stop: bool) -> Iterable[tuple[_Job, Response]]:
        """What the model writes for each job; `stop`: only up to the verdict.

        One call for each set of answers, since they end differently.
        """
        for answers in _distinct(job.question.answers for job in jobs):
            own = [job for job in jobs if job.question.answers is answers]
            stops = (*self._stops, answers.lead) if stop else self._stops
            sampling = Sampling(
                self._settings.max_tokens,
                self._settings.temperature,
                stop=stops,
                end_tokens=self._end_tokens,
            )
            responses = self._engine.generate([job.request() for job in own], sampling)
            for job, response in zip(own, responses, strict=True):
                job.verdict.tokens += response.n_tokens or 0
                yield job, response

    def _answer_freely(self, jobs: Sequence[_Job]) -> None:
        for job, response in self._generate(jobs, stop=False):
            _parse(response, job.question, self._settings, job.verdict)

    def _explain(self, jobs: Sequence[_Job]) -> None:
        for job, response in self._generate(jobs, stop=True):
            job.verdict.explanation = response.text.strip()
            job.ids = job.ids + self._untrusted.text_ids(f"{job.verdict.explanation}\n\n")

    def _decide(self, jobs: Sequence[_Job]) -> None:
        contexts = []
        trees = []
        for job in jobs:
            shared, tree = self._tree(job.question.answers)
            contexts.append(job.ids + shared)
            trees.append(tree)
        exhaustive = self._settings.reads_probabilities
        all_weights = choices.weigh(contexts, trees, self._next_logprobs, exhaustive)

        for job, weights in zip(jobs, all_weights, strict=True):
            verdict = job.verdict
            if not weights.probabilities:
                verdict.not_finite = True
                continue
            verdict.label = _likeliest(weights.probabilities)
            verdict.raw = job.question.answers.forms[verdict.label][0]
            verdict.probabilities = weights.probabilities
            verdict.mass = weights.mass

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
        requests = [Request("", 0, prompt_token_ids=ids) for ids in contexts]
        return self._engine.next_logprobs(requests, tokens)


class Server:
    """A judge behind a server that takes messages.

    A server might read special tokens in these as such, so they are broken up.
    """

    def __init__(self, settings: "Settings", opened: engine.Engine):
        self._settings = settings
        self._engine = opened

    def ask(self, questions: Sequence[Question]) -> list[list[Verdict]]:
        verdicts: dict[Question, list[Verdict]] = {question: [] for question in questions}
        for answers in _distinct(question.answers for question in questions):
            own = [question for question in verdicts if question.answers is answers]
            jobs = list(product(own, range(self._settings.samples)))
            requests = [self._request(question, sample) for question, sample in jobs]
            responses = self._engine.generate(requests, self._sampling(answers))
            for (question, _), response in zip(jobs, responses, strict=True):
                verdicts[question].append(self._verdict(question, response))
        return [verdicts[question] for question in questions]

    def write(self, questions: Sequence[Question], most: int) -> list[list[str]]:
        schema = _checklist_schema(self._settings, most)
        sampling = Sampling(self._settings.max_tokens, 0.0, json_schema=schema)
        requests = [self._request(question, 0) for question in questions]
        responses = self._engine.generate(requests, sampling)
        return [parsing.questions(response.text, most) for response in responses]

    def close(self) -> None:
        self._engine.close()

    def _request(self, question: Question, sample: int) -> Request:
        text = MARKUP.sub(_broken_up, question.text)
        seed = seed_of(self._settings, question, sample)
        return Request(question.id, seed, messages=rows.messages(text))

    def _sampling(self, answers: Answers) -> Sampling:
        if self._settings.mode == "yes_no":
            return Sampling(1, 0.0, top_logprobs=TOP)
        schema = None
        if self._settings.structured:
            schema = parsing.schema(answers.forms, self._settings.reasoning)
        writes_text = self._settings.reasoning or schema is None
        max_tokens = self._settings.max_tokens if writes_text else SHORT
        return Sampling(max_tokens, self._settings.temperature, json_schema=schema)

    def _verdict(self, question: Question, response: Response) -> Verdict:
        special = MARKUP.search(question.text) is not None
        verdict = Verdict(
            special=special,
            too_long=response.finish_reason == PROMPT_TOO_LONG,
            tokens=response.n_tokens or 0,
        )
        if self._settings.mode != "yes_no":
            _parse(response, question, self._settings, verdict)
            return verdict

        verdict.raw = response.text
        weights = _first_token(response.top_logprobs or {}, question.answers.forms)
        if weights is not None:
            verdict.label = _likeliest(weights.probabilities)
            verdict.probabilities = weights.probabilities
            verdict.mass = weights.mass
        return verdict


def _broken_up(special: re.Match[str]) -> str:
    """A special token with a zero-width space after its first character."""
    token = special.group()
    return f"{token[0]}\u200b{token[1:]}"


def _parse(response: Response, question: Question, settings: "Settings", verdict: Verdict) -> None:
    """Fill in a verdict from the text of a response."""
    answers = question.answers
    verdict.raw = response.text
    verdict.label = parsing.verdict(response.text, answers.forms, answers.lead)
    if settings.reasoning:
        explanation = parsing.explanation(response.text, answers.lead)
        verdict.explanation = explanation or response.reasoning


def _likeliest(probabilities: Mapping[str, float]) -> str:
    return max(probabilities, key=probabilities.__getitem__)


def _first_token(
    top: Mapping[str, float], forms: Mapping[str, Sequence[str]]
) -> choices.Weights | None:
    """The probabilities of answers from the log-probabilities of the likeliest first tokens.

    An answer that is not among them gets the smallest probability there; None if none is.
    """
    masses = dict.fromkeys(forms, 0.0)
    for token, logprob in top.items():
        label = parsing.begun(token, forms)
        if label is not None:
            masses[label] += math.exp(logprob)
    mass = math.fsum(masses.values())
    if mass == 0.0:
        return None

    smallest = math.exp(min(top.values()))
    bounded = {label: label_mass or smallest for label, label_mass in masses.items()}
    total = math.fsum(bounded.values())
    probabilities = {label: label_mass / total for label, label_mass in bounded.items()}
    return choices.Weights(probabilities, mass)


def _checklist_schema(settings: "Settings", most: int) -> dict[str, Any] | None:
    return parsing.questions_schema(most, LONGEST) if settings.structured else None


def _distinct(answers: Iterable[Answers]) -> list[Answers]:
    return list(dict.fromkeys(answers))


def _tokenizer(settings: "Settings", model: Model) -> Any:
    try:
        return chat.load_tokenizer(model, chat.read_template(settings.chat_template))
    except (OSError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{settings.path}: no judge can be loaded from it ({lines[0]}); give a model directory"
            " or hub id"
        ) from None
