"""The sft stage on the tiny model: what it writes, going on after a stop, adapters, batches, and
every refusal.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_cases import LANGUAGES, TINY, StopAt, config, losses, train, write
from transformers import AutoModelForCausalLM, AutoTokenizer

from mlalign.core import rows, schema, stage, store
from mlalign.core.errors import UserError
from mlalign.models.training.config import accumulation, packages

LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "lora_dropout": 0.1}
FULL = [
    "README.md",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
]


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    return write(tmp_path_factory.mktemp("rows") / "demonstrations", "demonstration")


@pytest.fixture(scope="module")
def full(demonstrations, tmp_path_factory):
    return train("sft", demonstrations, tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="module")
def adapter(demonstrations, tmp_path_factory):
    return train("sft", demonstrations, tmp_path_factory.mktemp("adapter"), peft=LORA)


def content(out: stage.Output) -> dict[str, str]:
    return {str(p.relative_to(out.path)): store.sha256(p) for p in store.content_files(out.path)}


def weights(out: stage.Output) -> dict[str, torch.Tensor]:
    return load_file(next((out.path / "model").glob("*.safetensors")))


@pytest.mark.slow
def test_the_model_is_a_plain_directory_that_reloads(full):
    model = full.path / "model"
    assert sorted(p.name for p in model.iterdir()) == FULL
    reloaded, tokenizer = (
        AutoModelForCausalLM.from_pretrained(model, dtype="float32"),
        AutoTokenizer.from_pretrained(model),
    )
    assert (
        reloaded.config.use_cache
        and tokenizer.chat_template == AutoTokenizer.from_pretrained(TINY).chat_template
    )
    before, after = load_file(TINY / "model.safetensors"), weights(full)
    assert before.keys() == after.keys() and all(
        not torch.equal(before[name].float(), after[name]) for name in before
    )


@pytest.mark.slow
def test_counts_losses_and_progress_are_told(full):
    assert full.tally.to_dict() == {"rows": dict.fromkeys(LANGUAGES, 16), "dropped": {}, "sums": {}}
    told = full.notes["train"]
    assert told["steps"] == 4 and told["trainable_parameters"] == told["parameters"] == sum(
        t.numel() for t in weights(full).values()
    )
    assert losses(full)[-1] < losses(full)[0] and told["final_loss"] == losses(full)[-1]
    assert store.read_json(full.path / "progress.json")["done"] == 4


@pytest.mark.slow
def test_nothing_in_the_content_tells_time_or_place(full):
    text = "".join(
        p.read_text()
        for p in store.content_files(full.path)
        if p.suffix in (".json", ".md") and p.name != "tokenizer.json"
    )
    assert str(full.path.parent) not in text and str(TINY) not in text and "runtime" not in text
    card = (full.path / "model" / "README.md").read_text()
    assert (
        "vllm serve sft-test/model" in card
        and "| swh_Latn | 16 |" in card
        and "base_model: tiny" in card
    )


@pytest.mark.slow
def test_the_same_step_gives_the_same_bytes(full, demonstrations, tmp_path):
    assert content(train("sft", demonstrations, tmp_path)) == content(full)


@pytest.mark.parametrize("peft", [None, LORA])
@pytest.mark.slow
def test_a_stopped_step_goes_on_as_if_it_had_not_been(
    peft, full, adapter, demonstrations, tmp_path
):
    with pytest.raises(stage.Stopped):
        train("sft", demonstrations, tmp_path, kind=StopAt, peft=peft)
    again = train("sft", demonstrations, tmp_path, peft=peft)
    assert again.notes["train"]["resumed_from"] == "checkpoint-2"
    assert content(again) == content(full if peft is None else adapter)


@pytest.mark.slow
def test_checkpoints_that_are_incomplete_or_not_as_saved_are_left_out_and_said(
    full, demonstrations, tmp_path, capsys
):
    with pytest.raises(stage.Stopped):
        train("sft", demonstrations, tmp_path, kind=StopAt, checkpoint_every=1)
    folder = tmp_path / "sft-test.partial" / "checkpoints" / "trainer"
    assert [p.name for p in folder.glob("checkpoint-*")] == [
        "checkpoint-2"
    ]  # the one before is gone once this one is complete
    broken = folder / "checkpoint-3"
    broken.mkdir()
    (broken / "trainer_state.json").write_text(
        (folder / "checkpoint-2" / "trainer_state.json").read_text()
    )
    (broken / "model.safetensors").write_bytes(b"half")
    swapped = folder / "checkpoint-7"
    shutil.copytree(folder / "checkpoint-2", swapped)
    with open(swapped / "model.safetensors", "r+b") as f:
        f.seek(-1, 2)
        f.write(b"x")
    (tmp_path / "sft-test.partial" / "checkpoints" / "train.parquet").write_bytes(b"cut")
    again = train("sft", demonstrations, tmp_path)
    assert again.notes["train"]["resumed_from"] == "checkpoint-2" and content(again) == content(
        full
    )
    said = capsys.readouterr().err
    assert (
        "checkpoint-7: model.safetensors is not what was saved" in said
        and "checkpoint-3: was never completed" in said
    )
    assert (
        "train.parquet: is not what was written there; computed again" in said
        and not swapped.exists()
    )
    assert not (broken / "model.safetensors").exists()


@pytest.mark.slow
def test_small_device_batches_are_accumulated_to_the_same_step(full, demonstrations, tmp_path):
    assert losses(train("sft", demonstrations, tmp_path, device_batch_size=2)) == pytest.approx(
        losses(full), abs=1e-5
    )


@pytest.mark.slow
def test_plain_text_is_language_modelling_and_needs_no_template(tmp_path):
    out = train("sft", write(tmp_path / "rows", "text"), tmp_path, languages=["swh_Latn"])
    assert out.tally.rows == {"swh_Latn": 16} and losses(out)[-1] < losses(out)[0]
    assert "Language modelling" in (out.path / "model" / "README.md").read_text()


@pytest.mark.slow
def test_an_adapter_names_its_base_and_how_to_serve_it(adapter):
    told = store.read_json(adapter.path / "model" / "adapter_config.json")
    assert told["base_model_name_or_path"] == str(TINY) and told["target_modules"] == sorted(
        told["target_modules"]
    )
    model = stage.local_model(adapter.path / "model", "x")
    assert model.base is not None and model.base.path == str(TINY)
    assert (
        "--enable-lora --max-lora-rank 8 --lora-modules sft=sft-test/model"
        in (adapter.path / "model" / "README.md").read_text()
    )
    assert adapter.notes["train"]["trainable_parameters"] == sum(
        t.numel() for t in weights(adapter).values()
    )


@pytest.mark.slow
def test_training_goes_on_in_an_adapter(adapter, demonstrations, tmp_path):
    out = train("sft", demonstrations, tmp_path, model=adapter.path / "model", peft={"r": 4})
    assert weights(out).keys() == weights(adapter).keys()
    assert losses(out)[0] < losses(adapter)[0]
    assert store.read_json(out.path / "model" / "adapter_config.json")[
        "base_model_name_or_path"
    ] == str(TINY)


@pytest.mark.slow
def test_full_weights_from_an_adapter_merge_it_first(adapter, demonstrations, tmp_path):
    out = train("sft", demonstrations, tmp_path, model=adapter.path / "model")
    assert sorted(p.name for p in (out.path / "model").iterdir()) == FULL
    assert losses(out)[0] < losses(adapter)[0]


@pytest.mark.slow
def test_an_adapter_of_another_rank_is_refused(adapter, demonstrations, tmp_path):
    with pytest.raises(UserError, match=r"r=4, not 16.*never stack"):
        train("sft", demonstrations, tmp_path, model=adapter.path / "model", peft={"r": 16})


@pytest.mark.slow
def test_long_rows_are_counted_and_a_language_that_empties_is_an_error(demonstrations, tmp_path):
    lengths = {}
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    for row in rows.read(demonstrations, "train"):
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)[
            "input_ids"
        ]
        whole = tokenizer.apply_chat_template(row["prompt"] + row["completion"])["input_ids"]
        lengths.setdefault(row["prompt_lang"], []).append((len(prompt), len(whole)))
    longest = max(whole for found in lengths.values() for _, whole in found)
    out = train("sft", demonstrations, tmp_path / "cut", max_length=longest - 1)
    cut = {
        language: sum(whole > longest - 1 for _, whole in found)
        for language, found in lengths.items()
    }
    assert (
        out.tally.to_dict()["sums"]["truncated"]
        == {language: n for language, n in cut.items() if n}
        and not out.tally.dropped
    )
    with pytest.raises(UserError) as error:
        train("sft", demonstrations, tmp_path / "none", max_length=3)
    assert [m.split(":")[0] for m in error.value.messages] == list(
        LANGUAGES
    ) and "all 16 are longer than max_length=3" in error.value.messages[0]


@pytest.mark.parametrize(
    ("batch", "device", "n", "message"),
    [
        (10, 4, 2, "batch_size=8 or 16, or device_batch_size=1 or 5"),
        (9, None, 2, "batch_size=8 or 16"),
        (16, 32, 1, "set batch_size=32, or device_batch_size=16"),
        (3, 2, 2, "set batch_size=4$"),
    ],
)
def test_batches_that_do_not_divide_name_the_nearest_that_do(batch, device, n, message):
    with pytest.raises(UserError, match=message):
        accumulation(batch, device, n)


def test_accumulation_follows_from_the_devices():
    assert accumulation(64, 4, 8) == (4, 2)
    assert accumulation(32, None, 4) == (8, 1)


def test_what_is_refused_before_a_model_is_loaded(demonstrations, tmp_path):
    def message(**values) -> str:
        with pytest.raises(UserError) as error:
            train("sft", values.pop("source", demonstrations), tmp_path, **values)
        return str(error.value)

    assert "cannot be trained themselves; set peft" in message(quantization="nf4")
    assert "in fra_Latn" in message(languages=["fra_Latn"])
    assert "holds preference rows; sft trains on demonstration or text rows" in message(
        source=write(tmp_path / "p", "preference")
    )
    assert "batch_size: must be at least 1" in message(batch_size=0)
    assert "no file /nowhere.jinja" in message(chat_template="/nowhere.jinja")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.slow
def test_quantization_without_a_gpu_says_so(demonstrations, tmp_path):
    with pytest.raises(UserError, match="nf4 needs a CUDA GPU"):
        train("sft", demonstrations, tmp_path, quantization="nf4", peft=LORA)


@pytest.fixture
def base(tmp_path):
    """A copy of the tiny model, and a function that writes its generation settings."""
    folder = tmp_path / "base"
    shutil.copytree(TINY, folder)

    def settings(**values):
        store.write_json(
            folder / "generation_config.json", {"eos_token_id": 3, "pad_token_id": 0, **values}
        )
        return folder

    return settings


@pytest.mark.slow
def test_generation_settings_without_effect_are_left_out_and_told(base, demonstrations, tmp_path):
    model = base(do_sample=False, temperature=0.6, top_p=0.9)
    out = train("sft", demonstrations, tmp_path, model=model, trainer={"max_steps": 1})
    saved = store.read_json(out.path / "model" / "generation_config.json")
    assert not {"temperature", "top_p"} & set(saved) and saved["eos_token_id"] == 3
    assert "sets temperature=0.6, top_p=0.9, which mean nothing" in out.notes["warnings"][0]


@pytest.mark.slow
def test_generation_settings_that_sample_are_kept(base, demonstrations, tmp_path):
    out = train(
        "sft",
        demonstrations,
        tmp_path,
        model=base(do_sample=True, temperature=0.6),
        trainer={"max_steps": 1},
    )
    saved = store.read_json(out.path / "model" / "generation_config.json")
    assert (saved["do_sample"], saved["temperature"]) == (True, 0.6) and "warnings" not in out.notes


@pytest.mark.slow
def test_generation_settings_that_cannot_be_saved_are_named_before_training(
    base, demonstrations, tmp_path
):
    with pytest.raises(
        UserError, match=r"generation_config.json cannot be saved with a model .*output_attentions"
    ):
        train("sft", demonstrations, tmp_path, model=base(output_attentions=True))
    assert not list((tmp_path / "sft-test.partial" / "checkpoints").glob("trainer/*"))


@pytest.mark.slow
def test_a_base_without_a_template_takes_the_configured_one(demonstrations, tmp_path):
    bare = tmp_path / "bare"
    AutoModelForCausalLM.from_pretrained(TINY).save_pretrained(bare)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    template, tokenizer.chat_template = tokenizer.chat_template, None
    tokenizer.save_pretrained(bare)
    with pytest.raises(UserError, match="no chat template and none is configured"):
        train("sft", demonstrations, tmp_path / "no", model=bare)
    (tmp_path / "t.jinja").write_text(template)
    out = train(
        "sft", demonstrations, tmp_path / "yes", model=bare, chat_template=str(tmp_path / "t.jinja")
    )
    assert AutoTokenizer.from_pretrained(out.path / "model").chat_template == template


def test_trainer_keys_are_checked_and_reserved_ones_say_where_to_set_them():
    with pytest.raises(UserError, match=r"learning_rat.*did you mean 'learning_rate'"):
        config("sft", trainer={"learning_rat": 1})
    with pytest.raises(UserError, match=r"trainer.seed: set seed on the step"):
        config("sft", trainer={"seed": 1})
    with pytest.raises(UserError, match=r"peft.lora_alfa: LoraConfig has no such argument"):
        config("sft", peft={"lora_alfa": 1})


def test_only_what_changes_the_weights_is_hashed():
    def hashed(**values):
        return json.dumps(schema.hashed(config("sft", **values)), sort_keys=True)

    same = {
        "device_batch_size": 2,
        "checkpoint_every": 7,
        "deepspeed": {"zero_optimization": {"stage": 2}},
        "trainer": {"logging_steps": 5},
    }
    assert hashed() == hashed(**same)
    assert hashed() != hashed(trainer={"learning_rate": 2e-3}) and hashed() != hashed(peft={"r": 4})


def test_packages_follow_the_configuration():
    assert "bitsandbytes" in packages(config("sft", quantization="int8", peft={"r": 4}))
    assert not {"bitsandbytes", "peft", "deepspeed"} & set(packages(config("sft")))


def ends_otherwise(folder: Path) -> Path:
    """The tiny model with another end token, as a base model has: its template still ends turns
    with `<|end|>`.
    """
    tokenizer, network = (
        AutoTokenizer.from_pretrained(TINY),
        AutoModelForCausalLM.from_pretrained(TINY),
    )
    tokenizer.eos_token = "<|pad|>"
    tokenizer.chat_template = tokenizer.chat_template.replace("'<|end|>'", "'<|end|>\n'")
    network.config.eos_token_id = network.generation_config.eos_token_id = tokenizer.eos_token_id
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("peft", [None, {"r": 4}])
@pytest.mark.slow
def test_the_saved_model_ends_where_the_template_ends_a_turn(demonstrations, tmp_path, peft):
    base = ends_otherwise(tmp_path / "base")
    out = train(
        "sft", demonstrations, tmp_path / "out", model=base, peft=peft, trainer={"max_steps": 1}
    )
    end, eos = (
        AutoTokenizer.from_pretrained(TINY).convert_tokens_to_ids(t) for t in ("<|end|>", "<|pad|>")
    )
    assert store.read_json(out.path / "model" / "generation_config.json")["eos_token_id"] == [
        end,
        eos,
    ]
    assert out.notes["template"]["end_of_turn"] == {"token": end, "text": "<|end|>"}


@pytest.mark.slow
def test_a_template_that_ends_the_last_answer_with_nothing_is_warned_of(demonstrations, tmp_path):
    between = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if not loop.last %}{{ eos_token"
        " }}{% endif %}{% endfor %}"
    )
    template = between + "{% if add_generation_prompt %}{{ eos_token }}<|assistant|>{% endif %}"
    out = train(
        "sft", demonstrations, tmp_path / "out", chat_template=template, trainer={"max_steps": 1}
    )
    (warning,) = (w for w in out.notes["warnings"] if w.startswith("chat_template"))
    assert "does not learn where an answer ends" in warning and "such as <|end|>" in warning


@pytest.mark.long
@pytest.mark.parametrize("otherwise", [False, True])
def test_answers_end_with_their_turn_in_plain_transformers_and_in_vllm(
    demonstrations, tmp_path, otherwise
):
    """For templates that end a turn with the tokenizer's end token, and with another one."""
    from mlalign.core.stage import local_model
    from mlalign.models.engine import EngineConfig, Request, Sampling, open_engine
    from mlalign.models.templates import ChatTemplate

    base = ends_otherwise(tmp_path / "base") if otherwise else TINY
    out = train(
        "sft",
        demonstrations,
        tmp_path / "out",
        model=base,
        trainer={"max_steps": 30, "learning_rate": 3e-3},
    )
    path = out.path / "model"
    tokenizer = AutoTokenizer.from_pretrained(path)
    text = ChatTemplate(tokenizer).prompt([{"role": "user", "content": "What is 2 plus 4?"}], "")
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    network = AutoModelForCausalLM.from_pretrained(path)
    plain = network.generate(ids, max_new_tokens=40, do_sample=False)[0, ids.shape[1] :].tolist()
    assert plain[-1] == end and len(plain) < 40
    engine = open_engine(EngineConfig("vllm"), local_model(path, "sft"), 128)
    (answer,) = engine.generate(
        [Request("a", 0, prompt_token_ids=ids[0].tolist())], Sampling(40, 0.0)
    )
    engine.close()
    assert answer.finish_reason == "stop"
    assert (answer.n_tokens, answer.text) == (len(plain), tokenizer.decode(plain[:-1]))
