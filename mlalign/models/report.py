"""Whether a class of transformers is what a model's files say. Pure: names in, a message out.

stated     the classes that `architectures` in config.json names; empty in some old checkpoints
loaded     the class that transformers would make of the weights
missing    weights of that class that the files lack: they would be drawn at random
unexpected weights in the files that the class has no use for: what they do would be left out
mismatched weights of another shape in the files than in the class
"""

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

# Buffers that older versions of transformers saved, which newer ones compute: rotary frequencies,
# positions, causal masks.
COMPUTED = re.compile(
    r"(^|\.)(rotary_emb\.inv_freq|position_ids|attn\.(masked_)?bias|attention\.(masked_)?bias)$"
)
HEAD = re.compile(r"(^|\.)(score|classifier|classification_head|out_proj)\.(weight|bias)$")
TOKENS = "ForTokenClassification"
NEVER_RUN = "code from a model's repository is never run"


class Report(NamedTuple):
    """How the weights in a model's files fit a class of transformers; `loaded` is its name."""

    loaded: str
    missing: frozenset[str]
    unexpected: frozenset[str]
    mismatched: frozenset[str]
    prefix: str = ""  # of the names of everything but the head


class Stated(NamedTuple):
    """The classes that config.json names, and which of them transformers has (`stock`).

    `of_task`: the classes that transformers has for this model type and task.
    """

    names: list[str]
    stock: Collection[str]
    of_task: Collection[str]


def custom_class(path: str, stated: Stated, loaded: str, files: Iterable[str] = ()) -> str | None:
    """A message if config.json names no class of transformers; `files`: Python files beside it."""
    if not stated.names or _names_any(stated.names, [*stated.stock, loaded]):
        return None
    code = ", ".join(files)
    if code:
        code = f" ({code})"
    return (
        f"{path}/config.json: the model is a {stated.names[0]}, which is no class of transformers:"
        f" it needs its own code{code}, and {NEVER_RUN}. Take a model of a stock class; if {loaded}"
        f' is what it really is, write "architectures": ["{loaded}"] into a copy of config.json'
    )


def _names_any(names: Iterable[str], classes: Iterable[str]) -> bool:
    """Whether one of the names is one of the classes, in upper or lower case."""
    known = {name.casefold() for name in classes}
    return any(name.casefold() in known for name in names)


def problem(
    path: str,
    report: Report,
    stated: Stated,
    lacking: Collection[str],
    unexplained: Collection[str],
    adapter: str | None = None,
) -> str | None:
    """What is wrong with reading a model's files as `report.loaded`; None if that is what they are.

    `lacking`: missing or mismatched weights that come from elsewhere (an adapter, a new head).
    `unexplained`: weights that the stated class has no use for either. They count where a head is
    replaced, since the old head is left out on purpose. `adapter`: the path of one that stands on
    this model.
    """
    missing = sorted(report.missing - set(lacking))
    if missing:
        base = path if adapter else None
        return (
            f"{adapter or path}: holds no weights for {some(missing)}{_instead(report)}: newly"
            f" initialised weights score nothing; {_complete(report, missing, base)}"
        )
    mismatched = sorted(report.mismatched - set(lacking))
    if mismatched:
        return (
            f"{path}: config.json says another shape of {some(mismatched)} than the weights have:"
            " the two do not belong together; fetch both again"
        )
    if not lacking:
        message = _another_class(path, report, stated)
        if message:
            return message
    unexpected = unexplained if lacking else report.unexpected
    unused = sorted(name for name in unexpected if not COMPUTED.search(name))
    if unused:
        return (
            f"{path}: its weights hold {some(unused)}, which {report.loaded} does not use: what the"
            " model does with them would be left out. Take a model whose class has them, or remove"
            " weights that its authors do not use either"
        )
    return None


def _another_class(path: str, report: Report, stated: Stated) -> str | None:
    """A message if config.json names only classes for another task."""
    if not stated.names or _names_any(stated.names, [report.loaded, *stated.of_task]):
        return None
    if any(name.endswith(TOKENS) for name in stated.names):
        return (
            f"{path}/config.json: the model is a {stated.names[0]}, which gives values to single"
            " tokens (as process reward models do to steps), not one to an answer; it cannot be"
            " used here"
        )
    return (
        f"{path}/config.json: the model is a {', '.join(stated.names)}, and here it would be a"
        f" {report.loaded}; take a model that was saved as one. If that is what it really is, write"
        f' "architectures": ["{report.loaded}"] into a copy of config.json'
    )


def _instead(report: Report) -> str:
    """The head that the file has instead of the missing one (OpenRLHF calls it value_head)."""
    heads = []
    for name in sorted(report.unexpected):
        if "head" in name and not name.startswith(f"{report.prefix}."):
            heads.append(name)
    if not heads:
        return ""
    return f" (but {some(heads)}, which {report.loaded} does not know)"


def _complete(report: Report, missing: Iterable[str], base: str | None) -> str:
    """What to do about missing weights; `base` is that of an adapter which should bring them."""
    if "SequenceClassification" not in report.loaded:
        return "give a complete causal language model"
    if base is None:
        return f"give a model that was saved whole as a sequence classifier ({report.loaded})"
    modules = sorted({name.removeprefix(f"{report.prefix}.").split(".")[0] for name in missing})
    return (
        f"its base {base} has none either; save the adapter with its whole head:"
        f" modules_to_save={modules}"
    )


def some(names: Iterable[str], most: int = 4) -> str:
    """The first names, with an ellipsis if there are more."""
    names = list(names)
    if len(names) > most:
        names = [*names[:most], "…"]
    return ", ".join(names)


def of_quantised(report: Report) -> Report:
    """What a report says of the head: quantised weights have other names and shapes elsewhere."""
    missing = frozenset(filter(HEAD.search, report.missing))
    unexpected = frozenset(filter(HEAD.search, report.unexpected))
    return Report(report.loaded, missing, unexpected, frozenset(), report.prefix)
