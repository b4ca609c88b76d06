"""A training step without data or arithmetic: the model on the meta device, every allocation of a step counted.

The model is transformers' own, so whatever its layers keep for the backward pass is what they keep; attention, the head
and adapters have stand-ins.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers import PretrainedConfig, PreTrainedModel

from ap2o_fast.training.memory import stand_ins
from ap2o_fast.training.memory.activation_offload import FEWEST
from ap2o_fast.training.memory.form import Form, meta_model
from ap2o_fast.training.memory.shards import Shards
from ap2o_fast.training.memory.stand_ins import Head
from ap2o_fast.training.memory.tally import Tally


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The sizes of a forward pass: packed tokens, completion rows, gathered keys."""

    tokens: int
    rows: int
    keys: int


@dataclass(frozen=True, kw_only=True)
class Bytes:
    """The most that lives at a time beyond weights and optimiser.

    Attributes:
        scoring: in a forward pass that records nothing.
        first: in the first forward and backward pass of a step, its gradients included.
        later: in a later one, where gradients of the model's dtype are there already and added to.
    """

    scoring: int
    first: int
    later: int


@dataclass(frozen=True, kw_only=True)
class Update:
    """Bytes that a parameter's update takes as soon as its gradient is complete: its float32 sum, and beside that."""

    sum: int
    beside: int


def rehearse(
    config: PretrainedConfig,
    dtype: torch.dtype,
    form: Form,
    batch: Batch,
    head: Head,
    *,
    checkpointing: bool,
    offload: bool,
    release: Callable[[torch.Tensor], Update | None] | None = None,
    shards: int = 1,
) -> Bytes:
    """Count what scoring and training allocate in one forward pass of `batch`.

    Layers are alike, so two and three of them tell of any number: what lives before the backward pass has reached the
    last layer grows with the number as what layers keep does, what lives while it is in the first layer as their
    gradients do, and in between it is in between.

    Args:
        offload: whether what layers keep waits in host memory.
        release: of a parameter, what its update takes whose gradient is freed as soon as that is complete; None for one
            that keeps it.
        shards: processes that divide the weights.
    """
    layers = config.get_text_config().num_hidden_layers
    short, long = (
        _count(_cut(config, n), dtype, form, batch, head, checkpointing, offload, release, shards) for n in (2, 3)
    )
    far = [
        [a + (layers - 2) * (b - a) for a, b in zip(two, three, strict=True)]
        for two, three in zip(short, long, strict=True)
    ]
    scoring, first, later = map(max, far)
    return Bytes(scoring=scoring, first=first, later=later)


def _cut(config: PretrainedConfig, layers: int) -> PretrainedConfig:
    made = copy.deepcopy(config)
    text = made.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:1] * layers
    return made


def _count(
    config: PretrainedConfig,
    dtype: torch.dtype,
    form: Form,
    batch: Batch,
    head: Head,
    checkpointing: bool,
    offload: bool,
    release: Callable[[torch.Tensor], Update | None] | None,
    shards: int,
) -> list[list[int]]:
    """Peaks of scoring, and of two passes: before the last layer's backward, in it, and in the first layer's."""
    model = meta_model(config, dtype, form)
    if checkpointing:
        # Where random numbers come from has no meaning on the meta device.
        model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
        model.train()
    tensors = [*model.parameters(), *model.buffers()]
    divided = Shards(model, shards)
    with torch.no_grad(), Tally(tensors) as scoring, divided.forward():
        _pass(model, batch, head)
    found = [scoring.peaks]
    with Tally(tensors) as tally:
        for layer in model.get_decoder().layers:
            layer.register_forward_hook(lambda *call: _mark_backward(call[2], tally))
        for _ in range(2):
            tally.peaks = [tally.alive]
            with divided.forward(), _offloaded() if offload else nullcontext():
                loss = _pass(model, batch, head)
            with _released(model, release), divided.backward():
                loss.backward()
            del loss
            found.append([tally.peaks[0], tally.peaks[1], tally.peaks[-1]])
    return found


def _mark_backward(output: torch.Tensor | tuple[torch.Tensor, ...], tally: Tally) -> None:
    """Begin a stretch when the backward pass comes to the layer that made this."""
    hidden = output if isinstance(output, torch.Tensor) else output[0]
    if hidden.requires_grad:
        hidden.register_hook(lambda _: tally.mark())


@contextmanager
def _released(model: PreTrainedModel, release: Callable[[torch.Tensor], Update | None] | None) -> Iterator[None]:
    """As `optimizer.release.released`: a gradient is there until its parameter's update."""
    handles = []
    for parameter in model.parameters():
        update = release(parameter) if release is not None and parameter.requires_grad else None
        if update is not None:
            hook = functools.partial(_update, update)
            handles.append(parameter.register_post_accumulate_grad_hook(hook))
    yield
    for handle in handles:
        handle.remove()


def _update(update: Update, parameter: torch.Tensor) -> None:
    total = torch.empty(update.sum, dtype=torch.uint8, device="meta")
    parameter.grad = None
    beside = torch.empty(update.beside, dtype=torch.uint8, device="meta")
    del total, beside


def _pass(model: PreTrainedModel, batch: Batch, head: Head) -> torch.Tensor:
    tokens = torch.zeros(1, batch.tokens, dtype=torch.int64, device="meta")
    hidden = model.get_decoder()(
        input_ids=tokens,
        position_ids=torch.zeros_like(tokens),
        attention_mask=torch.empty(1, 1, 1, 1, device="meta"),
        use_cache=False,
        keys=batch.keys,
    ).last_hidden_state[0]
    hidden = hidden.index_select(0, torch.zeros(batch.rows, dtype=torch.int64, device="meta"))
    weight = model.get_output_embeddings().weight
    return stand_ins.loss(hidden, weight, head) if torch.is_grad_enabled() else stand_ins.score(hidden, weight, head)


@contextmanager
def _offloaded() -> Iterator[None]:
    """As `offload_activations`: what is saved is gone, and made anew when it is asked for."""

    def pack(tensor: torch.Tensor) -> torch.Tensor | tuple[torch.Size, torch.dtype]:
        small = tensor.numel() < FEWEST or not tensor.is_floating_point() or isinstance(tensor, torch.nn.Parameter)
        return tensor if small else (tensor.shape, tensor.dtype)

    def unpack(packed: torch.Tensor | tuple[torch.Size, torch.dtype]) -> torch.Tensor:
        return packed if isinstance(packed, torch.Tensor) else torch.empty(packed[0], dtype=packed[1], device="meta")

    with saved_tensors_hooks(pack, unpack):
        yield
