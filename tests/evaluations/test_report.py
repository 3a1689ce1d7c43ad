"""What the report says of evaluations: headline numbers first, native and translated texts apart."""

import pytest
from evaluation_cases import evaluate, value

from mlalign.core import store

pytestmark = pytest.mark.slow

ROWS = {
    "en": [("How much is 2 + 2?", 4), ("How much is 3 + 4?", 7)],
    "es": [("¿Cuánto es 2 + 2?", 4), ("¿Cuánto es 3 + 4?", 7)],
}

# Without `rows` it asks the data's own held-out prompts.
EASY = """
about: {title: held-out prompts, origin: native}
ask: {temperature: 0.0, max_tokens: 16}
scorers: [{family: verifier}]
metrics: {n_bootstrap: 50}
headline: [accuracy]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """`recipe=evaluate` on held-out rows and on a small MGSM."""
    folder = tmp_path_factory.mktemp("report")
    for code, rows in ROWS.items():
        lines = "".join(f"{question}\t{answer}\n" for question, answer in rows)
        (folder / f"mgsm_{code}.tsv").write_text(lines, encoding="utf-8")
    prompts = (
        "data.prompts=[{adapter: tiny_world, split: eval, options: {n: 3, seed: 0}, languages:"
        " [eng_Latn, spa_Latn]}]"
    )
    own = folder / "conf" / "evaluation" / "easy.yaml"
    own.parent.mkdir(parents=True)
    own.write_text(EASY, encoding="utf-8")
    evaluate(
        folder,
        f"conf_dir={folder / 'conf'}",
        "evaluation=[easy,mgsm]",
        f"evaluation.mgsm.root={folder}",
        "evaluation.mgsm.ask.max_tokens=16",
        "evaluation.mgsm.scorers=[{family: verifier}]",
        "languages=[en,es]",
        prompts,
    )
    return folder / "runs" / "evaluate"


def test_each_origin_has_an_average_of_its_own(run):
    content = store.read_json(run / "report" / "report.json")
    told = {
        (row["evaluation"], row["origin"], row["metric"]): row["value"]
        for row in content["headlines"]
    }
    step = run / "steps" / "measure_mgsm[model]"
    assert told == {
        ("easy", "native", "accuracy"): value(
            run / "steps" / "measure_easy[model]", "accuracy", "avg"
        ),
        ("mgsm", "native", "accuracy"): value(step, "accuracy", "eng_Latn"),
        ("mgsm", "human_translated", "accuracy"): value(step, "accuracy", "spa_Latn"),
    }
    assert {row["model"] for row in content["headlines"]} == {"model"}


def test_the_page_begins_with_the_evaluations(run):
    page = (run / "report" / "report.html").read_text(encoding="utf-8")
    assert page.index('id="evaluations"') < page.index('id="recipe"')
    assert "mgsm, human translated, of model" in page
    text = (run / "report" / "report.md").read_text(encoding="utf-8")
    assert text.index("## Evaluations") < text.index("## Results")
    assert "| mgsm | human_translated | accuracy | model |" in text


def test_a_table_holds_numbers_of_one_evaluation(run):
    text = (run / "report" / "report.md").read_text(encoding="utf-8")
    assert (
        "### accuracy by verifier on easy\n" in text
        and "### accuracy by verifier on mgsm\n" in text
    )
    own = text.split("### accuracy by verifier on mgsm\n")[1].split("###")[0]
    assert "measure_mgsm[model]" in own.replace("\\", "") and "measure_easy" not in own.replace(
        "\\", ""
    )


def test_the_samples_are_answers_to_one_set_of_prompts(run):
    page = (run / "report" / "report.html").read_text(encoding="utf-8")
    samples = page[page.index('id="samples-data"') :]
    assert "How much is 2 + 2?" not in samples
