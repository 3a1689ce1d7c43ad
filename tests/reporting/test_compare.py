"""`mlalign compare` on two runs that real steps made."""

import re

import pytest
from reporting_cases import before_and_after

from mlalign.core import store
from mlalign.core.errors import UserError
from mlalign.evidence.compare import compare


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for name, n in (("small", 4), ("large", 8)):
        run = before_and_after(root / name, ["eng_Latn", "swh_Latn"], n, lambda code, i, when: when)
        run.report(root / "runs" / name / "report", name=name)
    return root


@pytest.mark.slow
def test_two_runs_on_one_page(root, tmp_path, capsys):
    assert compare(["small", "large", f"root={root}", f"output={tmp_path / 'c.html'}"]) == 0
    page = (tmp_path / "c.html").read_text()
    pytest.importorskip("html5lib").HTMLParser(strict=True).parse(page)
    averages = [
        next(
            r["value"]
            for r in store.read_json(root / "runs" / name / "report" / "report.json")["metrics"]
            if (r["step"], r["metric"], r["language"]) == ("metrics", "accuracy", "avg")
        )
        for name in ("small", "large")
    ]
    assert (
        f"Right answers (by verifier): small {100 * averages[0]:.1f}%, large"
        f" {100 * averages[1]:.1f}%" in capsys.readouterr().out
    )
    difference = f"{100 * (averages[1] - averages[0]):+.1f} pp".replace("-", "−")
    assert difference in page
    assert "second − first" in page


def test_settings_that_differ_are_told(root, tmp_path):
    told = root / "runs" / "large" / "report" / "report.json"
    content = store.read_json(told)
    content["settings"][0]["config"] |= {"lr": 0.5, "sources": [{"n": 1}], "languages": ["a", "b"]}
    (tmp_path / "other").mkdir()
    store.write_json(tmp_path / "other" / "report.json", content)
    compare(
        [str(root / "runs" / "large"), str(tmp_path / "other"), f"output={tmp_path / 'c.html'}"]
    )
    page = (tmp_path / "c.html").read_text()
    settings = page.partition('id="settings"')[2]
    step = content["settings"][0]["step"]
    assert re.findall(r'<th scope="row">([^<]+)</th>', settings) == [
        f"{step}.lr",
        f"{step}.sources.0.n",
        f"{step}.languages",
    ]
    assert "large (2)" in page


def test_mistakes_are_told_together(root, tmp_path):
    (tmp_path / "old").mkdir()
    store.write_json(tmp_path / "old" / "report.json", {"run": {}})
    with pytest.raises(UserError) as error:
        compare(["smal", str(tmp_path / "old"), f"root={root}", "titel=x", "digits=many"])
    messages = "\n".join(error.value.messages)
    assert "smal: no report of such a run here or under" in messages
    assert "small" in messages
    assert "force=report" in messages
    assert "titel: unknown key; did you mean 'title'?" in messages
    assert "digits: 'many'" in messages
    with pytest.raises(UserError, match="two runs"):
        compare([])
