"""Rows of a sealed file taken out by their places, as the columns that a new file is made of."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ap2o_fast.book.pending import Batch
from ap2o_fast.book.rows import COLUMNS, ROW_TEXTS
from ap2o_fast.book.segment import Segment

Places = npt.NDArray[np.int64]


def gathered(segment: Segment, places: Places) -> Batch:
    """The rows at these places (at least one), byte for byte as they were sealed; problems by their number there."""
    breaks = np.flatnonzero(np.diff(places) != 1) + 1
    begins, ends = places[np.r_[0, breaks]], places[np.r_[breaks, len(places)] - 1] + 1
    columns = {array.name: segment.array(array.name)[places] for array in COLUMNS}
    blobs = {name: _ragged(segment, name, "tokens", places, begins, ends) for name in ("tokens", "logprobs")}
    blobs |= {name: _ragged(segment, name, name, places, begins, ends) for name in ROW_TEXTS}
    return Batch(columns, blobs)


def _ragged(
    segment: Segment, name: str, bounds: str, places: Places, begins: Places, ends: Places
) -> tuple[bytes, list[int]]:
    """The elements at the places, and the length of each. Rows side by side are one piece: from `begins` to `ends`."""
    offsets, values = segment.array(f"{bounds}.offsets"), segment.array(name)
    data, size = values.view(np.uint8).data, values.dtype.itemsize
    pieces = zip((offsets[begins] * size).tolist(), (offsets[ends] * size).tolist(), strict=True)
    lengths = (offsets[places + 1] - offsets[places]).tolist()
    return b"".join([data[start:end] for start, end in pieces]), lengths
