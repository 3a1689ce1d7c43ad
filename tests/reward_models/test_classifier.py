"""What the family `classifier` loads, what it refuses, what it says of its scores.

That these do not vary: test_invariance.py.
"""

import dataclasses
import json
import shutil

import pytest
import torch
from tiny_classifier import TEMPLATE, make_config, make_tokenizer, save_classifier, save_network
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import reward_models
from mlalign.core.errors import UserError
from mlalign.models import engine
from mlalign.models.templates import ChatTemplate
from reward_models import Item, card
from reward_models.jobs import provenance
from reward_models.networks import encoding, pooling


def scores(path, items, **options):
    return reward_models.load(path, **options).score_items(items).values


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A LoRA adapter with its own head on a causal base that has none."""
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen3ForCausalLM

    root, tokenizer = tmp_path_factory.mktemp("adapter"), make_tokenizer()
    torch.manual_seed(3)
    Qwen3ForCausalLM(make_config(tokenizer)).save_pretrained(root / "base")
    model = AutoModelForSequenceClassification.from_pretrained(
        root / "base", num_labels=1, dtype=torch.float32
    )
    model = get_peft_model(
        model,
        LoraConfig(
            task_type="SEQ_CLS", r=4, modules_to_save=["score"], target_modules=["q_proj", "v_proj"]
        ),
    )
    model.save_pretrained(root / "adapter")
    tokenizer.save_pretrained(root / "adapter")
    return root


@pytest.mark.slow
def test_base_of_an_adapter_can_lie_elsewhere(adapter, answers, tmp_path):
    shutil.copytree(adapter / "base", tmp_path / "elsewhere")
    expected = scores(adapter / "adapter", answers[:3])
    assert scores(
        adapter / "adapter", answers[:3], base=str(tmp_path / "elsewhere")
    ) == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_adapter_without_its_head_is_refused(adapter, tmp_path):
    from safetensors.torch import load_file, save_file

    path = shutil.copytree(adapter / "adapter", tmp_path / "headless")
    weights = {
        n: w for n, w in load_file(path / "adapter_model.safetensors").items() if "score" not in n
    }
    save_file(weights, path / "adapter_model.safetensors")
    with pytest.raises(
        UserError, match=r"headless: holds no weights for score.weight .*newly initialised"
    ):
        reward_models.load(path)


@pytest.mark.slow
def test_causal_model_has_no_head(adapter, tmp_path):
    path = shutil.copytree(adapter / "base", tmp_path / "causal")
    make_tokenizer().save_pretrained(path)
    with pytest.raises(UserError, match=r"causal: holds no weights for score.weight"):
        reward_models.load(path)


@pytest.mark.slow
def test_several_outputs_need_a_name(tmp_path, answers):
    path = save_classifier(
        tmp_path / "multi",
        num_labels=2,
        id2label={0: "harmless", 1: "helpful"},
        label2id={"harmless": 0, "helpful": 1},
    )
    with pytest.raises(UserError, match=r"2 outputs \(harmless, helpful\); name one with `output`"):
        reward_models.load(path)
    with pytest.raises(UserError, match="no output 'helpfull'; did you mean 'helpful'"):
        reward_models.load(path, output="helpfull")
    assert (
        scores(path, answers[:2], output="helpful")
        == scores(path, answers[:2], output=1)
        != scores(path, answers[:2], output=0)
    )


PROMPT = [{"role": "user", "content": "Which number is the largest? " * 40}]


@pytest.mark.slow
def test_truncation_takes_the_beginning_of_the_prompt_and_is_told(classifier):
    items = [
        Item("long", PROMPT, "The sum is 4."),
        Item("other", PROMPT, "The sum is 5."),
        Item("short", [{"role": "user", "content": "?"}], "4"),
    ]
    found = reward_models.load(classifier, max_length=32).score_items(items)
    assert (
        found.flags["truncated"] == [True, True, False]
        and found.flags["response_truncated"] == [False] * 3
    )
    assert found.values[0] != found.values[1]  # the response is still there
    assert scores(classifier, items)[2] == pytest.approx(found.values[2], abs=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(classifier)
    template = ChatTemplate(tokenizer)
    whole = [
        len(ids)
        for ids in encoding.token_ids(
            [template.conversation(i.messages, "") for i in items], tokenizer
        )
    ]
    assert found.columns["cut_tokens"] == [whole[0] - 32, whole[1] - 32, 0]
    assert found.tokens == 32 + 32 + whole[2]


def test_truncation_keeps_bos_and_the_last_tokens():
    assert encoding.cut([0, 1, 2, 3, 4, 5], 3, 0) == [0, 4, 5]
    assert encoding.cut([9, 1, 2, 3, 4, 5], 3, 0) == [3, 4, 5]
    assert encoding.cut([0, 1], 3, 0) == [0, 1]


def test_an_answer_that_is_too_long_keeps_its_end_and_is_never_cut_to_nothing(classifier):
    """The template writes BOS, <|user|>, the prompt, <|end|>, <|assistant|>, the answer, <|end|>."""
    tokenizer = AutoTokenizer.from_pretrained(classifier)
    item = Item("x", [{"role": "user", "content": "?"}], "1 2 3 4 5 6 7 8 9")
    answer = tokenizer(item.response, add_special_tokens=False)["input_ids"]
    whole = len(answer) + 6

    def encode(max_length):
        return encoding.encode([item], ChatTemplate(tokenizer), max_length)[0]

    assert (
        encode(whole) == encoding.Encoded(encode(whole).ids, 0, False)
        and len(encode(whole).ids) == whole
    )
    assert (encode(whole - 1).cut_tokens, encode(whole - 1).response_truncated) == (1, False)
    assert (
        not encode(len(answer) + 2).response_truncated
        and encode(len(answer) + 1).response_truncated
    )
    assert encode(3).ids == [tokenizer.bos_token_id, answer[-1], tokenizer.eos_token_id]
    with pytest.raises(
        UserError,
        match=(
            "x: max_length 2 leaves no token of the answer, after which the chat template writes 1"
        ),
    ):
        encode(2)


@pytest.mark.slow
def test_a_value_that_is_not_finite_is_none(classifier, answers, tmp_path):
    from safetensors.torch import load_file, save_file

    path = shutil.copytree(classifier, tmp_path / "nan")
    weights = load_file(path / "model.safetensors")
    weights["score.weight"][:] = float("nan")
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    found = reward_models.load(path).score_items(answers[:2])
    assert found.values == [None, None] and found.flags["not_finite"] == [True, True]


@pytest.mark.slow
def test_card_decides_direction_and_length_and_must_match_the_template(
    classifier, answers, tmp_path
):
    expected = scores(classifier, answers)
    path = shutil.copytree(classifier, tmp_path / "carded")
    own = card.template_hash(AutoTokenizer.from_pretrained(path).get_chat_template())
    card.write(path, card.Card(template_hash=own, direction="lower_is_better"))
    assert scores(path, answers) == pytest.approx([-v for v in expected], abs=1e-6)
    card.write(path, card.Card(template_hash="0" * 16))
    with pytest.raises(
        UserError, match=f"says template_hash {'0' * 16}, the tokenizer's chat template has {own}"
    ):
        reward_models.load(path)


def test_directories_that_cannot_score(classifier, tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="has no chat template"):
        reward_models.load(save_classifier(tmp_path / "bare", tokenizer=tokenizer))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: has no tokenizer"):
        reward_models.load(tmp_path / "empty")
    with pytest.raises(
        UserError, match=r"scorer.max_lenght: unknown key; did you mean 'max_length'"
    ):
        reward_models.load(classifier, max_lenght=3)


@pytest.mark.slow
def test_a_conversation_that_the_template_refuses_is_named(classifier, tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    path = save_classifier(tmp_path / "strict", tokenizer=tokenizer)
    with pytest.raises(
        UserError,
        match=r"id7: the chat template of .*strict refuses this conversation: roles must alternate",
    ):
        scores(path, [Item("id7", [{"role": "user", "content": "?"}], "!")])


def with_statistics(classifier, path, mean, std):
    shutil.copytree(classifier, path)
    told = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**told, "mean": mean, "std": std}))
    return path


@pytest.mark.slow
def test_statistics_of_scores_are_applied_or_told(classifier, answers, tmp_path, caplog):
    """(r - mean) / std, as OpenRLHF computes with the numbers in config.json; unless that is
    decided, they are told.
    """
    raw = scores(classifier, answers[:3])
    path = with_statistics(classifier, tmp_path / "normal", 2.0, 0.5)
    assert scores(path, answers[:3], normalise=True) == pytest.approx(
        [(r - 2.0) / 0.5 for r in raw], abs=1e-6
    )
    assert not caplog.records
    assert (
        scores(path, answers[:3]) == raw
        and "mean 2, std 0.5" in caplog.text
        and "normalise: true" in caplog.text
    )
    caplog.clear()
    assert scores(path, answers[:3], normalise=False) == raw and not caplog.records
    told = provenance.of_scorer({"family": "classifier", "path": str(path), "normalise": True})
    assert told["score_statistics"] == {"mean": 2.0, "std": 0.5, "applied": True}


@pytest.mark.parametrize(("mean", "std"), [(1.0, 0.0), (1.0, -2.0), (None, 1.0)])
@pytest.mark.slow
def test_statistics_that_cannot_be_applied(classifier, tmp_path, mean, std):
    path = with_statistics(classifier, tmp_path / "flat", mean, std)
    with pytest.raises(UserError, match="normalise needs mean and std"):
        reward_models.load(path, normalise=True)


@pytest.mark.slow
def test_an_encoder_decoder_gets_a_row_at_a_time(answers, tmp_path):
    """Its output is read at the last end token, and transformers takes no batch whose rows have
    different numbers of those.
    """
    from transformers import MT5Config

    tokenizer = make_tokenizer()
    sizes = {
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 1,
        "num_heads": 4,
        "decoder_start_token_id": 2,
    }
    config = MT5Config(
        vocab_size=len(tokenizer),
        eos_token_id=1,
        pad_token_id=2,
        num_labels=1,
        classifier_dropout=0.0,
        **sizes,
    )
    path = save_network(tmp_path / "mt5", config, tokenizer)
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    texts = [encoding.render(item, ChatTemplate(tokenizer)) for item in answers[:6]]
    expected = [
        model(input_ids=torch.tensor([ids])).logits[0, 0].item()
        for ids in encoding.token_ids(texts, tokenizer)
    ]
    assert (
        scores(path, answers[:6]) == pytest.approx(expected, abs=1e-5) and len(set(expected)) == 6
    )
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ eos_token }}", "")
    tokenizer.save_pretrained(path)
    with pytest.raises(
        UserError, match=r"id00: the chat template writes no end token \(number 1\)"
    ):
        scores(path, answers[:6])


@pytest.mark.slow
def test_three_lines(classifier):
    scorer = reward_models.load(classifier)
    found = scorer.score(
        [
            {"prompt": "How much is 2 + 2?", "response": "The sum is 4."},
            {"prompt": "?", "responses": ["4", "5"]},
        ]
    )
    assert len(found) == 3 and all(isinstance(v, float) for v in found)


def test_backend_is_checked_before_anything_is_opened(classifier):
    told = {"family": "classifier", "path": str(classifier)}
    assert reward_models.problems({**told, "backend": "vlm"}) == [
        "scorer.backend: 'vlm' is not possible; did you mean 'vllm'?"
    ]
    found = reward_models.problems(
        {**told, "backend_args": {"trust_remote_code": True, "dtype": "auto"}}
    )
    assert found == [
        "scorer.backend_args.trust_remote_code: code from a model's repository is never run",
        "scorer.backend_args.dtype: set `dtype`",
    ]


@pytest.mark.slow
def test_vllm_refuses_what_transformers_refuses(adapter, tmp_path):
    """Before the engine starts: a causal model has no head, and vLLM would draw one at random."""
    pytest.importorskip("vllm", reason="vLLM is not installed")
    path = shutil.copytree(adapter / "base", tmp_path / "causal")
    make_tokenizer().save_pretrained(path)
    with pytest.raises(UserError, match=r"causal: holds no weights for score.weight"):
        reward_models.load(path, backend="vllm")


def test_a_missing_vllm_is_named(classifier, monkeypatch):
    monkeypatch.setattr(
        pooling, "missing", lambda name: engine.missing(name, find=lambda package: None)
    )
    with pytest.raises(
        UserError, match="backend: vllm needs the package 'vllm', which is not installed"
    ):
        reward_models.load(classifier, backend="vllm")


# ------------------------------------------------------------------------------------- the template


def with_template(path, template):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return save_classifier(path, tokenizer=tokenizer)


@pytest.mark.slow
def test_scores_do_not_follow_the_clock_but_the_setting_and_the_card(tmp_path, monkeypatch):
    import time

    path = with_template(tmp_path / "dated", "{{ strftime_now('%d %B %Y') }}" + TEMPLATE)
    items = [Item("a", [{"role": "user", "content": "2+2?"}], "4")]
    found = set()
    for zone in ("Etc/GMT+12", "Pacific/Kiritimati"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        found.add(scores(path, items)[0])
    monkeypatch.undo()
    time.tzset()
    fixed = with_template(tmp_path / "fixed", "26 July 2024" + TEMPLATE)
    assert found == {scores(fixed, items)[0]}
    other = scores(path, items, date="2025-03-01")
    assert other != [*found]
    card.write(path, card.Card(date="2025-03-01"))
    assert scores(path, items) == other
    with pytest.raises(UserError, match=r"date: 'today' is no date"):
        reward_models.load(path, date="today")


@pytest.mark.slow
def test_what_the_template_leaves_out_is_flagged_and_an_answer_left_out_whole_has_no_score(
    tmp_path,
):
    cut = "m['content'].split('</think>')[-1] if m['role'] == 'assistant' else m['content']"
    path = with_template(tmp_path / "cuts", TEMPLATE.replace("m['content']", cut))
    texts = [
        "<think>two and two</think>4",
        "<think>a guess</think>4",
        "<think>two and two is 4</think>",
        "",
    ]
    items = [Item(text, [{"role": "user", "content": "2+2?"}], text) for text in texts]
    found = reward_models.load(path).score_items(items)
    assert found.values[0] == found.values[1] is not None
    assert found.values[2] is None and found.values[3] is not None
    assert found.flags["answer_partly_left_out"] == [True, True, False, False]
    assert found.flags["answer_left_out"] == [False, False, True, False]
    assert not any(found.flags["prompt_partly_left_out"] + found.flags["not_finite"])


@pytest.mark.slow
def test_tools_and_the_answer_s_other_keys_go_to_the_template(tmp_path):
    template = (
        "{{ tools | tojson }}{% for m in messages %}{{ m.content }}{{ m.reasoning_content }}{{"
        " eos_token }}{% endfor %}"
    )
    path = with_template(tmp_path / "keys", template)
    told = {
        "answer_extra": {"reasoning_content": "because"},
        "tools": [{"function": {"name": "sum"}}],
    }
    items = [Item("a", [{"role": "user", "content": "2+2?"}], "4", **more) for more in (told, {})]
    found = reward_models.load(path).score_items(items)
    assert found.values[0] != found.values[1]
    assert not any(found.flags["answer_partly_left_out"] + found.flags["prompt_partly_left_out"])
    plain = reward_models.load(with_template(tmp_path / "plain", TEMPLATE))
    with pytest.raises(UserError, match="does not write `tools`"):
        plain.score_items(items)
    told = plain.score_items([dataclasses.replace(items[0], tools=None), items[1]])
    assert told.values[0] == told.values[1]
    assert told.flags["answer_partly_left_out"] == [True, False]


@pytest.mark.slow
def test_one_of_several_templates_is_chosen_by_its_name(tmp_path, classifier, answers):
    path = with_template(
        tmp_path / "several", {"rag": TEMPLATE, "other": "{{ messages[0].content }}"}
    )
    with pytest.raises(
        UserError, match="none is called default; set chat_template to one of other, rag"
    ):
        reward_models.load(path)
    assert scores(path, answers[:3], chat_template="rag") == scores(classifier, answers[:3])
