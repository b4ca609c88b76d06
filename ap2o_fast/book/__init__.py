"""The error book: every judged answer of a run, in append-only memory-mapped columns.

A book is a folder of immutable files of flat arrays, and one manifest that says which of them count. A commit writes
new files, syncs them, and replaces the manifest by one rename: a reader, or whoever opens the book after a crash, sees
all of a commit or nothing of it. ``docs/book-format.md`` describes every byte.

    with ErrorBook.create(path) as book:
        book.add_problem("HumanEval/0", prompt_ids, prompt)
        book.append(rows)
        book.commit()                       # a range of row ids
    book = ErrorBook.open(path)
    book.frequencies()                      # (problems, error types) counts
    book.select({"error": "IndexError"})    # row ids
    book.tokens(7)                          # a view into the map
"""

from ap2o_fast.book.alike import distinct, first_alike
from ap2o_fast.book.book import ErrorBook
from ap2o_fast.book.check import verify
from ap2o_fast.book.copying import copy_book
from ap2o_fast.book.repair import repair
from ap2o_fast.book.rows import COLUMNS, FINISHES, Row, answer_digest

__all__ = [
    "COLUMNS",
    "FINISHES",
    "ErrorBook",
    "Row",
    "answer_digest",
    "copy_book",
    "distinct",
    "first_alike",
    "repair",
    "verify",
]
