"""The generate stage with an operator, on the tiny model: rows, ids, reasons, stop and go on."""

import json

import pytest
from stages.test_generate import TINY, StopAfter, config, content, generated, prompt_row

from mlalign.core import kinds, rows, schema, shards, stage
from mlalign.core.errors import UserError
from mlalign.stages import generate

LANGUAGES = ("eng_Latn", "swh_Latn")
# The tiny model follows no instructions: it is asked the question again, which it answers.
PLAIN = '{% if ask == "critique" %}{{ prompt }} {{ answer }}{% else %}{{ prompt }}{% endif %}'
REFINE = {"operator": "self_refine", "operator_args": {"tag": ""}, "templates": {"eng_Latn": PLAIN}}


@pytest.fixture(scope="module")
def candidates(tmp_path_factory):
    """Two languages, a shard of three prompts each, two answers to a prompt."""
    path = tmp_path_factory.mktemp("rows") / "candidates"
    with rows.ShardWriter(path, "candidates") as writer:
        for language in LANGUAGES:
            for i in range(3):
                row = prompt_row(f"How much is {i} + 1?", str(i), language)
                answers = []
                for j in range(2):
                    text = f"The sum is {j}."
                    answers.append({"candidate_id": f"{language}{i}{j}", "text": text})
                more = {"responses": answers, "response_lang_requested": language}
                writer.write({**row, **more, "reference": rows.to_json(i + 1)})
    return path


@pytest.fixture(scope="module")
def refined(candidates, tmp_path_factory):
    cfg = config(**REFINE, n=2)
    return generated(cfg, candidates, tmp_path_factory.mktemp("refined") / "store")


@pytest.mark.slow
def test_one_row_for_each_parent_and_sampler(refined, candidates):
    assert rows.kind_of(refined.path) == "candidates"
    sources = [(row, r) for row in rows.read(candidates) for r in row["responses"]]
    made = list(rows.read(refined.path))
    assert len(made) == len(sources) == 12
    markers = [json.loads(p.read_text()) for p in sorted((refined.path / "shards").glob("*"))]
    assert len(markers) == 2
    samplers = {lang: generate.sampler(config(**REFINE), model(), lang) for lang in LANGUAGES}
    for row, (source, parent) in zip(made, sources, strict=True):
        sampler = samplers[row["prompt_lang"]]["fingerprint"]
        identifier = parent["candidate_id"]
        assert row["id"] == rows.derived_id(identifier, sampler)
        assert [r["parent"] for r in row["responses"]] == [identifier] * 2
        wanted = [rows.candidate_id(identifier, sampler, k) for k in range(2)]
        assert [r["candidate_id"] for r in row["responses"]] == wanted
        for name in ("group_id", "prompt", "reference", "split", "response_lang_requested"):
            assert row[name] == source[name]
    counts = refined.tally.to_dict()
    assert counts["rows"] == {"eng_Latn": 6, "swh_Latn": 6}
    assert counts["sums"]["responses"] == {"eng_Latn": 24, "swh_Latn": 24}  # two for each run
    assert all(r["n_tokens"] > 0 for row in made for r in row["responses"])


def model():
    return stage.external_model({"path": str(TINY)})


@pytest.mark.slow
def test_a_stopped_run_goes_on_and_equals_the_unbroken_one(refined, candidates, tmp_path):
    cfg = config(**REFINE, n=2)
    with pytest.raises(stage.Stopped):
        generated(cfg, candidates, tmp_path / "broken", kind=StopAfter)
    partial = tmp_path / "broken" / "generate-test.partial"
    assert len(shards.pending(rows.shards(candidates), partial)) == 1
    (partial / "STOP").unlink()
    out = generated(cfg, candidates, tmp_path / "broken")
    assert content(out) == content(refined)
    assert out.tally.to_dict() == refined.tally.to_dict()


@pytest.mark.slow
def test_a_template_concerns_the_shards_of_its_language_alone(refined, candidates):
    """With a new Swahili template, the English shard is linked from the cache; the Swahili is not."""
    before = {p.name: p for p in rows.shards(refined.path)}
    root = refined.path.parent
    refined.path.rename(root / "generate-before")
    try:
        templates = {"eng_Latn": PLAIN, "swh_Latn": PLAIN + " "}
        again = generated(config(**{**REFINE, "templates": templates}, n=2), candidates, root)
        for shard in rows.shards(again.path):
            same = shard.samefile(root / "generate-before" / "rows" / before[shard.name].name)
            assert same == shard.name.startswith("eng_Latn")
        again.path.rename(root / "generate-after")
    finally:
        (root / "generate-before").rename(refined.path)


@pytest.mark.slow
def test_what_an_operator_cannot_parse_is_counted_by_reason_and_language(candidates, tmp_path):
    message = r"eng_Latn: no prompt is left .6 no <answer> in the refinement"
    with pytest.raises(UserError, match=message) as e:
        generated(config(**{**REFINE, "operator_args": {}}), candidates, tmp_path / "store")
    assert "see the operator's template" in str(e.value)
    partial = tmp_path / "store" / "generate-test.partial"
    tally = shards.total(rows.shards(candidates), partial).to_dict()
    reason = "no <answer> in the refinement"
    assert tally["dropped"] == {reason: {"eng_Latn": 6, "swh_Latn": 6}}
    assert tally["sums"][f"not made: {reason}"] == {"eng_Latn": 6, "swh_Latn": 6}


WRITER = """
from mlalign.core import rows
from mlalign.methods.made import Demonstration, Judgement, Prompt
from mlalign.methods.operators import Ask, Item, Steps

def prompts(prompt: Item) -> Steps[Prompt]:
    texts = yield [Ask(prompt.prompt), Ask("Name a river.", max_tokens=4, temperature=0.0)]
    return [Prompt(rows.messages(texts[0] + "?")), "left out", Prompt(prompt.prompt)]

def judged(candidate: Item) -> Steps[Judgement]:
    [text] = yield [Ask(candidate.text)]
    return [Judgement(text, float(len(candidate.siblings)))]

def shown(text: Item) -> Steps[Demonstration]:
    [answer] = yield [Ask(text.text)]
    return [Demonstration(rows.messages(text.text), rows.messages(answer, "assistant"))]

def wrong(prompt: Item) -> Steps[Prompt]:
    yield [Ask("x")]
    return [1]
"""


@pytest.fixture
def my_operators(tmp_path, monkeypatch):
    (tmp_path / "my_operators.py").write_text(WRITER)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.slow
def test_new_prompts_are_items_of_their_own_in_the_split_they_come_from(my_operators, tmp_path):
    with rows.ShardWriter(tmp_path / "source", "prompt") as writer:
        writer.write(prompt_row("How much is 1 + 1?", "0", "eng_Latn"))
        writer.write(prompt_row("How much is 1 + 2?", "1", "eng_Latn", split="eval"))
    cfg = config(operator="my_operators:prompts", split=None)
    out = generated(cfg, tmp_path / "source", tmp_path / "store")
    assert rows.kind_of(out.path) == "prompt"
    for split in ("train", "eval"):
        (source,) = rows.read(tmp_path / "source", split)
        new, same = rows.read(out.path, split)
        assert new["group_id"] == new["id"] and same["group_id"] == source["group_id"]
        assert rows.text_of(new["prompt"]).endswith("?") and same["prompt"] == source["prompt"]
        assert json.loads(new["metadata"]) == {"parent": source["id"]}
        assert len({new["id"], same["id"], source["id"]}) == 3
    assert out.tally.to_dict()["rows"] == {"eng_Latn": 4}
    assert out.tally.sums["not made: left out"] == {"eng_Latn": 2}


@pytest.mark.slow
def test_judgements_and_demonstrations(my_operators, candidates, tmp_path):
    out = generated(config(operator="my_operators:judged"), candidates, tmp_path / "judged")
    judged = list(rows.read(out.path))
    wanted = [r["candidate_id"] for row in rows.read(candidates) for r in row["responses"]]
    assert [row["candidate_id"] for row in judged] == wanted
    marks = {(row["scorer"], row["value"], row["parse_status"]) for row in judged}
    assert marks == {("judged", 1.0, "ok")}
    with rows.ShardWriter(tmp_path / "texts", "text") as writer:
        row = prompt_row("", "0", "eng_Latn")
        writer.write({**row, "text": "How much is 1 + 1?"})
    out = generated(config(operator="my_operators:shown"), tmp_path / "texts", tmp_path / "shown")
    (shown,) = rows.read(out.path)
    assert rows.kind_of(out.path) == "demonstration"
    assert rows.text_of(shown["prompt"]) == "How much is 1 + 1?" and shown["completion"]
    assert shown["response_lang"] == "eng_Latn"


@pytest.mark.slow
def test_an_operator_that_makes_something_else_is_named(my_operators, tmp_path):
    with rows.ShardWriter(tmp_path / "source", "prompt") as writer:
        writer.write(prompt_row("How much is 1 + 1?", "0", "eng_Latn"))
    with pytest.raises(UserError, match="operator wrong: returns 1; expected Prompt, or a text"):
        generated(config(operator="my_operators:wrong"), tmp_path / "source", tmp_path / "store")
    with pytest.raises(UserError, match="holds prompt rows; the operator self_refine reads candid"):
        generated(config(**REFINE), tmp_path / "source", tmp_path / "store")


# ---------------------------------------------------------------------------------- configuration


def test_what_an_operator_reads_and_gives_is_known_before():
    cfg = config(**REFINE)
    assert generate.accepts(cfg) == {"rows": ("candidates",)}
    assert generate.gives(cfg, {}) == kinds.Gives("candidates")
    cfg = config(operator="self_instruct", templates={"eng_Latn": "x"})
    assert generate.accepts(cfg) == {"rows": ("prompt", "demonstration", "preference")}
    assert generate.gives(cfg, {}) == kinds.Gives("prompt")


def test_without_an_operator_nothing_new_is_hashed():
    assert not {"operator", "operator_args", "templates"} & schema.hashed(config()).keys()
    assert list(generate.identity(config(), str)) == ["chat_template", "response_lang"]
    assert "operator_source" in generate.identity(config(**REFINE), str)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"operator": "self_refin"}, "operator: 'self_refin' is no operator; did you mean"),
        (
            {**REFINE, "operator_args": {"round": 1}},
            "operator_args.round: unknown key; did you mean 'rounds'",
        ),
        (
            {**REFINE, "operator_args": {"rounds": "x"}},
            "operator_args.rounds: expected a whole number, got 'x'",
        ),
        ({"operator_args": {"rounds": 1}}, "operator_args: there is no operator that this belongs"),
        ({**REFINE, "templates": {}}, "operator: self_refine has no template for eng_Latn"),
        (
            {**REFINE, "templates": {"eng_Latn": "{% if"}},
            "operator: prompts/self_refine/eng_Latn.j2:1: ",
        ),
        (
            {"operator": "self_instruct", "templates": {"eng_Latn": "x"}, "response_lang": "de"},
            "response_lang: self_instruct makes rows in the language of each prompt",
        ),
    ],
)
def test_mistakes_are_told_before_anything_starts(values, message):
    with pytest.raises(UserError) as caught:
        generate.identity(config(**values), str)
    assert [m for m in caught.value.messages if m.startswith(message)], caught.value.messages
