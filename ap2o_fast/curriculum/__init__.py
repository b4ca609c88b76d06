"""The error book in, the pairs of an epoch out."""

from ap2o_fast.curriculum.fresh import Known, look_back, replay_pools, weakest
from ap2o_fast.curriculum.plan import FILLED, FRESH, REPLAY, WINDOW, PairPlan
from ap2o_fast.curriculum.pools import Pool, ReplayPool, make_pools
from ap2o_fast.curriculum.systems import plan_epoch, window_pairs

__all__ = [
    "FILLED",
    "FRESH",
    "REPLAY",
    "WINDOW",
    "Known",
    "PairPlan",
    "Pool",
    "ReplayPool",
    "look_back",
    "make_pools",
    "plan_epoch",
    "replay_pools",
    "weakest",
    "window_pairs",
]
