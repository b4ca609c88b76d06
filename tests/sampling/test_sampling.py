"""The transformers engine on a tiny real model: seeds, shared prefill, log-probabilities, stops, resuming."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import byte_tokenizer
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

from ap2o_fast.config import PromptSettings
from ap2o_fast.errors import UsageError
from ap2o_fast.problems import Problem
from ap2o_fast.sampling import Answer, Request
from ap2o_fast.sampling.prompts import code_of, cut, prompt_ids, prompt_text
from ap2o_fast.sampling.transformers import TransformersSampler, draw


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config).eval()


def request(task_id: str, length: int, seeds: range) -> Request:
    ids = np.random.default_rng(length).integers(2, 200, size=length).astype(np.int32)
    return Request(task_id=task_id, prompt_ids=ids, seeds=tuple(seeds))


def sample(model: LlamaForCausalLM, tokenizer: object, requests: list[Request], **options: object) -> list[Answer]:
    batch = options.pop("batch_answers", 8)
    settings = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 12} | options
    sampler = TransformersSampler(model, tokenizer, batch_answers=batch)
    return [answer for group in sampler.sample(requests, **settings) for answer in group]


def test_answers_do_not_depend_on_their_neighbours_in_the_batch(model, tokenizer) -> None:
    requests = [request("a", 5, range(3)), request("b", 17, range(10, 14)), request("c", 9, range(20, 22))]
    together = {(x.task_id, x.sample): x for x in sample(model, tokenizer, requests, batch_answers=9)}
    assert set(together) == {("a", 0), ("a", 1), ("a", 2), *(("b", i) for i in range(4)), ("c", 0), ("c", 1)}
    for wanted in requests:
        for alone in sample(model, tokenizer, [wanted], batch_answers=2):
            twin = together[alone.task_id, alone.sample]
            assert alone.token_ids.tolist() == twin.token_ids.tolist() and alone.seed == twin.seed
            assert np.allclose(alone.logprobs, twin.logprobs, atol=1e-4)


def test_kept_logprobs_are_the_models_own_at_temperature_one(model, tokenizer) -> None:
    wanted = request("a", 6, range(4))
    for answer in sample(model, tokenizer, [wanted], temperature=0.7, top_p=0.9):
        ids = torch.tensor([[*wanted.prompt_ids.tolist(), *answer.token_ids.tolist()]])
        with torch.no_grad():
            logprobs = model(ids).logits[0, len(wanted.prompt_ids) - 1 : -1].log_softmax(-1)
        want = logprobs.gather(1, torch.from_numpy(answer.token_ids.astype(np.int64))[:, None])[:, 0]
        assert np.allclose(answer.logprobs, want.numpy(), atol=1e-4)


@pytest.mark.parametrize("window", [4, 9])
def test_a_sliding_window_is_kept_among_rows_that_join_late(tokenizer, window: int) -> None:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=window,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.5,
    )
    model = MistralForCausalLM(config).eval()
    requests = [request("a", 5, range(4)), request("b", 17, range(10, 14)), request("c", 9, range(20, 22))]
    prompts = {wanted.task_id: wanted.prompt_ids.tolist() for wanted in requests}
    for answer in sample(model, tokenizer, requests, batch_answers=3):
        ids = torch.tensor([[*prompts[answer.task_id], *answer.token_ids.tolist()]])
        with torch.no_grad():
            logprobs = model(ids, use_cache=False).logits[0, len(prompts[answer.task_id]) - 1 : -1].log_softmax(-1)
        want = logprobs.gather(1, torch.from_numpy(answer.token_ids.astype(np.int64))[:, None])[:, 0]
        assert np.allclose(answer.logprobs, want.numpy(), atol=1e-4)


def test_greedy_equals_transformers_generate(model, tokenizer) -> None:
    wanted = request("a", 7, range(1))
    ids = torch.from_numpy(wanted.prompt_ids.astype(np.int64))[None]
    generated = model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=1)
    (answer,) = sample(model, tokenizer, [wanted], temperature=0)
    assert answer.token_ids.tolist() == generated[0, 7:].tolist()


@pytest.mark.parametrize("held", [slice(0, 4), slice(3, 9), slice(0, 12), slice(0, 23)])
def test_answers_that_are_done_are_left_out_and_the_rest_is_unchanged(model, tokenizer, held: slice) -> None:
    requests = [request("a", 5, range(12)), request("b", 8, range(12, 24))]
    everything = sample(model, tokenizer, requests, batch_answers=3, temperature=1.5)
    done = {(x.task_id, x.sample) for x in everything[held]}
    rest = {
        (x.task_id, x.sample): x
        for x in sample(model, tokenizer, requests, batch_answers=3, temperature=1.5, done=done)
    }
    assert set(rest) | done == {(x.task_id, x.sample) for x in everything} and not set(rest) & done
    for answer in everything:
        if (answer.task_id, answer.sample) in rest:
            twin = rest[answer.task_id, answer.sample]
            assert twin.token_ids.tolist() == answer.token_ids.tolist()
            assert np.array_equal(twin.logprobs, answer.logprobs), "bit for bit"


def test_every_prompt_is_prefilled_once_and_the_batch_stays_full(model, tokenizer) -> None:
    seen: list[tuple[int, int]] = []
    handle = model.model.embed_tokens.register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape)))
    requests = [request("a", 30, range(10)), request("b", 20, range(10, 20)), request("c", 10, range(20, 30))]
    answers = sample(model, tokenizer, requests, batch_answers=8, max_new_tokens=20, temperature=1.5)
    handle.remove()
    prefills = [shape for shape in seen if shape[1] > 1]
    assert sum(rows for rows, _ in prefills) == 3
    rows_times_steps = sum(rows for rows, length in seen if length == 1)
    needed = sum(len(answer.token_ids) - 1 for answer in answers)
    assert needed <= rows_times_steps <= 1.35 * needed, "few rows are computed for answers that have ended"


def test_a_stop_string_ends_the_text_but_its_tokens_are_kept(model, tokenizer) -> None:
    wanted = request("a", 6, range(8))
    free = sample(model, tokenizer, [wanted], max_new_tokens=24)
    stop = free[0].text[5:7]
    stopped = sample(model, tokenizer, [wanted], max_new_tokens=24, stop=(stop,))
    assert stopped[0].finish == "stop" and stop not in stopped[0].text
    kept = len(stopped[0].token_ids)
    assert stopped[0].token_ids.tolist() == free[0].token_ids[:kept].tolist()
    assert tokenizer.decode(stopped[0].token_ids).startswith(stopped[0].text + stop)


def test_draw_follows_the_distribution_and_the_nucleus() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(20_000, 1)
    uniforms = (torch.arange(20_000) + 0.5) / 20_000
    share = torch.bincount(draw(logits, uniforms, 1.0, 1.0)[0], minlength=4) / 20_000
    assert torch.allclose(share, torch.tensor([0.5, 0.3, 0.15, 0.05]), atol=1e-3)
    nucleus = torch.bincount(draw(logits, uniforms, 1.0, 0.7)[0], minlength=4) / 20_000
    assert torch.allclose(nucleus, torch.tensor([0.625, 0.375, 0.0, 0.0]), atol=1e-3)
    cold = draw(logits, uniforms, 0.01, 1.0)[0]
    assert (cold == 0).all()


PROBLEM = Problem(task_id="t", prompt='def f(x):\n    """Return x."""\n', entry_point="f", test="def check(c): pass")


def test_chat_style_without_a_template_is_refused(tokenizer) -> None:
    with pytest.raises(UsageError, match="chat template"):
        prompt_text(PROBLEM, PromptSettings(style="chat"), tokenizer)


def test_chat_style_uses_the_template_and_adds_no_second_bos(tokenizer) -> None:
    chatty = byte_tokenizer()
    chatty.chat_template = (
        "<s>{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    ids = prompt_ids(PROBLEM, PromptSettings(style="chat"), chatty).tolist()
    assert ids[0] == 0 and ids.count(0) == 1
    assert chatty.decode(ids).endswith(">")


def test_paper_prompt_ends_in_an_open_fence(tokenizer) -> None:
    text = prompt_text(PROBLEM, PromptSettings(), SimpleNamespace())
    assert text.endswith("```python\n") and PROBLEM.prompt.rstrip() in text


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("def f(): pass", "def f(): pass"),
        ("Sure:\n```python\ndef f(): pass\n```\nDone", "def f(): pass"),
        ("```\nx = 1\n", "x = 1\n"),
    ],
)
def test_code_is_read_from_the_first_fence(text: str, code: str) -> None:
    assert code_of(text) == code


def test_cut_takes_the_earliest_stop() -> None:
    assert cut("ab\n# x\n```", ("\n```", "\n#")) == ("ab", True)
    assert cut("ab", ("\n#",)) == ("ab", False)
