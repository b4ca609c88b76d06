"""Settings from TOML on disk and dotted overrides on the command line, checked and explained.

Precedence: defaults < file < overrides. pydantic validates, OmegaConf parses and merges the overrides.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from ap2o_fast.curriculum_checks import WITHOUT_REPLAY, check_curriculum
from ap2o_fast.errors import UsageError
from ap2o_fast.settings import (
    DPO_DEFAULTS,
    DPO_UNUSED,
    AdapterSettings,
    CompareSettings,
    Config,
    CurriculumSettings,
    EvaluateSettings,
    HeldOutSettings,
    JudgeSettings,
    LossSettings,
    ModelSettings,
    PreferenceSettings,
    ProblemsSettings,
    PromptSettings,
    QuizSettings,
    ReplaySettings,
    SamplingSettings,
    Settings,
    SourceSettings,
    TrackSettings,
    TrainSettings,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "DPO_DEFAULTS",
    "DPO_UNUSED",
    "WITHOUT_REPLAY",
    "AdapterSettings",
    "CompareSettings",
    "Config",
    "CurriculumSettings",
    "EvaluateSettings",
    "HeldOutSettings",
    "JudgeSettings",
    "LossSettings",
    "ModelSettings",
    "PreferenceSettings",
    "ProblemsSettings",
    "PromptSettings",
    "QuizSettings",
    "ReplaySettings",
    "SamplingSettings",
    "Settings",
    "SourceSettings",
    "TrackSettings",
    "TrainSettings",
    "check_adapter",
    "check_train",
    "explain",
    "keys",
    "load",
    "loss_of",
    "save",
    "template",
    "value_of",
]


def load(
    path: str | Path | Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    *,
    defaults: Mapping[str, Any] | None = None,
) -> Config:
    """Read a TOML (or saved JSON) file, apply ``key.path=value`` overrides, validate.

    Args:
        path: a file, or what would stand in one.
        defaults: what a command puts in place of the tree's own defaults, as it would stand in a file.

    Returns: the resolved `Config`.
    Errors: `UsageError` for an unreadable file, an unknown key (with the nearest name), a value out of range or values
    that do not go together.
    """
    named = isinstance(path, (str, Path))
    tree = _read(Path(path)) if isinstance(path, (str, Path)) else dict(path or {})
    for text in overrides:
        key, equals, _ = text.lstrip("-").partition("=")
        if not equals:
            raise UsageError(f"override {text!r} has no value", do="write key=value, e.g. train.lr=1e-6")
        if not _known(key):
            raise _unknown(key)
    try:
        dotted = OmegaConf.from_dotlist([text.lstrip("-") for text in overrides])
        layers = (OmegaConf.create(dict(defaults or {})), OmegaConf.create(tree), dotted)
        merged = OmegaConf.to_container(OmegaConf.merge(*layers))
    except OmegaConfBaseException as error:
        raise UsageError(
            f"overrides cannot be merged: {error}",
            do="give each as group.name=value; `ap2o config --explain all` names all",
        ) from error
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        raise _usage_error(error, str(path) if named else "overrides") from error
    config = config.model_copy(update={"loss": loss_of(config)})
    check_adapter(config.model, config.adapter)
    check_train(config.train)
    _check_sampling(config.model, config.sampling)
    if max(config.evaluate.k) > config.evaluate.n:
        raise UsageError(
            f"evaluate.k asks for pass@{max(config.evaluate.k)} from evaluate.n = {config.evaluate.n} answers",
            why="pass@k needs at least k answers a problem",
            do=f"set evaluate.n to {max(config.evaluate.k)} or drop the k that are larger",
        )
    _check_loss(config)
    check_curriculum(config.curriculum, config.train)
    _check_replay(config)
    return config


def loss_of(config: Config) -> LossSettings:
    """The loss of a run: what is set, or where no type is, the one that `curriculum.system` implies."""
    implied = config.curriculum.system == "sft" and "type" not in config.loss.model_fields_set
    return config.loss.model_copy(update={"type": "sft"}) if implied else config.loss


def check_adapter(model: ModelSettings, adapter: AdapterSettings) -> None:
    """Errors: `UsageError` for a quantisation that cannot be trained or computed."""
    if model.quantization == "none":
        return
    if adapter.kind == "none":
        raise UsageError(
            f"model.quantization = {model.quantization!r} needs an adapter",
            why="weights of 4 bits cannot take an optimiser's small steps: they stay frozen",
            do="set adapter.kind=lora, or model.quantization=none",
        )
    if model.dtype == "float64":
        raise UsageError(
            f"model.quantization = {model.quantization!r} does not go with model.dtype = 'float64'",
            why="bitsandbytes computes in bfloat16 or float32",
            do="set model.dtype=bfloat16 on a GPU, float32 on a CPU",
        )


def check_train(train: TrainSettings) -> None:
    """Errors: `UsageError` for settings of a step that exclude each other."""
    if train.gradient_release and train.clip:
        raise UsageError(
            f"train.gradient_release cannot be used with train.clip = {train.clip:g}",
            why="the global norm is known when the last gradient is; by then most weights have had their step",
            do="set train.clip=0, and watch grad_norm in metrics.jsonl; or train.gradient_release=false",
        )


def _check_sampling(model: ModelSettings, sampling: SamplingSettings) -> None:
    """Errors: `UsageError` for settings of vLLM without it, and for models that it cannot take."""

    def refuse(keys: tuple[str, ...], where: str, do: str) -> None:
        for key in keys:
            if getattr(sampling, key) != SamplingSettings.model_fields[key].default:
                raise UsageError(f"sampling.{key} is a setting of {where}", do=f"{do}, or leave sampling.{key} out")

    if sampling.engine != "vllm":
        here = f"vLLM, and sampling.engine = {sampling.engine!r}"
        refuse(("server", "transport", "kv_cache_gib", "deadline"), here, "set sampling.engine=vllm")
        return
    if model.dtype == "float64":
        raise UsageError(
            "sampling.engine = 'vllm' does not go with model.dtype = 'float64'",
            why="vLLM computes in float32 or bfloat16",
            do="set sampling.engine=transformers",
        )
    if sampling.server:
        if not re.fullmatch(r"https?://[^/\s]+/?", sampling.server):
            raise UsageError(
                f"sampling.server = {sampling.server!r} is no address of a server", do="write http://host:port"
            )
        refuse(("kv_cache_gib",), "a vLLM in this process", "give the server vLLM's --kv-cache-memory-bytes")
        if sampling.transport == "nccl" and not model.device.startswith("cuda"):
            raise UsageError(
                f"sampling.transport = 'nccl' does not go with model.device = {model.device!r}",
                why="NCCL moves weights between GPUs",
                do="set sampling.transport=tcp",
            )
        return
    refuse(("transport",), "a vLLM apart, and sampling.server is empty", "set sampling.server")
    if model.device not in ("cpu", "cuda", "cuda:0"):
        raise UsageError(
            f"sampling.engine = 'vllm' does not go with model.device = {model.device!r}",
            why="vLLM takes the first GPU that the process sees",
            do="set model.device=cuda, and CUDA_VISIBLE_DEVICES to the GPU's number",
        )


def save(config: Config, path: Path) -> None:
    """Write the resolved settings as JSON; `load(path)` gives the same `Config`."""
    path.write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")


def explain(key: str) -> str:
    """Return type, default and documentation of the setting at a dotted `key`, or of all settings under it."""
    if key and not _known(key):
        raise _unknown(key)
    return "\n".join(_describe(key))


def template() -> str:
    """A TOML file with every setting at its default, each with its meaning; `load` takes it as it is."""
    lines, group = ["# Settings of ap2o: delete what you leave at its default."], ""
    defaults = Config()
    for key, field in _leaves(Config, ""):
        table, _, name = key.rpartition(".")
        if table != group:
            lines += ["", f"[{table}]"]
            group = table
        value = value_of(defaults, key)
        shown = "" if value is None else json.dumps(list(value) if isinstance(value, tuple) else value)
        lines += [f"# {field.description}", f"{name} = {shown}" if shown else f"# {name} ="]
    return "\n".join(lines) + "\n"


def keys() -> list[str]:
    """Every dotted key of the tree, in order."""
    return [key for key, _ in _leaves(Config, "")]


def value_of(config: Config, key: str) -> Any:
    """The value at a dotted key."""
    return functools.reduce(getattr, key.split("."), config)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"cannot read the settings file {path}",
            why=str(error.strerror),
            do="`ap2o init` writes one to start from",
        ) from error
    try:
        return json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        raise UsageError(
            f"{path} is not valid {path.suffix.lstrip('.').upper()}: {error}",
            do="mend that line; `ap2o init` writes a whole file",
        ) from error


def _leaves(model: type[Settings], prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Settings):
            found += _leaves(inner, f"{prefix}{name}.")
        else:
            found.append((prefix + name, field))
    return found


def _known(key: str) -> bool:
    """Whether a dotted key names a setting or a group of settings."""
    return any(leaf == key or leaf.startswith(key + ".") for leaf in keys())


def _unknown(key: str) -> UsageError:
    near = difflib.get_close_matches(key, keys(), n=1, cutoff=0.4)
    if not near:
        near = [leaf for leaf in keys() if leaf.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]][:1]
    return UsageError(
        f"unknown setting {key!r}" + (f"; nearest is {near[0]!r}" if near else ""),
        do="`ap2o config --explain` lists every setting",
    )


def _describe(key: str) -> list[str]:
    lines = []
    defaults = Config()
    for leaf, field in _leaves(Config, ""):
        if not key or leaf == key or leaf.startswith(key + "."):
            kind = str(field.annotation).replace("typing.", "").replace("<class '", "").replace("'>", "")
            lines.append(f"{leaf} = {json.dumps(value_of(defaults, leaf))}  ({kind})\n    {field.description}")
    return lines


def _check_loss(config: Config) -> None:
    """Refuse what the kernels define no loss for, and a loss that the pairs are not made for. Only settings that ask
    for more than plain DPO load torch."""
    loss, system = config.loss, config.curriculum.system
    if loss.compares and system == "sft":
        raise UsageError(
            f"loss.type = {loss.type!r} does not go with curriculum.system = 'sft'",
            why="there every answer is paired with itself, so there is nothing to compare",
            do="drop loss.type, or set loss.type=sft",
        )
    if not loss.compares and system != "sft" and not config.preferences.source:
        raise UsageError(
            f"loss.type = 'sft' does not go with curriculum.system = {system!r}",
            why="that system chooses failed answers to learn from, and supervised fine-tuning looks at no failed one",
            do="set curriculum.system=sft, or drop loss.type",
        )
    if not loss.compares and loss.beta != LossSettings().beta:
        raise UsageError(f"loss.beta = {loss.beta:g} has no meaning with loss.type = 'sft'", do="drop it")
    if loss.model_copy(update={"beta": 0.1, "impl": "auto"}) == LossSettings():
        return
    from ap2o_kernels.losses import PairLoss

    try:
        PairLoss(**loss.options())
    except ValueError as error:
        text = str(error).replace("loss_type", "type")
        named = re.sub(r"\b(type|label_smoothing|sft_weight|length_normalized)\b", r"loss.\1", text)
        raise UsageError(named, do="`ap2o config --explain loss`") from error


def _check_replay(config: Config) -> None:
    """Errors: `UsageError` for settings of fresh answers that would do nothing or leave no answer to ask for."""
    replay, curriculum = config.replay, config.curriculum
    if replay.source == "book":
        idle = [name for name, value in replay if value != getattr(ReplaySettings(), name)]
        if idle:
            raise UsageError(
                f"replay.{idle[0]} = {getattr(replay, idle[0])} has no meaning with replay.source = 'book'",
                why="the exam's failures are replayed, and no fresh answers are asked for",
                do="set replay.source=on_policy or replay.source=both, or drop it",
            )
        return
    for key, value in (("curriculum.replay", curriculum.replay), ("curriculum.system", curriculum.system)):
        if value in WITHOUT_REPLAY:
            raise UsageError(
                f"replay.source = {replay.source!r} has no meaning with {key} = {value!r}",
                why="nothing is replayed then",
                do="set replay.source=book, or a curriculum that replays",
            )
    if 0 < replay.max_answers < replay.n:
        raise UsageError(
            f"replay.max_answers = {replay.max_answers} is not enough for replay.n = {replay.n}",
            why="no problem could be asked",
            do="set replay.max_answers to a multiple of replay.n, or to 0 for no limit",
        )


def _usage_error(error: ValidationError, where: str) -> UsageError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return _unknown(key)
    return UsageError(
        f"{where}: {key} = {first['input']!r} is refused", why=first["msg"], do=f"`ap2o config --explain {key}`"
    )
