"""Checkpoints as other tools save them load and score: plain TRL, TRL with LoRA, several outputs."""

import importlib.util
import json

import pytest
import torch
from tiny_classifier import TEXTS, make_config, make_tokenizer, save_classifier

import reward_models
from mlalign.core.errors import UserError
from reward_models.networks import loading

LABELS = [
    "helpsteer-helpfulness",
    "helpsteer-correctness",
    "ultrafeedback-overall_score",
    "beavertails-is_safe",
    "code-style",
]


@pytest.fixture(scope="module", params=["full", "lora"])
def trained(request, tmp_path_factory):
    """(directory, the trained network) of a few steps of TRL's RewardTrainer on a tiny causal base."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import Qwen3ForCausalLM
    from trl import RewardConfig, RewardTrainer

    root, tokenizer = tmp_path_factory.mktemp(request.param), make_tokenizer()
    torch.manual_seed(0)
    Qwen3ForCausalLM(make_config(tokenizer)).save_pretrained(root / "base")
    tokenizer.save_pretrained(root / "base")
    sides = [
        [
            {"role": "user", "content": "Which number is the largest: 3 1 2?"},
            {"role": "assistant", "content": t},
        ]
        for t in TEXTS
    ]
    data = Dataset.from_list(
        [{"chosen": sides[i % 6], "rejected": sides[(i + 1) % 6]} for i in range(8)]
    )
    lora = LoraConfig(
        task_type="SEQ_CLS", r=4, target_modules=["q_proj", "v_proj"], modules_to_save=["score"]
    )
    args = RewardConfig(
        str(root / "out"),
        max_steps=3,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        gradient_checkpointing=False,
        logging_strategy="no",
    )
    trainer = RewardTrainer(
        str(root / "base"),
        args=args,
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=lora if request.param == "lora" else None,
    )
    trainer.train()
    trainer.save_model(str(root / "saved"))
    return root / "saved", trainer.model.eval()


@pytest.mark.slow
def test_trl(trained, answers):
    path, model = trained
    assert (path / "adapter_config.json").is_file() == hasattr(model, "peft_config")
    tokenizer = make_tokenizer()
    with torch.no_grad():
        texts = [
            tokenizer.apply_chat_template(
                [*i.prompt, {"role": "assistant", "content": i.response}], tokenize=False
            )
            for i in answers
        ]
        expected = [
            model(
                input_ids=tokenizer(t, add_special_tokens=False, return_tensors="pt")["input_ids"]
            )
            .logits[0, 0]
            .item()
            for t in texts
        ]
    assert reward_models.load(path).score_items(answers).values == pytest.approx(expected, abs=1e-5)
    assert max(expected) - min(expected) > 0.1


@pytest.mark.slow
def test_several_named_outputs(tmp_path, answers):
    named = {
        "id2label": dict(enumerate(LABELS)),
        "label2id": {name: i for i, name in enumerate(LABELS)},
    }
    path = save_classifier(tmp_path / "several", num_labels=5, **named)
    by_name = [reward_models.load(path, output=name).score_items(answers).values for name in LABELS]
    assert by_name == [
        reward_models.load(path, output=i).score_items(answers).values for i in range(5)
    ]
    assert len({tuple(values) for values in by_name}) == 5


@pytest.mark.slow
def test_a_checkpoint_that_was_saved_quantised_is_told(tmp_path, caplog):
    """It is loaded as saved; here the package that reads it is absent, which is said."""
    path = save_classifier(tmp_path / "quantised")
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (path / "config.json").write_text(json.dumps(config))
    if importlib.util.find_spec("bitsandbytes") is None:
        with pytest.raises(
            UserError, match=r"quantised: .*needs a package that is not here: .*bitsandbytes"
        ):
            reward_models.load(path)
    loading.outline(str(path), None)
    assert "was saved quantised, and is loaded as saved" in caplog.text


@pytest.mark.slow
def test_an_adapter_on_another_base_is_refused(tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(save_classifier(tmp_path / "base"))
    get_peft_model(
        model, LoraConfig(task_type="SEQ_CLS", r=4, modules_to_save=["score"])
    ).save_pretrained(tmp_path / "adapter")
    make_tokenizer().save_pretrained(tmp_path / "adapter")
    wider = save_classifier(tmp_path / "wider", hidden_size=64)
    with pytest.raises(UserError, match=r"adapter: the adapter does not fit its base .*wider"):
        reward_models.load(tmp_path / "adapter", base=str(wider))
