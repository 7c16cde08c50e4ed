"""Answers that were given, by an id that says what was asked: a link finds one again.

The id is the SHA-256 of the question: model, observation, level, draws, seed, and whether the simulator checks it. Both
question and answer lie in a folder of bounded size; where an answer is gone, its question is there still, for it is
small, and gives the same one again.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, final

import numpy as np

from sciinf.question import Wanted
from sciinf.serve.models import Unknown
from sciinf.serve.requests import One
from sciinf.serve.wire import pack, unpack

_DIGITS = 32
_QUESTIONS = 20_000


@final
class Shares:
    """Questions and answers by id.

    Args:
        most: Bytes of answers that are kept, and of questions.
        folder: Where they lie; a folder of this service alone, gone when it ends, where left out.
    """

    def __init__(self, most: int = 2**30, folder: Path | None = None) -> None:
        self._most, self._own = most, folder is None
        self._folder = Path(tempfile.mkdtemp(prefix="sciinf-answers-")) if folder is None else folder
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()
        files = [file for file in self._folder.glob("*.[qa]") if file.is_file()]
        for file in sorted(files, key=lambda each: each.stat().st_mtime):
            self._sizes[file.name] = file.stat().st_size

    @staticmethod
    def key(model: str, one: One) -> str:
        """The id of a question.

        Args:
            model: Digest of what answers.
            one: What is asked.
        """
        wanted = one.wanted
        said = (model, wanted.level, wanted.draws, wanted.seed, wanted.failures, wanted.predicted, wanted.name)
        digest = hashlib.sha256(repr((said, sorted(wanted.files.items()), one.read)).encode())
        for name in sorted(one.x):
            digest.update(repr((name, one.x[name].shape, one.x[name].dtype.str)).encode() + one.x[name].tobytes())
        return digest.hexdigest()[:_DIGITS]

    def keep(self, key: str, model: str, one: One, message: bytes) -> None:
        """Keep a question and its answer; a folder that cannot be written keeps nothing."""
        wanted = {**_plain(one.wanted), "files": dict(one.wanted.files)}
        question = pack({"model": model, "wanted": wanted, "read": list(one.read)}, one.x)
        with self._lock:
            try:
                self._write(f"{key}.q", question)
                self._write(f"{key}.a", message)
            except OSError:
                return
            self._forget()

    def find(self, key: str, model: str) -> tuple[One, bytes | None]:
        """The question of an id, and its answer where it was kept.

        Raises:
            Unknown: If no question of this id was asked of this model, or it is forgotten.
        """
        known = f"{key}.q" in self._sizes
        try:
            head, arrays = unpack((self._folder / f"{key}.q").read_bytes()) if known else ({}, {})
        except (OSError, ValueError):
            head, arrays = {}, {}
        if head.get("model") != model:
            raise Unknown("there is no answer of this address: ask the question again")
        one = One(
            {name: np.array(value) for name, value in arrays.items()}, tuple(head["read"]), Wanted(**head["wanted"])
        )
        try:
            return one, (self._folder / f"{key}.a").read_bytes() if f"{key}.a" in self._sizes else None
        except OSError:
            return one, None

    def close(self) -> None:
        """Remove the folder, where it is the service's own."""
        if self._own:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _write(self, name: str, content: bytes) -> None:
        self._sizes.pop(name, None)
        (self._folder / name).write_bytes(content)
        self._sizes[name] = len(content)

    def _forget(self) -> None:
        """The oldest answers go first, and questions where there are too many of them."""
        for suffix, many, most in ((".a", len(self._sizes), self._most), (".q", _QUESTIONS, self._most)):
            names = [name for name in self._sizes if name.endswith(suffix)]
            total = sum(self._sizes[name] for name in names)
            while names and (total > most or len(names) > many):
                oldest = names.pop(0)
                total -= self._sizes.pop(oldest)
                (self._folder / oldest).unlink(missing_ok=True)


def _plain(wanted: Wanted) -> dict[str, Any]:
    return {name: getattr(wanted, name) for name in wanted.__dataclass_fields__}
