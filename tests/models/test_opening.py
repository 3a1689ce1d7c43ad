"""What is opened is what its files say: no code of a repository, no weights missing or left out,
broken files named.
"""

import ast
import json
import math
import shlex
import shutil
import subprocess
import sys

import pytest
import torch
from helpers import PROJECT
from safetensors.torch import load_file, save_file
from tiny_classifier import make_config, make_tokenizer, save_classifier, save_encoder
from transformers import AutoModelForSequenceClassification, Qwen3ForCausalLM

import reward_models
from mlalign.core import processes
from mlalign.core.errors import UserError
from mlalign.core.model import Model
from mlalign.models import modelling, opening
from reward_models.__main__ import main

QUESTION = {"prompt": "How much is 2 + 2?", "response": "The sum is 4."}
OWN_CODE = (
    "open({marker!r}, 'w').close()\nfrom transformers import {base}\n\n\nclass Own({base}):\n   "
    " pass\n"
)
WEIGHTS = modelling.Weights("causal", "float32")
HEADS = modelling.Weights("classifier", "float32")


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    return save_classifier(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture(scope="session")
def saved_causal(tmp_path_factory):
    path, tokenizer = tmp_path_factory.mktemp("saved") / "causal", make_tokenizer()
    torch.manual_seed(1)
    Qwen3ForCausalLM(make_config(tokenizer)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def rm(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "rm")


@pytest.fixture
def causal(saved_causal, tmp_path):
    return shutil.copytree(saved_causal, tmp_path / "causal")


def edit(file, **values):
    told = json.loads(file.read_text()) | values
    file.write_text(json.dumps(told))


def add(path, tensors, name="model.safetensors"):
    weights = load_file(path / name) | tensors
    save_file(
        {n: w for n, w in weights.items() if w is not None}, path / name, metadata={"format": "pt"}
    )


def score(path, **options):
    return reward_models.load(path, **options).score([QUESTION])[0]


# -------------------------------------------------------------------------------- code is never run


@pytest.mark.slow
def test_nothing_else_opens_models():
    """Every call of from_pretrained is in mlalign/models, and nowhere is trust_remote_code anything
    but False.
    """
    n_files = 0
    for path in sorted(
        [*(PROJECT / "mlalign").rglob("*.py"), *(PROJECT / "reward_models").rglob("*.py")]
    ):
        n_files += 1
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "from_pretrained":
                assert path.parent == PROJECT / "mlalign" / "models", f"{path}:{node.lineno}"
            for key, value in named_values(node):
                if key == "trust_remote_code":
                    refused = isinstance(value, ast.Constant) and (
                        value.value is False or isinstance(value.value, str)
                    )
                    assert refused, f"{path}:{node.lineno}"
    assert n_files > 150


def named_values(node):
    """(name, value) of a keyword argument, or of the entries of a dictionary."""
    if isinstance(node, ast.keyword):
        yield node.arg, node.value
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant):
                yield key.value, value


def with_own_code(path, what):
    """Let a model directory need code of its own for `what`; returns the file that this code would
    make.
    """
    marker = path / "RAN"
    bases = {
        "tokenizer": "PreTrainedTokenizerFast",
        "config": "Qwen3Config",
        "model": "Qwen3ForSequenceClassification",
    }
    (path / "own_code.py").write_text(OWN_CODE.format(marker=str(marker), base=bases[what]))
    if what == "tokenizer":
        own = {"AutoTokenizer": [None, "own_code.Own"]}
        edit(path / "tokenizer_config.json", tokenizer_class="Own", auto_map=own)
    elif what == "config":
        edit(path / "config.json", model_type="own", auto_map={"AutoConfig": "own_code.Own"})
    else:
        own = {
            "AutoModelForSequenceClassification": "own_code.Own",
            "AutoModelForCausalLM": "own_code.Own",
        }
        edit(path / "config.json", architectures=["Own"], auto_map=own)
    return marker


@pytest.mark.parametrize(
    ("what", "file"),
    [("tokenizer", "tokenizer_config.json"), ("config", "config.json"), ("model", "config.json")],
)
@pytest.mark.slow
def test_own_code_is_refused_without_a_question(
    rm, causal, tmp_path, monkeypatch, capsys, what, file
):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    source = tmp_path / "rows.jsonl"
    source.write_text(json.dumps(QUESTION) + "\n")
    markers = [with_own_code(path, what) for path in (rm, causal)]
    told = ("--input", str(source), "--output", str(tmp_path / "out.jsonl"))
    implicit = ("--family", "implicit", "--set", f"path={causal}", "--set", f"reference={causal}")
    for command in (
        ("score", "--model", str(rm), *told), ("check", "--model", str(rm), "--input", str(source)), ("score", *implicit, *told),
    ):  # fmt: skip
        assert main(list(command)) == 2
        said = capsys.readouterr()
        assert file in said.out + said.err and "never run" in said.out + said.err, command
    for weights in (WEIGHTS, HEADS):
        with pytest.raises(UserError, match="never run"):
            modelling.load_tokenizer(Model(str(causal), ""), None)
            modelling.load_full(Model(str(causal), ""), weights)
    assert not any(marker.exists() for marker in markers)


@pytest.mark.slow
def test_own_code_beside_stock_classes_is_not_needed(rm, saved):
    """The stock class is right where architectures names it and all weights fit."""
    marker = with_own_code(rm, "model")
    own = {"AutoConfig": "own_code.Own", "AutoModelForSequenceClassification": "own_code.Own"}
    edit(rm / "config.json", architectures=["Qwen3ForSequenceClassification"], auto_map=own)
    assert score(rm) == score(saved) and not marker.exists()


def test_a_kernel_on_the_hub_is_code(rm):
    edit(rm / "config.json", attn_implementation="someone/kernel")
    with pytest.raises(
        UserError,
        match=r"config.json: attn_implementation names code on the hub \(someone/kernel\)",
    ):
        score(rm)


@pytest.mark.parametrize(
    "values",
    [
        {"attn_implementation": {"": "someone/kernel"}},
        {"text_config": {"attn_implementation": "someone/kernel"}},
        {"parts": [{"_experts_implementation": {"decoder": "someone/kernel"}}]},
    ],
)
def test_a_kernel_in_a_part_of_the_configuration_is_code_too(rm, values):
    edit(rm / "config.json", **values)
    with pytest.raises(
        UserError,
        match=r"config.json: \w+ names code on the hub \(someone/kernel\), and code .* never run",
    ):
        opening.configuration(str(rm))


@pytest.mark.slow
def test_modules_in_the_working_directory_are_not_imported_by_helpers(tmp_path, monkeypatch):
    for name in ("reward_models", "json"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'w').close()")
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "reward_models", "--help"]
    environment = processes.python_environment()
    ended = subprocess.run(command, check=True, capture_output=True, timeout=120, env=environment)
    assert ended.stdout.startswith(b"usage: rm-score")
    assert not (tmp_path / "RAN").exists()


def test_steps_read_nothing_from_stdin(tmp_path, monkeypatch):
    from mlalign.running import local

    code = "import sys; sys.exit(sys.stdin.read() != '')"
    monkeypatch.setattr(local, "argv", lambda *_: [sys.executable, "-c", code])
    read, write = __import__("os").pipe()
    __import__("os").write(write, b"y\n")
    monkeypatch.setattr(sys, "stdin", open(read))  # noqa: SIM115
    assert local.run(tmp_path / "config.json", {}, tmp_path / "log", lambda: None) == 0


# -------------------------------------------------------------------- a model is what its files say


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("Own", "is no class of transformers"),
        ("Qwen3ForTokenClassification", "values to single tokens"),
        ("Qwen3ForCausalLM", "here it would be a Qwen3ForSequenceClassification"),
        ("LlamaForSequenceClassification", "here it would be a Qwen3ForSequenceClassification"),
    ],
)
@pytest.mark.slow
def test_another_class_is_refused(rm, architecture, message):
    edit(rm / "config.json", architectures=[architecture])
    with pytest.raises(UserError, match=message):
        score(rm)


@pytest.mark.parametrize(
    "tensors",
    [
        {"score.bias": torch.full((1,), 3.0)},
        {"gating.weight": torch.ones(4, 32)},
        {"regression_layer.weight": torch.ones(1, 32)},
        {"model.layers.0.self_attn.q_proj.bias": torch.ones(32)},
    ],
)
@pytest.mark.slow
def test_weights_that_the_class_does_not_use_are_refused(rm, tmp_path, capsys, tensors):
    add(rm, tensors)
    (name,) = tensors
    with pytest.raises(
        UserError, match=f"hold {name}, which Qwen3ForSequenceClassification does not use"
    ):
        score(rm)
    source = tmp_path / "rows.jsonl"
    source.write_text(json.dumps(QUESTION) + "\n")
    assert main(["check", "--model", str(rm), "--input", str(source)]) == 2
    assert name in capsys.readouterr().out


@pytest.mark.slow
def test_whole_numbers_are_no_weights(rm, causal):
    name = "model.layers.0.mlp.up_proj.weight"
    for path in (rm, causal):
        add(path, {name: torch.ones(64, 32, dtype=torch.int8)})
    with pytest.raises(UserError, match=f"{name} are whole numbers .i8."):
        score(rm)
    with pytest.raises(UserError, match="are whole numbers"):
        opening.check_served(str(causal), None)


@pytest.mark.slow
def test_an_unknown_way_of_quantising_is_refused(rm):
    edit(rm / "config.json", quantization_config={"quant_method": "own"})
    with pytest.raises(UserError, match=r"config.json: quantization_config has quant_method 'own'"):
        score(rm)


@pytest.mark.slow
def test_buffers_of_older_versions_are_harmless(rm, saved):
    buffers = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "model.position_ids": torch.arange(3),
    }
    add(rm, buffers)
    assert score(rm) == score(saved)


@pytest.mark.slow
def test_a_configuration_without_architectures_is_taken(rm, saved):
    edit(rm / "config.json", architectures=None)
    assert score(rm) == score(saved)


@pytest.mark.slow
def test_another_shape_than_the_configuration_says(rm):
    edit(rm / "config.json", intermediate_size=48)
    with pytest.raises(UserError, match=r"config.json says another shape of .*mlp"):
        score(rm)


@pytest.mark.slow
def test_a_new_head_stands_on_whole_models_only(causal, rm):
    """The head of the stated class may be left out; nothing else may, and a causal model keeps its
    own.
    """
    assert modelling.load_full(Model(str(causal), ""), HEADS, seed=3).score.weight.shape == (1, 32)
    assert modelling.load_full(Model(str(rm), ""), HEADS).score.weight.shape == (1, 32)
    with pytest.raises(UserError, match=r"rm: holds no weights for lm_head.weight"):
        modelling.load_full(Model(str(rm), ""), WEIGHTS)
    add(causal, {"gating.weight": torch.ones(4, 32)})
    for weights in (WEIGHTS, HEADS):
        with pytest.raises(UserError, match=r"causal: its weights hold gating.weight"):
            modelling.load_full(Model(str(causal), ""), weights)


@pytest.mark.slow
def test_the_base_of_a_new_head_is_not_a_head_of_another_size(tmp_path):
    path = save_classifier(tmp_path / "three", num_labels=3)
    with pytest.raises(UserError, match=r"three: config.json says another shape of score.weight"):
        modelling.load_full(Model(str(path), ""), HEADS)


# ----------------------------------------------------------------------------------------- adapters


def encoder_adapter(root, kind="bert", n_base_labels=None, **lora):
    """An adapter with a trained head on an encoder: (its path, the score that peft gives)."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForMaskedLM

    save_encoder(root / "base", kind)
    if n_base_labels is None:
        config = AutoConfig.from_pretrained(root / "base")
        AutoModelForMaskedLM.from_config(config).save_pretrained(root / "base")
    torch.manual_seed(5)
    whole = AutoModelForSequenceClassification.from_pretrained(
        root / "base", num_labels=1, ignore_mismatched_sizes=True
    )
    model = get_peft_model(
        whole, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], **lora)
    ).eval()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(len(name)))
    model.save_pretrained(root / "adapter")
    tokenizer = make_tokenizer(bos_token=None, cls_token="<|bos|>", sep_token="<|end|>")
    tokenizer.chat_template = (
        "{{ cls_token }}{% for m in messages %}{{ m['content'] }}{{ sep_token }}{% endfor %}"
    )
    tokenizer.save_pretrained(root / "adapter")
    text = f"<|bos|>{QUESTION['prompt']}<|end|>{QUESTION['response']}<|end|>"
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    return root / "adapter", model(input_ids=ids).logits[0, 0].item()


@pytest.mark.parametrize(
    ("kind", "saved_modules"),
    [("xlm-roberta", None), ("bert", ["classifier", "pooler"]), ("xlm-roberta", ["classifier"])],
)
@pytest.mark.slow
def test_whole_heads_of_encoders_come_from_the_adapter(tmp_path, kind, saved_modules):
    path, expected = encoder_adapter(tmp_path, kind, modules_to_save=saved_modules)
    assert score(path) == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_an_incomplete_head_of_an_adapter_names_the_modules(tmp_path):
    path, _ = encoder_adapter(
        tmp_path, "bert"
    )  # peft saves the classifier, not the pooler that BertForMaskedLM lacks
    with pytest.raises(
        UserError,
        match=r"adapter: holds no weights for bert.pooler.*its base .*modules_to_save=\['pooler'\]",
    ):
        score(path)


@pytest.mark.slow
def test_an_adapter_that_is_cut_off_is_refused(tmp_path):
    path, _ = encoder_adapter(tmp_path, "xlm-roberta")
    names = [name for name in load_file(path / "adapter_model.safetensors") if "layer.1" in name]
    add(path, dict.fromkeys(names), "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"its file lacks .*layer.1.*lora_A"):
        score(path)


# ------------------------------------------------------------------------------------- broken files


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-7])


BROKEN = {
    "config.json": (
        lambda f: f.write_text("[]"),
        r"config.json: holds a JSON list where an object",
    ),
    "config.json cut": (cut_off, "config.json: is no JSON"),
    "config.json of strings": (
        lambda f: edit(f, hidden_size="wide"),
        r"its config.json is no configuration .*hidden_size.*str",
    ),
    "config.json without type": (lambda f: f.write_text("{}"), "config.json: has no model_type"),
    "config.json architectures": (
        lambda f: edit(f, architectures="Own"),
        "architectures must be a list of names",
    ),
    "model.safetensors cut": (cut_off, "model.safetensors: is no complete safetensors file"),
    "model.safetensors": (
        lambda f: f.write_bytes(b"PK\x03\x04" * 9),
        "model.safetensors: is no complete safetensors file",
    ),
    "model.safetensors gone": (lambda f: f.unlink(), r"rm: has no weights \(model.safetensors\)"),
    "tokenizer.json": (lambda f: f.write_text("{}"), "rm: no tokenizer can be loaded"),
    "tokenizer.json cut": (cut_off, "rm: no tokenizer can be loaded"),
    "tokenizer_config.json": (
        lambda f: f.write_text("[1]"),
        "tokenizer_config.json: holds a JSON list",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.slow
def test_broken_files_are_named(rm, case):
    change, message = BROKEN[case]
    change(rm / case.split()[0])
    with pytest.raises(UserError, match=message):
        score(rm)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "holds a JSON list"),
        ('{"eos_token_id": "2"}', "eos_token_id must be a token's number"),
    ],
)
@pytest.mark.slow
def test_a_generation_config_that_cannot_be_read(causal, text, message):
    (causal / "generation_config.json").write_text(text)
    with pytest.raises(UserError, match=f"generation_config.json: {message}"):
        opening.outline(str(causal), "causal")


@pytest.mark.slow
def test_an_index_of_files_that_are_not_there(rm):
    (rm / "model.safetensors").unlink()
    (rm / "model.safetensors.index.json").write_text(
        '{"weight_map": {"score.weight": "model-1.safetensors"}}'
    )
    with pytest.raises(
        UserError, match=r"index.json: names model-1.safetensors, which is not there"
    ):
        score(rm)


@pytest.mark.parametrize("place", ["../elsewhere.safetensors", "{parent}/elsewhere.safetensors"])
@pytest.mark.slow
def test_an_index_of_files_outside_the_folder(rm, place):
    (rm / "model.safetensors").rename(rm.parent / "elsewhere.safetensors")
    names = dict.fromkeys(
        load_file(rm.parent / "elsewhere.safetensors"), place.format(parent=rm.parent)
    )
    (rm / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(
        UserError, match=r"index.json: names .*elsewhere.safetensors, which lies outside"
    ):
        score(rm)


@pytest.mark.slow
def test_an_index_of_two_files_with_the_same_weights(rm):
    """transformers takes the last one that it reads, whatever the index says."""
    (rm / "model.safetensors").rename(rm / "one.safetensors")
    weights = load_file(rm / "one.safetensors")
    save_file(
        {"score.weight": -weights["score.weight"]},
        rm / "two.safetensors",
        metadata={"format": "pt"},
    )
    names = dict.fromkeys(weights, "one.safetensors") | {"gone": "two.safetensors"}
    (rm / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(
        UserError,
        match=r"two of its files hold score.weight \(one.safetensors and two.safetensors\)",
    ):
        score(rm)


@pytest.mark.long
def test_pickled_weights_are_converted_by_the_command_that_the_message_gives(rm, saved):
    torch.save(load_file(rm / "model.safetensors"), rm / "pytorch_model.bin")
    (rm / "model.safetensors").unlink()
    with pytest.raises(UserError, match="pickled weights") as refused:
        score(rm)
    command = shlex.split(str(refused.value).splitlines()[-1])
    subprocess.run([sys.executable, *command[1:]], check=True, timeout=120)
    assert score(rm) == score(saved)


# ------------------------------------------------------------------------------------------- tokens


@pytest.mark.slow
def test_tokens_without_embeddings_are_refused_everywhere(rm, causal):
    from mlalign.models.engine import EngineConfig, open_engine

    for path in (rm, causal):
        tokenizer = make_tokenizer()
        tokenizer.add_tokens(["<|new|>"])
        tokenizer.save_pretrained(path)
    openers = [
        lambda: score(rm),
        lambda: reward_models.load(causal, family="implicit", reference=str(causal)),
        lambda: open_engine(EngineConfig("transformers"), Model(str(causal), "")),
        lambda: modelling.load_tokenizer(Model(str(causal), ""), None),
        lambda: modelling.load_tokenizer(Model(str(causal), ""), None, padding_is_read=False),
    ]
    for opener in openers:
        with pytest.raises(UserError, match=r"no embeddings for \('<\|new\|>' is number"):
            opener()


@pytest.mark.slow
def test_a_padding_token_without_a_row_is_never_read_by_scorers(rm, saved):
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<|late|>"})
    tokenizer.save_pretrained(rm)
    assert score(rm) == score(saved)
    with pytest.raises(UserError, match="no embeddings for"):
        modelling.load_tokenizer(Model(str(rm), ""), None)


def test_an_adapter_names_a_full_model(tmp_path):
    from mlalign.core.model import local_model

    for name, told in {
        "list": [],
        "nothing": {},
        "null": {"base_model_name_or_path": None},
        "itself": {"base_model_name_or_path": "."},
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(told))
        with pytest.raises(UserError, match=f"{name}/adapter_config.json: "):
            local_model(tmp_path / name, "")
    (tmp_path / "nothing" / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "org/base"}'
    )
    (tmp_path / "itself" / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "../nothing"}'
    )
    with pytest.raises(UserError, match=r"its base .*nothing is an adapter itself"):
        local_model(tmp_path / "itself", "")


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ({"mean": "0.5", "std": [2]}, (0.5, 2.0)),
        ({"mean": 0.5}, (0.5, None)),
        ({"mean": True, "std": {}}, (None, None)),
        ({}, None),
    ],
)
def test_statistics_in_odd_forms_are_not_overlooked(told, found):
    seen = opening.statistics(told)
    assert (seen and tuple(n if math.isfinite(n) else None for n in seen)) == found


@pytest.mark.slow
def test_statistics_that_cannot_be_used_are_warned_of(rm, caplog):
    edit(rm / "config.json", mean=0.5, std="wide")
    score(rm)
    assert "statistics of the model's scores that cannot be used (mean 0.5, std nan)" in caplog.text
