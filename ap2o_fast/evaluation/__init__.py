"""pass@k, error profiles and EvalPlus samples from the error book of a test."""

from ap2o_fast.evaluation.evaluate import Evaluation, compare, evaluate, from_dict, to_dict
from ap2o_fast.evaluation.flakiness import Flakiness, flakiness
from ap2o_fast.evaluation.passk import mean_interval, pass_at_k, sign_test
from ap2o_fast.evaluation.samples import write_samples

__all__ = [
    "Evaluation",
    "Flakiness",
    "compare",
    "evaluate",
    "flakiness",
    "from_dict",
    "mean_interval",
    "pass_at_k",
    "sign_test",
    "to_dict",
    "write_samples",
]
