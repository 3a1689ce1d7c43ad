"""What a stage can ask of its inputs."""

from helpers import write_manifest

from mlalign.core import stage, store


def artifact(root, name, **told):
    (root / name).mkdir()
    write_manifest(root / name, **told)
    return {"artifact": name, "step": name}


def test_sources_of_rows_and_scores_travel_on_and_those_of_models_do_not(tmp_path):
    world, hh = {"source": "world", "licence": "CC0"}, {"source": "hh", "licence": "MIT"}
    slots = {
        "rows": [
            artifact(tmp_path, "a", kind="rows", sources=[world]),
            artifact(tmp_path, "b", kind="rows", sources=[world, hh]),
        ],
        "scores": artifact(tmp_path, "c", kind="scores", sources=[world]),
        "model": artifact(tmp_path, "d", kind="model", sources=[{"source": "other"}]),
        "scorers": [{"family": "length"}],
    }
    assert stage.Inputs(store.Store(tmp_path), slots).sources() == [world, hh]


def test_rows_given_by_path_tell_their_sources_too(tmp_path):
    artifact(tmp_path, "a", kind="rows", sources=[{"source": "hh"}])
    (tmp_path / "bare").mkdir()
    slots = {"rows": [{"path": str(tmp_path / "a")}, {"path": str(tmp_path / "bare")}]}
    assert stage.Inputs(store.Store(tmp_path), slots).sources() == [{"source": "hh"}]
