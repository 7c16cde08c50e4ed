"""Store of earlier questions and answers by id, so that a link leads to an answer again.

The id is made from the SHA-256 of the question: the model's digest, the observation, level, draws, seed, and whether
the simulator checks the answer. Answers are kept in memory up to a total size. Questions are small, and are kept in a
folder up to another total size. If an answer is no longer in memory, its question is asked again. The new answer then
has the findings that the run folder has by that time. If the run was trained anew, its answer would differ, so none is
given under the old id. A question whose file is damaged has no answer, until a client asks it again and the file is
written again.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
from collections import OrderedDict
from pathlib import Path
from queue import SimpleQueue
from typing import Any, final

import numpy as np

from sciinf.interfaces.question import QueryOptions
from sciinf.interfaces.serve.models import UnknownName
from sciinf.interfaces.serve.requests import ObservationRequest
from sciinf.interfaces.serve.wire import findings_in, pack, unpack

_DIGITS = 32
_NOWHERE = "there is no answer of this address: ask the question again"


@final
class Shares:
    """Store of questions and answers by id.

    Args:
        folder: Folder of the question files. By default, a temporary folder that is removed when the service ends.
        most: Largest total size of the answers in memory, with their questions, in bytes.
        bytes_on_disk: Largest total size of the question files, in bytes.
    """

    def __init__(self, folder: Path | None = None, most: int = 2**28, bytes_on_disk: int = 2**30) -> None:
        self._most, self._most_on_disk, self._own = most, bytes_on_disk, folder is None
        self._folder = Path(tempfile.mkdtemp(prefix="sciinf-questions-")) if folder is None else folder
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._answers: OrderedDict[str, tuple[bytes, bytes]] = OrderedDict()  # Each entry is (question, answer).
        # A question is kept here until its file is written; then its size in bytes stands here.
        self._questions: OrderedDict[str, bytes | int] = OrderedDict()
        self._lock, self._size = threading.Lock(), 0
        files = [(file.stat().st_mtime, file) for file in self._folder.glob("*.question") if file.is_file()]
        for _, file in sorted(files):
            self._questions[file.stem] = file.stat().st_size
        self._written = sum(size for size in self._questions.values() if isinstance(size, int))
        self._outbox: SimpleQueue[str | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="sciinf questions", daemon=True)
        self._thread.start()

    @staticmethod
    def key(model: str, answers: str, one: ObservationRequest) -> str:
        """The id of a question.

        Args:
            model: Name of the run.
            answers: Digest of the model that answers.
            one: The observation and the options of the query.
        """
        wanted = one.wanted
        said = (model, answers, wanted.level, wanted.draws, wanted.seed, wanted.failures, wanted.predicted, wanted.name)
        digest = hashlib.sha256(repr((said, sorted(wanted.files.items()), one.read)).encode())
        digest.update("".join(finding.words for finding in one.findings).encode())
        for name in sorted(one.x):
            digest.update(repr((name, one.x[name].shape, one.x[name].dtype.str)).encode() + one.x[name].tobytes())
        return digest.hexdigest()[:_DIGITS]

    def keep(self, key: str, model: str, one: ObservationRequest, message: bytes) -> None:
        """Keep a question and its answer; if the folder cannot be written, they are kept only in memory.

        Args:
            key: Id of the question.
            model: Name of the run.
            one: The question.
            message: The answer.
        """
        wanted = {**_plain(one.wanted), "files": dict(one.wanted.files)}
        question = pack({"model": model, "wanted": wanted, **one.told}, one.x)
        with self._lock:
            if key not in self._answers:  # An earlier service's file may be damaged, so write it again.
                size = self._questions.pop(key, 0)
                self._written -= size if isinstance(size, int) else 0
                self._questions[key] = question
                self._outbox.put(key)
            self._size -= sum(map(len, self._answers.pop(key, ())))
            self._answers[key] = question, message
            self._size += len(question) + len(message)
            while self._size > self._most and self._answers:
                self._size -= sum(map(len, self._answers.popitem(last=False)[1]))

    def find(self, key: str, model: str, digest: str) -> tuple[ObservationRequest, bytes | None]:
        """The question of an id, and its answer if that is still in memory, else None.

        Args:
            key: The id.
            model: Name of the run.
            digest: Digest of the model that would answer now.

        Raises:
            UnknownName: If no question of this id was asked of this model, or if the model has changed since.
        """
        with self._lock:
            there, (content, message) = self._questions.get(key), self._answers.get(key, (None, None))
        if there is None and content is None:
            raise UnknownName(_NOWHERE)
        try:
            head, arrays = unpack(content or (there if isinstance(there, bytes) else self._read(key)))
            x = {name: np.array(value) for name, value in arrays.items()}
            one = ObservationRequest(x, tuple(head["read"]), QueryOptions(**head["wanted"]), findings_in(head))
            of, same = head["model"], self.key(model, digest, one) == key
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):  # The file is damaged.
            raise UnknownName(_NOWHERE) from None
        if of != model:
            raise UnknownName(_NOWHERE)
        if not same:
            raise UnknownName("the run was trained anew since this answer was given: ask the question again")
        return one, message

    def close(self) -> None:
        """Write the last question files, and remove the folder if it is a temporary one."""
        self._outbox.put(None)
        self._thread.join(5)
        if self._own:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _read(self, key: str) -> bytes:
        return (self._folder / f"{key}.question").read_bytes()

    def _write(self) -> None:
        """Write question files as questions arrive, and remove the oldest files beyond the size limit."""
        while (key := self._outbox.get()) is not None:
            with self._lock:
                content = self._questions.get(key)
            if not isinstance(content, bytes):
                continue
            try:
                (self._folder / f"{key}.question").write_bytes(content)
            except OSError:
                with self._lock:
                    self._questions.pop(key, None)
                continue
            with self._lock:
                self._questions[key] = len(content)
                self._written += len(content)
                gone = []
                while self._written > self._most_on_disk and len(self._questions) > 1:
                    old, size = self._questions.popitem(last=False)
                    self._written -= size if isinstance(size, int) else 0
                    gone.append(old)
            for old in gone:
                (self._folder / f"{old}.question").unlink(missing_ok=True)


def _plain(wanted: QueryOptions) -> dict[str, Any]:
    return {name: getattr(wanted, name) for name in wanted.__dataclass_fields__}
