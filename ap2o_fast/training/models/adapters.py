"""LoRA and DoRA: small trained matrices beside the frozen weights of a model's blocks, put there by peft.

A LoRA adapter has the model's dtype: in half precision its float32 masters are the optimiser's, as for any weight.
Against float32 adapters in a bfloat16 model the error of the gradients was the same (1.8 and 1.7 % of their norm; it
comes from the model's own arithmetic) and the activations kept for the backward pass a third less, because a float32
adapter keeps a float32 copy of its input. DoRA adapters are at least float32: a row's learnt length multiplies the
whole layer, and a bfloat16 one moves in steps of 0.4 %.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from ap2o_fast.config import AdapterSettings
from ap2o_fast.errors import DataError, MachineError, UsageError
from ap2o_fast.training.models.no_hub_kernels import import_bitsandbytes

NAME = "default"
WEIGHTS = "adapter_model.safetensors"
"""The file of an adapter's weights, as peft names it."""
FIT = "use it with the model and the adapter settings of the run that wrote it (its config.json)"


def adapt(model: PreTrainedModel, settings: AdapterSettings, *, seed: int = 0) -> PreTrainedModel:
    """Freeze a model and put new adapters beside the linear layers of its blocks; the model computes as before.

    Args:
        model: plain or quantised (`quantise`), on its device.
        seed: of the adapters' random halves, the same on every device.

    Returns: the same object; as it came where `settings.kind` is ``none``.
    Errors: `UsageError` for target layers that the blocks do not have, `MachineError` without peft.
    """
    if settings.kind == "none":
        return model
    peft = _peft()
    made = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=_targets(model, settings.targets),
        use_rslora=settings.rank_stabilized,
        use_dora=settings.kind == "dora",
        lora_dropout=0.0,  # reference log-probabilities are computed once, without dropout
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # peft draws on the host
        model.add_adapter(made, NAME)
    base = made.base_model_name_or_path or ""
    if Path(base).is_dir():  # to be found from the adapter's own folder, too
        made.base_model_name_or_path = str(Path(base).absolute())
    dtype = model.dtype if settings.kind == "lora" else torch.promote_types(model.dtype, torch.float32)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer) and settings.kind == "dora":
            # peft has measured the rows' lengths in the weights' dtype: the layer would begin with rounded ones.
            module.lora_magnitude_vector[NAME].update_layer(
                base_layer=module.get_base_layer(),
                lora_A=module.lora_A[NAME].weight.detach(),
                lora_B=module.lora_B[NAME].weight.detach(),
                scaling=module.scaling[NAME],
            )
    return model.eval()


def is_adapted(model: PreTrainedModel) -> bool:
    """Whether the model has adapters."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


@contextmanager
def adapters_off(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the model computes as it did before `adapt`, whatever its adapters have learnt."""
    if not is_adapted(model):
        yield
        return
    model.disable_adapters()
    try:
        yield
    finally:
        model.enable_adapters()


def base_parameters(model: PreTrainedModel) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """The parameters without those of adapters, under the names that they have without adapters."""
    trained = set()
    if is_adapted(model):
        prefixes = tuple(f"{name}.lora_" for name, module in model.named_modules() if hasattr(module, "lora_A"))
        trained = {name for name, _ in model.named_parameters() if name.startswith(prefixes)}
    for name, parameter in model.named_parameters():
        if name not in trained:
            yield name.replace(".base_layer.", "."), parameter


def adapter_tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The adapters' weights where they are, under the names that peft writes."""
    # Not by the model's own save_pretrained, which asks the Hub whether the vocabulary of the base has changed.
    found = _peft().get_peft_model_state_dict(model, adapter_name=NAME, save_embedding_layers=False)
    return {f"base_model.model.{name}": tensor for name, tensor in found.items()}


def save_adapter(model: PreTrainedModel, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """Write the adapters in peft's format into an existing folder: weights and adapter_config.json.

    Args:
        tensors: `adapter_tensors`, contiguous, whole and on the host.
    """
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    model.peft_config[NAME].save_pretrained(folder)
    model.generation_config.save_pretrained(folder)


def load_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Give the model's adapters the weights that `save_adapter` wrote.

    Errors: `DataError` where the folder holds none, or others than the model has.
    """
    path = Path(folder) / WEIGHTS
    if not path.exists():
        raise DataError(
            f"{folder} holds no adapter",
            why=f"there is no {WEIGHTS}",
            do="name the folder of a run with adapter.kind=lora or dora",
        )
    try:
        found = _peft().set_peft_model_state_dict(model, load_file(path), NAME)
    except RuntimeError as error:
        raise DataError(
            f"the adapter in {folder} does not fit", why=str(error).splitlines()[-1].strip(), do=FIT
        ) from error
    absent = [name for name in found.missing_keys if ".lora_" in name]
    if absent or found.unexpected_keys:
        raise DataError(
            f"the adapter in {folder} does not fit the run's adapter settings",
            why=f"first difference: {[*absent, *found.unexpected_keys][0]}",
            do=FIT,
        )


def merge(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Add the adapters that `save_adapter` wrote to a plain model's weights, in place, in float32, rounded once.

    Returns: the same object, without adapters.
    Errors: `DataError` where they do not fit.
    """
    peft = _peft()
    misfit = f"the adapter in {folder} does not fit the model"
    try:
        # peft makes half-precision adapters float32 here, so that their products are not rounded before the sum.
        adapted = peft.PeftModel.from_pretrained(model, str(folder))
    except (RuntimeError, ValueError, OSError) as error:
        raise DataError(misfit, why=str(error).splitlines()[-1].strip(), do=FIT) from error
    made = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
    different = sorted(made ^ load_file(Path(folder) / WEIGHTS).keys())
    if different:
        raise DataError(misfit, why=f"first difference: {different[0]}", do=FIT)
    merged: PreTrainedModel = adapted.merge_and_unload()
    return merged


def _targets(model: PreTrainedModel, asked: tuple[str, ...]) -> list[str]:
    """Names of linear layers, all of them where none is asked for."""
    inside = {
        name.rsplit(".", 1)[-1]
        for name, module in model.get_decoder().layers.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    unknown = sorted(set(asked) - inside)
    if unknown:
        raise UsageError(
            f"adapter.targets names {', '.join(unknown)}, which the model's blocks do not have",
            why="only linear layers of the blocks get adapters; the head stays as it is",
            do=f"choose from {', '.join(sorted(inside))}",
        )
    return sorted(asked or inside)


def _peft() -> Any:
    try:
        import_bitsandbytes()
        import peft
        import peft.tuners.lora
    except ImportError as error:
        raise MachineError(
            "adapters need the package peft",
            why=str(error),
            do="in the clone: pip install -e '.[lora]', or set adapter.kind=none",
        ) from error
    return peft
