"""The pair losses against their definitions, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from ap2o_kernels.losses import pair_losses

LOGPS = torch.tensor([-3.0, -5.0], dtype=torch.float64)
REFERENCE = torch.tensor([-4.0, -2.0], dtype=torch.float64)
LENGTHS = torch.tensor([2, 4])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# Log-ratios are 1 (chosen) and -3 (rejected): δ = 4; per token 1/2 and -3/4: δ' = 5/4.
@pytest.mark.parametrize(
    ("loss_type", "smoothing", "expected"),
    [
        ("sigmoid", 0.0, -math.log(sigmoid(0.1 * 4))),
        ("sigmoid", 0.25, -0.75 * math.log(sigmoid(0.1 * 4)) - 0.25 * math.log(sigmoid(-0.1 * 4))),
        ("hinge", 0.0, 1 - 0.1 * 4),
        ("ipo", 0.0, (1.25 - 1 / (2 * 0.1)) ** 2),
    ],
)
def test_definition(loss_type: str, smoothing: float, expected: float) -> None:
    (found,) = pair_losses(
        LOGPS,
        REFERENCE,
        LENGTHS,
        torch.tensor([[0, 1]]),
        beta=0.1,
        loss_type=loss_type,
        label_smoothing=smoothing,
    ).tolist()
    assert found == pytest.approx(expected, rel=1e-12)


def test_ipo_of_an_empty_answer_is_finite() -> None:
    found = pair_losses(
        LOGPS * 0, REFERENCE * 0, LENGTHS * 0, torch.tensor([[0, 1]]), beta=0.1, loss_type="ipo", label_smoothing=0.0
    )
    assert found.tolist() == [25.0]
