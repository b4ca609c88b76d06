"""The heads that are compared: ours, plain PyTorch, its compiler, Liger, TRL, CCE, and the bare products as the limit.

Each is a function from a `Case` to a `Step`: one forward and backward. All get the same answers: equal lengths, so that
nobody pays for padding, and references of zero, because Liger's fused loss takes none that were computed before.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ap2o_kernels import linear_dpo, linear_logp

BETA = 0.1
TRL_CHUNK = 32768
"""Columns of a tile of TRL's head, as its DPO trainer (1.16) sets them."""

MODELS = {  # hidden size, vocabulary
    "SmolLM2-135M": (576, 49152),
    "Qwen2.5-0.5B": (896, 151936),
    "Qwen2.5-1.5B": (1536, 151936),
    "Qwen2.5-3B": (2048, 151936),
    "Qwen2.5-7B": (3584, 152064),
    "Qwen2.5-14B/32B": (5120, 152064),
    "Llama-3-8B": (4096, 128256),
    "D4096-V131072": (4096, 131072),
}
"""The first is for CPUs, the last the size at which Liger publishes."""


class Unavailable(Exception):
    """This head cannot run here, or not in this mode; the message says why."""


@dataclass(frozen=True)
class Step:
    """`run` computes forward and backward once, leaves gradients in the case and returns the loss.

    `rows` is the order in which the rows of the hidden states' gradient come out, None for that of the case.
    """

    run: Callable[[], torch.Tensor]
    rows: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Case:
    """Random operands of a head. `mode` is `full` (all gradients), `frozen` (no gradient of the weight) or `score`."""

    model: str
    mode: str
    hidden: torch.Tensor
    weight: torch.Tensor
    targets: torch.Tensor
    answer_rows: int

    @property
    def answers(self) -> int:
        return len(self.hidden) // self.answer_rows

    @property
    def flops(self) -> float:
        """Operations of the products that the mode cannot do without."""
        return {"full": 6.0, "frozen": 4.0, "score": 2.0}[self.mode] * self.hidden.numel() * len(self.weight)

    def clear(self) -> None:
        """Forget gradients, so that the next step allocates its own."""
        self.hidden.grad = self.weight.grad = None


def make_case(
    model: str, rows: int, mode: str, *, device: str, dtype: torch.dtype, answer_rows: int = 256, seed: int = 0
) -> Case:
    """Hidden states of unit variance and a weight of usual size: log-probabilities like those of a real model."""
    width, vocabulary = MODELS[model]
    chance = torch.Generator(device).manual_seed(seed)
    hidden = torch.randn(rows, width, generator=chance, device=device, dtype=torch.float32).to(dtype)
    weight = torch.randn(vocabulary, width, generator=chance, device=device, dtype=torch.float32)
    weight = weight.mul_(2 / width**0.5).to(dtype)
    return Case(
        model=model,
        mode=mode,
        hidden=hidden.requires_grad_(mode != "score"),
        weight=weight.requires_grad_(mode == "full"),
        targets=torch.randint(vocabulary, (rows,), generator=chance, device=device),
        answer_rows=answer_rows,
    )


def ours(impl: str) -> Callable[[Case], Step]:
    def make(case: Case) -> Step:
        if case.mode == "score":
            return Step(lambda: linear_logp(case.hidden, case.weight, case.targets, impl=impl).sum())
        cu_rows = torch.arange(0, len(case.hidden) + 1, case.answer_rows)
        pairs = torch.arange(case.answers).view(-1, 2)
        references = torch.zeros(case.answers, device=case.hidden.device)

        def run() -> torch.Tensor:
            output = linear_dpo(
                case.hidden, case.weight, case.targets, cu_rows, pairs, references, beta=BETA, impl=impl
            )
            output.loss.backward()
            return output.loss.detach()

        return Step(run)

    return make


def _dpo(row_logps: torch.Tensor, case: Case) -> torch.Tensor:
    """The DPO loss of (R,) log-probabilities; answers 0 and 1 are a pair, 2 and 3, ..."""
    chosen, rejected = row_logps.view(case.answers, -1).sum(1).view(-1, 2).unbind(1)
    return -F.logsigmoid(BETA * (chosen - rejected)).mean()


def _through(case: Case, row_logps: Callable[[], torch.Tensor]) -> Step:
    def run() -> torch.Tensor:
        if case.mode == "score":
            with torch.no_grad():
                return row_logps().sum()
        loss = _dpo(row_logps(), case)
        loss.backward()
        return loss.detach()

    return Step(run)


def _plain_logps(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.linear(hidden, weight).float().log_softmax(-1).gather(1, targets[:, None]).squeeze(1)


def plain(case: Case) -> Step:
    """Logits in the model's dtype, log-softmax in float32, autograd."""
    return _through(case, lambda: _plain_logps(case.hidden, case.weight, case.targets))


def compiled(case: Case) -> Step:
    """The same under torch.compile."""
    if case.hidden.device.type != "cuda":
        raise Unavailable("torch.compile is measured on a GPU")
    function = torch.compile(_plain_logps)
    return _through(case, lambda: function(case.hidden, case.weight, case.targets))


def liger_dpo(case: Case) -> Step:
    """Liger's fused linear DPO, at its default chunk of one pair."""
    if case.mode == "score":
        raise Unavailable("Liger's DPO loss has no scoring")
    try:
        from liger_kernel.chunked_loss import LigerFusedLinearDPOLoss
    except ImportError as error:
        raise Unavailable(f"liger-kernel is not installed ({error})") from error
    on_gpu = case.hidden.device.type == "cuda"
    loss_of = LigerFusedLinearDPOLoss(beta=BETA, compiled=on_gpu, use_ref_model=False, average_log_prob=False)

    # It wants all chosen answers, then all rejected ones: laid so beforehand, which costs it no time here.
    order = torch.arange(case.answers).view(-1, 2).T.flatten()
    rows = (order[:, None] * case.answer_rows + torch.arange(case.answer_rows)).flatten().to(case.hidden.device)
    shape = (case.answers, case.answer_rows)
    hidden = case.hidden.detach()[rows].requires_grad_()
    targets = case.targets[rows].view(shape)

    def run() -> torch.Tensor:
        hidden.grad = None
        loss, _ = loss_of(case.weight, hidden.view(*shape, -1), targets)
        loss.backward()
        case.hidden.grad = hidden.grad
        return loss.detach()

    return Step(run, rows)


def liger_cross_entropy(case: Case) -> Step:
    """Liger's fused linear cross-entropy: another loss on the same logits, its fastest head."""
    if case.hidden.device.type != "cuda":
        raise Unavailable("Liger's cross-entropy runs on a GPU")
    if case.mode == "score":
        raise Unavailable("Liger's cross-entropy always makes gradients")
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
    except ImportError as error:
        raise Unavailable(f"liger-kernel is not installed ({error})") from error
    loss_of = LigerFusedLinearCrossEntropyLoss()

    def run() -> torch.Tensor:
        loss = loss_of(case.weight, case.hidden, case.targets)
        loss.backward()
        return loss.detach()

    return Step(run)


def trl_chunked(case: Case) -> Step:
    """TRL's chunked log-probabilities at the chunk its DPO trainer takes."""
    try:
        from trl.kernels import ChunkedLogProbFunction
    except ImportError as error:
        raise Unavailable(f"trl is not installed ({error})") from error

    def row_logps() -> torch.Tensor:
        found = ChunkedLogProbFunction.apply(
            case.hidden, case.weight, None, case.targets, 1.0, TRL_CHUNK, None, 1.0, ()
        )
        return found[0]

    return _through(case, row_logps)


def cut_cross_entropy(case: Case) -> Step:
    """Apple's cut cross-entropy, exact: no gradient filter, and sums in float32 where the release can add so."""
    if case.hidden.device.type != "cuda":
        raise Unavailable("CCE runs on a GPU")
    try:
        from cut_cross_entropy import linear_cross_entropy
    except ImportError as error:
        raise Unavailable(f"cut-cross-entropy is not installed ({error})") from error
    known = inspect.signature(linear_cross_entropy).parameters
    in_float32 = {name: True for name in ("accum_e_fp32", "accum_c_fp32") if name in known}

    def row_logps() -> torch.Tensor:
        return -linear_cross_entropy(
            case.hidden, case.weight, case.targets, reduction="none", filter_eps=None, **in_float32
        )

    return _through(case, row_logps)


def products(case: Case) -> Step:
    """The bare products of the mode, in the operands' dtype: no head is faster."""

    def run() -> torch.Tensor:
        with torch.no_grad():
            logits = case.hidden @ case.weight.T
            if case.mode != "score":
                case.hidden.grad = logits @ case.weight
            if case.mode == "full":
                case.weight.grad = logits.T @ case.hidden
            return logits[0, 0]

    return Step(run)


HEADS: dict[str, Callable[[Case], Step]] = {
    "ours, chunked": ours("chunked"),
    "ours, triton": ours("triton"),
    "plain PyTorch": plain,
    "torch.compile": compiled,
    "Liger DPO": liger_dpo,
    "Liger cross-entropy": liger_cross_entropy,
    "TRL chunked": trl_chunked,
    "CCE": cut_cross_entropy,
    "bare products": products,
}
"""In the order of the tables. `Unavailable` is raised by those that cannot run."""
UNGATED = ("bare products", "Liger cross-entropy")
"""Those that compute another loss, whose error is therefore not looked at."""
