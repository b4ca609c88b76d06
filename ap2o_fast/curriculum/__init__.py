"""The error book in, the pairs of an epoch out."""

from ap2o_fast.curriculum.plan import REPLAY, WINDOW, PairPlan
from ap2o_fast.curriculum.pools import Pool, make_pools
from ap2o_fast.curriculum.systems import plan_epoch, window_pairs

__all__ = ["REPLAY", "WINDOW", "PairPlan", "Pool", "make_pools", "plan_epoch", "window_pairs"]
