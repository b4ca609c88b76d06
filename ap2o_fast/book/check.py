"""Reading everything that is sealed and comparing checksums."""

from __future__ import annotations

from pathlib import Path

from ap2o_fast.book.manifest import Manifest, read_manifest
from ap2o_fast.book.segment import MISSING, file_fault
from ap2o_fast.errors import Ap2oError

MEND = "`ap2o book repair BOOK` says what is lost, and takes it from a copy where you have one"
"""What to do about a damaged book."""


def verify(folder: Path) -> list[str]:
    """Return what is wrong with the book on the disk, one line a file; [] where every bit is as it was sealed.

    It needs no lock and may run beside a writer. It takes about a second a gigabyte.
    """
    try:
        _, faults = sealed_faults(folder)
    except (OSError, Ap2oError) as error:
        return [f"{folder}: {error}"]
    return [f"{folder / file}: {fault}" for file, fault in faults.items()]


def sealed_faults(folder: Path) -> tuple[Manifest, dict[str, str]]:
    """Return the manifest in force and {file: what is wrong with it} of the sealed files that are damaged.

    Raises:
        DataError: there is no book, or its manifest is damaged.
        OSError: the disk refuses.
    """
    while True:
        manifest = read_manifest(folder)
        faults = {
            entry.file: fault
            for entry in (*manifest.rows, *manifest.annotations)
            if (fault := file_fault(folder, entry))
        }
        # A file that went because a writer merged it meanwhile is no fault: look at what is in force now.
        if MISSING not in faults.values() or read_manifest(folder) == manifest:
            return manifest, faults
