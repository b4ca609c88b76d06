"""One lever after another, from a plain DPO step to ours, with the same optimiser: what each is worth.

padded -> packed -> cached reference -> shared prompt -> fused head -> Liger's layers. The rungs below `shared prompt`
do as the published trainers: every pair has its own prompt and answers, and every token its logits.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from ap2o_fast.config import LossSettings, TrainSettings
from ap2o_fast.curriculum.plan import PairPlan
from ap2o_fast.training import Engine, PackedBatch, prepare_model, score
from ap2o_fast.training.models.forward import packed_hidden
from ap2o_fast.training.packing.flops import Cost
from ap2o_fast.training.packing.sequences import SharedPrompt, pack_sequences
from benchmarks.training.cases import Case, make_model

RUNGS = ("padded", "packed", "cached reference", "shared prompt", "fused head", "Liger")
MICRO = 8
"""Pairs of a forward pass below `shared prompt`: what an H100 holds of a 0.5B model's logits."""
BETA = 0.1


def train(case: Case, device: str, rung: str, tick: Callable[[], None]) -> dict[str, float]:
    """Train on all steps as on `rung`. Returns means over the steps, and operations a step as that rung does them."""
    settings = TrainSettings(lr=1e-6, token_budget=16384)
    model = make_model(case.shape, device, torch.bfloat16 if device == "cuda" else torch.float32)
    if rung == "Liger":
        from ap2o_fast.training.models.liger import use_liger

        use_liger(model, True)
    reference = copy.deepcopy(model) if rung in ("padded", "packed") else None
    model = prepare_model(model)
    cost = Cost.of(model)
    logps = score(model, case.book, np.arange(len(case.book)), settings.token_budget)
    loss = LossSettings(impl="reference" if rung == "shared prompt" else "auto")
    engine = Engine(model, train=settings, loss=loss, total_steps=case.steps)
    if reference is not None:
        reference = prepare_model(reference)
    sums = {"logps/chosen": 0.0, "logps/rejected": 0.0, "loss": 0.0, "flops": 0.0}
    tick()
    if rung in ("shared prompt", "fused head", "Liger"):
        for metrics in engine.train_steps(case.plans(), case.book, logps):
            metrics["flops"] = metrics["tflops"] * 1e12 * metrics["seconds"]
            for name in sums:
                sums[name] += metrics[name] / case.steps
            tick()
        return sums
    forward = _padded if rung == "padded" else _packed
    for plan in case.plans():
        for part in _parts(plan):
            found, flops = forward(model, case, part, cost)
            if rung == "cached reference":
                before = torch.tensor(logps[np.stack([part.chosen, part.rejected], 1).ravel()], device=device)
            else:
                assert reference is not None
                with torch.no_grad():
                    before, _ = forward(reference, case, part, cost)
                flops += flops / 3
            margins = BETA * ((found - before)[0::2] - (found - before)[1::2])
            part_loss = -F.logsigmoid(margins).sum() / len(plan)
            part_loss.backward()
            engine.optimizer.collect()
            shares = {"logps/chosen": found[0::2].sum(), "logps/rejected": found[1::2].sum()}
            sums["loss"] += float(part_loss.detach()) / case.steps
            sums["flops"] += flops / case.steps
            for name, value in shares.items():
                sums[name] += float(value.detach()) / len(plan) / case.steps
        engine.optimizer.clip_gradients()
        engine.optimizer.step()
        tick()
    return sums


def _parts(plan: PairPlan) -> Iterator[PairPlan]:
    for start in range(0, len(plan), MICRO):
        yield plan[start : start + MICRO]


def _texts(case: Case, plan: PairPlan) -> list[SharedPrompt]:
    """Prompt and answer of each pair's chosen and rejected, in turn."""
    book = case.book
    return [
        SharedPrompt(prompt=book.prompt_ids(problem), answers=[book.tokens(row)], rows=[row])
        for problem, *pair in zip(plan.problem.tolist(), plan.chosen.tolist(), plan.rejected.tolist(), strict=True)
        for row in pair
    ]


def _padded(model: PreTrainedModel, case: Case, plan: PairPlan, cost: Cost) -> tuple[torch.Tensor, float]:
    """(2P,) log-probabilities with every text padded to the longest, logits of every position."""
    texts = _texts(case, plan)
    longest = max(text.size for text in texts)
    ids = torch.zeros(len(texts), longest, dtype=torch.int64)
    answer = torch.zeros(len(texts), longest, dtype=torch.bool)
    seen = torch.zeros(len(texts), longest, dtype=torch.int64)
    for row, text in enumerate(texts):
        ids[row, : text.size] = torch.tensor([*text.prompt, *text.answers[0]])
        answer[row, len(text.prompt) : text.size] = True
        seen[row, : text.size] = 1
    ids, answer, seen = (tensor.to(model.device) for tensor in (ids, answer, seen))
    logits = model(input_ids=ids, attention_mask=seen, use_cache=False).logits[:, :-1].float()
    tokens = len(texts) * longest
    keys = len(texts) * longest * (longest + 1) / 2
    flops = cost.token_trained * tokens + 3 * cost.key * keys + cost.row_trained * tokens
    chosen = logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    return (chosen * answer[:, 1:]).sum(1), flops


def _packed(model: PreTrainedModel, case: Case, plan: PairPlan, cost: Cost) -> tuple[torch.Tensor, float]:
    """(2P,) log-probabilities without padding, each answer after its own copy of the prompt, logits of all tokens."""
    batch: PackedBatch = pack_sequences(_texts(case, plan)).to(model.device)
    logits = model.get_output_embeddings()(packed_hidden(model, batch)).float()
    rows = logits[batch.rows].log_softmax(-1).gather(1, batch.targets[:, None])[:, 0]
    flops = cost.training(batch) + cost.row_trained * (len(batch.input_ids) - len(batch.targets))
    sizes = batch.cu_rows.diff().to(model.device)
    owner = torch.repeat_interleave(torch.arange(len(sizes), device=model.device), sizes, output_size=len(rows))
    return rows.new_zeros(len(sizes)).index_add(0, owner, rows), flops
