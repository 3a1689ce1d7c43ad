"""Cards: what is written can be read, what is wrong is named, and what the model's files say is in
them.
"""

import json
import shutil

import pytest
import yaml

from mlalign.core.errors import UserError
from reward_models import card
from reward_models.__main__ import main
from reward_models.evidence import calibration


@pytest.fixture
def model(tmp_path, classifier):
    return shutil.copytree(classifier, tmp_path / "model")


def test_a_card_survives_its_file(tmp_path):
    told = card.Card(
        outputs=["helpful", "harmless"],
        training_languages=["swh_Latn"],
        licence="mit",
        accuracy={"swh_Latn": 0.5, "eng_Latn": {"n": 3, "accuracy": 1.0}},
        calibration={
            "swh_Latn": calibration.fit([0.1 * i for i in range(50)]),
            "eng_Latn": {"mean": 0.0, "std": 1.0},
        },
    )
    assert card.write(tmp_path, told) == tmp_path / "card.yaml" and card.read(tmp_path) == told
    assert (
        card.write(tmp_path / "other.yaml", told) == tmp_path / "other.yaml"
        and card.read(tmp_path / "other.yaml") == told
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "card.yaml",
        "other.yaml",
    ]  # nothing temporary is left
    assert (
        len((tmp_path / "card.yaml").read_text().splitlines()) < 40
    )  # quantiles stand side by side
    assert card.read(tmp_path / "none.yaml") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"calibration": {"eng_Latn": {"mean": float("nan"), "std": 1.0}}},
            "calibration.eng_Latn.mean: expected a finite number, got nan",
        ),
        (
            {"calibration": {"eng_Latn": {"mean": 0.0, "std": -1.0}}},
            "calibration.eng_Latn.std: expected 0 or more, got -1.0",
        ),
        (
            {"calibration": {"eng_Latn": {"mean": 0.0, "std": 1.0, "quantiles": [2.0, 1.0]}}},
            "quantiles: expected two or more finite numbers in ascending",
        ),
        (
            {"calibration": {"eng_Latn": 3}},
            "calibration.eng_Latn: expected {n, mean, std, quantiles}, got 3",
        ),
        (
            {"calibration": {"eng_Latn": {"mean": 0.0, "sd": 1.0}}},
            "calibration.eng_Latn.sd: unknown key; allowed: n, mean",
        ),
        (
            {"calibration": {"sw": {"mean": 0.0, "std": 1.0}}},
            "calibration: write swh_Latn instead of 'sw'",
        ),
        ({"accuracy": {"eng_Latn": 1.5}}, "accuracy.eng_Latn: expected a share between 0 and 1"),
        (
            {"training_languages": ["eng_Latn", "xx1"]},
            "training_languages[1]: language 'xx1': unknown",
        ),
        ({"max_length": 0}, "max_length: expected a number of tokens, got 0"),
    ],
)
def test_wrong_values_are_neither_written_nor_valid(tmp_path, change, message, capsys):
    card.write(tmp_path, card.Card(licence="mit"))
    with pytest.raises(UserError) as error:
        card.write(tmp_path, card.Card(**change))
    assert message in str(error.value) and card.read(tmp_path).licence == "mit"
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(change))
    assert main(["card", "validate", str(tmp_path)]) == 2 and message in capsys.readouterr().err


def test_validate_names_every_mistake_and_the_nearest(tmp_path, capsys):
    (tmp_path / "card.yaml").write_text("famly: classifier\ndirection: up\n")
    assert main(["card", "validate", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert (
        "card.yaml.famly: unknown key; did you mean 'family'?" in err
        and "card.yaml.direction: 'up' is not possible" in err
    )
    (tmp_path / "card.yaml").write_text("family: clasifier\n")
    assert main(["card", "validate", str(tmp_path)]) == 2
    assert "unknown family 'clasifier'; did you mean 'classifier'?" in capsys.readouterr().err
    for text in ("[1, 2]", "a: [", "\x00"):
        (tmp_path / "card.yaml").write_text(text)
        assert (
            main(["card", "validate", str(tmp_path)]) == 2
            and "card.yaml" in capsys.readouterr().err
        )
    (tmp_path / "card.yaml").unlink()
    assert (
        main(["card", "validate", str(tmp_path)]) == 2
        and "rm-score card create writes one" in capsys.readouterr().err
    )


@pytest.mark.slow
def test_create_reads_the_model_s_files(model, capsys):
    from transformers import AutoTokenizer

    told = [
        "--scale",
        "Bradley-Terry logit",
        "--max-length",
        "200",
        "--licence",
        "mit",
        "--training-languages",
        "en, sw,Turkish",
    ]
    assert main(["card", "create", str(model), *told]) == 0
    found = card.read(model)
    assert found.template_hash == card.template_hash(
        AutoTokenizer.from_pretrained(model).chat_template
    ) and found.outputs == ["LABEL_0"]
    assert (found.scale, found.max_length, found.licence) == ("Bradley-Terry logit", 200, "mit")
    assert found.training_languages == ["eng_Latn", "swh_Latn", "tur_Latn"]
    assert (
        main(["card", "validate", str(model)]) == 0
        and "fits the model's files" in capsys.readouterr().out
    )
    assert (
        main(["card", "create", str(model)]) == 2
        and "replace it with --force" in capsys.readouterr().err
    )
    assert main(["card", "create", str(model), "--force", "--direction", "lower_is_better"]) == 0
    assert card.read(model).direction == "lower_is_better" and card.read(model).max_length is None


def test_create_refuses_what_is_no_model(tmp_path, model, capsys):
    assert (
        main(["card", "create", str(tmp_path / "none")]) == 2
        and "is not a directory" in capsys.readouterr().err
    )
    assert (
        main(["card", "create", str(model), "--training-languages", "en,xx1"]) == 2
        and "'xx1': unknown" in capsys.readouterr().err
    )
    assert (
        main(["card", "create", str(model), "--family", "clasifier"]) == 2
        and "did you mean 'classifier'" in capsys.readouterr().err
    )
    (tmp_path / "empty").mkdir()
    assert (
        main(["card", "create", str(tmp_path / "empty")]) == 2
        and "has no config.json" in capsys.readouterr().err
    )
    assert not (tmp_path / "empty" / "card.yaml").exists()


@pytest.mark.slow
def test_validate_sees_another_template_and_other_outputs(model, capsys):
    assert main(["card", "create", str(model)]) == 0
    (model / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    assert main(["card", "validate", str(model)]) == 2
    assert "the model was trained with another; put that one back" in capsys.readouterr().err
    assert main(["card", "create", str(model), "--force"]) == 0
    told = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(
        json.dumps({**told, "id2label": {"0": "helpful"}, "label2id": {"helpful": 0}})
    )
    assert main(["card", "validate", str(model)]) == 1
    assert "its outputs are helpful, the card's LABEL_0" in capsys.readouterr().err


@pytest.mark.slow
def test_an_adapter_without_its_base_is_not_valid(tmp_path, classifier, capsys):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    base = shutil.copytree(classifier, tmp_path / "base")
    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForSequenceClassification.from_pretrained(base),
        LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"]),
    )
    model.save_pretrained(tmp_path / "adapter")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "adapter")
    assert main(["card", "create", str(tmp_path / "adapter")]) == 0
    assert card.read(tmp_path / "adapter").outputs == ["LABEL_0"]
    assert main(["card", "validate", str(tmp_path / "adapter")]) == 0
    shutil.move(base, tmp_path / "elsewhere")
    capsys.readouterr()
    assert main(["card", "validate", str(tmp_path / "adapter")]) == 2
    assert f"names {base}, which is no directory here" in capsys.readouterr().err


def test_show(tmp_path, capsys):
    told = card.Card(
        licence="mit",
        training_languages=["eng_Latn"],
        accuracy={"eng_Latn": {"n": 9, "accuracy": 0.75}, "tha_Thai": 0.5},
        calibration={"tha_Thai": calibration.fit([1.0, 2.0, 3.0, 4.0])},
    )
    card.write(tmp_path, told)
    assert main(["card", "show", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "licence: mit" in out and "quantiles: [" not in out
    lines = [line.split() for line in out.splitlines()]
    assert ["eng_Latn", "yes", "0.750", "-", "-", "-", "-"] in lines and [
        "tha_Thai",
        "no",
        "0.500",
        "4",
        "2.5",
        "1.118",
        "101",
    ] in lines
    assert main(["card", "show", str(tmp_path), "--json"]) == 0
    assert card.Card(**json.loads(capsys.readouterr().out)) == told
