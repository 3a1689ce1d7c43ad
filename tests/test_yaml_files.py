"""YAML that people write: small texts that stand for too much, and texts that are none."""

import pytest
import yaml

from mlalign.core import yaml_files
from mlalign.core.errors import UserError
from mlalign.recipes import command_line, config

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
BOMBS = {
    LAUGHS: "line 5: stands for more than",
    "a: &a [*a]": "contains itself",
    "a: &a {b: {c: *a}}": "contains itself",
    "a: " + "{a: " * 60 + "1" + "}" * 60: "nested more than 50 deep",
    "[" * 5000: "nest",
    "- " * 5000 + "1": "nest",
    "a: " + "9" * 10_000: "a number of 10,000 digits",
    "a: [1, 2": "cannot be read as YAML",
    "a:\n\tb: 1": "cannot be read as YAML",
    "a: *nothing": "cannot be read as YAML",
    "a: !!python/object/apply:os.system [ls]": "cannot be read as YAML",
    "a: \x00": "cannot be read as YAML",
    "? [a, b]\n: 1": "cannot be read as YAML",
}


@pytest.mark.parametrize(("text", "why"), BOMBS.items(), ids=[str(i) for i in range(len(BOMBS))])
def test_one_message(text, why):
    with pytest.raises(UserError, match=why) as caught:
        yaml_files.load(text, "mine.yaml")
    assert str(caught.value).startswith("mine.yaml: ") and "\n" not in str(caught.value)


def test_aliases_and_numbers_within_bounds_are_read():
    assert yaml_files.load("a: &a [1, 2]\nb: [*a, *a]\nc: '" + "9" * 2000 + "'", "x")["b"] == [
        [1, 2],
        [1, 2],
    ]


def test_a_date_is_text_whatever_was_imported_before(monkeypatch):
    assert yaml_files.load("a: 2020-12-31\nb: 2020-13-45", "x") == {
        "a": "2020-12-31",
        "b": "2020-13-45",
    }
    monkeypatch.setattr(yaml.SafeLoader, "yaml_implicit_resolvers", {})
    assert yaml_files.load("a: 1", "x") == {"a": 1}


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "b.yaml").write_bytes(b"\xef\xbb\xbfa: 1")
    with pytest.raises(UserError, match=r"a\.yaml: no UTF-8 text"):
        yaml_files.read(tmp_path / "a.yaml")
    assert yaml_files.read(tmp_path / "b.yaml") == {"a": 1}
    with pytest.raises(UserError, match=r"c\.yaml: cannot be read"):
        yaml_files.read(tmp_path / "c.yaml")


def test_a_recipe_that_is_a_bomb_is_refused_before_it_is_composed(tmp_path):
    (tmp_path / "recipe").mkdir()
    for name, text in {
        "laughs": LAUGHS,
        "text": (
            "params:\n  p0: xxxxxxxxxx\n"
            + "".join(f"  p{i}: '{('${params.p' + str(i - 1) + '}') * 10}'\n" for i in range(1, 10))
            + "steps: {p: {stage: prepare}}"
        ),
    }.items():
        (tmp_path / "recipe" / f"{name}.yaml").write_text(text)
        with pytest.raises(UserError, match=r"stands? for more than"):
            config.load([f"recipe={name}", f"conf_dir={tmp_path}"])


@pytest.mark.parametrize("value", ["x" * 20_000, "[" * 50 + "]" * 50, "9" * 5000])
def test_an_argument_that_is_a_bomb_is_one_short_message(value):
    errors: list[str] = []
    assert command_line.by_grammar(f"languages={value}", errors) is None
    assert len(errors) == 1 and errors[0].startswith("languages: ") and len(errors[0]) < 200
