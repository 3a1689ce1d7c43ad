"""Runs chat templates with limits on steps, time and text: none can hang or fill the memory.

The environment is transformers' own (its filters, globals, extensions and options), so texts are
the same. Three things are added:

- every pass of a loop and every call of a macro counts as a step;
- operators, calls and filters whose text would exceed the limit are refused before they run;
- random choices are refused, since the same rows must give the same texts.

Limits are counted per render and per thread.
"""

import functools
import re
import threading
import time
from collections.abc import Callable, Iterable, Sized
from types import BuiltinFunctionType, FunctionType
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_STEPS = 1_000_000  # passes of loops and calls of macros
MAX_SECONDS = 10.0  # of this thread's processor time, so a busy machine refuses nothing
MAX_CHARACTERS = 250_000_000  # put together in all, intermediate texts included
SHORT = 1000  # sums below this are not counted: the steps bound them
MAX_BITS = 1 << 20  # of an integer
MAX_WIDTH = 1_000_000  # that a text or a list is padded to
STEPS_PER_CLOCK_CHECK = 16
LONG_FIELD = re.compile(r"\d{7,}")  # a width in a format string, `%9999999d`
PADDING = frozenset(("center", "ljust", "rjust", "zfill", "expandtabs", "indent", "batch", "slice"))
MULTIPLYING = frozenset(("replace", "join", "indent", "expandtabs", "wordwrap"))
FORMATTING = frozenset(("format", "format_map"))
GROWING = PADDING | MULTIPLYING | FORMATTING


class TooMuch(Exception):
    """A template exceeded one of the limits; the message continues `the chat template …`."""


class _Spent(threading.local):
    """What the render under way in this thread has used."""

    steps = 0
    characters = 0
    until = 0.0


class Environment(ImmutableSandboxedEnvironment):
    """A sandbox whose loops, macros and texts are counted."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, **options: Any):
        super().__init__(**options)
        self._spent = _Spent()

    @property
    def step(self) -> None:
        """Counts one pass of a loop or one call of a macro.

        Compiled templates read it there (see `_counted`).
        """
        spent = self._spent
        spent.steps += 1
        if spent.steps > MAX_STEPS:
            raise TooMuch(f"loops more than {MAX_STEPS:,} times")
        if spent.steps % STEPS_PER_CLOCK_CHECK == 0 and time.thread_time() > spent.until:
            raise TooMuch(f"takes more than {MAX_SECONDS:.0f} seconds")

    def render(self, template: jinja2.Template, variables: dict[str, Any]) -> str:
        """The template's text. Raises: TooMuch, and whatever the template raises."""
        spent = self._spent
        spent.steps = 0
        spent.characters = 0
        spent.until = time.thread_time() + MAX_SECONDS
        return template.render(variables)

    def concat(self, pieces: Iterable[str]) -> str:
        """Join the pieces of text that a template, a macro or a block writes."""
        pieces = list(pieces)
        self._count(sum(map(len, pieces)))
        return "".join(pieces)

    def joined(self, *values: Any) -> str:
        """The operator `~`."""
        return self.concat(map(str, values))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            total = left + right
            if isinstance(total, str | list) and len(total) > SHORT:
                self._count(len(total))
            return total
        if operator == "%":
            if isinstance(left, str) and LONG_FIELD.search(left):
                raise TooMuch("asks for a text field of millions of characters")
        else:
            self._check_product(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(  # type: ignore[override]
        self, context: Any, obj: Any, *args: Any, **kwargs: Any
    ) -> Any:
        method = obj
        if type(obj) is FunctionType:
            method = obj.__dict__.get("__wrapped__", obj)  # the sandbox wraps str.format
        if (
            type(method) is BuiltinFunctionType
            and method.__name__ in GROWING
            and isinstance(method.__self__, str)
        ):
            self.check_growth(method.__name__, method.__self__, [*args, *kwargs.values()])
        return super().call(context, obj, *args, **kwargs)

    def check_growth(self, name: str, value: Any, args: list[Any]) -> None:
        """Raises: TooMuch if a method or filter could make a text longer than the limit."""
        if name in PADDING and any(isinstance(n, int) and n > MAX_WIDTH for n in args):
            raise TooMuch("pads something to millions of places")
        if name in FORMATTING and isinstance(value, str) and LONG_FIELD.search(value):
            raise TooMuch("asks for a text field of millions of characters")
        if name in MULTIPLYING:
            self._count(0, at_most=_product_of_largest([value, *args]))

    def _check_product(self, operator: str, left: Any, right: Any) -> None:
        """Raises: TooMuch if `left * right` or `left ** right` is too large to compute."""
        if isinstance(left, int) and isinstance(right, int):
            if operator == "**":
                n_bits = left.bit_length() * max(right, 1)
            else:
                n_bits = left.bit_length() + right.bit_length()
            if n_bits > MAX_BITS:
                raise TooMuch("computes a number of more than a million bits")

        sized, times = left, right
        if not isinstance(left, Sized):
            sized, times = right, left
        if isinstance(sized, Sized) and isinstance(times, int):
            self._count(len(sized) * max(times, 0))

    def _count(self, n: int, at_most: int = 0) -> None:
        self._spent.characters += n
        if max(self._spent.characters, at_most) > MAX_CHARACTERS:
            raise TooMuch(f"writes more than {MAX_CHARACTERS:,} characters")


def _product_of_largest(values: list[Any]) -> int:
    """The product of the two largest lengths or numbers.

    It bounds the length of what `replace`, `join` and `indent` give.
    """
    sizes = []
    for value in values:
        if isinstance(value, int):
            sizes.append(value)
        elif isinstance(value, Sized):
            sizes.append(len(value))
    if len(sizes) < 2:
        return 0
    *_, second, largest = sorted(sizes)
    return (largest + 1) * second


# ---------------------------------------------------------------------------------------- compiling


def render(text: str, variables: dict[str, Any]) -> str:
    """What a template's text writes. Raises: TooMuch, and whatever the template raises."""
    return environment().render(compiled(text), variables)


@functools.lru_cache(maxsize=64)
def compiled(text: str) -> jinja2.Template:
    """A template ready to render. Raises: jinja2.TemplateSyntaxError."""
    ours = environment()
    code = ours.compile(_counted(ours.parse(text)))
    return jinja2.Template.from_code(ours, code, ours.make_globals(None))


@functools.cache
def environment() -> Environment:
    """Transformers' environment for chat templates, with limits."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    theirs = _compile_jinja_template("").environment
    ours = Environment(
        trim_blocks=theirs.trim_blocks,
        lstrip_blocks=theirs.lstrip_blocks,
        extensions=[type(extension) for extension in theirs.extensions.values()],
    )
    ours.globals = {**theirs.globals, "lipsum": _refuse_random}
    ours.filters = {**theirs.filters, "random": _refuse_random}
    for name in GROWING & theirs.filters.keys():
        ours.filters[name] = _checked(ours, name, theirs.filters[name])
    return ours


def _checked(ours: Environment, name: str, filter_: Callable) -> Callable:
    """A filter of Jinja's that first checks how large its result may be."""
    # Some filters take the environment or the context in front of the value.
    n_before = int(hasattr(filter_, "jinja_pass_arg"))

    @functools.wraps(filter_)
    def checked(*args: Any, **kwargs: Any) -> Any:
        value, *rest = args[n_before:]
        ours.check_growth(name, value, [*rest, *kwargs.values()])
        return filter_(*args, **kwargs)

    return checked


def _refuse_random(*_: Any, **__: Any) -> Any:
    raise TooMuch(
        "writes something at random, so that the same rows would give other texts each time"
    )


def _counted(tree: nodes.Template) -> nodes.Template:
    """The template with a step counted in every loop and macro, and `~` done by `joined`."""
    _count_concatenations(tree)
    repeated: Any = tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock))
    for node in repeated:
        step = nodes.ExprStmt(nodes.EnvironmentAttribute("step"), lineno=node.lineno)
        node.body.insert(0, step)
    return tree


def _count_concatenations(node: nodes.Node) -> None:
    """Replace every `a ~ b` below a node by `environment.joined(a, b)`."""
    for child in node.iter_child_nodes():
        _count_concatenations(child)
    for name, value in node.iter_fields():
        if isinstance(value, list):
            setattr(node, name, list(map(_as_call, value)))
        else:
            setattr(node, name, _as_call(value))


def _as_call(node: Any) -> Any:
    """The call that stands for a concatenation; any other value as it is."""
    if not isinstance(node, nodes.Concat):
        return node
    joined = nodes.EnvironmentAttribute("joined", lineno=node.lineno)
    return nodes.Call(joined, node.nodes, [], None, None, lineno=node.lineno)
