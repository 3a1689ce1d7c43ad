"""The plan: a recipe resolved, checked and unrolled into steps with fingerprints, without importing
anything heavy.
"""

import dataclasses
import importlib.util
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import reward_models
from mlalign import stages
from mlalign.core import identity, kinds, languages, schema, store
from mlalign.core.digests import Digests, of_store
from mlalign.core.errors import UserError, nearest
from mlalign.core.model import models_in, with_models
from mlalign.recipes import adapters, config, resources
from mlalign.recipes.graph import Ref, Resolve, Step, unroll, without
from mlalign.recipes.mistakes import told_once
from reward_models.settings import NOT_CONTENT

KIND_OF_SLOT = {"model": ("model",), "rows": ("rows", "scores"), "scorer": ("model",)}


@dataclasses.dataclass
class Node:
    """One step of a plan, ready to run."""

    step: Step
    module: ModuleType
    config: Any
    inputs: dict[str, Any]
    guards: list[dict]
    resources: dict[str, Any]
    fingerprint: str
    missing: list[str]
    read: dict[
        str, Any
    ]  # what the plan read of files outside the store: `files` (path -> SHA-256), and `config` (key -> fingerprint)
    variant: str = (
        ""  # of a sweep: the settings that this step does not share with all variants, `beta=0.05`
    )

    @property
    def name(self) -> str:
        """What the step is called in its run: that of a variant is `policy[beta=0.05]`."""
        return f"{self.step.name}[{self.variant}]" if self.variant else self.step.name

    @property
    def artifact(self) -> str:
        return f"{self.step.stage}-{self.fingerprint[:16]}"

    def sources(self) -> Iterator[dict]:
        """Every input that is another step's artifact, guards included."""
        for value in [*self.inputs.values(), self.guards]:
            yield from (m for m in models_in(value) if "artifact" in m)


@dataclasses.dataclass
class Variant:
    """One variant of a sweep: its settings by swept key, the arguments that give them, and its
    steps' names in the united plan.

    A trial of a search also has its number, and a state where it is not for its steps to tell:
    pruned or failed, and why.
    """

    label: str
    values: dict[str, Any]
    overrides: list[str]
    steps: dict[str, str]
    trial: int | None = None
    state: str = ""
    why: str = ""


@dataclasses.dataclass
class Plan:
    """All steps of a run in an order in which they can run; of a sweep those of all variants, each
    artifact once.
    """

    name: str
    recipe: str
    settings: config.Settings
    root: Path
    nodes: list[Node]
    kind: str = "run"  # run, sweep or search
    variants: list[Variant] = dataclasses.field(default_factory=list)
    unknown: list[str] = dataclasses.field(
        default_factory=list
    )  # why fingerprints are not final: a plan to look at, not to run
    same: list[tuple[Step, str]] = dataclasses.field(
        default_factory=list
    )  # steps that equal an earlier one, with its name

    @property
    def store(self) -> store.Store:
        return store.Store(self.root / "store")

    @property
    def run_dir(self) -> Path:
        return self.root / "runs" / self.name

    def check_name(self) -> None:
        """Raises: UserError if the run's directory is another recipe's, or a sweep's where this is
        a run.
        """
        if not (self.run_dir / "plan.json").is_file():
            return
        told = store.read_json(self.run_dir / "plan.json", {"recipe": str})
        if (other := told["recipe"]) != self.recipe:
            raise UserError(
                f"name: {self.run_dir} belongs to recipe {other!r}, not {self.recipe!r}; give this"
                " run another name="
            )
        if (kind := told.get("kind", "run")) != self.kind:
            raise UserError(
                f"name: {self.run_dir} belongs to a {kind}, and this is a {self.kind}; give it"
                " another name="
            )

    @property
    def names(self) -> dict[str, str]:
        """What the step of each artifact is called here: in a sweep not by the name that
        `Node.sources` tell.
        """
        return {n.artifact: n.name for n in self.nodes}

    def provisional(self) -> set[str]:
        """The artifacts whose fingerprint is not final, since a model before them is not known
        whole.
        """
        found: set[str] = set()
        for node in self.nodes:
            own = any(_is_unknown(value) for value in node.inputs.values())
            if own or any(source["artifact"] in found for source in node.sources()):
                found.add(node.artifact)
        return found

    def problems(self) -> list[str]:
        """What keeps the plan from running here and now, though it is correct."""
        return sorted({m for node in self.nodes for m in node.missing})


def _is_unknown(value: Any) -> bool:
    """Whether an input, or a model in its settings, is a hub id without a known commit."""
    if isinstance(value, Mapping):
        return any(_is_unknown(v) for v in value.values())
    if isinstance(value, list):
        return any(_is_unknown(v) for v in value)
    return isinstance(value, str) and value.endswith(f"@{identity.UNKNOWN}")


def build(settings: config.Settings, *, to_look_at: bool = False) -> Plan:
    """Plan a composed configuration.

    A plan `to_look_at` may have hub ids whose commit is not known; such a plan cannot run.

    Raises: UserError with every mistake in languages, recipe, step configurations and inputs.
    """
    errors = list(settings.errors)
    normalise_languages(settings, errors)
    steps = unroll(settings.recipe, _resolver(settings), errors, _max_rounds(settings, errors))
    _check_controls(settings, steps, errors)
    if settings.use:
        steps = _stand_in(steps, settings.use)
    root = Path(str(settings.root["root"])).expanduser().absolute()
    digests = of_store(root / "store")
    planner = _Planner(settings, digests, errors, to_look_at)
    for step in steps:
        planner.add(step)
    errors += adapters.problems(planner.nodes)
    if errors:
        raise UserError(*told_once(errors))
    digests.save()
    recipe = settings.choices.get("recipe") or steps[0].stage
    name = _run_name(settings.root["name"] or recipe)
    nodes = list(planner.by_artifact.values())
    return Plan(name, recipe, settings, root, nodes, unknown=planner.unknown, same=planner.same)


def _max_rounds(settings: config.Settings, errors: list[str]) -> int:
    value = settings.root["max_rounds"]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        errors.append(f"max_rounds: a whole number from 1, got {value!r}")
        return 1
    return value


def _run_name(name: Any) -> str:
    name = str(name)
    if (
        not name.strip()
        or name in (".", "..")
        or any(c in name for c in "/\\\n\r\0")
        or len(name) > 200
    ):
        raise UserError(
            f"name: {name!r} cannot be a directory's name; leave out slashes and line ends"
        )
    return name


def normalise_languages(settings: config.Settings, errors: list[str]) -> None:
    """Make `languages` of the settings canonical: those asked for, else those that the data names."""
    root = settings.root
    value = (
        root["languages"]
        if root["languages"] is not None
        else settings.resolve(root["data"].get("languages"), {}, "data.languages", errors)
    )
    root["languages"] = resolve_languages(value, settings, "languages", errors)


def resolve_languages(
    value: Any, settings: config.Settings, key: str, errors: list[str]
) -> list[str] | None:
    """Canonical codes for what a person wrote; mistakes are collected under `key`."""
    if value is None:
        return None
    try:
        return languages.resolve(value, settings.language_sets)
    except UserError as error:
        errors.extend(f"{key}: {message}" for message in error.messages)
        return None


def _resolver(settings: config.Settings) -> Resolve:
    """`Settings.resolve`, with the languages of a `foreach` made canonical (its variable is called
    `lang`).
    """

    def resolve(value: Any, binding: Mapping[str, Any], key: str, errors: list[str]) -> Any:
        out = settings.resolve(value, binding, key, errors)
        if (
            key.endswith(".foreach")
            and isinstance(out, Mapping)
            and isinstance(out.get("lang"), list)
        ):
            out = {
                **out,
                "lang": resolve_languages(out["lang"], settings, f"{key}.lang", errors) or [],
            }
        return out

    return resolve


def _check_controls(settings: config.Settings, steps: list[Step], errors: list[str]) -> None:
    """Steps named on the command line must be there: by full name, without their `foreach` value,
    or without their round.
    """
    if not steps:
        return  # the recipe's own mistakes come first
    groups = {name for s in steps for name in groups_of(s)}
    for control in config.STEP_LISTS:
        for name in settings.controls.get(control, []):
            if name not in groups:
                errors.append(f"{control}: the recipe has no step {name!r}{nearest(name, groups)}")
    known = {name for s in steps for name in names_of(s)}
    errors.extend(
        f"use.{name}: the recipe has no such step{nearest(name, known)}"
        for name in settings.use
        if name not in known
    )


def names_of(step: Step) -> set[str]:
    """What a person may call a step: `reward.r1[eng_Latn]`, `reward.r1` or `reward`."""
    return {step.name, step.name.partition("[")[0], step.template}


def groups_of(step: Step) -> set[str]:
    """Names that stand for this step and others: those of `names_of`, and of the parts that it
    belongs to.
    """
    words = step.template.split(".")
    return names_of(step) | {".".join(words[:n]) for n in range(1, len(words))}


def _stand_in(steps: list[Step], use: Mapping[str, str]) -> list[Step]:
    """Put external paths in the place of steps (`use.STEP=PATH`), and leave out what only those
    steps needed.
    """
    paths = {s.name: use[n] for s in steps for n in sorted(names_of(s), key=len) if n in use}
    ends = _ends(steps)

    def swap(item: Any) -> Any:
        if isinstance(item, Ref):
            named = {} if item.name is None else {"name": item.name}
            return (
                {"path": paths[item.step], "step": item.step, **named}
                if item.step in paths
                else item
            )
        return with_models(
            item,
            lambda m: (
                {**m, "path": paths[m["step"]]} if "path" not in m and m.get("step") in paths else m
            ),
        )

    for step in steps:
        step.inputs = {
            slot: [swap(i) for i in v] if isinstance(v, list) else swap(v)
            for slot, v in step.inputs.items()
        }
        step.guards = [g for g in step.guards if g not in paths]
    kept = _upstream([s for s in steps if s.name not in paths], ends - set(paths))
    names = {step.name for step in kept}
    for step in kept:  # a report on all steps is one on those that run
        step.inputs = {slot: without(value, names) for slot, value in step.inputs.items()}
    return kept


def _ends(steps: list[Step]) -> set[str]:
    """The steps that no other step needs."""
    return {s.name for s in steps} - {name for s in steps for name in s.needs()}


def _upstream(steps: list[Step], ends: set[str]) -> list[Step]:
    needed = set(ends)
    for step in reversed(
        steps
    ):  # in the order of running, so every consumer comes before what it needs
        if step.name in needed:
            needed.update(step.needs())
    return [s for s in steps if s.name in needed]


@dataclasses.dataclass
class _Planner:
    settings: config.Settings
    digests: Digests
    errors: list[str]
    to_look_at: bool = False
    nodes: dict[str, Node] = dataclasses.field(default_factory=dict)
    gives: dict[str, kinds.Gives] = dataclasses.field(default_factory=dict)
    same: list[tuple[Step, str]] = dataclasses.field(default_factory=list)
    by_artifact: dict[str, Node] = dataclasses.field(default_factory=dict)
    unknown: list[str] = dataclasses.field(default_factory=list)

    def add(self, step: Step) -> None:
        key = f"steps.{step.template}"
        try:
            module = stages.load(step.stage)
        except UserError as error:
            self.errors.append(f"{key}.stage: {error}")
            return
        step.inputs = _without_itself(step.inputs, getattr(module, "DIFFERS_FROM", {}))
        slots_fit = self._check_slots(step, module, key)
        if step.unresolved:
            return
        cfg = schema.build(
            module.Config, self._layers(step, module, key), f"{key}.config", self.errors
        )
        with self.digests.recording() as files:
            self._add(step, module, cfg, key, slots_fit, files)

    def _add(
        self,
        step: Step,
        module: ModuleType,
        cfg: Any,
        key: str,
        slots_fit: bool,
        files: dict[str, str],
    ) -> None:
        """Resolve inputs and fingerprint; `files` fills with the digests of what is read for that."""
        inputs = {
            slot: self._input(v, module, slot, f"{key}.inputs.{slot}")
            for slot, v in step.inputs.items()
        }
        whole = all(self._ready(v) for v in inputs.values()) and all(
            g in self.nodes for g in step.guards
        )
        if not slots_fit or cfg is None or not whole:
            return
        before = len(self.errors)
        own = self._own_identity(module, cfg, key)
        is_whole = len(self.errors) == before
        known = {
            slot: [self._known(item) for item in (v if isinstance(v, list) else [v])]
            for slot, v in inputs.items()
        }
        misfits = kinds.problems(module, step.stage, cfg, known, key) if is_whole else []
        self.errors.extend(misfits)
        if misfits:
            return
        self.gives[step.name] = kinds.of_step(module, cfg, known) if is_whole else kinds.Gives()
        guards = [self._artifact(g) for g in step.guards]
        asked = self._resources(step, module, key)
        missing = _missing_packages(module, cfg, key)
        hashed = schema.hashed(cfg) | own
        prints = {slot: self._prints_of(value, module, slot) for slot, value in inputs.items()}
        stops = [self.nodes[g["step"]].fingerprint for g in guards]
        identity_ = {
            "stage": step.stage,
            "version": module.VERSION,
            "config": hashed,
            "inputs": prints,
            "guards": stops,
        }
        print_ = store.fingerprint(identity_)
        read = {
            "files": files,
            "config": {name: store.fingerprint({name: value}) for name, value in own.items()},
        }
        node = Node(step, module, cfg, inputs, guards, asked, print_, missing, read)
        # A step that is the same as an earlier one in all that counts is that step.
        self.nodes[step.name] = self.by_artifact.setdefault(node.artifact, node)
        if self.nodes[step.name] is not node:
            self.same.append((step, self.nodes[step.name].name))

    def _known(self, value: Mapping) -> kinds.Gives:
        """What is known of an input: of a step, what its stage says; of anything else, what its
        files say.
        """
        name = (
            value.get("name")
            or value.get("step")
            or str(value.get("family") or "").rpartition(":")[2]
        )
        given = self.gives[value["step"]] if "artifact" in value else kinds.of_external(value)
        return dataclasses.replace(given, name=name or given.name)

    @staticmethod
    def _ready(value: Any) -> bool:
        return None not in value if isinstance(value, list) else value is not None

    def _layers(self, step: Step, module: ModuleType, key: str) -> dict:
        """Configuration from the weakest to the strongest: top-level values, scale, recipe step
        (with the command line's).
        """
        root, fields = self.settings.root, {f.name for f in dataclasses.fields(module.Config)}
        shared: dict[str, Any] = {"seed": root["seed"], "deepspeed": root["deepspeed"]}
        shared |= {name: root["model"].get(name) for name in ("chat_template", "date")}
        if "engine" in fields:
            extra = (root["scale"].get("engine_args") or {}).get(root["engine"]["name"], {})
            shared["engine"] = config.merged({"args": extra}, root["engine"])
        weak = {k: v for k, v in shared.items() if k in fields and v is not None}
        stages = [
            (root[group].get("stages") or {}).get(step.stage) or {} for group in ("model", "scale")
        ]
        layers = self.settings.resolve(
            config.merged(weak, *stages), step.scope, f"scale.stages.{step.stage}", self.errors
        )
        typed = {k: v for k, v in self.settings.typed.items() if k in fields}
        typed = self.settings.resolve(
            typed, step.scope, "", []
        )  # the same mistakes are told of the layers
        out = config.merged(layers, typed, step.config)
        if isinstance(out.get("deepspeed"), str):
            out["deepspeed"] = config.deepspeed_config(
                out["deepspeed"], self.settings.folders, f"{key}.config.deepspeed", self.errors
            )
        for field in dataclasses.fields(module.Config):
            folder = field.metadata["texts"](out) if "texts" in field.metadata else None
            if folder and not out.get(field.name):
                out[field.name] = config.texts(
                    folder, self.settings.folders, f"{key}.config.{field.name}", self.errors
                )
        if out.get("languages") is not None and "languages" in fields:
            out["languages"] = resolve_languages(
                out["languages"], self.settings, f"{key}.config.languages", self.errors
            )
        return out

    def _check_slots(self, step: Step, module: ModuleType, key: str) -> bool:
        before = len(self.errors)
        for slot in (*step.inputs, *step.broken):
            if slot not in module.SLOTS:
                self.errors.append(
                    f"{key}.inputs.{slot}: {step.stage} has no such"
                    f" input{nearest(slot, module.SLOTS)}"
                )
        for slot, kind in module.SLOTS.items():
            value = step.inputs.get(slot)
            if slot in step.broken:
                continue
            if (
                value in (None, [])
                and not kind.endswith(("?", "*?"))
                and not (kind.endswith("*") and slot in step.inputs)
            ):
                self.errors.append(
                    f"{key}.inputs.{slot}: missing; {step.stage} needs {kind.rstrip('?*')}"
                )
            elif isinstance(value, list) and "*" not in kind:
                self.errors.append(f"{key}.inputs.{slot}: one input, not a list")
        return len(self.errors) == before and not step.broken

    def _input(self, value: Any, module: ModuleType, slot: str, key: str) -> Any:
        if isinstance(value, list):
            return [self._input(v, module, slot, f"{key}[{i}]") for i, v in enumerate(value)]
        kind = module.SLOTS.get(slot, "any").rstrip("?*")
        if isinstance(value, Ref):
            found = self._of_step(value, kind, key)
            return found if found is None or value.name is None else {**found, "name": value.name}
        if kind == "scorer" and "family" in value:
            return self._scorer(value, key)
        return self._external(value, kind, key)

    def _scorer(self, value: Mapping, key: str) -> dict | None:
        """A scorer with its settings, and with the models in them resolved."""
        found: list[dict | None] = []

        def model(named: Mapping) -> dict | None:
            found.append(
                self._external(named, "model", key)
                if "path" in named
                else self._of_step(Ref(named["step"]), "model", key)
            )
            return found[-1]

        plain = with_models(value, lambda m: m.get("path") or f"step {m['step']}")
        problems = reward_models.problems({k: v for k, v in plain.items() if k != "identity"}, key)
        self.errors.extend(problems)
        if problems:
            return None
        whole = (
            self._external(value, "scorer", key)
            if isinstance(value.get("path"), str)
            else dict(value)
        )
        if whole is None:
            return None
        resolved = {k: with_models(_with_paths(v, k), model) for k, v in whole.items()}
        return None if None in found else resolved

    def _of_step(self, ref: Ref, kind: str, key: str) -> dict | None:
        if ref.step not in self.nodes:
            return None  # its own mistakes are reported
        gives = self.nodes[ref.step].module.KIND
        if kind in KIND_OF_SLOT and gives not in KIND_OF_SLOT[kind]:
            self.errors.append(
                f"{key}: {ref.step} gives {gives}, but this needs {' or '.join(KIND_OF_SLOT[kind])}"
            )
            return None
        return self._artifact(ref.step)

    def _artifact(self, name: str) -> dict:
        node = self.nodes[name]
        binding = {"binding": node.step.binding} if node.step.binding else {}
        return {"step": name, "artifact": node.artifact, **binding}

    def _external(self, value: Mapping, kind: str, key: str) -> dict | None:
        if "path" not in value:
            wanted = "`family` (a scorer)" if kind == "scorer" else "`path`"
            self.errors.append(
                f"{key}: {dict(value)} names nothing; give {wanted}, or the name of a step"
            )
            return None
        if value["path"] is None:
            return None
        model = self.settings.root["model"]
        if value["path"] == model.get("path") and model.get("revision"):
            value = {"revision": model["revision"], **value}
        if kind == "rows" and not os.path.isdir(Path(value["path"]).expanduser()):
            self.errors.append(
                f"{key}: {value['path']} is no rows artifact; bring files in with `mlalign"
                " prepare`, or name a step's directory"
            )
            return None
        try:
            found = identity.of_external(value, self.digests, key)
        except identity.UnknownCommit as error:
            (self.unknown if self.to_look_at else self.errors).extend(error.messages)
            return (
                {**value, "identity": f"{value['path']}@{identity.UNKNOWN}"}
                if self.to_look_at
                else None
            )
        except UserError as error:
            self.errors.extend(error.messages)
            return None
        if Path(found["path"]).exists():
            self.errors.extend(identity.check_kind(Path(found["path"]), kind, key))
        return found

    def _resources(self, step: Step, module: ModuleType, key: str) -> dict:
        root = self.settings.root
        out = config.merged(
            *(given for _, given in resources.layers(root, step.stage)), step.resources
        )
        if module.DISTRIBUTED and root["devices"] is not None:
            out["devices"] = root["devices"]
        whole = {"distributed": module.DISTRIBUTED, "sharded": module.SHARDED is not None}
        self.errors.extend(resources.problems(out, f"{key}.resources", **whole))
        return out

    def _own_identity(self, module: ModuleType, cfg: Any, key: str) -> dict:
        """What a stage's `identity` fingerprints in the place of configured values: the digests of
        files where paths stand.
        """
        try:
            return module.identity(cfg, self.digests.path) if hasattr(module, "identity") else {}
        except UserError as error:
            self.errors.extend(f"{key}.config.{m}" for m in error.messages)
            return {}

    def _prints_of(self, value: Any, module: ModuleType, slot: str) -> list[Any]:
        """What a slot adds to a fingerprint.

        Names matter where a stage writes them down (columns, tables) or tells several apart by
        them.
        """
        values = value if isinstance(value, list) else [value]
        kind = module.SLOTS[slot].rstrip("?*")
        several = len(values) > 1 and slot in getattr(module, "NAMED", ())
        return [self._print_of(one, kind in ("scorer", "any") or several) for one in values]

    def _print_of(self, value: Mapping, named: bool) -> Any:
        if "artifact" not in value:
            own = {k: v for k, v in value.items() if k != "path" or "identity" not in value}
            files = {
                k: self._with_files(with_models(v, self._print_of_model), k) for k, v in own.items()
            }
            return files | self._of_function(value)
        names = (
            {"step": value.get("name") or value["step"], "binding": value.get("binding")}
            if named
            else {}
        )
        return {"fingerprint": self.nodes[value["step"]].fingerprint, **names}

    def _with_files(self, value: Any, name: str) -> Any:
        """A scorer's settings in which files that they name, such as a judge's prompt, stand by
        their content.
        """
        if isinstance(value, Mapping):
            return {k: self._with_files(v, k) for k, v in value.items()} | self._of_function(value)
        if isinstance(value, list):
            return [self._with_files(v, name) for v in value]
        is_path = (
            isinstance(value, str)
            and name not in NOT_CONTENT
            and (os.sep in value or bool(Path(value).suffix))
        )
        place = Path(value).expanduser() if is_path else None
        return {"sha256": self.digests.file(place)} if place and os.path.isfile(place) else value

    def _of_function(self, scorer: Mapping) -> dict[str, str]:
        """What a person's function adds where it stands for a family; its files are looked at again
        before the step.
        """
        for file in reward_models.files_of(scorer):
            self.digests.file(file)
        return reward_models.source_of(scorer)

    def _print_of_model(self, model: Mapping) -> dict:
        """What a model that a scorer's settings name adds to a fingerprint."""
        return (
            {"fingerprint": self.nodes[model["step"]].fingerprint}
            if "artifact" in model
            else {"identity": model["identity"]}
        )


def _without_itself(inputs: Mapping[str, Any], differs_from: Mapping[str, str]) -> dict[str, Any]:
    """The inputs without those that would compare a thing with itself, such as a baseline's own
    baseline.
    """
    return {
        slot: v
        for slot, v in inputs.items()
        if slot not in differs_from or v != inputs.get(differs_from[slot])
    }


def _with_paths(value: Any, name: str, *, inner: bool = False) -> Any:
    """Part of a scorer's settings in which `path`, `reference` and `base` given as text are models
    (`{path: …}`).

    The `path` of the scorer itself is left as it is: what identifies that stands beside it.
    """
    if isinstance(value, list):
        return [_with_paths(v, "", inner=True) for v in value]
    if isinstance(value, Mapping) and "family" in value:
        return {k: _with_paths(v, k, inner=True) for k, v in value.items()}
    return (
        {"path": value}
        if isinstance(value, str) and (name in ("reference", "base") or (inner and name == "path"))
        else value
    )


def _missing_packages(module: ModuleType, cfg: Any, key: str) -> list[str]:
    needed: Iterable[str] = module.packages(cfg) if hasattr(module, "packages") else ()
    return [
        f"{key}: the package {p!r} is not installed; {INSTALL.get(p, f'pip install {p}')}"
        for p in needed
        if importlib.util.find_spec(p) is None
    ]


INSTALL = {
    "vllm": (
        "pip install 'mlalign[vllm]' (on a GPU machine), `make install` (CPU), or choose"
        " engine=transformers"
    ),
    "openai": "pip install openai, or choose another engine",
    "bitsandbytes": "pip install bitsandbytes, or leave out `quantization`",
    "deepspeed": "pip install 'mlalign[train]', or leave out deepspeed=",
    "trl": "pip install 'mlalign[train]'",
    "lm_eval": "pip install 'mlalign[lm-eval]'",
    "optuna": "pip install 'mlalign[search]'",
}
