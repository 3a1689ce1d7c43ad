"""The claim's table, from metrics written by hand."""

import importlib.util
import json

import pytest
from helpers import PROJECT

SPEC = importlib.util.spec_from_file_location("claim", PROJECT / "scripts" / "claim.py")
claim = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(claim)


def row(metric, value, language="avg", width=0.01, **more):
    return {
        "metric": metric,
        "by": "verifier",
        "language": language,
        "value": value,
        "low": value - width,
        "high": value + width,
        **more,
    }


def write(folder, rows, breakdown=()):
    folder.mkdir(parents=True)
    for name, told in (("metrics", rows), ("breakdown", breakdown)):
        (folder / f"{name}.json").write_text(json.dumps({"rows": list(told)}))
    (folder / "manifest.json").write_text("{}")


@pytest.fixture
def root(tmp_path):
    """Two finished cells, the second with a flipped arm that beats the random one, and a third
    without its last evaluation.
    """
    for cell, flipped in (("A0", 0.0), ("B2", 0.05), ("A1", 0.0)):
        steps = tmp_path / "runs" / cell / "steps"
        for step in claim.STEPS:
            value = flipped if "flipped" in step else 0.7
            metrics = [
                row(m, value if m.endswith("_over_control") or "[base]" not in step else 0.4)
                for _, _, s, m, *_ in claim.MEASURES
                if s == step
            ]
            held_out = [
                row("win_rate", 0.6, part="exposure", member="held_out"),
                row("win_rate", 0.8, part="exposure", member="aligned"),
            ]
            verdicts = [
                row("reward_accuracy", v, lang, part="kind", member=kind) | {"by": by}
                for by, v in (("reward", 0.9), ("flipped", 0.5))
                for lang in ("eng_Latn", "avg")
                for kind in ("wrong", "cut")
            ]
            if (cell, step) != ("A1", "transfer"):
                write(steps / step, metrics, verdicts if step == "transfer" else held_out)
    return tmp_path


def test_the_table_tells_intervals_and_where_the_claim_holds(root):
    lines = claim.report(claim.read(root)).splitlines()
    told = {
        (part, name): fields
        for part, name, *fields in (
            [f.strip() for f in line.split("|")[1:-1]] for line in lines if line.count("|") > 5
        )
    }
    assert told["", ""] == ["A0", "B2", "mean of cells", "holds"]
    assert told["a", "win rate of DPO over SFT, T = 1"] == ["0.700 [0.690, 0.710]"] * 2 + [
        "0.700 [0.700, 0.700]",
        "2 of 2",
    ]
    assert told["a", "accuracy of SFT, greedy"] == ["0.400 [0.390, 0.410]"] * 2 + [
        "0.400 [0.400, 0.400]",
        "",
    ]
    assert (
        told["a", "win rate of DPO over SFT in the held-out languages, T = 1"][:2]
        == ["0.600 [0.590, 0.610]"] * 2
    )
    assert told["c", "accuracy, flipped minus random reward, greedy"][:2] == [
        "0.000 [-0.010, 0.010]",
        "0.050 [0.040, 0.060]",
    ]
    # Student's t with one degree of freedom is 12.706; the standard error is 0.025
    assert told["c", "accuracy, flipped minus random reward, greedy"][2:] == [
        "0.025 [-0.293, 0.343]",
        "1 of 2",
    ]
    assert lines[-1] == "Not computed: A1, A2, B0, B1."


def test_reward_accuracies_are_means_over_cells(root):
    lines = claim.transfer(claim.read(root))
    assert lines == [
        "| e: reward accuracy | cut | wrong |",
        "| --- | --- | --- |",
        "| eng_Latn | 0.900 | 0.900 |",
        "| avg | 0.900 | 0.900 |",
    ]


def test_what_must_hold_is_about_intervals():
    assert claim.above(0.5)(row("x", 0.52)) and not claim.above(0.5)(row("x", 0.505))
    assert claim.not_above(0)(row("x", 0.005)) and not claim.not_above(0)(row("x", 0.02))
