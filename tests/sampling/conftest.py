"""One vLLM engine for all tests of a process: a start of vLLM takes as long as most tests together."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest
from tiny import byte_tokenizer
from transformers import PreTrainedTokenizerFast

from ap2o_fast.config import SamplingSettings
from ap2o_fast.sampling.vllm_engine import VllmEngine
from tests.sampling.small import LONGEST


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture(scope="session")
def vllm_engine() -> Iterator[VllmEngine]:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("needs vLLM: make test-vllm")
    settings = SamplingSettings(engine="vllm", batch_answers=8, kv_cache_gib=0.1, deadline=120)
    engine = VllmEngine(settings, longest=LONGEST)
    yield engine
    engine.close()
