"""Operators, builders and mixing rules in recipes: `plan` knows what they read and give."""

import pytest

from recipes.test_planned import ANSWERS, PROMPTS, START, errors_of, nodes

ROWS = """
  shown: {stage: prepare, config: {kind: demonstration, sources: "${data.demonstrations}"}}
"""
REFINED = f"""
  refined:
    stage: generate
    inputs: {{model: {START}, rows: answers}}
    config: {{operator: self_refine, operator_args: {{rounds: 2}}}}
"""
NEW = f"""
  new:
    stage: generate
    inputs: {{model: {START}, rows: prompts}}
    config: {{operator: self_instruct}}
"""
CROSSED = """
  crossed:
    stage: prepare
    inputs: {rows: shown}
    config: {kind: demonstration, builder: cross_lingual, mixing: unimax, total_rows: 50}
"""
WHOLE = "steps:\n" + PROMPTS + ANSWERS + ROWS + REFINED + NEW + CROSSED


@pytest.mark.slow
def test_rows_of_operators_and_builders_go_on(tmp_path):
    more = f"""
  marks: {{stage: score, inputs: {{rows: refined, scorers: [{{family: length}}]}}}}
  again: {{stage: generate, inputs: {{model: {START}, rows: new}}}}
  policy: {{stage: sft, inputs: {{model: {START}, rows: crossed}}}}
"""
    found = nodes(tmp_path, WHOLE + more)
    assert {"refined", "new", "crossed", "marks", "again", "policy"} <= found.keys()
    templates = found["refined"].config.templates
    assert list(templates) == ["eng_Latn"] and "[[GOOD]]" in templates["eng_Latn"]


@pytest.mark.slow
def test_a_persons_own_templates_come_first(tmp_path):
    folder = tmp_path / "conf" / "prompts" / "self_refine"
    folder.mkdir(parents=True)
    (folder / "de.j2").write_text("{{ ask }}")
    before = nodes(tmp_path, WHOLE)
    after = nodes(tmp_path, WHOLE, f"conf_dir={tmp_path / 'conf'}")
    assert after["refined"].config.templates.keys() == {"eng_Latn", "deu_Latn"}
    assert after["refined"].fingerprint != before["refined"].fingerprint
    assert after["new"].fingerprint == before["new"].fingerprint
    (folder / "nolanguage.j2").write_text("x")
    messages = errors_of(tmp_path, WHOLE, f"conf_dir={tmp_path / 'conf'}")
    assert len(messages) == 1
    assert messages[0].startswith("steps.refined.config.templates: ")
    assert "nolanguage" in messages[0]


@pytest.mark.slow
def test_options_and_code_of_methods_are_in_the_fingerprint(tmp_path):
    before = nodes(tmp_path, WHOLE)
    settings = ("mixing=cap", "mixing_args.rows=9", "total_rows=null")
    typed = [f"steps.crossed.config.{setting}" for setting in settings]
    after = nodes(tmp_path, WHOLE.replace("rounds: 2", "rounds: 3"), *typed)
    assert before["refined"].fingerprint != after["refined"].fingerprint
    assert before["crossed"].fingerprint != after["crossed"].fingerprint
    assert before["new"].fingerprint == after["new"].fingerprint


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("self_refine", "self_refin", "steps.refined.config.operator: 'self_refin' is no"),
        ("rounds: 2", "roundz: 2", "steps.refined.config.operator_args.roundz: unknown key; did"),
        ("rounds: 2", "rounds: two", "steps.refined.config.operator_args.rounds: expected a whole"),
        (
            "rows: answers}\n    config: {operator",
            "rows: prompts}\n    config: {operator",
            "steps.refined.inputs.rows: prompts gives prompt rows; generate reads candidates rows",
        ),
        (
            "builder: cross_lingual",
            "builder: cross_linguall",
            "steps.crossed.config.builder: 'cross_linguall' is no",
        ),
        (
            "inputs: {rows: shown}",
            "inputs: {rows: prompts}",
            "steps.crossed.inputs.rows: prompts gives prompt rows; prepare reads demonstration or",
        ),
        ("total_rows: 50", "dedup: true", "steps.crossed.config.total_rows: missing; the mixing"),
        ("unimax", "unimx", "steps.crossed.config.mixing: 'unimx' is no"),
    ],
)
@pytest.mark.slow
def test_a_mistake_is_told_once_with_its_key(tmp_path, old, new, message):
    assert old in WHOLE
    messages = errors_of(tmp_path, WHOLE.replace(old, new))
    assert len(messages) == 1 and messages[0].startswith(message), messages


@pytest.mark.slow
def test_what_an_operator_gives_must_fit_the_next_step(tmp_path):
    more = f"  policy: {{stage: sft, inputs: {{model: {START}, rows: new}}}}\n"
    (message,) = errors_of(tmp_path, WHOLE + more)
    assert message.startswith("steps.policy.inputs.rows: new gives prompt rows; sft reads")
