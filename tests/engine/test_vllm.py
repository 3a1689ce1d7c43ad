"""Real vLLM on the tiny model, one life for the module: seeds, finish reasons, arguments."""

import os
import random
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
from helpers import PROJECT

from mlalign.core.adapters import served_rank
from mlalign.core.errors import UserError
from mlalign.core.store import write_json
from mlalign.models.engine import EngineConfig, Request, Sampling, open_engine
from mlalign.models.engine.vllm import arguments

# Not importorskip: importing vLLM takes long, and every worker collects every file.
pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
SAMPLING = Sampling(
    max_tokens=16, temperature=2.0
)  # hot, so that the well-trained tiny model varies


@pytest.fixture(scope="module")
def vllm(tiny):
    engine = open_engine(EngineConfig("vllm"), tiny, max_model_len=64)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def answers(vllm, requests):
    return dict(zip((r.id for r in requests), vllm.generate(requests, SAMPLING), strict=True))


@pytest.mark.slow
def test_a_row_depends_on_its_own_seed_and_not_on_its_batch(vllm, requests, answers):
    shuffled = random.Random(1).sample(requests, len(requests))
    assert (
        dict(zip((r.id for r in shuffled), vllm.generate(shuffled, SAMPLING), strict=True))
        == answers
    )
    some = requests[3:10]
    assert vllm.generate(some, SAMPLING) == [answers[r.id] for r in some]


@pytest.mark.slow
def test_samples_of_one_prompt_differ(requests, answers):
    pairs = [(answers[f"{i}.0"].text, answers[f"{i}.1"].text) for i in range(len(requests) // 2)]
    assert sum(a != b for a, b in pairs) > len(pairs) // 2


@pytest.mark.slow
def test_finish_reason_and_token_count(vllm, requests):
    long, short = (
        vllm.generate(requests[:1], Sampling(40, 0.0))[0],
        vllm.generate(requests[:1], Sampling(2, 0.0))[0],
    )
    assert (long.finish_reason, short.finish_reason, short.n_tokens) == ("stop", "length", 2)
    assert long.text.startswith(short.text)
    word = long.text.split()[1]
    cut = vllm.generate(requests[:1], Sampling(40, 0.0, stop=[word]))[0]
    assert cut.finish_reason == "stop"
    assert cut.text == long.text[: long.text.index(word)]


@pytest.mark.slow
def test_greedy_agrees_with_transformers(vllm, requests, tiny):
    other = open_engine(EngineConfig("transformers"), tiny)
    mine, theirs = (e.generate(requests, Sampling(24, 0.0)) for e in (vllm, other))
    assert mine == theirs


@pytest.mark.slow
def test_a_bad_sampling_value_is_named(vllm, requests):
    with pytest.raises(UserError, match="min_tokens"):
        vllm.generate(requests[:1], Sampling(4, extra={"min_tokens": 9}))


@pytest.mark.slow
def test_guided_decoding_and_biases_are_written_as_mappings(vllm, requests):
    guided = vllm.generate(
        requests[:4], Sampling(8, 0.0, extra={"structured_outputs": {"choice": ["yes", "no"]}})
    )
    assert {a.text for a in guided} <= {"yes", "no"}
    only = vllm.generate(
        requests[:1], Sampling(3, 0.0, extra={"logit_bias": {7: 100.0}, "ignore_eos": True})
    )
    again = vllm.generate(
        requests[:1], Sampling(3, 0.0, extra={"allowed_token_ids": [7], "ignore_eos": True})
    )
    assert only[0].text == again[0].text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ({"allowed_token_ids": []}, "sampling.allowed_token_ids: VLLM"),
        ({"logit_bias": {10**7: 1.0}}, "sampling.logit_bias: VLLM"),
        ({"structured_outputs": {"regex": "("}}, "sampling"),
        ({"structured_outputs": {"grammar": "no grammar"}}, "sampling"),
    ],
)
def test_what_vllm_refuses_while_it_runs_names_the_key(extra, told, vllm, requests):
    with pytest.raises(UserError, match=told):
        vllm.generate(requests[:1], Sampling(4, extra=extra))


@pytest.mark.long
@pytest.mark.parametrize(
    ("head", "args", "told"),
    [
        (12, {}, "vLLM does not start on .*|vLLM fails on"),
        (32, {"max_model_len": 10**6}, "engine.args.max_model_len"),
    ],
)
def test_an_engine_that_cannot_serve_a_model_says_so(head, args, told, requests, tmp_path):
    """In a process of its own: an engine that fails leaves its state behind."""
    code = f"""
import torch
from pathlib import Path
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig
import mlalign
from mlalign.models.engine import EngineConfig, Request, Sampling, open_engine
from mlalign.core.model import Model
from mlalign.core.errors import UserError
config = LlamaConfig(vocab_size=2048, hidden_size={head} * 4, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
                     num_key_value_heads=2, max_position_embeddings=128)
AutoModelForCausalLM.from_config(config).save_pretrained("small")
AutoTokenizer.from_pretrained(Path(mlalign.__file__).parent / "data" / "tiny").save_pretrained("small")
try:
    engine = open_engine(EngineConfig("vllm", args={args!r}), Model("small", "small"), 64)
    engine.generate([Request("a", 1, [5, 6, 7])], Sampling(4, 0.0))
except UserError as error:
    print("message:", error)
"""
    env = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=env,
        text=True,
        capture_output=True,
        check=False,
        timeout=500,
    )
    assert re.search(f"message: ({told})", done.stdout), done.stdout + done.stderr[-2000:]


def test_arguments_of_the_configuration_win_and_the_cpu_adds_its_own(tiny):
    config = EngineConfig("vllm", args={"enable_prefix_caching": False, "enforce_eager": False})
    cpu, gpu = arguments(config, tiny, 64, on_cpu=True), arguments(config, tiny, None, on_cpu=False)
    assert (
        cpu["dtype"],
        cpu["enable_chunked_prefill"],
        cpu["enforce_eager"],
        cpu["max_model_len"],
    ) == ("float32", False, False, 64)
    assert gpu["dtype"] == "auto"
    assert not {"enable_chunked_prefill", "max_model_len"} & set(gpu)
    assert cpu["enable_prefix_caching"] is False


def test_adapters_bring_their_base_and_their_rank(adapter_and_merged, tiny, tmp_path):
    adapter, _ = adapter_and_merged
    given = arguments(EngineConfig("vllm"), adapter, 64, on_cpu=True)
    assert (given["model"], given["enable_lora"], given["max_lora_rank"]) == (tiny.path, True, 8)
    write_json(tmp_path / "adapter_config.json", {"r": 4, "rank_pattern": {"o_proj": 600}})
    with pytest.raises(UserError, match="serves no adapter with r: 600"):
        served_rank(tmp_path)


@pytest.mark.slow
def test_one_seed_per_request_and_none_when_greedy():
    from mlalign.models.engine.vllm import parameters

    asked = [Request("a", 5, [1]), Request("b", 6, [1])]
    assert [p.seed for p in parameters(asked, Sampling(4))] == [5, 6]
    assert [p.n for p in parameters(asked, Sampling(4))] == [1, 1]
    assert [p.seed for p in parameters(asked, Sampling(4, 0.0))] == [None, None]
