"""The stage `report`, on artifacts that real steps made: the files beside the page (the page
itself: tests/reporting).
"""

import csv
import json
import re
from pathlib import Path

import pytest
import yaml
from helpers import write_manifest

from mlalign.core import rows, stage, store
from mlalign.core.spreadsheets import neutral
from mlalign.evidence import collect, markdown
from mlalign.running import step
from mlalign.stages import report

HOSTILE = "a|b\n# <script>alert(1)</script> [x](https://evil) `c` \u202etxt"


def execute(
    root: Path, name: str, stage_name: str, inputs: dict, run: dict | None = None, **config
) -> dict:
    """Run one step as `mlalign run` does; returns the reference to its artifact."""
    print_ = store.fingerprint({"step": name})
    partial = store.Store(root).partial(stage_name, print_)
    partial.mkdir(parents=True)
    told = {
        "step": name,
        "stage": stage_name,
        "fingerprint": print_,
        "inputs": inputs,
        "config": config,
        "run": run or {"name": "demo"},
    }
    (partial / "config.yaml").write_text(yaml.safe_dump(told))
    assert step.main([str(partial / "config.yaml")]) == 0
    return {"artifact": f"{stage_name}-{print_[:16]}", "step": name}


def answers(root: Path, name: str, values: list[float]) -> dict:
    base = {"prompt_lang": "eng_Latn", "source": "s", "origin": "native", "split": "eval"}
    shard = rows.shard_name("eng_Latn", "eval", 0)
    prompts = [{**base, "id": f"i{i}", "group_id": f"g{i}"} for i in range(len(values))]
    candidates = [
        {**p, "responses": [{"candidate_id": p["id"], "text": "secret text", "n_tokens": 2}]}
        for p in prompts
    ]
    marks = [
        {**p, "candidate_id": p["id"], "score.verifier": v}
        for p, v in zip(prompts, values, strict=True)
    ]
    rows.write_shard(root / name / "rows" / shard, "candidates", candidates)
    rows.write_shard(root / f"{name}_marks" / "rows" / shard, "scores", marks, ("verifier",))
    return {"rows": [{"path": str(root / name)}], "scores": [{"path": str(root / f"{name}_marks")}]}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Two evaluations, a guard on them, and the report on all three."""
    root = tmp_path_factory.mktemp("runs")
    before = execute(root, "before", "evaluate", answers(root, "old", [1, 0, 0, 0]), n_bootstrap=50)
    after = execute(root, HOSTILE, "evaluate", answers(root, "new", [1, 1, 1, 0]), n_bootstrap=50)
    guard = execute(
        root, "guard", "select", {"candidates": [before, after], "evidence": [before, after]}
    )
    told = execute(
        root,
        "report",
        "report",
        {"steps": [before, after, guard]},
        run={"name": HOSTILE, "recipe": "demo", "round": None},
    )
    return root / told["artifact"]


def section(text: str, title: str) -> str:
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_before_and_after_stand_side_by_side(made):
    table = section((made / "report.md").read_text(), "Results")
    line = next(x for x in table.splitlines() if x.startswith("| eng_Latn"))
    assert re.fullmatch(
        r"\| eng_Latn \| 0\.250 \(0\.\d+ to 0\.\d+\) \| 0\.750 \(0\.\d+ to \d\.\d+\) \|"
        r" \+0\.500 \|",
        line,
    )


def test_sections_tell_what_was_run(made):
    text = (made / "report.md").read_text()
    assert [m for m in re.findall(r"^## (.*)", text, re.M)] == [
        "Results",
        "Not computed",
        "Decisions",
        "Rows by language",
        "Steps",
        "Sources",
        "Packages",
        "Times",
    ]
    assert "adherence: " in section(text, "Not computed")
    assert "takes the lead" in section(text, "Decisions")
    assert "| eng_Latn | 4 | 4 |" in section(text, "Rows by language")
    assert "| pyarrow |" in section(text, "Packages")
    assert store.fingerprint({"step": "before"})[:16] in section(text, "Steps")


def test_json_and_csv_hold_the_same_numbers(made):
    content = json.loads((made / "report.json").read_text())
    with open(made / "metrics.csv", newline="") as f:
        read = list(csv.DictReader(f))
    in_csv = [(r["step"], float(r["value"]) if r["value"] else None) for r in read]
    assert in_csv == [(neutral(r["step"]), r["value"]) for r in content["metrics"]]
    assert {r["step"] for r in read} == {"before", neutral(HOSTILE)}
    assert content["run"] == {"name": HOSTILE, "recipe": "demo"}


def test_hostile_names_stay_text(made):
    text = (made / "report.md").read_text()
    assert "<script" not in text
    assert "https://" not in text
    assert "\u202e" not in text
    assert not re.search(r"^# <|^# alert", text, re.M)
    columns = [
        len(re.findall(r"(?<!\\)\|", line))
        for line in section(text, "Packages").splitlines()
        if line.startswith("|")
    ]
    assert set(columns) == {3}
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):  # each table keeps its number of cells
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_no_path_and_no_row_text(made):
    for file in made.glob("*.*"):
        if file.name in ("report.md", "report.json", "metrics.csv"):
            assert str(made.parent) not in file.read_text()
            assert "secret text" not in file.read_text()


def test_all_but_the_times_is_reproducible(made, tmp_path):
    steps = [
        {"artifact": p.name, "step": store.read_json(p / "manifest.json")["step"]}
        for p in sorted(made.parent.glob("[es]*-*"))
    ]
    texts = []
    for name in ("one", "two"):
        out = stage.Output(
            tmp_path / name, store.Store(made.parent), step="report", run={"name": "r"}
        )
        out.path.mkdir()
        report.run(report.Config(), stage.Inputs(out.store, {"steps": steps}), out)
        texts.append((out.path / "report.md").read_text())
    assert texts[0] == texts[1]
    content = json.loads((tmp_path / "one/report.json").read_text())
    times = {str(t[k]) for t in content.pop("times") for k in ("started", "finished")}
    assert not [t for t in times if t in json.dumps(content)]


def test_skipped_steps_rows_dropped_and_sources(tmp_path):
    manifest = {
        "step": "pairs",
        "stage": "pairs",
        "stage_version": 1,
        "fingerprint": "f" * 64,
        "seed": 0,
        "packages": {"torch": "1"},
        "rows_by_language": {"swh_Latn": 3},
        "dropped": {"tie": {"swh_Latn": 2, "eng_Latn": 1}},
        "sums": {"tokens": {"swh_Latn": 5}},
        "started": 1.0,
        "finished": 3.5,
        "inputs": {"model": {"path": "/home/person/model", "identity": "abc"}},
        "sources": [{"name": "hh", "licence": "MIT", "revision": "r1"}],
        "status": "done",
        "kind": "rows",
    }
    later = {
        **manifest,
        "step": "policy",
        "status": "skipped",
        "skipped_because": "guard said stop",
        "packages": {"torch": "2"},
    }
    for m in (manifest, later):
        (tmp_path / m["step"]).mkdir()
        write_manifest(tmp_path / m["step"], **m)
    content = collect.gather(
        collect.Steps(store.Artifact(tmp_path / s, s) for s in ("pairs", "policy")), {"name": "r"}
    )
    text = markdown.page(content, "r", 3)
    assert "| pairs | tie | 3 | eng_Latn 1, swh_Latn 2 |" in section(text, "Dropped")
    assert "| policy | pairs v1 | guard said stop |" in section(text, "Steps")
    assert "| hh | MIT | r1 |" in section(text, "Sources")
    assert "| pairs | model | model |  | abc |" in section(text, "Sources")
    assert "| torch | 1, 2 |" in section(text, "Packages")
    assert "| pairs | 2.5 |" in section(text, "Times")
    assert "/home" not in json.dumps(content)


def test_cell():
    assert markdown.cell("a|b\nc") == "a\\|b c"
    assert markdown.cell("swh_Latn _x_") == "swh_Latn \\_x\\_"
    assert markdown.cell("<b>&") == "&lt;b&gt;&amp;"
    assert markdown.cell("http://x [y](z)") == "http&#58;//x \\[y\\](z)"
