"""The head among PyTorch's machinery: autocast, torch.compile, second derivatives, a head that FSDP2 shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as processes
from torch import nn

from ap2o_kernels import available_impls, linear_dpo
from tests.kernels.support import DEVICE, make_arguments

IMPLS = [impl for impl in available_impls(DEVICE) if impl != "reference"]


def arguments32(**options: Any) -> dict[str, Any]:
    found = make_arguments([9, 4, 7], [(0, 1), (2, 1)], vocabulary=90, hidden=32, **options)
    found = {k: v.float() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in found.items()}
    return {k: v.to(DEVICE) if torch.is_tensor(v) else v for k, v in found.items()}


class Trainer(nn.Module):
    """A model whose output embeddings are its input embeddings."""

    def __init__(self, impl: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(90, 32, device=DEVICE)
        self.layer = nn.Linear(32, 32, device=DEVICE)
        self.impl = impl

    def forward(self, tokens: torch.Tensor, batch: dict[str, Any]) -> torch.Tensor:
        hidden = torch.tanh(self.layer(self.embedding(tokens)))
        return linear_dpo(**(batch | {"hidden": hidden, "weight": self.embedding.weight}), impl=self.impl).loss * 2


def gradients(model: nn.Module, loss: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("impl", IMPLS)
def test_compiles_in_one_graph_with_tied_embeddings(impl: str) -> None:
    batch = arguments32()
    tokens = torch.arange(20, device=DEVICE) % 7
    model = Trainer(impl)
    plain = model(tokens, batch)
    expected = gradients(model, plain)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    loss = compiled(tokens, batch)
    torch.testing.assert_close(loss, plain)
    for found, wanted in zip(gradients(model, loss), expected, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("impl", IMPLS)
def test_operators_declare_what_they_do(impl: str) -> None:
    """PyTorch's own check: the schema, the shapes given to the compiler and the registered derivative."""
    from ap2o_kernels import chunked
    from ap2o_kernels.losses import PairLoss

    operator: Any = chunked.dpo_chunked
    if impl == "triton":
        from ap2o_kernels import two_pass

        operator = two_pass.dpo_two_pass
    batch = arguments32(bias=True)
    operands = [batch[name].requires_grad_() for name in ("hidden", "weight", "bias")]
    others = [batch[name] for name in ("targets", "cu_rows", "pairs", "ref_logps")]
    settings = PairLoss().values()
    torch.library.opcheck(
        operator,
        (*operands, *others, None, *settings, 2.0, 16, [True, True, True]),
        test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_static"),
    )


@pytest.mark.parametrize("impl", IMPLS)
def test_autocast_casts_the_operands(impl: str) -> None:
    batch = arguments32(bias=True)
    cast = {name: batch[name].bfloat16() for name in ("hidden", "weight", "bias")}
    expected = linear_dpo(**(batch | cast), impl=impl).loss
    leaf = batch["weight"].clone().requires_grad_()
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        loss = linear_dpo(**(batch | {"weight": leaf, "hidden": cast["hidden"]}), impl=impl).loss
    loss.backward()
    assert torch.equal(loss.detach(), expected)
    assert leaf.grad is not None
    assert leaf.grad.dtype == torch.float32


@pytest.mark.parametrize("impl", IMPLS)
def test_a_second_derivative_is_refused_not_wrong(impl: str) -> None:
    batch = arguments32()
    leaf = batch["hidden"].requires_grad_()
    with pytest.raises(RuntimeError, match="differentiated once"):
        torch.autograd.grad(linear_dpo(**batch, impl=impl).loss, leaf, create_graph=True)


def test_the_reference_has_a_second_derivative() -> None:
    batch = make_arguments([3, 4], [(0, 1)])
    batch["hidden"].requires_grad_()

    def loss(hidden: torch.Tensor) -> torch.Tensor:
        return linear_dpo(**(batch | {"hidden": hidden}), impl="reference").loss

    assert torch.autograd.gradgradcheck(loss, (batch["hidden"],))


def shard_and_compare(rank: int, folder: str) -> None:
    """A process of two: its own rows, its part of the head; gradients are those of one process with all rows."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        torch.manual_seed(0)
        head = nn.Linear(32, 91, bias=False)  # an odd vocabulary: shards of two sizes
        whole = head.weight.detach().clone().requires_grad_()
        parts = [make_arguments([9, 4, 7], [(0, 1), (2, 1)], vocabulary=91, hidden=32, seed=seed) for seed in (1, 2)]
        parts = [{**part, "hidden": part["hidden"].float(), "ref_logps": part["ref_logps"].float()} for part in parts]
        total = sum(linear_dpo(**(part | {"weight": whole}), normalizer=4.0).loss for part in parts)
        total.backward()
        fully_shard(head)
        loss = linear_dpo(**(parts[rank] | {"weight": head.weight}), normalizer=4.0).loss
        loss.backward()
        assert isinstance(head.weight.grad, DTensor)
        torch.testing.assert_close(head.weight.grad.full_tensor(), whole.grad)
        torch.distributed.all_reduce(loss := loss.detach())
        torch.testing.assert_close(loss, total.detach())
    finally:
        torch.distributed.destroy_process_group()


def test_a_sharded_head_gets_the_sum_of_all_ranks_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its ranks are on the CPU. With a GPU in sight torch 2.11 ended them with a segmentation fault.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    processes.spawn(shard_and_compare, (str(tmp_path),), nprocs=2)


def test_the_readme_shows_a_use_that_works(repo: Path) -> None:
    """The example in kernels/README.md, run as it stands, with a small model and one prompt of two tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    text = (repo / "kernels" / "README.md").read_text(encoding="utf-8")
    example = text.split("```python\n")[1].split("```")[0]
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    model = LlamaForCausalLM(config)
    ids = torch.arange(14)[None]
    names = {
        "model": model,
        "inputs": {"input_ids": ids},
        "rows": torch.arange(1, 13),
        "targets": ids[0, 2:],
        "cu_rows": torch.tensor([0, 5, 8, 12]),
        "ref_logps": torch.zeros(3),
        "pairs_in_the_whole_step": 2,
    }
    exec(example, names)
    row_logps = model(ids).logits[0, 1:13].log_softmax(-1).gather(1, ids[0, 2:, None]).squeeze(1)
    expected = torch.stack([part.sum() for part in row_logps.split([5, 3, 4])])
    torch.testing.assert_close(names["logps"], expected.detach(), rtol=1e-5, atol=1e-5)
    assert model.lm_head.weight.grad.abs().max() > 0
