"""The preflight: what it says of models and rows that are sound, odd and hostile, and that it loads
no weights to say it.
"""

import json
import re
import shutil

import pytest
from tiny_classifier import TEMPLATE, TEXTS, make_tokenizer, save_classifier

from mlalign.core import weight_files
from reward_models import card
from reward_models.__main__ import main
from reward_models.evidence import preflight_rows
from reward_models.evidence.preflight_rows import visible

HOSTILE = "\x1b[2J\x07\u202egnihtyreve\u200b\x00 end"


def write_rows(path, rows):
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    return path


@pytest.fixture
def model(tmp_path, classifier):
    path = shutil.copytree(classifier, tmp_path / "model")
    assert main(["card", "create", str(path), "--training-languages", "en,tr"]) == 0
    return path


@pytest.fixture
def check(tmp_path, capsys):
    """Rows and options to exit status, document, and findings as `level where text` lines."""

    def call(path, rows, *options):
        source = write_rows(tmp_path / "checked.jsonl", rows)
        capsys.readouterr()
        status = main(["check", "--model", str(path), "--input", str(source), "--json", *options])
        told = json.loads(capsys.readouterr().out)
        return status, told, [f"{f['level']} {f['where']} {f['text']}" for f in told["findings"]]

    return call


def pair(language="en", chosen="The sum is 4.", rejected="The sum is 5."):
    return {
        "language": language,
        "prompt": "How much is 2 + 2?",
        "chosen": chosen,
        "rejected": rejected,
    }


@pytest.mark.slow
def test_a_sound_model_and_sound_rows(check, model):
    status, told, findings = check(model, [pair(), pair("tr", "En büyük sayı 9 olur.", "3")])
    assert status == 0 and [f for f in findings if not f.startswith("note")] == []
    assert told["model"]["weights"]["head"] == {"score.weight": [1, 32]} and told["model"][
        "weights"
    ]["dtypes"] == {"float32": 30432}
    assert told["model"]["max_length"] == 256 and told["model"]["outputs"] == ["LABEL_0"]
    assert (
        any("doubled elsewhere" in f for f in findings) is False
    )  # this tokenizer adds no BOS of its own


@pytest.mark.slow
def test_numbers_by_language_against_a_count(check, classifier):
    from transformers import AutoTokenizer

    rows = [
        {"language": "en", "prompt": TEXTS[4], "response": TEXTS[0]},
        {"language": "hi", "prompt": TEXTS[5], "response": TEXTS[5] * 2},
    ]
    told = check(classifier, rows)[1]["languages"]
    tokenizer = AutoTokenizer.from_pretrained(classifier)

    def per_character(row):
        text = row["prompt"] + "\n" + row["response"]
        return len(tokenizer(text, add_special_tokens=False)["input_ids"]) / len(text)

    english, hindi = per_character(rows[0]), per_character(rows[1])
    assert (
        told["eng_Latn"]["tokens_per_character"] == pytest.approx(english)
        and told["eng_Latn"]["relative_to_english"] == 1
    )
    assert told["hin_Deva"]["relative_to_english"] == pytest.approx(hindi / english)
    messages = [{"role": "user", "content": TEXTS[4]}, {"role": "assistant", "content": TEXTS[0]}]
    ids = tokenizer(
        tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False
    )["input_ids"]
    assert told["eng_Latn"]["tokens_max"] == len(ids) == told["eng_Latn"]["tokens_median"]
    n_words = len((TEXTS[4] + "\n" + TEXTS[0]).split())
    assert told["eng_Latn"]["tokens_per_word"] == pytest.approx(
        english * len(TEXTS[4] + "\n" + TEXTS[0]) / n_words
    )
    assert (
        check(classifier, [{"language": "zh", "prompt": "q", "response": TEXTS[2]}])[1][
            "languages"
        ]["cmn_Hans"]["tokens_per_word"]
        is None
    )


@pytest.mark.slow
def test_the_sample_is_what_the_model_reads(check, model):
    told = check(model, [pair("tr", "En büyük sayı 9 olur.")])[1]["samples"]["tur_Latn"]
    assert (
        told["text"]
        == "<|bos|><|user|>How much is 2 + 2?<|end|><|assistant|>En büyük sayı 9 olur.<|end|>"
    )
    assert "".join(text for _, text in told["tokens"] if text != "…").replace(" ", "") == told[
        "text"
    ].replace(" ", "")
    assert told["tokens"][0] == [0, "<|bos|>"] and told["cut"] == 0


@pytest.mark.slow
def test_tokens_that_are_parts_of_characters_are_shown_as_characters(check, model):
    """No byte-level names: the last token of a character shows it.

    This tokenizer knows no Thai or Tamil character.
    """
    told = check(model, [pair("th", "สวัสดี"), pair("ta", "நான் 4")])[1]["samples"]
    for language, text in (("tha_Thai", "สวัสดี"), ("tam_Taml", "நான்4")):
        shown = [text for _, text in told[language]["tokens"]]
        assert "…" in shown and text in "".join(t for t in shown if t != "…").replace(" ", "")
        assert all(c == "…" or c in told[language]["text"] for t in shown for c in t)


@pytest.mark.slow
def test_truncation_and_sides_that_become_equal(check, model):
    rows = [pair(chosen="same end of both", rejected="same end of both", language="tr"), pair()]
    rows[0]["chosen"] = "First " + rows[0]["chosen"]
    status, told, findings = check(model, rows, "--set", "max_length=10")
    assert status == 1 and told["languages"]["tur_Latn"]["truncated_frac"] == 1
    assert (
        told["languages"]["tur_Latn"]["same_tokens"] == 1
        and told["languages"]["tur_Latn"]["same_text"] == 0
    )
    assert (
        "warning tur_Latn 1 pairs whose sides differ, but not in the tokens that the model gets: 1"
        in findings
    )
    assert told["samples"]["tur_Latn"]["cut"] == len(told["samples"]["tur_Latn"]["tokens"]) - 10


@pytest.mark.slow
def test_answers_that_do_not_fit_alone(check, model):
    rows = [pair(chosen="x y z " * 30)]
    status, told, findings = check(model, rows, "--set", "max_length=12")
    assert (
        status == 1
        and told["languages"]["eng_Latn"]["response_truncated"] == 1
        and told["languages"]["eng_Latn"]["truncated_frac"] == 1
    )
    assert (
        "warning eng_Latn 1 answers longer than the limit, which lose their own beginning: 1"
        in findings
    )
    assert (
        check(model, rows, "--set", "max_length=2")[0] == 2
    )  # BOS and the end of the turn: nothing is left of the answer


@pytest.mark.slow
def test_equal_and_empty_answers_and_languages(check, model):
    rows = [
        pair(chosen="x", rejected="x"),
        pair("th", " ", "b"),
        pair(None),
        {"prompt": "q"},
        pair("xx1"),
        pair("tr", "b <|end|>"),
    ]
    status, told, findings = check(model, rows)
    assert status == 2 and set(told["languages"]) == {"eng_Latn", "tha_Thai", "(none)", "tur_Latn"}
    for expected in (
        "warning eng_Latn 1 pairs whose chosen and rejected answers are the same text: 1", "warning tha_Thai 1 empty answers: 1",
        "warning language the model was not trained in tha_Thai (its card: eng_Latn, tur_Latn)",
    ):  # fmt: skip
        assert expected in findings
    assert any(
        "error rows" in f and "checked.jsonl:4: needs prompt and response" in f for f in findings
    )
    assert any("error rows" in f and "'xx1': unknown" in f for f in findings)
    assert any("rows that say none" in f and f.endswith(": 1") for f in findings)
    assert any(
        f.startswith("warning tur_Latn 1 ") and "reads as a special token" in f for f in findings
    )
    assert any(f.startswith("note calibration") for f in findings)


@pytest.mark.slow
def test_many_bad_rows_are_counted_not_listed(check, model):
    findings = check(model, [{"prompt": "q"}] * 50 + [pair()])[2]
    assert (
        sum(f.startswith("error") for f in findings) == 4
        and "error rows and more: 50 that cannot be scored" in findings
    )


@pytest.mark.parametrize(
    ("template", "level", "text"),
    [
        ("{{ bos_token }}" + TEMPLATE, "error BOS", "doubled: the template writes it twice"),
        (TEMPLATE.replace("{{ eos_token }}", "\n"), "warning EOS", "ends without EOS"),
        (
            TEMPLATE.replace("{{ eos_token }}", "{{ eos_token }}{{ eos_token }}\n"),
            "warning EOS",
            "doubled at the end",
        ),
    ],
)
@pytest.mark.slow
def test_special_tokens_that_the_template_writes(check, tmp_path, template, level, text):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    findings = check(save_classifier(tmp_path / "odd", tokenizer=tokenizer), [pair()])[2]
    assert any(f.startswith(level) and text in f for f in findings), findings
    assert main(["card", "create", str(tmp_path / "odd")]) == 0
    again = [
        f for f in check(tmp_path / "odd", [pair()])[2] if text in f
    ]  # the card says: trained like this
    assert [f.split()[0] for f in again] == (["error"] if level.startswith("error") else ["note"])


@pytest.mark.slow
def test_a_tokenizer_that_adds_bos(check, tmp_path):
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", 0)]
    )
    save_classifier(tmp_path / "adds", tokenizer=tokenizer)
    assert any(
        "doubled elsewhere, once here" in f and f.startswith("note BOS")
        for f in check(tmp_path / "adds", [pair()])[2]
    )
    tokenizer.chat_template = TEMPLATE.replace("{{ bos_token }}", "")
    save_classifier(tmp_path / "lacks", tokenizer=tokenizer)
    assert any(
        f.startswith("warning BOS") and "the template writes none" in f
        for f in check(tmp_path / "lacks", [pair()])[2]
    )


@pytest.mark.parametrize(
    ("special", "text"),
    [
        ({"pad_token": "<|end|>"}, "pad is EOS"),
        ({"pad_token": None}, "no pad token"),
        ({"padding_side": "left"}, "on the left"),
    ],
)
@pytest.mark.slow
def test_padding_traps_are_notes(check, tmp_path, special, text):
    status, _, findings = check(
        save_classifier(tmp_path / "odd", tokenizer=make_tokenizer(**special)), [pair()]
    )
    assert status == 0 and any(
        f.startswith("note padding") and text in f and "masked" in f for f in findings
    )


@pytest.mark.slow
def test_models_that_cannot_score(check, tmp_path, model, capsys):
    import torch
    from tiny_classifier import make_config
    from transformers import Qwen3ForCausalLM

    tokenizer = make_tokenizer()
    Qwen3ForCausalLM(make_config(tokenizer)).to(torch.bfloat16).save_pretrained(tmp_path / "causal")
    tokenizer.save_pretrained(tmp_path / "causal")
    status, told, findings = check(tmp_path / "causal", [pair()])
    assert status == 2 and any(
        f.startswith("error model") and "newly initialised" in f for f in findings
    )
    assert told["model"]["weights"]["dtypes"].keys() == {"bfloat16"}
    two = check(save_classifier(tmp_path / "two", num_labels=2), [pair()])
    assert two[0] == 2 and any(
        "has 2 outputs (LABEL_0, LABEL_1); name one with `output`; as in --set output=NAME" in f
        for f in two[2]
    )
    assert check(tmp_path / "two", [pair()], "--set", "output=LABEL_1")[0] == 0
    assert check(tmp_path / "two", [pair()], "--set", "output=LABEL_7")[0] == 2
    told = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(
        json.dumps(
            {**told, "quantization_config": {"quant_method": "bitsandbytes"}, "vocab_size": 5}
        )
    )
    status, _, findings = check(model, [pair()])
    assert (
        status == 2
        and any("saved quantised" in f for f in findings)
        and any("the embeddings have 5 rows): it is not this model's" in f for f in findings)
    )
    whole = (model / "model.safetensors").read_bytes()
    for broken in (whole[:-1], whole[:100], b"\xff" * 20, b""):
        (model / "model.safetensors").write_bytes(broken)
        assert any("is no complete safetensors file" in f for f in check(model, [pair()])[2])
    card.write(model, card.Card(template_hash="0123456789abcdef"))
    assert any(f.startswith("error template") for f in check(model, [pair()])[2])
    shutil.rmtree(tmp_path / "causal")
    (tmp_path / "causal").mkdir()
    assert any(
        "has no tokenizer (tokenizer.json)" in f for f in check(tmp_path / "causal", [pair()])[2]
    )


@pytest.mark.slow
def test_a_template_that_refuses(check, tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        + TEMPLATE
    )
    rows = [
        {
            "messages": [{"role": r, "content": "x"} for r in ("system", "user", "assistant")],
            "language": "en",
        },
        pair(),
    ]
    status, told, findings = check(save_classifier(tmp_path / "odd", tokenizer=tokenizer), rows)
    assert (
        status == 2
        and told["languages"]["eng_Latn"]["refused"] == 1
        and any("no system role" in f for f in findings)
    )


@pytest.mark.slow
def test_hostile_text_reaches_no_terminal(model, tmp_path, capsys):
    source = write_rows(
        tmp_path / "rows.jsonl",
        [
            {"id": HOSTILE, "prompt": HOSTILE, "response": "x" * 5000 + HOSTILE, "language": "en"},
            {HOSTILE: 1},
        ],
    )
    assert main(["check", "--model", str(model), "--input", str(source)]) == 2
    out = capsys.readouterr().out
    assert (
        re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e\u200b]", out) is None
        and "\\x1b[2J\\x07\\u202egnihtyreve" in out
    )
    assert max(map(len, out.splitlines())) < 1200 and "characters…" in out
    assert (
        visible("a\nb\t\\ \U000e0001") == "a\\nb\\t\\ \\U000e0001"
        and visible("नमस्ते 你好 é") == "नमस्ते 你好 é"
    )


@pytest.mark.slow
def test_one_screen_even_for_a_hundred_languages(model, tmp_path, capsys):
    from mlalign.core.languages import _two_letters

    rows = [pair(code) for code in sorted(_two_letters()) if code not in ("hbs", "ave", "chu")][
        :100
    ]
    assert main(
        ["check", "--model", str(model), "--input", str(write_rows(tmp_path / "rows.jsonl", rows))]
    ) in (1, 2)
    out = capsys.readouterr().out.splitlines()
    assert len(out) < 60 and any("more languages: --json" in line for line in out)
    assert (
        main(
            [
                "check",
                "--model",
                str(model),
                "--input",
                str(tmp_path / "rows.jsonl"),
                "--samples",
                "0",
                "--limit",
                "5",
            ]
        )
        == 1
    )
    out = capsys.readouterr().out
    assert "How much" not in out and "only the first 5 were looked at" in out


def test_without_a_model_the_rows_are_checked(tmp_path, capsys):
    source = write_rows(tmp_path / "rows.jsonl", [pair(chosen="x", rejected="x")])
    assert main(["check", "--family", "length", "--input", str(source)]) == 1
    out = capsys.readouterr().out
    assert "the same text: 1" in out and "only the rows are checked" in out


def test_the_header_of_a_file_tells_types_and_shapes(classifier):
    from safetensors import safe_open

    found = weight_files.weights(classifier)
    with safe_open(classifier / "model.safetensors", "pt") as file:
        assert {name: list(shape) for name, (_, shape) in found.by_name.items()} == {
            n: file.get_slice(n).get_shape()
            for n in file.keys()  # noqa: SIM118
        }
        assert found.parameters == sum(file.get_tensor(n).numel() for n in file.keys())  # noqa: SIM118


@pytest.mark.slow
def test_no_weights_are_loaded(check, model):
    """Numbers that are not there are not missed: the headers alone are read."""
    file = model / "model.safetensors"
    n_header = int.from_bytes(file.read_bytes()[:8], "little") + 8
    whole = file.stat().st_size
    with open(file, "r+b") as f:
        f.truncate(n_header)
        f.truncate(whole)  # a hole: zeros that lie on no disk
    status, _, findings = check(model, [pair()])
    assert status == 0 and not [f for f in findings if f.startswith("error")]


@pytest.mark.slow
def test_statistics_of_scores_are_told(check, model):
    told = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**told, "mean": 2.0, "std": 0.5}))
    status, _, findings = check(model, [pair()])
    assert status == 1 and any(
        f.startswith("warning scores config.json has their mean 2, std 0.5") for f in findings
    )
    assert check(model, [pair()], "--set", "normalise=true")[0] == 0


@pytest.mark.slow
def test_lengths_are_of_every_answer(check, model):
    told = check(model, [{"prompt": "q", "responses": ["a", "b", "c"], "language": "en"}])[1][
        "languages"
    ]["eng_Latn"]
    assert (told["rows"], told["answers"]) == (1, 3) and preflight_rows.SHOWN_PROBLEMS == 3
