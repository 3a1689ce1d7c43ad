"""A step's configuration, merged from everything that has a say in it."""

import dataclasses
from collections.abc import Collection, Mapping
from types import ModuleType
from typing import Any

from mlalign.recipes.conf_files import deepspeed_config, texts
from mlalign.recipes.graph import Step
from mlalign.recipes.overrides import merged
from mlalign.recipes.settings import Settings, resolve_languages


def step_config(
    step: Step, module: ModuleType, settings: Settings, key: str, errors: list[str]
) -> dict[str, Any]:
    """The configuration of a step, not yet built into its dataclass.

    From the weakest: values for all steps, the model's and the scale's settings of the stage, what
    the command line says for all steps, the recipe's step with what the command line says of it.
    """
    fields = {field.name for field in dataclasses.fields(module.Config)}
    of_model, of_scale = _of_stage(settings, step.stage)
    engine = _engine_name(step, settings)
    weak = merged(_shared(settings, fields, engine), of_model, of_scale)
    scale_key = f"scale.stages.{step.stage}"
    weak = settings.resolve(weak, step.scope, scale_key, errors)

    typed = {name: value for name, value in settings.typed.items() if name in fields}
    if engine != settings.root["engine"]["name"]:
        typed.pop("engine", None)
    # These values are among the weak ones too, where their mistakes are reported.
    typed = settings.resolve(typed, step.scope, "", [])

    cfg = merged(weak, typed, step.config)
    _read_files(cfg, module, settings, f"{key}.config", errors)
    if cfg.get("languages") is not None and "languages" in fields:
        languages_key = f"{key}.config.languages"
        cfg["languages"] = resolve_languages(cfg["languages"], settings, languages_key, errors)
    return cfg


def _engine_name(step: Step, settings: Settings) -> str:
    """The engine that the step names itself, else the one chosen for all."""
    own = step.config.get("engine")
    if isinstance(own, Mapping) and "name" in own:
        return str(own["name"])
    return settings.root["engine"]["name"]


def _shared(settings: Settings, fields: Collection[str], engine: str) -> dict[str, Any]:
    """The values at the top level that a stage has fields for.

    The settings of the chosen engine are not those of another one, which a step may name.
    """
    root = settings.root
    shared: dict[str, Any] = {
        "seed": root["seed"],
        "deepspeed": root["deepspeed"],
        "chat_template": root["model"].get("chat_template"),
        "date": root["model"].get("date"),
    }
    if "engine" in fields:
        by_engine = root["scale"].get("engine_args") or {}
        own_file = root["engine"] if root["engine"]["name"] == engine else {}
        shared["engine"] = merged({"args": by_engine.get(engine, {})}, own_file)

    known: dict[str, Any] = {}
    for name, value in shared.items():
        if name in fields and value is not None:
            known[name] = value
    return known


def _of_stage(settings: Settings, stage: str) -> list[dict[str, Any]]:
    """What the model's file and the scale's say of a stage."""
    layers = []
    for group in ("model", "scale"):
        stages = settings.root[group].get("stages") or {}
        layers.append(stages.get(stage) or {})
    return layers


def _read_files(
    cfg: dict[str, Any], module: ModuleType, settings: Settings, key: str, errors: list[str]
) -> None:
    """Put the content of files in the place of their names: DeepSpeed's, and templates."""
    if isinstance(cfg.get("deepspeed"), str):
        cfg["deepspeed"] = deepspeed_config(
            cfg["deepspeed"], settings.folders, f"{key}.deepspeed", errors
        )
    for field in dataclasses.fields(module.Config):
        if "texts" not in field.metadata:
            continue
        folder = field.metadata["texts"](cfg)
        if folder and not cfg.get(field.name):
            cfg[field.name] = texts(folder, settings.folders, f"{key}.{field.name}", errors)
