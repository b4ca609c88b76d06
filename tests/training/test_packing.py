"""What a packed batch holds: every pair once, tokens verbatim, whatever the budget."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ap2o_fast.errors import DataError
from ap2o_fast.training import PackedBatch, pack, pack_rows, packing_efficiency
from tests.training.support import ANSWERS, PAIRS, PROMPTS, MemoryBook, make_book, make_plan

Text = tuple[int, ...]


def texts(batch: PackedBatch) -> list[tuple[Text, Text]]:
    """Each answer as (the text its last token sees, its own tokens), read back through the attention layout."""
    ids = batch.input_ids.numpy()
    sequences = []
    cu_q, cu_k = batch.cu_q.tolist(), batch.cu_k.tolist()
    for s in range(len(cu_q) - 1):
        keys = batch.kv_index[cu_k[s] : cu_k[s + 1]].numpy()
        own = np.arange(cu_q[s], cu_q[s + 1])
        assert keys[len(keys) - len(own) :].tolist() == own.tolist(), "queries are the last keys"
        assert batch.position_ids[keys].tolist() == list(range(len(keys)))
        if len(keys) > len(own):
            sequences.append(keys)
    found: list[tuple[Text, Text]] = []
    for first, last in zip(batch.cu_rows[:-1].tolist(), batch.cu_rows[1:].tolist(), strict=True):
        if first == last:
            found.append(((), ()))
            continue
        keys = sequences.pop(0)
        assert batch.rows[first:last].tolist() == keys[first - last - 1 : -1].tolist(), "a row predicts the next token"
        assert batch.targets[first:last].tolist() == ids[keys[first - last :]].tolist()
        found.append((tuple(ids[keys].tolist()), tuple(batch.targets[first:last].tolist())))
    assert not sequences
    return found


def expected_text(book: MemoryBook, row: int) -> tuple[Text, Text]:
    answer = tuple(book.answers[row].tolist())
    return ((*book.prompts[book.problems[row]].tolist(), *answer) if answer else ()), answer


def check(book: MemoryBook, pairs: list[tuple[int, int]], budget: int) -> list[PackedBatch]:
    reference = np.arange(len(book)) / 10
    plan = make_plan(book, pairs)
    batches = pack(book, plan, reference, budget)
    found: Counter[tuple[tuple[Text, Text], tuple[Text, Text]]] = Counter()
    for batch in batches:
        assert len(batch.input_ids) <= budget
        answers = texts(batch)
        found.update((answers[chosen], answers[rejected]) for chosen, rejected in batch.pairs.tolist())
        for chosen, rejected in batch.pairs.tolist():
            pair = batch.ref_logps[[chosen, rejected]].numpy()
            assert any(np.allclose(pair, reference[list(ids)]) for ids in pairs)
    assert found == Counter((expected_text(book, chosen), expected_text(book, rejected)) for chosen, rejected in pairs)
    assert 0 < packing_efficiency(book, plan, batches) <= 1
    return batches


def test_one_copy_of_prompts_and_answers() -> None:
    book = make_book(PROMPTS, ANSWERS)
    (batch,) = check(book, PAIRS, 1000)
    assert len(batch.input_ids) == sum(PROMPTS) + sum(map(sum, ANSWERS))
    assert len(batch.cu_rows) - 1 == len(book)
    assert packing_efficiency(book, make_plan(book, PAIRS), [batch]) == 1.0


@given(
    shape=st.lists(
        st.tuples(st.integers(1, 9), st.lists(st.integers(0, 9), min_size=2, max_size=5)), min_size=1, max_size=5
    ),
    budget=st.integers(27, 90),
    data=st.data(),
)
def test_any_step(shape: list[tuple[int, list[int]]], budget: int, data: st.DataObject) -> None:
    book = make_book([prompt for prompt, _ in shape], [answers for _, answers in shape])
    rows = [[r for r, problem in enumerate(book.problems) if problem == p] for p in range(len(shape))]
    pair = st.sampled_from(rows).flatmap(lambda mine: st.tuples(st.sampled_from(mine), st.sampled_from(mine)))
    check(book, data.draw(st.lists(pair, min_size=1, max_size=12)), budget)


def test_a_split_problem_repeats_its_prompt_only() -> None:
    book = make_book([10], [[10] * 6])
    pairs = [(0, 3), (1, 4), (2, 5)]
    batches = check(book, pairs, 30)
    assert [len(batch.input_ids) for batch in batches] == [30, 30, 30]
    assert packing_efficiency(book, make_plan(book, pairs), batches) == pytest.approx(70 / 90)


def test_bins_are_few_and_even() -> None:
    book = make_book([5] * 6, [[5, 5]] * 6)
    sizes = [len(batch.input_ids) for batch in check(book, [(2 * i, 2 * i + 1) for i in range(6)], 75)]
    assert sizes == [45, 45], "not 75 and 15"


def test_evening_out_never_exceeds_the_budget() -> None:
    """Items of 6, 4, 4, 3, 3 tokens fill two bins of 10 only as 6+4 and 4+3+3; the emptiest-bin rule alone makes 11."""
    book = make_book([1] * 5, [[3, 2], [2, 1], [2, 1], [1, 1], [1, 1]])
    assert len(check(book, [(2 * i, 2 * i + 1) for i in range(5)], 10)) == 2


def test_rows_without_pairs() -> None:
    book = make_book(PROMPTS, ANSWERS)
    rows = np.array([8, 1, 1, 4, 7])
    for budget in (1000, 22):
        packed = pack_rows(book, rows, budget)
        seen = {}
        for batch, ids in packed:
            assert len(batch.input_ids) <= budget
            assert len(batch.pairs) == 0
            seen |= dict(zip(ids.tolist(), texts(batch), strict=True))
        assert seen == {row: expected_text(book, row) for row in {1, 4, 7, 8}}
    assert len(packed) > 1


def test_pair_beyond_the_budget_names_the_setting() -> None:
    book = make_book([10], [[12, 9]])
    with pytest.raises(DataError, match=r"31 tokens(?s:.*)train\.token_budget to at least 31"):
        pack(book, make_plan(book, [(0, 1)]), np.zeros(2), 30)
    with pytest.raises(DataError, match="answer 0 of problem 0 has 22 tokens"):
        pack_rows(book, np.array([0]), 21)


def test_unscored_answers_and_empty_prompts_are_refused() -> None:
    book = make_book([4, 0], [[3, 3], [3, 3]])
    with pytest.raises(DataError, match="1 of 2 answers have no finite reference log-probability, row 1 first"):
        pack(book, make_plan(book, [(0, 1)]), np.array([0.0, np.nan, 0.0, 0.0]), 100)
    with pytest.raises(DataError, match="problem 1 has an empty prompt"):
        pack(book, make_plan(book, [(2, 3)]), np.zeros(4), 100)
