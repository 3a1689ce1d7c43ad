"""Saves trained models as plain Hugging Face directories.

Also mends what a base brings along that would stop a model from being saved, or from ending its
answers.
"""

from pathlib import Path
from typing import Any

from safetensors import safe_open

from mlalign.core.errors import UserError
from mlalign.core.store import read_json, write_json
from mlalign.models.modelling import HEAD
from mlalign.models.templates import ChatTemplate

# Generation settings that have no effect without sampling, and without beams.
SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "top_h",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
)
BEAMS = ("early_stopping", "length_penalty")


def make_generation_savable(network: Any) -> str | None:
    """Unset generation settings without effect, with which transformers would not save a model.

    Returns a warning that names what was unset, if anything.

    Raises: UserError for settings that contradict each other in other ways.
    """
    config = getattr(network, "generation_config", None)
    if config is None or _saving_problem(config) is None:
        return None
    unset = _unset_idle(config)

    place = f"{network.name_or_path}: generation_config.json"
    reason = _saving_problem(config)
    if reason:
        raise UserError(
            f"{place} cannot be saved with a model that is trained from it ({reason}); mend it"
            " there"
        )
    settings = ", ".join(f"{name}={value}" for name, value in unset.items())
    return (
        f"{place} sets {settings}, which mean nothing without do_sample or num_beams; they are left"
        " out of the trained model's"
    )


def _unset_idle(config: Any) -> dict[str, Any]:
    """Unset the generation settings that have no effect; returns what they were."""
    idle: list[str] = []
    if config.do_sample is not True:
        idle += SAMPLING
    if (config.num_beams or 1) == 1:
        idle += BEAMS

    defaults = type(config)()
    unset = {}
    for name in idle:
        value = getattr(config, name, None)
        if value is not None and value != getattr(defaults, name):
            unset[name] = value
            setattr(config, name, None)
    return unset


def _saving_problem(config: Any) -> str | None:
    """Why transformers would not save these generation settings; None if it would."""
    try:
        config.validate(strict=True)
    except ValueError as error:
        return " ".join(str(error).split())
    return None


def head_norm(folder: Path) -> float:
    """The Euclidean norm of the score head in a saved model or adapter."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118  # no mapping
                if name.endswith(f"{HEAD}.weight"):
                    return float(weights.get_tensor(name).float().norm())
    raise UserError(f"{folder}: holds no head {HEAD}.weight")


def warn_of_no_end(out: Any, template: ChatTemplate, tokenizer: Any) -> None:
    """Warn, through a stage's `out`, if the template writes no end of an answer to learn."""
    if any(template.end_of_turn):
        return
    end = f" such as {tokenizer.eos_token}" if tokenizer.eos_token else ""
    out.warn(
        "chat_template: writes no end token after the last answer, so the model does not learn "
        "where an answer ends and may write on up to max_tokens; "
        f"set chat_template to one that ends it with a token{end}"
    )


def end_at(trainer: Any, template: ChatTemplate) -> None:
    """Let the saved model stop where the template ends a turn, whatever program serves it.

    The model's own end tokens stay.
    """
    token = template.end_of_turn.token
    if token is None:
        return
    config = trainer.accelerator.unwrap_model(trainer.model).generation_config
    own = config.eos_token_id
    if own is None:
        own = []
    elif not isinstance(own, list):
        own = [own]
    if token not in own:
        config.eos_token_id = [token, *own]


def save(trainer: Any, path: Path) -> None:
    """Write the trainer's model, tokenizer and configurations as a plain directory.

    Call it on every rank: weights that ZeRO-3 shards are gathered. Only safetensors and text stay;
    what else transformers writes is removed.
    """
    trainer.accelerator.unwrap_model(trainer.model).config.use_cache = True
    if trainer.is_deepspeed_enabled:
        _save_gathered(trainer, path)
    else:
        trainer.save_model(str(path))
    if not trainer.is_world_process_zero():
        return
    for name in ("training_args.bin", "README.md"):
        (path / name).unlink(missing_ok=True)
    network = trainer.accelerator.unwrap_model(trainer.model)
    generation = getattr(network, "generation_config", None)
    if hasattr(network, "peft_config") and generation is not None:
        generation.save_pretrained(str(path))  # peft does not write it
    _sort_adapter_config(path / "adapter_config.json")


def _sort_adapter_config(file: Path) -> None:
    """Sort the lists that peft writes from sets, whose order changes from process to process."""
    if not file.is_file():
        return
    config = read_json(file)
    for key in ("target_modules", "modules_to_save"):
        if isinstance(config.get(key), list):
            config[key] = sorted(config[key])
    write_json(file, config)


def _save_gathered(trainer: Any, path: Path) -> None:
    """`Trainer.save_model` without the copies of tied weights in a state that DeepSpeed gathers."""
    network = trainer.accelerator.unwrap_model(trainer.model)
    engine = trainer.deepspeed
    adapter_only = hasattr(network, "peft_config") and engine.zero_optimization_stage() == 3
    if adapter_only:
        state = engine._zero3_consolidated_16bit_state_dict(exclude_frozen_parameters=True)
    else:
        state = trainer.accelerator.get_state_dict(engine)
    if trainer.is_world_process_zero():
        tied = set(getattr(network, "all_tied_weights_keys", {}))
        untied = {name: weight for name, weight in state.items() if name not in tied}
        network.save_pretrained(str(path), state_dict=untied)
        trainer.processing_class.save_pretrained(str(path))


def rank_of(trainer: Any) -> int | None:
    """The rank of the adapter that is trained; None for full weights."""
    configs = getattr(trainer.accelerator.unwrap_model(trainer.model), "peft_config", {})
    return configs["default"].r if configs else None
