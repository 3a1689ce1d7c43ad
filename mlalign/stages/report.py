"""What a run did and what came out: one HTML file to read, and the same as Markdown, JSON and CSV.

Reads the manifests of all steps (slot `steps`), the tables of their metrics and the logs of their
training; for evaluated answers and pairs also scores and lengths; for the samples in `report.html`
also texts (those of a source marked `sensitive` only if asked to). Writes `report.html`
(self-contained: no network), `report.md` and `report.json` (neither has the text of a row), and
`metrics.csv` (all tables, with the step in front). Everything but the times is a pure
function of what the steps contain. Absolute paths are cut to their last part.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from mlalign.core.schema import what
from mlalign.core.stage import Inputs, Output
from mlalign.core.store import Artifact, write_json

VERSION = 2
KIND = "report"
SLOTS = {"steps": "any*"}
SHARDED = None
DISTRIBUTED = False


@dataclasses.dataclass
class Config:
    title: str = what("", "heading of the report; by default the name of the run")
    digits: int = what(3, "decimals in the tables; percentages have two fewer")
    samples_per_language: int = what(
        100, "prompts per language whose answers are shown side by side; 0: none"
    )
    sample_characters: int = what(1500, "longer texts are clipped in the samples")
    sensitive: Literal["omit", "hide"] = what(
        "omit",
        "texts of sensitive sources: leave them out of the file, or hide them behind a click",
    )


def run(cfg: Config, inputs: Inputs, out: Output) -> None:
    from mlalign.evidence import collect, html, markdown, measures, samples
    from mlalign.methods.metrics import table

    steps = collect.Steps(step for step in inputs.all("steps") if isinstance(step, Artifact))
    content = collect.gather(steps, out.run)
    shown = collect.of_one_evaluation(content)
    content["distributions"] = measures.distributions(steps, shown)
    title = cfg.title or _default_title(content, out)

    write_json(out.path / "report.json", content)
    text = markdown.page(content, title, cfg.digits)
    (out.path / "report.md").write_text(text, encoding="utf-8")
    metrics = table.to_csv(content["metrics"], ("step", *table.COLUMNS))
    (out.path / "metrics.csv").write_text(metrics, encoding="utf-8")

    hide = cfg.sensitive == "hide"
    content["samples"] = samples.samples(
        steps, shown, cfg.samples_per_language, cfg.sample_characters, hide=hide
    )
    page = html.page(content, title, cfg.digits)
    (out.path / "report.html").write_text(page, encoding="utf-8")


def _default_title(content: Mapping[str, Any], out: Output) -> str:
    """The name of the run, and in a sweep the variant's settings: `beta=0.05`."""
    variant = out.run.get("step", out.step).removeprefix(out.step).strip("[]")
    words = [word for word in (content["run"].get("name"), variant) if word]
    return " ".join(words) or "Report"
