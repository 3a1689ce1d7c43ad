"""How methods are found, checked and hashed: `mlalign.methods`."""

import sys
from pathlib import Path

import pytest

from mlalign import methods
from mlalign.core.errors import UserError
from mlalign.methods import pairing

PAIRING = pairing.__name__
PLAIN = 'def best(scored, *, k: int = 1):\n    """Says what."""\n    return scored[:k]\n'


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder on Python's path whose modules are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


def write(folder: Path, **files: str) -> None:
    """Files by name: `own_pkg__rule` is `own_pkg/rule.py`."""
    for name, text in files.items():
        path = (
            folder / f"{name.replace('__', '/', 1)}.py" if "__" in name else folder / f"{name}.py"
        )
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


def digest(name: str) -> str:
    return methods.source_digest(PAIRING, name)


def test_formatting_comments_and_docstrings_do_not_count(folder):
    write(folder, own_rule=PLAIN)
    before = digest("own_rule:best")
    write(
        folder,
        own_rule=(
            '"""A module."""\n# why\n\ndef best(scored,\n         *, k: int = 1):\n    return'
            " (scored[:k])\n"
        ),
    )
    assert digest("own_rule:best") == before
    write(folder, own_rule=PLAIN.replace("k: int = 1", "k: int = 2"))
    assert digest("own_rule:best") != before
    write(folder, own_rule=PLAIN.replace("scored[:k]", "scored[k:]"))
    assert digest("own_rule:best") != before


def test_a_text_that_is_no_docstring_counts(folder):
    write(folder, own_text="def best(scored):\n    return 'a'\n")
    before = digest("own_text:best")
    write(folder, own_text="def best(scored):\n    return 'b'\n")
    assert digest("own_text:best") != before


def test_modules_of_the_same_package_count_directly_or_not(folder):
    package = {
        "own_pkg/__init__": "",
        "own_pkg/rule": (
            "from own_pkg.near import near\n\ndef best(scored):\n    return near(scored)\n"
        ),
        "own_pkg/near": "from . import far\n\ndef near(scored):\n    return far.far(scored)\n",
        "own_pkg/far": "import json\n\ndef far(scored):\n    return scored\n",
        "own_pkg/other": "VALUE = 1\n",
        "own_beside": "VALUE = 1\n",
    }
    (folder / "own_pkg").mkdir()
    for name, text in package.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    before = digest("own_pkg.rule:best")
    for name, changed in (
        ("own_pkg/other", False),
        ("own_beside", False),
        ("own_pkg/far", True),
        ("own_pkg/near", True),
    ):
        path = folder / f"{name}.py"
        path.write_text(package[name] + "MORE = 2\n", encoding="utf-8")
        assert (digest("own_pkg.rule:best") != before) == changed, name
        path.write_text(package[name], encoding="utf-8")
    assert digest("own_pkg.rule:best") == before


def test_a_file_without_a_package_counts_what_lies_beside_it(folder):
    write(
        folder,
        own_single="import own_helper\n\ndef best(scored):\n    return own_helper.ONE\n",
        own_helper="ONE = 1\n",
    )
    before = digest("own_single:best")
    write(folder, own_helper="ONE = 2\n")
    assert digest("own_single:best") != before


def test_a_function_from_another_module_counts_with_both(folder):
    write(folder, own_front="from own_back import best\n", own_back=PLAIN)
    before = digest("own_front:best")
    write(folder, own_back=PLAIN.replace("[:k]", "[k:]"))
    assert digest("own_front:best") != before


def test_shipped_methods_count_with_the_vocabulary_of_their_kind_and_not_with_this_protocol():
    assert sorted(methods.source_files(PAIRING, "best_worst")) == [PAIRING, f"{PAIRING}.best_worst"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def best(:\n", r"method: .*own_wrong\.py:1: SyntaxError"),
        ("\nVALUE = 1 / 0\n", r"method: .*own_wrong\.py:2: ZeroDivisionError: division by zero"),
        (
            "import json\nimport not_installed_here\n",
            r"own_wrong\.py:2: ModuleNotFoundError: No module named 'not_installed_here'",
        ),
        ("raise SystemExit(3)\n", r"own_wrong\.py:1: SystemExit: 3"),
        ("import json\njson.loads('{')\n", r"own_wrong\.py:2: JSONDecodeError"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told_with_file_and_line(folder, text, message):
    write(folder, own_wrong=text)
    with pytest.raises(UserError, match=message):
        methods.load(PAIRING, "own_wrong:best")


def test_an_error_in_a_method_names_the_place_and_the_line(folder):
    write(folder, own_error="def best(scored):\n    first = scored[0]\n    return first['x']\n")
    method = methods.load(PAIRING, "own_error:best")
    with (
        pytest.raises(UserError, match=r"^prompt 7: .*own_error\.py:2: IndexError"),
        methods.failures(method, "prompt 7"),
    ):
        method([])


def test_options_are_evaluated_alone_so_that_other_types_need_not_be_there(folder):
    text = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from torch import Tensor\n\ndef"
        ' best(logps: "Tensor", *, scale: "float" = 1.0, beta: float = 0.1) -> "Tensor":\n   '
        " return logps\n"
    )
    write(folder, own_lazy=text)
    method = methods.load(PAIRING, "own_lazy:best")
    assert methods.options(method, {"scale": 2}, filled=("beta",)) == {"scale": 2.0}
    with pytest.raises(UserError, match=r"loss_args\.scal: unknown key; did you mean 'scale'"):
        methods.options(method, {"scal": 2}, "loss_args", filled=("beta",))
    assert methods.inputs(method) == ["logps"]


def test_a_pairing_method_takes_one_positional_parameter(folder):
    write(folder, own_two="def best(scored, k=3):\n    return scored[:k]\n")
    with pytest.raises(UserError, match=r"own_two:best takes scored, k; .* its options after `\*`"):
        pairing.load("own_two:best")
