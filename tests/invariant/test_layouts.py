"""However the same pairs are laid out, loss, metrics and every gradient are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from ap2o_fast.config import LossSettings
from ap2o_fast.training import PackedBatch, dpo_step_loss, pack, pack_rows, score
from ap2o_fast.training.packing.sequences import SharedPrompt, pack_sequences
from tests.training.support import (
    ANSWERS,
    CONFIGS,
    PAIRS,
    PROMPTS,
    MemoryBook,
    make_book,
    make_plan,
    plain_model,
    tiny_model,
)

BETA = 0.3
# transformers normalises (RMSNorm) and rotates in float32 whatever the model's dtype.
FLOAT64_TOLERANCE = 1e-6


@pytest.fixture
def book() -> MemoryBook:
    return make_book(PROMPTS, ANSWERS)


@pytest.fixture
def reference(book: MemoryBook) -> npt.NDArray[np.float64]:
    return np.random.default_rng(1).normal(-20, 3, len(book))


def packed(model: PreTrainedModel, batches: list[PackedBatch], **options: Any) -> dict[str, torch.Tensor]:
    """Loss, metrics and gradients of all batches together."""
    model.zero_grad()
    pairs = sum(len(batch.pairs) for batch in batches)
    impl, chunk_rows = options.get("impl", "auto"), options.get("chunk_rows")
    found: dict[str, torch.Tensor] = {}
    for batch in batches:
        output, metrics = dpo_step_loss(
            model, batch, settings=LossSettings(beta=BETA, impl=impl), normalizer=pairs, chunk_rows=chunk_rows
        )
        output.loss.backward()
        found |= {name: found.get(name, 0) + value for name, value in metrics.items()}
    return found | gradients(model)


def gradients(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def plain_logps(model: PreTrainedModel, book: MemoryBook, rows: list[int], *, padded: bool) -> torch.Tensor:
    """By transformers' own forward: each text alone, or all in one batch with padding and an attention mask."""
    texts = [
        torch.from_numpy(np.concatenate([book.prompts[book.problems[row]], book.answers[row]])).long() for row in rows
    ]
    if padded:
        ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(text) for text in texts], batch_first=True)
        logits = list(model(input_ids=ids, attention_mask=mask, use_cache=False).logits)
    else:
        logits = [model(input_ids=text[None], use_cache=False).logits[0] for text in texts]
    sums = []
    for row, text, scores in zip(rows, texts, logits, strict=True):
        start = len(book.prompts[book.problems[row]])
        predicted = scores[start - 1 : len(text) - 1].log_softmax(-1)
        sums.append(predicted[torch.arange(len(text) - start), text[start:]].sum())
    return torch.stack(sums)


def plain(
    model: PreTrainedModel, book: MemoryBook, reference: npt.NDArray[np.float64], *, padded: bool
) -> dict[str, torch.Tensor]:
    """DPO with transformers' forward and autograd alone; nothing of ours but the formula."""
    model.zero_grad()
    chosen, rejected = zip(*PAIRS, strict=True)
    logps = plain_logps(model, book, [*chosen, *rejected], padded=padded)
    ratios = logps - torch.from_numpy(reference.astype(np.float32))[[*chosen, *rejected]]
    rewards = BETA * ratios.detach()
    good, bad = ratios.chunk(2)
    loss = -F.logsigmoid(BETA * (good - bad)).mean()
    loss.backward()
    return {
        "loss": loss.detach(),
        "rewards/chosen": rewards[: len(PAIRS)].mean(),
        "rewards/rejected": rewards[len(PAIRS) :].mean(),
        "rewards/margins": (rewards[: len(PAIRS)] - rewards[len(PAIRS) :]).mean(),
        "rewards/accuracies": (rewards[: len(PAIRS)] > rewards[len(PAIRS) :]).double().mean(),
        "logps/chosen": logps[: len(PAIRS)].mean().detach(),
        "logps/rejected": logps[len(PAIRS) :].mean().detach(),
    } | gradients(model)


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], tolerance: float) -> None:
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        scale = max(1e-3, float(expected.abs().max()))
        assert float((ours[name] - expected).abs().max()) <= tolerance * scale, name


@pytest.mark.parametrize("padded", [False, True], ids=["separate", "padded"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_equals_plain_transformers(
    kind: str, padded: bool, book: MemoryBook, reference: npt.NDArray[np.float64]
) -> None:
    batches = pack(book, make_plan(book, PAIRS), reference, 1000)
    assert len(batches) == 1
    theirs = plain(plain_model(kind, torch.float64), book, reference, padded=padded)
    assert_same(packed(tiny_model(kind, torch.float64), batches), theirs, FLOAT64_TOLERANCE)
    single = plain(plain_model(kind), book, reference, padded=padded)
    assert_same(packed(tiny_model(kind), batches), single, 2e-4)


@pytest.mark.parametrize("kind", CONFIGS)
def test_shared_prompt_equals_repeated_prompt(kind: str, book: MemoryBook, reference: npt.NDArray[np.float64]) -> None:
    shared = pack(book, make_plan(book, PAIRS), reference, 1000)
    repeated = [
        pack_sequences(
            [
                SharedPrompt(
                    prompt=book.prompts[book.problems[chosen]],
                    answers=[book.answers[chosen], book.answers[rejected]],
                    pairs=[(0, 1)],
                    rows=[chosen, rejected],
                )
                for chosen, rejected in PAIRS
            ],
            reference,
        )
    ]
    assert len(shared[0].input_ids) < len(repeated[0].input_ids)
    model = tiny_model(kind, torch.float64)
    assert_same(packed(model, shared), packed(model, repeated), FLOAT64_TOLERANCE)


@pytest.mark.parametrize("kind", CONFIGS)
def test_one_forward_pass_equals_many(kind: str, book: MemoryBook, reference: npt.NDArray[np.float64]) -> None:
    plan = make_plan(book, PAIRS)
    model = tiny_model(kind, torch.float64)
    whole = packed(model, pack(book, plan, reference, 1000))
    # 25 tokens split the first problem's pairs, which repeats its prompt and its chosen answer.
    parts = pack(book, plan, reference, 25)
    assert len(parts) >= 4
    assert_same(packed(model, parts), whole, FLOAT64_TOLERANCE)


@pytest.mark.parametrize("options", [{"chunk_rows": 3}, {"chunk_rows": 20}, {"impl": "reference"}], ids=str)
def test_chunks_do_not_matter(options: dict[str, Any], book: MemoryBook, reference: npt.NDArray[np.float64]) -> None:
    batches = pack(book, make_plan(book, PAIRS), reference, 1000)
    model = tiny_model("qwen2", torch.float64)
    assert_same(packed(model, batches, **options), packed(model, batches), 1e-10)


@pytest.mark.parametrize("kind", CONFIGS)
def test_gradient_checkpointing_does_not_matter(
    kind: str, book: MemoryBook, reference: npt.NDArray[np.float64]
) -> None:
    batches = pack(book, make_plan(book, PAIRS), reference, 1000)
    model = tiny_model(kind, torch.float64)
    kept = packed(model, batches)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    model.gradient_checkpointing_enable()
    model.get_decoder().layers[0].self_attn.register_forward_hook(count)
    recomputed = packed(model, batches)
    assert calls == 2, "once forward, once again backward"
    assert not model.training
    assert_same(recomputed, kept, 1e-12)


def test_scores_are_the_logps_that_training_sees(book: MemoryBook) -> None:
    model = tiny_model("qwen3", torch.float64)
    rows = np.array([8, 0, 3, 0, 7, 5])
    with torch.no_grad():
        expected = plain_logps(plain_model("qwen3", torch.float64), book, rows.tolist(), padded=False)
    for budget in (1000, 21):
        found = score(model, book, rows, budget, chunk_rows=4)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-5)
    assert found[4] == 0.0, "an empty answer is certain"
    assert len(pack_rows(book, rows, 21)) > 1
