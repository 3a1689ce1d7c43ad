"""Values as text that a person reads: numbers, names of languages, and cut paths."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mlalign.core import languages
from mlalign.methods.metrics import AVERAGE, GAP, WORST

CODE = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}(_([A-Z]{2}|\d{3}))?")
MISSING = "–"

SUMMARY_NAMES = {AVERAGE: "average", WORST: "lowest", GAP: "gap to English"}
# metric -> (its name, whether it is a share, which is written as a percentage). Any other metric
# keeps its name and decimals.
METRICS = {
    "win_rate": ("Win rate over the start", True),
    "win_rate_lc": ("Win rate over the start, length-controlled", True),
    "stored_win_rate": ("Win rate over the stored answers", True),
    "stored_win_rate_lc": ("Win rate over the stored answers, length-controlled", True),
    "accuracy": ("Right answers", True),
    "adherence": ("Answers in the requested language", True),
    "selected_accuracy": ("Right answers, best of n by the reward model", True),
    "oracle_accuracy": ("Right answers, best of n by the truth", True),
    "reward_accuracy": ("Reward model prefers the better answer", True),
    "reward_ties": ("Reward model cannot tell two answers apart", True),
    "reward_agreement": ("Reward model judges as it does in English", True),
    "reward_kappa": ("Reward model's agreement with English, kappa", False),
    "rewardbench": ("RewardBench score", True),
    "rewardbench_with_prior": ("RewardBench score with prior sets", True),
    "rewardbench_2": ("RewardBench 2 score", True),
    "line_share": ("Lines in the requested language", True),
    "word_share": ("Words in the requested script", True),
    "line_pass": ("Answers without a line in another language", True),
    "word_pass": ("Answers without a foreign word", True),
    "lcpr": ("Language confusion pass rate (LCPR)", True),
    "right_in_language": ("Right, in the requested language", True),
    "right_elsewhere": ("Right, in another language", True),
    "wrong_in_language": ("Wrong, in the requested language", True),
    "wrong_elsewhere": ("Wrong, in another language", True),
    "adherence_of_right": ("Requested language among right answers", True),
    "coco_cola": ("Requested language over English among right answers", True),
    "consistency": ("As right or wrong as in English", True),
    "consistency_kappa": ("Agreement with English, kappa", False),
    "consistency_all": ("Right or wrong in all languages at once", True),
    "tokens": ("Length in tokens", False),
    "characters": ("Length in characters", False),
    "bytes": ("Length in bytes", False),
    "content_bytes": ("Length in bytes, per byte premium", False),
    "byte_premium": ("Byte premium against English", False),
    "tokens_per_character": ("Tokens per character", False),
    "truncated": ("Answers cut off", True),
    "acc": ("Accuracy (lm-eval)", True),
    "acc_norm": ("Accuracy by normalised length (lm-eval)", True),
    "exact_match": ("Exact match (lm-eval)", True),
}
# Paired differences.
OVER = {
    "_over_baseline": "gain over the start",
    "_over_control": "gain over the control",
}


def parted(metric: str) -> tuple[str, str]:
    """(the metric, what it is over): `accuracy_over_baseline` is over the start."""
    for suffix, over in OVER.items():
        if metric.endswith(suffix):
            return metric.removesuffix(suffix), over
    return metric, ""


def metric_name(metric: str, by: str = "") -> str:
    """`accuracy` as a person says it, with the score column it was measured by."""
    plain, over = parted(metric)
    key, _, _ = plain.partition(",")  # of a harness: the metric, then its filter
    if key in METRICS:
        name = METRICS[key][0] + plain.removeprefix(key)
    else:
        name = plain.replace("_", " ")
    if over:
        name += f": {over}"
    return f"{name} (by {by})" if by else name


def is_share(metric: str) -> bool:
    plain, _ = parted(metric)
    key, _, _ = plain.partition(",")
    return key in METRICS and METRICS[key][1]


def number(
    value: float | None,
    metric: str = "",
    digits: int = 3,
) -> str:
    """A measured value with `digits` decimals, gains signed.

    Shares of known metrics are in percent, with two decimals fewer.
    """
    if value is None:
        return MISSING
    _, over = parted(metric)
    if over:
        return change(value, metric, digits)
    text = f"{value:.{digits}f}"
    if is_share(metric):
        text = f"{100 * value:.{max(digits - 2, 0)}f}%"
    return text.replace("-", "−")


def change(
    value: float | None,
    metric: str = "",
    digits: int = 3,
) -> str:
    """A difference with its sign; of shares in percentage points."""
    if value is None:
        return MISSING
    text = f"{value:+.{digits}f}"
    if is_share(metric):
        text = f"{100 * value:+.{max(digits - 2, 0)}f} pp"
    return text.replace("-", "−")


def count(value: float) -> str:
    """`12,345`; fractions keep three decimals."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.3f}"


def seconds(value: float) -> str:
    """`4.2 s`, `3 min 05 s`, `2 h 07 min`."""
    whole = round(value)
    if whole < 100:
        return f"{value:.1f} s"
    minutes, rest = divmod(whole, 60)
    if whole < 6000:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


@cache
def language(code: str) -> str:
    """`Swahili` for `swh_Latn`, `average` for `avg`; what is neither stays as it is."""
    if code in SUMMARY_NAMES:
        return SUMMARY_NAMES[code]
    return languages.english_name(code) if is_language(code) else code


def source_of(column: str) -> str:
    """The training language in a score column's name: `swh_Latn` of `reward[swh_Latn]`.

    A name without one stays as it is.
    """
    match = re.search(r"\[(.+)\]$", column)
    return match[1] if match else column


def is_language(code: str) -> bool:
    """Whether a row of a table stands for a language, and not for a summary or another group."""
    return bool(CODE.fullmatch(code))


@cache
def lang_tag(code: str | None) -> str:
    """The value of an HTML `lang` attribute, which chooses fonts: `zh-Hans`.

    `und` for what is no code.
    """
    if not code or not is_language(code):
        return "und"
    from langcodes import standardize_tag

    return standardize_tag(code.replace("_", "-"), macro=True)


def public(value: Any) -> Any:
    """The value with every absolute path in it cut to its last part."""
    if isinstance(value, Mapping):
        return {key: public(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [public(part) for part in value]
    if isinstance(value, str) and value.startswith(("/", "~")):
        return Path(value).name
    return value
