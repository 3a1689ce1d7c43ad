"""The page as a file: valid, self-contained, with the sections that its data calls for."""

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest
from reporting_cases import HOSTILE, before_and_after

from mlalign.core import store
from mlalign.core.visible import visible
from mlalign.evidence import html


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("page")
    run = before_and_after(
        root / "store",
        ["eng_Latn", "arb_Arab", "cmn_Hans"],
        8,
        lambda code, i, when: f"{when} {i} {code}",
    )
    return run.report(root / "report")


def section_ids(text: str) -> list[str]:
    return re.findall(r'<section id="(\w+)"', text)


@pytest.mark.slow
def test_sections_follow_the_data(files, tmp_path):
    expected = [
        "recipe",
        "results",
        "breakdown",
        "consistency",
        "confusion",
        "samples",
        "distributions",
        "training",
        "dropped",
        "provenance",
    ]
    assert section_ids((files / "report.html").read_text()) == expected
    content = json.loads((files / "report.json").read_text())
    bare = content | {
        "evaluations": [],
        "metrics": [],
        "curves": [],
        "distributions": [],
        "confusion": [],
        "breakdown": [],
        "consistency": [],
    }
    page = html.page(bare, "bare", 3)
    assert section_ids(page) == ["recipe", "dropped", "provenance"]
    assert "measured nothing that can be averaged" in page


@pytest.mark.slow
def test_valid_html(files):
    html5lib = pytest.importorskip("html5lib")
    html5lib.HTMLParser(strict=True).parse((files / "report.html").read_text())


def test_nothing_from_a_network(files):
    text = (files / "report.html").read_text()
    assert not re.search(r"""(src|href|action|url)\s*[=(]\s*["']?(?!#)[a-z/]""", text, re.I)
    assert "@import" not in text


def test_policy_allows_exactly_the_scripts_and_styles_of_the_file(files):
    text = (files / "report.html").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1].replace("&#39;", "'")
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        inline = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.S)
        digests = [
            "sha256-" + base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()
            for s in inline
        ]
        assert len(inline) == 1
        assert f"{directive} '{digests[0]}';" in policy + ";"
    assert policy.startswith("default-src 'none';")
    assert not re.search(
        r"<[^>]+\s(on\w+|style)=", re.sub(r"<(script|style).*?</\1>", "", text, flags=re.S)
    )


def test_headline_numbers_stand_on_the_page(files):
    content = json.loads((files / "report.json").read_text())
    value = next(
        r
        for r in content["metrics"]
        if (r["step"], r["metric"], r["language"]) == ("metrics", "accuracy", "avg")
    )
    text = (files / "report.html").read_text()
    assert f"<strong>{100 * value['value']:.1f}%</strong>" in text
    assert f"{100 * value['low']:.1f}% to {100 * value['high']:.1f}%" in text
    assert "Does a policy aligned" in text  # the recipe's question


@pytest.mark.slow
def test_sensitive_texts_stay_out_unless_asked_for(tmp_path):
    run = before_and_after(
        tmp_path / "store",
        ["eng_Latn"],
        4,
        lambda code, i, when: f"SECRET {when}",
        source="private",
        sensitive=True,
    )
    kept = (run.report(tmp_path / "omit") / "report.html").read_text()
    assert "SECRET" not in kept
    assert "text of a sensitive source: not in this file" in kept
    hidden = (run.report(tmp_path / "hide", sensitive="hide") / "report.html").read_text()
    shown = re.sub(r'<script type="application/json".*?</script>', "", hidden, flags=re.S)
    assert (
        shown.count("SECRET")
        == len(
            re.findall(
                r'<details class="hidden"><summary>sensitive text</summary><p[^>]*>SECRET', shown
            )
        )
        > 0
    )
    for file in ("report.json", "report.md", "metrics.csv"):
        assert "SECRET" not in (tmp_path / "hide" / file).read_text()


@pytest.mark.slow
def test_hostile_text_stays_text_in_the_file(tmp_path):
    run = before_and_after(
        tmp_path / "store",
        ["eng_Latn"],
        len(HOSTILE),
        lambda code, i, when: HOSTILE[i],
        source=HOSTILE[0],
    )
    text = (
        run.report(tmp_path / "report", name=HOSTILE[1], title=HOSTILE[2]) / "report.html"
    ).read_text()
    html5lib = pytest.importorskip("html5lib")
    html5lib.HTMLParser(strict=True).parse(text)
    assert (
        len(re.findall(r"<script", text)) == text.count("</script>") == 2
    )  # the data and the script
    assert "\u202e" not in text
    assert "\x00" not in text
    data = json.loads(re.search(r'id="samples-data">(.*?)</script>', text, re.S)[1])
    assert {row[4][0] for row in data["rows"]} == {visible(t) for t in HOSTILE}


@pytest.mark.slow
def test_samples_are_told_by_group_and_clipped(tmp_path):
    codes = ["eng_Latn", "deu_Latn"]
    run = before_and_after(
        tmp_path / "store", codes, 9, lambda code, i, when: f"{when} {i} " + "x" * 100
    )
    text = (
        run.report(tmp_path / "report", samples_per_language=3, sample_characters=20)
        / "report.html"
    ).read_text()
    data = json.loads(re.search(r'id="samples-data">(.*?)</script>', text, re.S)[1])
    assert [row[0] for row in data["rows"]] == codes[::-1] * 3
    items = [row[4][0].split()[1] for row in data["rows"]]
    assert items[::2] == items[1::2]  # the same items in both languages
    assert {row[4][1] for row in data["rows"]} == {109 - 20}
    assert data["models"] == ["base", "policy"]
    assert data["scores"] == ["language_adherence", "reward", "verifier"]
    assert data["binary"] == [True, False, True]


@pytest.mark.slow
def test_a_report_is_a_function_of_its_steps(tmp_path):
    run = before_and_after(tmp_path / "store", ["eng_Latn"], 4, lambda code, i, when: when)
    one, two = (run.report(tmp_path / name) / "report.html" for name in ("one", "two"))
    assert store.sha256(one) == store.sha256(two)
