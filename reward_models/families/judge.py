"""The family `judge`: asks a language model, over any engine, what it thinks of an answer.

mode        score
checklist   the share of YES to a checklist that is written once per prompt (Cook et al. 2024,
            TICK) and kept in the file `checklists`
scalar      a whole number on `scale`: 1 to 10, or with `template: additive` 0 to 5, the five points
            of Yuan et al. 2024, Self-Rewarding
reference   the same, by agreement with the row's reference
pairwise    the share of comparisons won within the row; a tie counts half. Each pair is asked in
            both orders; if these disagree, it is a tie. n answers take n(n-1) questions; with
            `against: first` 2(n-1); with `against: reference`, which compares every answer with its
            row's reference, 2n
yes_no      the probability of Yes against No at the answer's first token, or with `output: logit`
            the log-odds

With engines that take tokens (vllm, transformers), the judge writes an explanation at most; the
verdict is the most probable of the allowed answers (`reward_models.judging.choices`), so it always
parses, and with `expectation` the score is the mean under their probabilities. A server (openai) is
asked for JSON of a schema (`structured: false`: free text) and may still answer something else.

The score is None, with a flag: `unparsed` (no verdict parsed; the flag alone if some did not),
`too_long` for the context (nothing is ever cut), `not_finite` (the model gives NaN), `no_rubric`
(`rubric: row` in a language without phrases), `no_reference`, `no_checklist` (none could be
written), `alone` (nothing in the row to compare with). Flags that do not change the score:
`special_tokens` (a text tried to write one; it became plain text), `positions_disagree`.

Columns: `answer_mass`, the probability that the judge gave the allowed answers before all others
were forbidden; `position_disagreement`, the share of an answer's comparisons in which the orders
disagree; `comparisons`; `checks`. Texts: `verdict`, and `explanation` with `reasoning`.

The phrases in languages other than English are machine translations that nobody has checked
(`translated_by` in `reward_models/prompts/phrases/`): compare with `rubric: english` before you
rely on them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mlalign.core.errors import UserError, nearest
from mlalign.models import engine
from mlalign.models.templates import DATE, setting_problems
from reward_models.items import Item, Scores
from reward_models.judging import asking, prompts
from reward_models.judging.checklist import Checklist
from reward_models.judging.grading import Grading
from reward_models.judging.pairwise import Pairwise

WIDEST = 100  # of a scale: vLLM returns the probabilities of at most 128 tokens
# mode -> the class that carries it out, and the template of its questions
MODES: dict[str, tuple[type[Grading] | type[Pairwise] | type[Checklist], str]] = {
    "checklist": (Checklist, "check"),
    "scalar": (Grading, "scalar"),
    "reference": (Grading, "reference"),
    "pairwise": (Pairwise, "pairwise"),
    "yes_no": (Grading, "yes_no"),
}
ADDITIVE = "additive"


@dataclasses.dataclass(frozen=True)
class Settings:
    # directory or hub id of the judge; not needed where engine.served_model names it
    path: str | None = None
    revision: str | None = None
    # as mlalign.models.engine.EngineConfig: {name: vllm|transformers|openai, …}
    engine: dict = dataclasses.field(default_factory=dict)
    mode: Literal["checklist", "scalar", "reference", "pairwise", "yes_no"] = "checklist"
    rubric: str = "english"  # language of the questions: english, row (each row's own), or a code
    # `additive`, or a Jinja file of yours (.j2) in place of the mode's own
    template: str | None = None
    criteria: str | None = None  # what to judge by above all, in the rubric's language
    scale: list | None = None  # [lowest, highest], whole numbers
    reasoning: bool = False  # explain first
    samples: int = 1  # explanations whose verdicts are averaged
    temperature: float = 0.0  # of explanations; 0: greedy
    # score with the probabilities of the answers, not the most probable one
    expectation: bool = False
    output: Literal["probability", "logit"] = "probability"  # yes_no
    # pairwise: all pairs, or each answer with the row's first or with its reference
    against: Literal["all", "first", "reference"] = "all"
    ties: bool = True  # pairwise: the judge may call a tie
    structured: bool = True  # false: read verdicts from free text
    # file that keeps checklists (JSONL, only ever appended to); by default they last as long as the
    # process
    checklists: str | None = None
    max_questions: int = 6  # of a checklist
    max_tokens: int = 512  # of an explanation or a checklist
    # tokens of prompt and answer together; by default what the model was built for
    max_length: int | None = None
    # the name of one of the tokenizer's templates, a file of Jinja text, or the text
    chat_template: str | None = None
    # such as {enable_thinking: false}
    chat_template_kwargs: dict = dataclasses.field(default_factory=dict)
    date: str = DATE  # for chat templates that write the date
    seed: int = 0  # mixed into the seed of every sample

    @property
    def limits(self) -> tuple[int, int]:
        """The lowest and the highest number of the scale."""
        if self.scale:
            low, high = self.scale
            return low, high
        return (0, 5) if self.template == ADDITIVE else (1, 10)

    @property
    def tells_mass(self) -> bool:
        """Whether the probabilities of answers are known.

        Engines that take tokens return them; a server only those of its first token.
        """
        if self.mode == "yes_no":
            return True
        return self.takes_tokens and self.structured and self.mode != "pairwise"

    @property
    def takes_tokens(self) -> bool:
        return engine.ENGINES[self.engine.get("name", "vllm")].takes == "tokens"

    @property
    def reads_probabilities(self) -> bool:
        """Whether the probabilities of all answers are needed, not only the most probable one."""
        return self.expectation or self.mode == "yes_no"

    @staticmethod
    def problems(values: Mapping[str, Any], key: str) -> list[str]:
        """What names and types do not say."""
        try:
            engine.configured(values.get("engine", {}), f"{key}.engine")
            prompts.rubric(values.get("rubric", "english"))
        except UserError as error:
            messages = []
            for message in error.messages:
                has_key = message.startswith(key)
                messages.append(message if has_key else f"{key}.{message}")
            return messages
        settings = Settings(**values)
        own = [
            *_scale_problems(values.get("scale")),
            *_number_problems(settings),
            *_combination_problems(settings),
            *setting_problems(values),
        ]
        return [f"{key}.{message}" for message in own]


def _scale_problems(scale: list | None) -> list[str]:
    if scale is None:
        return []
    if len(scale) == 2 and all(type(n) is int for n in scale):
        low, high = scale
        if 0 <= low < high <= low + WIDEST:
            return []
    return [
        f"scale: expected [lowest, highest], whole numbers from 0 on and at most {WIDEST}"
        f" apart, got {scale}"
    ]


def _number_problems(settings: Settings) -> list[str]:
    messages = []
    for name in ("samples", "max_questions", "max_tokens"):
        number = getattr(settings, name)
        if number < 1:
            messages.append(f"{name}: must be above 0, got {number}")
    if settings.temperature < 0:
        messages.append(f"temperature: must be 0 or above, got {settings.temperature}")
    return messages


def _combination_problems(settings: Settings) -> list[str]:
    """Settings that exclude one another, as messages."""
    messages = []
    template = settings.template or ""
    is_additive = template == ADDITIVE and settings.mode == "scalar"
    if template and not template.endswith(".j2") and not is_additive:
        messages.append(
            f"template: {template!r} is not possible{nearest(template, [ADDITIVE])} (with mode:"
            " scalar); a file of yours ends in .j2"
        )
    if settings.samples > 1 and not (settings.reasoning and settings.temperature > 0):
        messages.append(
            "samples: more than 1 needs reasoning: true and a temperature above 0; the exact mean"
            " without reasoning is expectation: true"
        )
    if settings.expectation and not (settings.takes_tokens and settings.structured):
        messages.append(
            "expectation: needs engine.name vllm or transformers and structured: true: servers do"
            " not tell the probabilities of answers"
        )
    if settings.mode == "yes_no" and not settings.structured:
        messages.append("structured: mode yes_no reads probabilities, not text; leave it true")
    if settings.mode == "yes_no" and settings.reasoning and not settings.takes_tokens:
        messages.append(
            "reasoning: mode yes_no reads the first token of a server's answer; set reasoning:"
            " false, or another mode"
        )
    if settings.path is None and settings.takes_tokens:
        messages.append("path: missing; give the judge's model directory or hub id")
    return messages


class Judge:
    """An opened judge: items in, scores out. `close` gives the engine back."""

    def __init__(self, settings: Settings):
        kind, name = MODES[settings.mode]
        code = prompts.rubric(settings.rubric)
        low, high = settings.limits
        values = {
            "low": low,
            "high": high,
            "criteria": settings.criteria,
            "reasoning": settings.reasoning,
            "ties": settings.ties,
            "max_questions": settings.max_questions,
        }
        texts = prompts.Prompts(code, values)
        template = prompts.template(settings.template or name)
        _check_renders(texts, template)
        self._asker = asking.open_asker(settings, engine.configured(settings.engine))
        self._mode = kind(settings, self._asker, texts, template)

    def __call__(self, items: Sequence[Item]) -> Scores:
        return self._mode(items)

    def close(self) -> None:
        self._asker.close()


def prepare(settings: Settings) -> Judge:
    """Open the engine on the judge.

    Raises: UserError for a template, a model or an engine that cannot be used.
    """
    path = settings.path or ""
    is_local = path.startswith(("/", ".", "~"))
    if is_local and not Path(path).expanduser().is_dir():
        raise UserError(f"path: there is no directory {path}")
    return Judge(settings)


def _check_renders(texts: prompts.Prompts, template: Any) -> None:
    """Render once before a model is loaded, so that a mistake in a template is reported at once."""
    code = prompts.ENGLISH if texts.rubric == prompts.ROW else texts.rubric
    item = Item("a trial", [{"role": "user", "content": "?"}], "!", code)
    texts.text(
        template, item, code, answer="!", answer_a="!", answer_b="?", reference="!", check="?"
    )
