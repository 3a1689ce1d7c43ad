"""The family `judge`: a language model that is asked what it thinks of an answer, in any language,
over any engine.

mode          score
checklist     the share of YES to a checklist that is written for the prompt once (Cook et al. 2024, TICK); in `checklists`
scalar        a whole number on `scale` (1 to 10; `template: additive`: 0 to 5, the five points of Yuan et al. 2024, Self-Rewarding)
reference     the same, by agreement with the row's reference
pairwise      the share of comparisons won within the row, a tie counting half; each pair is asked in both orders, and orders that
              disagree make a tie: n(n-1) questions for n answers, 2(n-1) with `against: first`, 2n
              with `against: reference`, which compares every answer with the one stored as its
              row's reference
yes_no        the probability of Yes against No at the answer's first token, or with `output: logit` the log-odds

Engines that take tokens (vllm, transformers) say at most an explanation; the verdict is the most
probable of the allowed answers (`reward_models.judging.choices`), so it always parses, and with
`expectation` the score is the mean under their probabilities. A server (openai) is asked for JSON
of a schema (`structured: false`: free text) and may still say something else.

None, with a flag that is counted: `unparsed` (some verdict did not parse; None if none did),
`too_long` (for the context: nothing is ever cut), `not_finite` (the model gives NaN), `no_rubric`
(`rubric: row` in a language without phrases), `no_reference`, `no_checklist` (none could be
written), `alone` (nothing in the row to compare with). Flags that only tell: `special_tokens` (a
text tried to write one; it was made plain text), `positions_disagree`. Columns: `answer_mass`, the
probability that the judge gave the allowed answers before all others were forbidden;
`position_disagreement`, the share of an answer's comparisons in which the orders disagree;
`comparisons`; `checks`.
Texts: `verdict`, and `explanation` with `reasoning`.

The phrases in languages other than English were translated by a machine and checked by nobody
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

WIDEST = 100  # of a scale: vLLM tells the probabilities of at most 128 tokens
# mode -> what carries it out, and the template of its questions
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
    path: str | None = (
        None  # directory or hub id of the judge; not needed where engine.served_model names it
    )
    revision: str | None = None
    engine: dict = dataclasses.field(
        default_factory=dict
    )  # as mlalign.models.engine.EngineConfig: {name: vllm|transformers|openai, …}
    mode: Literal["checklist", "scalar", "reference", "pairwise", "yes_no"] = "checklist"
    rubric: str = "english"  # language of the questions: english, row (each row's own), or a code
    template: str | None = (
        None  # `additive`, or a Jinja file of yours (.j2) in place of the mode's own
    )
    criteria: str | None = None  # what to judge by above all, in the rubric's language
    scale: list | None = None  # [lowest, highest], whole numbers
    reasoning: bool = False  # explain first
    samples: int = 1  # explanations whose verdicts are averaged
    temperature: float = 0.0  # of explanations; 0: greedy
    expectation: bool = (
        False  # score with the probabilities of the answers, not the most probable one
    )
    output: Literal["probability", "logit"] = "probability"  # yes_no
    # pairwise: all pairs, each answer with the row's first, or with the answer that is its
    #     reference
    against: Literal["all", "first", "reference"] = "all"
    ties: bool = True  # pairwise: the judge may call a tie
    structured: bool = True  # false: read verdicts from free text
    checklists: str | None = (
        # file that keeps checklists (JSONL, only ever appended to); by default they last as long as
        # the process
        None
    )
    max_questions: int = 6  # of a checklist
    max_tokens: int = 512  # of an explanation or a checklist
    max_length: int | None = (
        None  # tokens of prompt and answer together; by default what the model was built for
    )
    chat_template: str | None = (
        # file of Jinja text, the text, or the name of one of the tokenizer's, in place of its own
        None
    )
    chat_template_kwargs: dict = dataclasses.field(
        default_factory=dict
    )  # such as {enable_thinking: false}
    date: str = DATE  # what a template that writes the date writes
    seed: int = 0  # mixed into the seed of every sample

    @property
    def limits(self) -> tuple[int, int]:
        """The lowest and the highest number of the scale."""
        low, high = self.scale or ([0, 5] if self.template == ADDITIVE else [1, 10])
        return low, high

    @property
    def tells_mass(self) -> bool:
        """Whether probabilities of answers are known: engines of tokens tell them, a server only
        those of its first token.
        """
        return self.mode == "yes_no" or (
            self.takes_tokens and self.structured and self.mode != "pairwise"
        )

    @property
    def takes_tokens(self) -> bool:
        return engine.ENGINES[self.engine.get("name", "vllm")].takes == "tokens"

    @property
    def reads_probabilities(self) -> bool:
        """Whether the probabilities of all answers are wanted, not only the most probable answer."""
        return self.expectation or self.mode == "yes_no"

    @staticmethod
    def problems(values: Mapping[str, Any], key: str) -> list[str]:
        """What names and types do not say."""
        try:
            engine.configured(values.get("engine", {}), f"{key}.engine")
            prompts.rubric(values.get("rubric", "english"))
        except UserError as error:
            return [m if m.startswith(key) else f"{key}.{m}" for m in error.messages]
        own = [*_scale(values), *_combination(Settings(**values)), *setting_problems(values)]
        return [f"{key}.{m}" for m in own]


def _scale(values: Mapping[str, Any]) -> list[str]:
    scale = values.get("scale")
    whole = scale is None or (
        len(scale) == 2
        and all(type(n) is int for n in scale)
        and 0 <= scale[0] < scale[1] <= scale[0] + WIDEST
    )
    return (
        []
        if whole
        else [
            f"scale: expected [lowest, highest], whole numbers from 0 on and at most {WIDEST}"
            f" apart, got {scale}"
        ]
    )


def _combination(s: Settings) -> list[str]:
    found = [
        f"{name}: must be above 0, got {getattr(s, name)}"
        for name in ("samples", "max_questions", "max_tokens")
        if getattr(s, name) < 1
    ]
    if s.temperature < 0:
        found.append(f"temperature: must be 0 or above, got {s.temperature}")
    if (
        s.template
        and not s.template.endswith(".j2")
        and (s.template != ADDITIVE or s.mode != "scalar")
    ):
        found.append(
            f"template: {s.template!r} is not possible{nearest(s.template, [ADDITIVE])} (with mode:"
            " scalar); a file of yours ends in .j2"
        )
    if s.samples > 1 and not (s.reasoning and s.temperature > 0):
        found.append(
            "samples: more than 1 needs reasoning: true and a temperature above 0; the exact mean"
            " without reasoning is expectation: true"
        )
    if s.expectation and not (s.takes_tokens and s.structured):
        found.append(
            "expectation: needs engine.name vllm or transformers and structured: true: servers do"
            " not tell the probabilities of answers"
        )
    if s.mode == "yes_no" and not s.structured:
        found.append("structured: mode yes_no reads probabilities, not text; leave it true")
    if s.mode == "yes_no" and s.reasoning and not s.takes_tokens:
        found.append(
            "reasoning: mode yes_no reads the first token of a server's answer; set reasoning:"
            " false, or another mode"
        )
    if s.path is None and s.takes_tokens:
        found.append("path: missing; give the judge's model directory or hub id")
    return found


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
        texts, template = prompts.Prompts(code, values), prompts.template(settings.template or name)
        _try(texts, template)
        self._asker = asking.open_asker(settings, engine.configured(settings.engine))
        self._mode = kind(settings, self._asker, texts, template)

    def __call__(self, items: Sequence[Item]) -> Scores:
        return self._mode(items)

    def close(self) -> None:
        self._asker.close()


def prepare(settings: Settings) -> Judge:
    """Open the engine on the judge.

    Raises: UserError for a template, a model or an engine that does not do.
    """
    if (
        settings.path is not None
        and settings.path.startswith(("/", ".", "~"))
        and not Path(settings.path).expanduser().is_dir()
    ):
        raise UserError(f"path: there is no directory {settings.path}")
    return Judge(settings)


def _try(texts: prompts.Prompts, template: Any) -> None:
    """Render once before a model is loaded, so that a mistake in a template is told at once."""
    code = prompts.ENGLISH if texts.rubric == prompts.ROW else texts.rubric
    item = Item("a trial", [{"role": "user", "content": "?"}], "!", code)
    texts.text(
        template, item, code, answer="!", answer_a="!", answer_b="?", reference="!", check="?"
    )
