"""A key -> the number measured under it before, kept across runs and safe against being killed."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from nmcompile.errors import NmcompileError


def cache_folder() -> Path:
    """$NMCOMPILE_CACHE, or nmcompile under the user's cache folder."""
    if chosen := os.environ.get("NMCOMPILE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "nmcompile"


class Measurements:
    """Numbers by key in one SQLite file; every number is on disk as soon as it is known."""

    def __init__(self, folder: Path | None = None) -> None:
        """Opens (or makes) the file; raises NmcompileError if the folder is not writable."""
        folder = folder or cache_folder()
        self.path = folder / "measurements.sqlite"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self._open() as connection:
                connection.execute("create table if not exists numbers (key primary key, value)")
        except (OSError, sqlite3.Error) as error:
            raise NmcompileError(
                f"{folder}: cannot keep measurements there ({error}); "
                "set NMCOMPILE_CACHE to a writable folder"
            ) from None

    def get(self, *key: object) -> float | None:
        """The number under that key, if it was measured before."""
        with self._open() as connection:
            row = connection.execute(
                "select value from numbers where key = ?", (_digest(key),)
            ).fetchone()
        if row is None:
            return None
        return math.nan if row[0] is None else float(row[0])  # SQLite keeps NaN as NULL

    def put(self, value: float, *key: object) -> None:
        """Keeps a number."""
        with self._open() as connection:
            connection.execute(
                "insert or replace into numbers values (?, ?)", (_digest(key), value)
            )

    def get_or(self, measure: Callable[[], float], *key: object) -> float:
        """The number under that key; measured and kept if it is not there."""
        found = self.get(*key)
        if found is None:
            found = measure()
            self.put(found, *key)
        return found

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self.path, timeout=30)) as connection, connection:
            yield connection


def _digest(key: tuple[object, ...]) -> str:
    return hashlib.sha256(repr(key).encode()).hexdigest()
