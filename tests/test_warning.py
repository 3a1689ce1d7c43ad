"""Warnings: from counts and from stages into the manifest, and from there first into run, status
and report.
"""

import pytest

from mlalign import stages
from mlalign.core import stage, store
from mlalign.core.store import Tally
from mlalign.evidence import collect, html, markdown
from mlalign.running import step, warning


def tally(rows_=None, dropped=None, sums=None) -> Tally:
    return Tally({"rows": rows_ or {}, "dropped": dropped or {}, "sums": sums or {}})


def warnings_of(stage_name, counted) -> list[str]:
    return warning.of_tally(stages.load(stage_name).ALARMS, counted)


def test_shares_above_a_half_are_told_by_language():
    counted = tally(
        {"eng_Latn": 4, "swh_Latn": 4},
        sums={"responses": {"eng_Latn": 8, "swh_Latn": 8}, "empty": {"eng_Latn": 4, "swh_Latn": 5}},
    )
    (told,) = warnings_of("generate", counted)
    assert told.startswith("5 of 8 in swh_Latn answers are empty; look at")


def test_dropped_rows_are_told_with_their_reason_and_mend():
    counted = tally({"eng_Latn": 1}, {"equal_sides": {"eng_Latn": 3}})
    (told,) = warnings_of("preference", counted)
    assert told.startswith(
        "3 of 4 in eng_Latn rows were dropped (equal_sides); both sides become the same tokens:"
        " raise max_length"
    )
    assert warnings_of("prepare", counted) == []


def test_a_source_of_mostly_empty_answers_is_told():
    (told,) = warnings_of("prepare", tally({"eng_Latn": 1}, {"empty_text": {"eng_Latn": 11}}))
    assert (
        told == "11 of 12 in eng_Latn rows were dropped (empty_text); look at the source's columns"
    )
    assert warnings_of("prepare", tally({"eng_Latn": 6}, {"empty_text": {"eng_Latn": 6}})) == []


def test_many_languages_share_a_warning():
    languages = [f"l{i}" for i in range(9)]
    counted = tally(
        sums={"responses": dict.fromkeys(languages, 2), "truncated": dict.fromkeys(languages, 2)}
    )
    (told,) = warnings_of("generate", counted)
    assert "2 of 2 in l3 and in 5 more languages answers were cut off at max_tokens" in told


def test_nothing_counted_is_no_warning():
    assert (
        warnings_of("generate", tally({"eng_Latn": 2}, sums={"responses": {"eng_Latn": 2}})) == []
    )


@pytest.fixture(scope="module")
def warned(tmp_path_factory):
    """A finished step with a warning of its own and one from its counts."""
    root = tmp_path_factory.mktemp("warned")
    out = stage.Output(root / "generate-test.partial", store.Store(root), "answers")
    out.path.mkdir()
    (out.path / "config.yaml").write_text("config: {}\n")
    out.tally.add("responses", "eng_Latn", 2)
    out.tally.add("empty", "eng_Latn", 2)
    out.notes["started"] = 0.0
    out.warn("its own <b>words</b>")
    out.warn("its own <b>words</b>")
    told = {
        "step": "answers",
        "stage": "generate",
        "fingerprint": "test",
        "config": {},
        "inputs": {},
    }
    return step._publish(told, out)


def test_the_manifest_keeps_each_once(warned):
    told = store.read_json(warned / "manifest.json")["warnings"]
    assert (
        told[0] == "its own <b>words</b>"
        and len(told) == 2
        and "2 of 2 in eng_Latn answers are empty" in told[1]
    )


def test_status_says_them_of_a_finished_step(warned):
    from mlalign.cli.commands.standing import Standing, _finished

    standing = Standing("answers", "generate", warned.name, None, "")
    _finished(standing, store.read_json(warned / "manifest.json"))
    assert standing.state == "done" and standing.why.startswith("warning: its own")


def test_the_report_begins_with_them(warned):
    content = collect.gather(
        collect.Steps([store.Artifact(warned, "answers")]), {"name": "n", "recipe": "r"}
    )
    assert [w["step"] for w in content["warnings"]] == ["answers", "answers"]
    text = markdown.page(content, "title", 3)
    assert text.index("## Warnings") < text.index("## Steps") and "its own &lt;b&gt;words" in text
    page = html.page({**content, "samples": None, "distributions": []}, "title", 3)
    assert page.index("its own &lt;b&gt;words") < page.index("<nav")
