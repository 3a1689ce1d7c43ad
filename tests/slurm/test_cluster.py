"""The cluster that the other tests stand on is a real one of two nodes."""

import pytest

pytestmark = pytest.mark.slow


def test_a_job_runs_on_both_nodes(slurm, tmp_path):
    job = slurm.sbatch(
        "-N2", "-n2", "-o", tmp_path / "log", "--wrap", "srun printenv SLURMD_NODENAME"
    )
    slurm.wait(job, "COMPLETED")
    assert sorted((tmp_path / "log").read_text().split()) == ["n1", "n2"]


def test_an_urgent_job_sends_another_back_to_the_queue(slurm, tmp_path):
    common = ("-N2", "--exclusive", "-o", "/dev/null", "--wrap")
    patient = slurm.sbatch(*common, "sleep 60")
    slurm.wait(patient, "RUNNING")
    urgent = slurm.sbatch("-p", "urgent", *common, "true")
    slurm.wait(urgent, "COMPLETED")
    assert slurm.job(patient)["Restarts"] == "1"
    slurm.run("scancel", patient)


def test_without_slurm_the_tests_are_skipped_with_the_reason(monkeypatch, make_cluster):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("shutil.which", lambda name, path: None)
    monkeypatch.delenv("REQUIRE_SLURM", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"slurm-up\.sh install"), make_cluster():
        pass
    monkeypatch.setenv("REQUIRE_SLURM", "1")
    with pytest.raises(pytest.fail.Exception, match="not installed"), make_cluster():
        pass
