"""Windows and positions: a packed answer sees what it sees in a text of its own, however far that reaches."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from ap2o_fast.training.models.forward import packed_hidden
from ap2o_fast.training.packing.sequences import SharedPrompt, pack_sequences
from tests.training.support import VOCABULARY, plain_model, tiny_model

PROMPTS, ANSWERS = [23, 6], [[9, 30, 1], [14, 5]]
ROPE = {
    "default": {"rope_theta": 1e6},
    "linear": {"rope_theta": 1e4, "factor": 4.0},
    "yarn": {"rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16},
    "llama3": {
        "rope_theta": 1e4,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}


def problems() -> list[SharedPrompt]:
    chance = torch.Generator().manual_seed(0)

    def tokens(count: int) -> list[int]:
        found: list[int] = torch.randint(3, VOCABULARY, (count,), generator=chance).tolist()
        return found

    return [
        SharedPrompt(prompt=tokens(prompt), answers=[tokens(answer) for answer in answers])
        for prompt, answers in zip(PROMPTS, ANSWERS, strict=True)
    ]


def packed(model: PreTrainedModel) -> torch.Tensor:
    """(R, V) logits that predict the answers' tokens, each prompt computed once."""
    batch = pack_sequences(problems())
    logits: torch.Tensor = model.get_output_embeddings()(packed_hidden(model, batch)[batch.rows])
    return logits


def alone(model: PreTrainedModel) -> torch.Tensor:
    """The same by transformers' own forward over each prompt with each answer."""
    rows = []
    for problem in problems():
        for answer in problem.answers:
            text = torch.tensor([[*problem.prompt, *answer]])
            rows.append(model(input_ids=text, use_cache=False).logits[0, len(problem.prompt) - 1 : -1])
    return torch.cat(rows)


def assert_equal(kind: str, dtype: torch.dtype = torch.float64, **changes: object) -> None:
    ours, theirs = tiny_model(kind, dtype, **changes), plain_model(kind, dtype, **changes)
    found, expected = packed(ours), alone(theirs)
    # transformers rotates and normalises in float32 whatever the model's dtype.
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 if dtype == torch.float64 else 2e-4)
    weight = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(dtype)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert mine.grad is not None and other.grad is not None
        scale = float(other.grad.abs().max().clamp(min=1e-3))
        error = float((mine.grad - other.grad).abs().max())
        assert error <= (1e-6 if dtype == torch.float64 else 2e-4) * scale, name


@pytest.mark.parametrize("window", [1, 4, 23, 24, 40, 53, 200])
def test_every_layer_slides(window: int) -> None:
    assert_equal("mistral", sliding_window=window)


@pytest.mark.parametrize("kind", ["qwen2-mixed", "qwen3"])
@pytest.mark.parametrize("window", [4, 28])
def test_some_layers_slide(kind: str, window: int) -> None:
    assert_equal(kind, use_sliding_window=True, sliding_window=window, max_window_layers=1)


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_in_single_precision(kv_heads: int) -> None:
    assert_equal("mistral", torch.float32, sliding_window=7, num_key_value_heads=kv_heads)
    assert_equal("llama", torch.float32, num_key_value_heads=kv_heads)


def test_a_window_changes_what_is_seen() -> None:
    """The texts are long enough to tell: without its window the model computes something else."""
    model = tiny_model("mistral", sliding_window=40)
    full = plain_model("mistral", sliding_window=None)
    assert float((packed(model) - alone(full)).abs().max()) > 0.1


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral"])
@pytest.mark.parametrize("rope", ROPE)
def test_positions_of_answers_continue_their_prompts(rope: str, kind: str) -> None:
    assert_equal(kind, rope_parameters={"rope_type": rope, **ROPE[rope]})
