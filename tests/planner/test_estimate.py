"""What `mlalign plan` says of memory and time: models found, rows counted, mistakes told, mends
that hold."""

import json
import re
import struct
import time

import pytest
import training_cases as cases
from planner_cases import QWEN3_8B

from mlalign import stages
from mlalign.planner import architecture, counts, estimate, mends, models, training, work
from mlalign.planner.jobs import training_job
from mlalign.recipes import config, plan

LARGE = ["recipe=reuse_your_rewards", "scale=one_gpu"]


@pytest.fixture
def qwen(tmp_path):
    """A directory with the configuration of Qwen3 8B, and no weights."""
    folder = tmp_path / "qwen"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(QWEN3_8B))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def planned(*arguments, root):
    return plan.build(config.load([*arguments, f"root={root}"]))


def of_step(name, *arguments, root):
    return next(e for e in estimate.of_plan(planned(*arguments, root=root)) if e.step == name)


@pytest.mark.slow
def test_every_step_of_a_recipe_has_an_estimate(mlalign):
    done = mlalign("plan", "recipe=reuse_your_rewards", "show=steps")
    assert done.returncode == 0, done.stderr
    table = done.stdout.partition("memory per device")[2]
    assert [line.split()[0] for line in table.strip("\n").splitlines()[1:]] == [
        "base",
        "reward",
        "pairs.candidates",
        "measure.answers[base]",
        "transfer.verdicts",
        "pairs.scores",
        "measure.marks[base]",
        "policy",
        "measure.answers[policy]",
        "measure.marks[policy]",
    ]
    assert "rows not counted yet" in table
    assert "warning:" not in done.stdout


@pytest.mark.slow
def test_estimates_cost_little(tmp_path):
    """Beside a third of a second for the plan itself."""
    whole = planned("recipe=reuse_your_rewards", root=tmp_path)
    estimate.of_plan(whole)
    costs = []
    for _ in range(5):
        start = time.process_time()
        estimate.of_plan(whole)
        costs.append(time.process_time() - start)
    assert min(costs) < 0.02


@pytest.mark.slow
def test_a_step_follows_its_model_back_to_what_is_there(tmp_path, qwen):
    """`policy` trains what `base` gives, which is not there yet: it has the shape of what `base`
    trains."""
    found = of_step("policy", *LARGE, f"model={qwen}", root=tmp_path)
    base = 8_190_735_360
    adapter = 36 * 16 * (8192 + 5120 + 5120 + 8192 + 3 * 16384)
    assert found.tensors["weights"] == 2 * base + 4 * adapter
    assert found.tensors["optimizer"] == 8 * adapter
    assert found.warnings == []


@pytest.mark.slow
def test_too_large_is_told_with_the_smallest_change(mlalign, qwen):
    done = mlalign("plan", *LARGE, f"model={qwen}", "steps.reward.config.device_batch_size=8")
    assert done.returncode == 0, done.stderr
    warned = next(line for line in done.stdout.splitlines() if line.startswith("warning: reward:"))
    assert "which has 23.0 GiB" in warned
    assert warned.endswith("set steps.reward.config.device_batch_size=2")
    mended = mlalign("plan", *LARGE, f"model={qwen}", "steps.reward.config.device_batch_size=2")
    assert "warning: reward:" not in mended.stdout


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["dtype=bfloat16", "peft=null"], "bfloat16 weights are trained without a float32 copy"),
        (["dtype=auto", "peft=null"], "set dtype=float32"),
        (["dtype=bfloat16", "peft=null", "deepspeed=zero2"], None),
        (["dtype=bfloat16", "peft=null", "trainer.learning_rate=0.001"], None),
        (["dtype=float32", "peft=null"], None),
        (["dtype=bfloat16", "peft={r: 8}"], None),
        (["dtype=bfloat16", "peft={r: 8}", "quantization=nf4"], "raise trainer.learning_rate"),
    ],
)
@pytest.mark.slow
def test_weights_that_would_not_move_are_told(settings, told, qwen, tmp_path):
    source = cases.write(tmp_path / "rows", "preference")
    own = [f"steps.policy.config.{s}" for s in settings]
    recipe = {
        "steps": {
            "policy": {
                "stage": "preference",
                "inputs": {"model": {"path": "${model.path}"}, "rows": {"path": str(source)}},
            }
        }
    }
    built = plan.build(config.load([f"model={qwen}", f"root={tmp_path}", *own], recipe))
    lost = [w for e in estimate.of_plan(built) for w in e.warnings if "most updates are lost" in w]
    assert [told in w and "learning_rate=1e-06" in w for w in lost] == ([True] if told else [])


@pytest.mark.slow
def test_steps_with_the_same_warning_share_it(mlalign, qwen):
    done = mlalign("plan", *LARGE, f"model={qwen}", "scale.stages.score={dtype: float32}")
    warned = [line for line in done.stdout.splitlines() if line.startswith("warning:")]
    assert len(warned) == 1
    assert warned[0].startswith(
        "warning: transfer.verdicts, pairs.scores, measure.marks[base], measure.marks[policy]:"
        " needs 30.9 GiB"
    )
    assert warned[0].endswith("set steps.STEP.config.dtype=bfloat16")


@pytest.mark.slow
def test_what_vllm_holds_is_told(mlalign, qwen):
    done = mlalign("plan", *LARGE, f"model={qwen}", "show=steps")
    assert "8 sequences of 4,096 tokens at once" in done.stdout
    done = mlalign(
        "plan",
        *LARGE,
        f"model={qwen}",
        "engine.args.max_model_len=32768",
        "engine.args.gpu_memory_utilization=0.75",
        "show=steps",
    )
    assert "set steps.STEP.config.engine.args.gpu_memory_utilization=0.9" in done.stdout


@pytest.mark.slow
def test_shipped_scales_fit_their_models(mlalign, qwen):
    for scale in ("one_gpu", "node"):
        done = mlalign("plan", "recipe=reuse_your_rewards", f"scale={scale}", f"model={qwen}")
        assert "warning:" not in done.stdout, done.stdout


@pytest.mark.slow
def test_an_unknown_model_is_said_to_be_unknown(mlalign, qwen):
    (qwen / "config.json").write_text(json.dumps({"model_type": "mamba2"}))
    done = mlalign("plan", "recipe=reuse_your_rewards", f"model={qwen}", "show=steps")
    assert "the planner does not know 'mamba2' models" in done.stdout


@pytest.mark.slow
def test_mistakes_in_a_device_are_told(mlalign):
    done = mlalign(
        "plan", "recipe=candidates", "scale.device={memory: 24, utilization: 40, peak_tflops: -1}"
    )
    assert done.returncode == 1
    assert "scale.device.memory: unknown key; did you mean 'memory_gib'?" in done.stderr
    done = mlalign("plan", "recipe=candidates", "scale.device={utilization: 40, peak_tflops: -1}")
    assert "scale.device.utilization: a share between 0 and 1, got 40" in done.stderr
    assert "scale.device.peak_tflops: must be above 0, got -1" in done.stderr


# -------------------------------------------------------------------------------------------- mends


def job(stage="sft", on_cpu=False, **values):
    cfg = cases.config(
        stage,
        **{"batch_size": 64, "max_length": 2048, "dtype": "bfloat16", "trainer": {}, **values},
    )
    a = architecture.from_config(QWEN3_8B)
    objective = stages.load(stage).objective
    return cfg, lambda cfg, devices=1: training_job(
        objective(cfg), cfg, a, devices=devices, on_cpu=on_cpu, reference=False
    )


def smallest(memory, devices=1, **values):
    cfg, build = job(**values)
    zero = {
        name: {"zero_optimization": {"stage": int(name[4])}} for name in ("zero1", "zero2", "zero3")
    }
    zero["zero3_offload"] = {
        "zero_optimization": {
            "stage": 3,
            "offload_optimizer": {"device": "cpu"},
            "offload_param": {"device": "cpu"},
        }
    }

    def fits(keys):
        return (
            training.peak(build(mends.with_keys(cfg, keys, zero), keys.get("devices", devices)))[
                1
            ].total()
            <= memory * 1e9
        )

    return mends.first(mends.of_training(cfg, build(cfg, devices), zero), fits)


def test_the_order_of_changes():
    """Full Qwen3 8B in bfloat16: 16.4 GB weights, 16.4 gradients, 32.8 moments; 131 GB under ZeRO
    on one device."""
    no_saving = {"trainer": {"gradient_checkpointing": False}}
    assert smallest(90, device_batch_size=64) == {"device_batch_size": 16}
    assert smallest(75, device_batch_size=1, **no_saving) == {
        "trainer.gradient_checkpointing": True
    }
    assert smallest(50, devices=8, device_batch_size=1) == {"deepspeed": "zero2"}
    assert smallest(30, devices=8, device_batch_size=1) == {"deepspeed": "zero3"}
    assert smallest(20, device_batch_size=1) == {"deepspeed": "zero3_offload"}
    assert smallest(0.1, device_batch_size=1) is None


def test_a_change_is_told_as_arguments():
    keys = {
        "deepspeed": "zero3",
        "devices": 4,
        "peft": mends.LORA,
        "trainer.gradient_checkpointing": True,
    }
    assert (
        mends.as_arguments(keys)
        == "steps.STEP.config.deepspeed=zero3 steps.STEP.resources.devices=4"
        " steps.STEP.config.peft={r:16,target_modules:all-linear}"
        " steps.STEP.config.trainer.gradient_checkpointing=true"
    )


def test_what_a_configuration_becomes():
    """Pairs are two sequences; KTO takes pairs apart; log-probabilities of the reference come
    first; 64 rows over two devices of 8."""
    _, build = job("preference", loss="sigmoid", device_batch_size=8)
    cfg, _ = job("preference", loss="sigmoid", device_batch_size=8)
    told = build(cfg, 2)
    assert (
        told.batch.sequences,
        told.accumulates,
        told.checkpointing,
        told.autocast,
        told.reference,
    ) == (16, True, True, True, "none")
    cfg, build = job("preference", loss="kto", device_batch_size=8)
    assert build(cfg).batch.sequences == 8
    cfg, build = job("preference", loss="simpo")
    assert build(cfg).loss == "logits"
    cfg, build = job("preference", trainer={"precompute_ref_log_probs": False})
    assert build(cfg).reference == "during"
    cfg, build = job("reward", on_cpu=True, dtype="float32")
    assert (build(cfg).loss, build(cfg).autocast, build(cfg).checkpointing) == (
        "classifier",
        False,
        False,
    )


# ------------------------------------------------------------------------------- rows, times, files


@pytest.mark.parametrize("n", [1, 200, 5000])
def test_rows_are_counted_from_parquet_footers(tmp_path, n):
    pq, rows = (
        pytest.importorskip("pyarrow.parquet"),
        cases.write(tmp_path, "preference", n_train=n, n_eval=1),
    )
    for shard in (rows / "rows").glob("*.parquet"):
        assert counts.parquet_rows(shard) == pq.read_metadata(shard).num_rows
    assert counts.of_artifact(rows, "train", None).n == 2 * n
    assert counts.of_artifact(rows, "eval", ["swh_Latn"]).n == 1
    assert counts.of_artifact(rows, "train", ["deu_Latn"]) is None


@pytest.mark.long
def test_time_comes_from_the_last_step_of_the_stage(mlalign, tmp_path):
    """Two steps of 8 rows took so long; four take twice as long."""
    one = [
        "sft",
        f"rows={cases.write(tmp_path / 'rows', 'demonstration')}",
        "batch_size=8",
        "device_batch_size=8",
        "languages=[eng_Latn,swh_Latn]",
    ]
    done = mlalign(*one, "trainer.max_steps=2", "name=first")
    assert done.returncode == 0, done.stderr
    manifest = json.loads(next((tmp_path / "store").glob("sft-*/manifest.json")).read_text())
    assert manifest["train"]["rows"] == 16
    seconds = 2 * manifest["train"]["seconds"]
    done = mlalign(*one, "trainer.max_steps=4", "dry=true", "show=steps", "name=second")
    assert re.search(rf"{work.duration_text(seconds)} +32 rows, as sft took on cpu", done.stdout), (
        done.stdout
    )


@pytest.mark.slow
def test_time_by_the_scales_rate(tmp_path, qwen):
    """6 operations a parameter and token, a third more for checkpointing, over 989e12 x 0.4 x 8
    devices."""
    arguments = [
        "recipe=reuse_your_rewards",
        "scale=node",
        f"model={qwen}",
        "steps.base.config.trainer.max_steps=100",
    ]
    found = of_step("base", *arguments, root=tmp_path)
    a = architecture.from_config(QWEN3_8B)
    each = 4 * (2 * (a.layers() + a.embedding) + 4 * 4096 * 36 * 4096 / 2)
    assert found.seconds == pytest.approx(100 * 128 * 4096 * each / (989e12 * 0.4 * 8))


@pytest.mark.slow
def test_a_limit_too_short_is_said(tmp_path, qwen):
    whole = planned(
        "recipe=reuse_your_rewards",
        "scale=node",
        f"model={qwen}",
        "steps.base.config.trainer.max_steps=100",
        root=tmp_path,
    )
    node = next(n for n in whole.nodes if n.name == "base")
    node.resources["time"] = "00:10:00"
    found = next(e for e in estimate.of_plan(whole) if e.step == "base")
    assert "and a job may take 10 min" in found.warnings[0]
    assert found.seconds > 600


def test_sizes_and_times_are_read_and_told():
    assert estimate.bytes_of("64G") == 64 * 2**30
    assert estimate.bytes_of(None) is None
    assert [
        estimate.seconds_of(t) for t in ("12:00:00", "2-00:00:00", "90 min", "3 h", "1-12")
    ] == [43200, 172800, 5400, 10800, 129600]
    assert estimate.seconds_of(None) is None
    assert [work.duration_text(s) for s in (40, 600, 9000, 200000)] == [
        "40 s",
        "10 min",
        "2.5 h",
        "2.3 d",
    ]
    assert [work.size_text(n) for n in (3 * 2**20, 5 * 2**29)] == ["3 MiB", "2.5 GiB"]


def test_parameters_are_counted_from_weights_on_disk(tmp_path):
    told = json.dumps(
        {"__metadata__": {}, "a": {"dtype": "BF16", "shape": [3, 4], "data_offsets": [0, 24]}}
    ).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(told)) + told + b"\0" * 24)
    assert models.stored_parameters(tmp_path, 2) == 12
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 100}, "weight_map": {}})
    )
    assert models.stored_parameters(tmp_path, 2) == 50
