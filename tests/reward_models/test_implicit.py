"""Implicit rewards against an independent computation row by row and against TRL; invariance;
truncation; what is refused.
"""

import dataclasses
import random
from pathlib import Path

import pytest

import reward_models
from mlalign.core.errors import UserError
from mlalign.data import tiny_world
from reward_models import Item
from reward_models.networks import network

TINY = Path(tiny_world.__file__).parent / "tiny"
EXACT = {"reference": str(TINY), "beta": 1.0}
TOLERANCE = 1e-5  # absolute, of sums over all tokens of an answer


@pytest.fixture(scope="module")
def items():
    """60 answers of the tiny world in several languages, each with the English version of its
    prompt.
    """
    out = []
    for n, task in enumerate(tiny_world.TASKS * 2):
        item = tiny_world.pool(task, "train")[n][0]
        english = [{"role": "user", "content": tiny_world.prompt_text(item, 0, "eng_Latn")}]
        for language in ("eng_Latn", "cmn_Hans", "tur_Latn", "hin_Deva", "arb_Arab"):
            prompt = [{"role": "user", "content": tiny_world.prompt_text(item, 0, language)}] * (
                1 + n % 2 * 2
            )
            text = tiny_world.answer_text(item, item.answer, language) * (1 + n % 3)
            out.append(
                Item(f"{n}{language}", _turns(prompt), text, language, english_prompt=english)
            )
    return out


def _turns(prompt):
    return [
        m if i % 2 == 0 else {"role": "assistant", "content": "no"} for i, m in enumerate(prompt)
    ]


def save_changed(path, seed, scale=0.05):
    """The tiny model with noise on its weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(scale * weight.std() * torch.randn(weight.shape, generator=noise))
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_changed(tmp_path_factory.mktemp("policy") / "model", 1)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A LoRA adapter on the tiny model, with weights that do something."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = tmp_path_factory.mktemp("adapter") / "model"
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(TINY),
        LoraConfig(r=4, target_modules=["q_proj", "down_proj"]),
    )
    noise = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.add_(0.02 * torch.randn(weight.shape, generator=noise))
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(path)
    return path


def opened(policy, **told):
    return reward_models.open_scorer(
        {"family": "implicit", "path": str(policy), **told}
    ).score_items


def independent(path, item, prompt):
    """sum log p over the answer and the end of turn, one row alone, plain transformers, no padding:
    (sum, number of tokens).
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval(),
        AutoTokenizer.from_pretrained(TINY),
    )
    before = tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
    whole = tokenizer.apply_chat_template(
        [*prompt, {"role": "assistant", "content": item.response}]
    )["input_ids"]
    assert whole[: len(before)] == before and tokenizer.decode(whole[-1]) == "<|end|>"
    with torch.no_grad():
        logps = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
    places = range(len(before), len(whole))
    return sum(logps[t - 1, whole[t]].item() for t in places), len(places)


@pytest.mark.parametrize("condition_on", ["prompt", "english_prompt"])
@pytest.mark.slow
def test_against_an_independent_computation(items, policy, condition_on):
    found = opened(policy, reference=str(TINY), beta=0.3, condition_on=condition_on)(items)
    assert {*found.flags, *found.columns} == set(reward_models.reports({"family": "implicit"}))
    for i in range(0, len(items), 7):
        prompt = items[i].prompt if condition_on == "prompt" else items[i].english_prompt
        by_policy, n = independent(policy, items[i], prompt)
        by_reference, _ = independent(TINY, items[i], prompt)
        assert found.columns["logp_policy"][i] == pytest.approx(by_policy, abs=2e-4)
        assert found.columns["logp_reference"][i] == pytest.approx(by_reference, abs=2e-4)
        assert found.columns["n_tokens"][i] == n
        assert found.values[i] == pytest.approx(0.3 * (by_policy - by_reference), abs=1e-4)


@pytest.mark.slow
def test_against_trl(items, policy, tmp_path):
    """The rewards that TRL's DPOTrainer logs for a batch are these."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    pairs = [
        (items[i], dataclasses.replace(items[i], id="r", response=items[i + 1].response))
        for i in range(0, 20, 5)
    ]
    rows = [
        {
            "prompt": c.prompt,
            "chosen": [{"role": "assistant", "content": c.response}],
            "rejected": [{"role": "assistant", "content": r.response}],
        }
        for c, r in pairs
    ]
    args = DPOConfig(
        str(tmp_path),
        beta=0.3,
        max_length=None,
        use_cpu=True,
        bf16=False,
        report_to=[],
        per_device_eval_batch_size=4,
        logging_steps=1,
    )
    reference = AutoModelForCausalLM.from_pretrained(TINY)
    trainer = DPOTrainer(
        str(policy),
        reference,
        args=args,
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows),
    )
    told = trainer.evaluate()
    score = opened(policy, reference=str(TINY), beta=0.3)
    for side, of_side in (("chosen", [c for c, _ in pairs]), ("rejected", [r for _, r in pairs])):
        values = score(of_side).values
        assert told[f"eval_rewards/{side}"] == pytest.approx(sum(values) / len(values), abs=1e-4)


# --------------------------------------------------------------------------------------- invariance


@pytest.fixture(scope="module")
def alone(items, policy):
    """The values at beta 1, sums of up to 100 tokens' log-ratios, each answer in a batch of its
    own, nothing reused.
    """
    found = opened(policy, **EXACT, device_batch_tokens=1, prefix_reuse=False)(items)
    assert (
        all(v is not None for v in found.values)
        and len(set(found.values)) > 50
        and max(map(abs, found.values)) > 1
    )
    return found.values


@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize(
    "rows", [1, 7, *(pytest.param(n, marks=pytest.mark.long) for n in (2, 64))]
)
@pytest.mark.slow
def test_batch_size(items, policy, alone, rows, reuse, monkeypatch):
    monkeypatch.setattr(network, "CPU_TOKENS", 10**6)
    monkeypatch.setattr(network, "PADDING", {})
    longest = 130
    found = opened(
        policy, **EXACT, device_batch_tokens=rows * longest if rows > 1 else 1, prefix_reuse=reuse
    )(items)
    assert found.values == pytest.approx(alone, abs=TOLERANCE)


@pytest.mark.slow
def test_order_windows_and_shards(items, policy, alone):
    score, order = opened(policy, **EXACT), random.Random(0).sample(range(len(items)), len(items))
    assert score([items[i] for i in order]).values == pytest.approx(
        [alone[i] for i in order], abs=TOLERANCE
    )
    for size in (1, 7):
        windows = [v for i in range(0, len(items), size) for v in score(items[i : i + size]).values]
        assert windows == pytest.approx(alone, abs=TOLERANCE)
    for n in (2, 5):
        shards = [score(items[k::n]).values for k in range(n)]
        assert [shards[i % n][i // n] for i in range(len(items))] == pytest.approx(
            alone, abs=TOLERANCE
        )


@pytest.mark.slow
def test_the_padding_of_the_tokenizer_does_not_matter(items, policy, alone, tmp_path):
    """Left padding, and padding with the end-of-turn token."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(policy).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(TINY, padding_side="left")
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(tokenizer("x<|end|>")["input_ids"][-1])
    tokenizer.save_pretrained(tmp_path)
    assert opened(tmp_path, **EXACT)(items).values == pytest.approx(alone, abs=TOLERANCE)


@pytest.mark.slow
def test_prompts_that_answers_share_are_read_once(items, policy, monkeypatch):
    """Sixteen answers to one prompt: the tokens that the layers see."""
    prompt = [{"role": "user", "content": items[0].prompt[0]["content"] * 12}]
    answers = [Item(str(i), prompt, f"The largest number is {i}." * (1 + i % 3)) for i in range(16)]
    read, values = {}, {}
    forward = network.Network._forward

    def counting(self, rows, **options):
        read[reuse] = read.get(reuse, 0) + sum(map(len, rows))
        return forward(self, rows, **options)

    for reuse in (True, False):
        score = opened(policy, **EXACT, prefix_reuse=reuse)
        monkeypatch.setattr(network.Network, "_forward", counting)
        values[reuse] = score(answers).values
        monkeypatch.undo()
    assert values[True] == pytest.approx(values[False], abs=TOLERANCE)
    assert read[True] < 0.3 * read[False]


@pytest.mark.long
def test_few_logits_at_once_change_nothing(items, policy, monkeypatch):
    from reward_models.networks import logps

    whole = opened(policy, reference=str(TINY))(items)
    monkeypatch.setattr(logps, "HEAD_ELEMENTS", 20_000)
    monkeypatch.setattr(logps, "CHUNK", 3)
    assert opened(policy, reference=str(TINY))(items).values == pytest.approx(
        whole.values, abs=1e-5
    )


@pytest.mark.slow
def test_only_answers_go_through_the_head(items, policy, monkeypatch):
    from reward_models.networks import logps

    seen = []
    picked = logps.picked
    monkeypatch.setattr(
        logps, "picked", lambda logits, targets: seen.append(len(logits)) or picked(logits, targets)
    )
    score = opened(policy, reference=str(TINY))
    seen.clear()  # the models were tried out
    found = score(items)
    assert sum(seen) == 2 * sum(found.columns["n_tokens"])


@pytest.mark.slow
def test_an_adapter_is_compared_with_its_base(items, adapter, tmp_path):
    """Without a reference, with its base as reference, and merged: the same."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    merged = tmp_path / "merged"
    PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(TINY), adapter
    ).merge_and_unload().save_pretrained(merged)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(merged)
    own = opened(adapter)(items).values
    assert max(map(abs, own)) > 0.01
    assert opened(adapter, reference=str(TINY))(items).values == pytest.approx(own, abs=1e-5)
    assert opened(merged, reference=str(TINY))(items).values == pytest.approx(own, abs=1e-4)


@pytest.mark.slow
def test_lengths(items, policy):
    plain = opened(policy, reference=str(TINY))(items)
    n = plain.columns["n_tokens"]
    by_token = opened(policy, reference=str(TINY), length_normalise="tokens")(items)
    assert by_token.values == pytest.approx(
        [v / k for v, k in zip(plain.values, n, strict=True)], abs=1e-6
    )
    less = opened(policy, reference=str(TINY), length_penalty=0.5)(items)
    assert less.values == pytest.approx(
        [v - 0.5 * k for v, k in zip(plain.values, n, strict=True)], abs=1e-4
    )


@pytest.mark.long
def test_without_an_english_prompt(items, policy):
    half = [
        dataclasses.replace(item, english_prompt=None) if i % 2 else item
        for i, item in enumerate(items)
    ]
    found = opened(policy, reference=str(TINY), condition_on="english_prompt")(half)
    assert (
        [v is None for v in found.values]
        == found.flags["no_english_prompt"]
        == [bool(i % 2) for i in range(len(half))]
    )
    english = [
        i for i, item in enumerate(items) if item.language == "eng_Latn" and len(item.prompt) == 1
    ]
    same = opened(policy, reference=str(TINY))(items)
    whole = opened(policy, reference=str(TINY), condition_on="english_prompt")(items)
    assert [whole.values[i] for i in english] == pytest.approx(
        [same.values[i] for i in english], abs=1e-5
    )


@pytest.mark.slow
def test_truncation_takes_the_prompt_first(items, policy):
    item = max(items, key=lambda i: len(i.prompt) * 100 + len(i.response))
    whole = opened(policy, reference=str(TINY))([item])
    n = int(whole.columns["n_tokens"][0])
    cut = opened(policy, reference=str(TINY), max_length=n + 3)([item])
    assert cut.columns["n_tokens"] == [n] and cut.values != whole.values
    assert (cut.flags["truncated"], cut.flags["response_truncated"]) == ([True], [False])
    short = opened(policy, reference=str(TINY), max_length=n - 2)([item])
    assert short.columns["n_tokens"] == [n - 3] and short.flags["response_truncated"] == [True]
    assert whole.flags["truncated"] == [False]


@pytest.mark.slow
def test_an_empty_answer_is_its_end_of_turn(items, policy):
    found = opened(policy, reference=str(TINY))([dataclasses.replace(items[0], response="")])
    assert found.columns["n_tokens"] == [1.0] and isinstance(found.values[0], float)
    assert opened(policy, reference=str(TINY))([]).values == []


@pytest.mark.long
def test_bfloat16_is_near(items, policy):
    exact = opened(policy, reference=str(TINY), length_normalise="tokens", beta=1.0)(items).values
    rounded = opened(
        policy, reference=str(TINY), length_normalise="tokens", beta=1.0, dtype="bfloat16"
    )(items).values
    assert max(abs(a - b) for a, b in zip(exact, rounded, strict=True)) < 0.2
    assert exact != rounded


@pytest.mark.slow
def test_a_model_that_scales_its_logits(items, tmp_path):
    """Cohere multiplies logits after the head: the model's own forward must run."""
    import torch
    from transformers import AutoTokenizer, CohereConfig, CohereForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(TINY)
    config = CohereConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        logit_scale=0.0625,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.5,
    )
    for seed, name in enumerate(("policy", "reference")):
        torch.manual_seed(seed)
        CohereForCausalLM(config).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    found = opened(tmp_path / "policy", reference=str(tmp_path / "reference"))(items[:3])
    for i, item in enumerate(items[:3]):
        assert found.columns["logp_policy"][i] == pytest.approx(
            independent(tmp_path / "policy", item, item.prompt)[0], abs=1e-4
        )


def test_what_is_refused(policy, classifier, tmp_path):
    with pytest.raises(UserError, match=r"scorer.reference: missing; .* is a whole model"):
        opened(policy)
    with pytest.raises(UserError, match=r"its tokenizer gives .* another number than that of"):
        opened(policy, reference=str(classifier))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no tokenizer"):
        opened(tmp_path / "empty", reference=str(policy))
    with pytest.raises(UserError, match=r"scorer.beta: expected float or int, got '1'"):
        opened(policy, reference=str(policy), beta="1")


@pytest.mark.slow
def test_only_the_last_answer_counts_where_the_prompt_ends_with_an_assistant(tmp_path, policy):
    """This template marks the last turn of an assistant, so the prompt alone is written otherwise
    than before the answer.
    """
    from transformers import AutoTokenizer

    template = (
        "{% for m in messages %}<|{{ m['role'] }}|>{% if m['role'] == 'assistant' and loop.last"
        " %}<think></think>{% endif %}{{ m['content'] }}<|end|>{% endfor %}{% if"
        " add_generation_prompt %}<|assistant|>{% endif %}"
    )
    score = opened(policy, reference=str(TINY), chat_template=template)
    talk = [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "Well, let me think about that for a while."},
    ]
    found = score([Item("a", talk, "4"), Item("b", talk[:1], "4")])
    expected = len(AutoTokenizer.from_pretrained(TINY)("<think></think>4<|end|>")["input_ids"])
    assert found.columns["n_tokens"] == [expected, expected]


@pytest.mark.slow
def test_an_answer_that_the_template_leaves_out_has_no_score(policy):
    template = "{% for m in messages %}{{ m['content'].split('</think>')[-1] }}<|end|>{% endfor %}"
    found = opened(policy, reference=str(TINY), chat_template=template)(
        [
            Item("a", [{"role": "user", "content": "2+2?"}], text)
            for text in ("<think>4</think>", "<think>x</think>4", "4")
        ]
    )
    assert [v is None for v in found.values] == [True, False, False]
    assert found.flags["answer_left_out"] == [True, False, False]
    assert found.flags["answer_partly_left_out"] == [False, True, False]
    assert found.values[1] == found.values[2]
