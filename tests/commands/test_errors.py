"""Every error is one sentence."""

from __future__ import annotations

import pytest
from command_line import call

from sciinf.interfaces.commands.errors import sentence

SIMULATOR = """
from torch.distributions import Normal
from sciinf import Observable, Prior, wrappers

raised = ERROR


def observe(path):
    raise raised


simulator = wrappers.numpy(lambda a: [a, a], Prior(a=Normal(0, 1)), {"x": Observable((2,))}, observe=observe)
"""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("MemoryError()", "not enough memory"),
        ("EOFError('No data left in file')", "a file ends before its data do (EOFError: No data left in file)"),
        ("KeyError('flux')", "looked for by name is missing (KeyError: 'flux')"),
        ("OverflowError('too large')", "a number is too large"),
        ("RecursionError()", "nested too deeply"),
        ("ValueError()", "ValueError"),
        ("__import__('safetensors').SafetensorError('header too large')", "SafetensorError: header too large"),
        ("__import__('struct').error('needs 4 bytes')", "error: needs 4 bytes"),
        ("ValueError('the way out')", "error: the way out"),
        ("OSError(28, 'No space left on device')", "error: a file cannot be written: No space left on device. What"),
        ("OSError(28, 'the way out is in its words')", "error: [Errno 28] the way out is in its words"),
    ],
)
def test_each_error_is_a_sentence(tmp_path, error, words):
    (tmp_path / "sim.py").write_text(SIMULATOR.replace("ERROR", error))
    result = call("infer", tmp_path / "sim.py", "--observation", "x", "--out", tmp_path / "run", "-n", 100)
    assert result.code == 2
    assert words in result.error
    assert ("sciinf -v" in result.error) == ("the way out" not in error and "OSError" not in error)


def test_a_traceback_is_shown_where_it_is_asked_for(tmp_path):
    (tmp_path / "sim.py").write_text(SIMULATOR.replace("ERROR", "KeyError('flux')"))
    words = ["infer", tmp_path / "sim.py", "--observation", "x", "--out", tmp_path / "run", "-n", 100]
    for loud in (["-v", *words], [*words, "-v"]):
        result = call(*loud)
        assert result.code == 2
        assert 'sim.py", line' in result.err
        assert result.err.splitlines()[-1].startswith("sciinf: error: something that was looked for by name")


def test_words_of_users_errors_stay():
    assert sentence(ValueError("a\n  b")) == "a b"
