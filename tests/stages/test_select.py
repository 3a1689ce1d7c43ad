"""The stage `select`: what it chooses, when it stops, and that others can follow its pointer."""

import shutil
from pathlib import Path

import pytest
from helpers import write_manifest

from mlalign.core import schema, stage, store
from mlalign.core.errors import UserError
from mlalign.core.store import read_json, write_json
from mlalign.stages import select


def write(
    root: Path, name: str, values: dict[str, float] | None = None, status: str = "done"
) -> dict:
    """A model artifact, or with values the metrics of one."""
    path = root / name
    path.mkdir()
    if values is None:
        (path / "model").mkdir()
    else:
        rows = [
            {"metric": "accuracy", "by": "verifier", "language": lang, "value": v}
            for lang, v in values.items()
        ]
        rows.append({"metric": "win_rate", "by": "judge", "language": "avg", "value": 0.9})
        write_json(path / "metrics.json", {"rows": rows})
    write_manifest(path, status=status, content_digest=f"digest of {name}")
    return {"artifact": name, "step": name.replace("-", "."), "binding": {}}


def run(
    root: Path, candidates: list[dict], evidence: list[dict], **config
) -> tuple[stage.Output, dict]:
    out = stage.Output(root / "select-1.partial", store.Store(root), step="guard")
    shutil.rmtree(out.path, ignore_errors=True)
    out.path.mkdir()
    select.run(
        schema.build(select.Config, config),
        stage.Inputs(out.store, {"candidates": candidates, "evidence": evidence}),
        out,
    )
    return out, read_json(out.path / "selected.json")


@pytest.mark.parametrize(
    ("old", "new", "config", "expected"),
    [
        ({"a": 0.5, "b": 0.5}, {"a": 0.7, "b": 0.5}, {}, ("new", False)),
        (
            {"a": 0.5, "b": 0.5},
            {"a": 0.5, "b": 0.5},
            {},
            ("new", False),
        ),  # min_gain 0: no loss is enough
        ({"a": 0.5, "b": 0.5}, {"a": 0.5, "b": 0.5}, {"min_gain": 0.01}, ("old", True)),
        ({"a": 0.5, "b": 0.5}, {"a": 0.6, "b": 0.5}, {"min_gain": 0.05}, ("new", False)),
        ({"a": 0.5, "b": 0.5}, {"a": 0.9, "b": 0.3}, {"max_drop_worst": 0.1}, ("old", True)),
        ({"a": 0.5, "b": 0.5}, {"a": 0.9, "b": 0.4}, {"max_drop_worst": 0.1}, ("new", False)),
        ({"a": 0.5, "b": 0.5}, {"a": 0.9, "b": 0.3}, {"languages": ["b"]}, ("old", True)),
        ({"a": 0.5, "b": 0.5}, {"a": 0.9, "b": 0.3}, {"average": "worst"}, ("old", True)),
        ({"a": 0.5, "b": 0.5}, {"a": 0.9, "b": 0.3}, {"average": "a"}, ("new", False)),
    ],
)
def test_rules(tmp_path, old, new, config, expected):
    models = [write(tmp_path, name) for name in ("old", "new")]
    evidence = [
        write(tmp_path, f"metrics-{i}", {**v, "avg": 0.0, "worst": 0.0})
        for i, v in enumerate((old, new))
    ]
    _, told = run(tmp_path, models, evidence, **config)
    assert (told["artifact"], told["stop"]) == expected


def test_first_round_has_evidence_for_the_newest_only(tmp_path):
    out, told = run(
        tmp_path,
        [write(tmp_path, "base"), write(tmp_path, "policy")],
        [write(tmp_path, "metrics", {"a": 0.1})],
    )
    assert told == {
        "artifact": "policy", "step": "policy", "binding": {}, "stop": False,
        "why": "accuracy: base without evidence: takes the lead; policy at 0.1000: takes the lead",
    }  # fmt: skip
    assert [d["value"] for d in out.notes["decisions"]] == [None, 0.1]


def test_why_has_the_figures(tmp_path):
    models = [write(tmp_path, name) for name in ("old", "new")]
    evidence = [
        write(tmp_path, "metrics-old", {"a": 0.5, "b": 0.5}),
        write(tmp_path, "metrics-new", {"a": 0.9, "b": 0.3}),
    ]
    out, told = run(tmp_path, models, evidence, max_drop_worst=0.1)
    assert told["why"].endswith("new at 0.6000: falls by 0.2000 in b, more than 0.1")
    assert (out.notes["selected"], out.notes["stop"]) == ("old", True)


def test_skipped_steps_do_not_compete(tmp_path):
    models = [write(tmp_path, "old"), write(tmp_path, "new", status="skipped")]
    evidence = [
        write(tmp_path, "metrics-old", {"a": 0.5}),
        write(tmp_path, "metrics-new", {"a": 0.9}, status="skipped"),
    ]
    _, told = run(tmp_path, models, evidence)
    assert (told["artifact"], told["stop"]) == ("old", False)


def test_the_pointer_is_followed_to_a_step_or_an_external_model(tmp_path):
    external = tmp_path / "brought"
    external.mkdir()
    ours = write(tmp_path, "policy")
    metrics = [write(tmp_path, "metrics-0", {"a": 0.5}), write(tmp_path, "metrics-1", {"a": 0.4})]
    for candidates, path in (
        ([ours, ours], tmp_path / "policy/model"),
        ([{"path": str(external), "identity": "abc"}, ours], external),
    ):
        out, told = run(tmp_path, candidates, metrics)
        assert told["stop"]
        write_manifest(out.path)
        final = tmp_path / "select-1"
        shutil.rmtree(final, ignore_errors=True)
        out.path.rename(final)
        chosen = stage.Inputs(
            out.store, {"model": {"artifact": "select-1", "step": "guard"}}
        ).model("model")
        assert chosen.path == str(path)
        assert stage.Inputs(out.store, {"model": {"path": str(final)}}).model("model").path == str(
            path
        )
    assert chosen.identity == "abc"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"metric": "acuracy"}, "metric: metrics has no acuracy; did you mean 'accuracy'"),
        ({"languages": ["c"]}, "languages: metrics has no accuracy in 'c'"),
        ({"average": "fra_Latn"}, "average: metrics has no accuracy in 'fra_Latn'"),
        ({"by": "judge"}, "has no accuracy by judge"),
    ],
)
def test_mistakes_are_named(tmp_path, config, message):
    with pytest.raises(UserError, match=message):
        run(
            tmp_path,
            [write(tmp_path, "m")],
            [write(tmp_path, "metrics", {"a": 0.5, "b": 0.2})],
            **config,
        )


def test_more_metrics_than_models(tmp_path):
    metrics = [write(tmp_path, f"metrics-{i}", {"a": 0.5}) for i in range(2)]
    with pytest.raises(UserError, match="guard: 2 metrics for 1 candidates"):
        run(tmp_path, [write(tmp_path, "m")], metrics)
