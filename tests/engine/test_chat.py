"""Rendering, tokenising and splitting, by hand-worked values."""

import json
import shutil

import pytest

from mlalign.core import rows
from mlalign.core.errors import UserError
from mlalign.core.stage import local_model
from mlalign.models.engine import chat
from mlalign.models.templates import ChatTemplate


@pytest.fixture
def with_bos(tiny, tmp_path):
    """The tiny tokenizer made to put a BOS before every text, as Llama's does, with a template that
    writes one too.
    """
    from tokenizers import Tokenizer, processors

    shutil.copytree(tiny.path, tmp_path / "model")
    backend = Tokenizer.from_file(str(tmp_path / "model/tokenizer.json"))
    backend.add_special_tokens(["<bos>"])
    bos = backend.token_to_id("<bos>")
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", bos)]
    )
    backend.save(str(tmp_path / "model/tokenizer.json"))
    settings = tmp_path / "model/tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "bos_token": "<bos>"}))
    template = tmp_path / "model/chat_template.jinja"
    template.write_text("{{- bos_token -}}" + template.read_text())
    return local_model(tmp_path / "model", "bos"), bos


def test_bos_is_there_once_when_template_and_tokenizer_both_add_it(with_bos):
    model, bos = with_bos
    tokenizer = chat.load_tokenizer(model)
    assert tokenizer("Hello")["input_ids"][0] == bos
    (ids,) = chat.token_ids(tokenizer, [ChatTemplate(tokenizer).prompt(rows.messages("Hello"), "")])
    assert ids.count(bos) == 1
    assert ids[0] == bos


def test_render_asks_for_the_next_turn(tokenizer):
    assert ChatTemplate(tokenizer).prompt(rows.messages("Hi"), "") == "<|user|>Hi<|assistant|>"


def test_neither_template_names_directory_and_mend(tiny, tmp_path):
    shutil.copytree(
        tiny.path, tmp_path / "model", ignore=shutil.ignore_patterns("chat_template.jinja")
    )
    model = local_model(tmp_path / "model", "bare")
    with pytest.raises(
        UserError, match=r"model: its tokenizer has no chat template.*chat_template="
    ):
        chat.load_tokenizer(model)
    tokenizer = chat.load_tokenizer(model, "{{ messages[0].content }}!")
    assert ChatTemplate(tokenizer).prompt(rows.messages("Hi"), "") == "Hi!"


def test_no_tokenizer_names_directory_and_mend(tiny, tmp_path):
    shutil.copytree(tiny.path, tmp_path / "model", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(UserError, match=r"model: has no tokenizer.*save_pretrained"):
        chat.load_tokenizer(local_model(tmp_path / "model", "bare"))


def test_a_template_that_refuses_names_the_row(tiny):
    tokenizer = chat.load_tokenizer(tiny, "{{ raise_exception('no system turn') }}")
    with pytest.raises(UserError, match=r"row abc: .*no system turn"):
        ChatTemplate(tokenizer).prompt(rows.messages("Hi"), "row abc")


def test_read_template_takes_text_or_a_file(tmp_path):
    (tmp_path / "t.jinja").write_text("{{ 1 }}")
    assert chat.read_template(str(tmp_path / "t.jinja")) == "{{ 1 }}"
    assert chat.read_template("{{ 2 }}") == "{{ 2 }}"
    with pytest.raises(UserError, match="no file"):
        chat.read_template(str(tmp_path / "absent.jinja"))


def test_an_adapter_without_tokenizer_takes_its_base_s(adapter_and_merged, tiny):
    adapter, merged = adapter_and_merged
    assert chat.tokenizer_source(adapter).path == tiny.path
    assert chat.tokenizer_source(merged) is merged


@pytest.mark.parametrize(
    ("text", "opened", "expected"),
    [
        ("<t>because</t>\n\n4", False, ("4", "because")),
        ("because</t>4", True, ("4", "because")),
        ("<t>never closed", False, ("", "never closed")),
        ("never closed", True, ("", "never closed")),
        ("4", False, ("4", None)),
        (" 4", False, (" 4", None)),
    ],
)
def test_split_reasoning(text, opened, expected):
    assert chat.split_reasoning(text, ["<t>", "</t>"], opened) == expected


def test_without_tags_the_text_stays_whole():
    assert chat.split_reasoning("<t>x</t>y", [], False) == ("<t>x</t>y", None)
