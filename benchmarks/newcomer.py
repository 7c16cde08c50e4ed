"""How long a newcomer waits, after the installation, from `git clone` to the first answer of a simulator of their own.

    python benchmarks/newcomer.py [--from REPOSITORY] [--most 120]

It clones the repository into a temporary folder, saves what the README says to save, and runs its lines as they are
printed, with the Python that runs this. The seconds of each are printed. The first answer is there when `infer` says
so; where it may not be right at its observation, `infer` goes on around it. Above `--most` seconds until the first
answer the command exits with status 1.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
SECTION = re.compile(r"^## Your simulator.*?(?=^## )", re.DOTALL | re.MULTILINE)
FIRST = re.compile(r"first answer for .* after (?:(\d+) min )?([\d.]+) s; refining")
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def steps(readme: str) -> list[tuple[str, str]]:
    """What the README has a newcomer do up to the last of its commands: ("save" or "python" or "sh", text).

    Raises:
        ValueError: If the README has no section on a simulator of one's own, or no command in it.
    """
    section = SECTION.search(readme)
    blocks = BLOCK.findall(section[0]) if section else []
    last = max((k for k, (language, _) in enumerate(blocks) if language == "sh"), default=-1)
    if last < 0:
        raise ValueError(
            "README.md has no section '## Your simulator ...' with commands: write it, or change SECTION here"
        )
    found = []
    for language, text in blocks[: last + 1]:
        if language == "sh":
            found += [("sh", line) for line in text.splitlines()]
        else:
            found.append(("save" if re.match(r"# \w+\.py\n", text) else "python", text))
    return found


def followed(clone: Path, found: list[tuple[str, str]]) -> list[tuple[str, float]]:
    """Each step and its seconds, in the clone and with its code.

    Raises:
        subprocess.CalledProcessError: If a step fails.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(clone)}
    seconds = []
    for kind, text in found:
        begin = time.perf_counter()
        if kind == "save":
            (clone / text.split()[1]).write_text(text)
        else:
            words = [sys.executable, "-c", text] if kind == "python" else ["bash", "-c", text]
            subprocess.run(words, cwd=clone, env=environment, check=True)
        shown = text if kind == "sh" else "the made-up recordings" if kind == "python" else f"save {text.split()[1]}"
        seconds.append((shown, time.perf_counter() - begin))
    return seconds


def until_first(clone: Path, line: str, took: float) -> float:
    """Seconds until the first answer of an `infer`, from its log; all of it where the first answer was the last."""
    folder = re.search(r"--out (\S+)", line)
    said = FIRST.search((clone / folder[1] / "log.txt").read_text()) if folder else None
    return 60 * float(said[1] or 0) + float(said[2]) if said else took


def main() -> None:
    """Time it, print a table, and fail above the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="repository", default=str(ROOT), help="what is cloned")
    parser.add_argument("--most", type=float, default=120.0, help="seconds in all")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="newcomer_") as folder:
        clone, begin = Path(folder) / "sciinf", time.perf_counter()
        subprocess.run(["git", "clone", "--quiet", options.repository, str(clone)], check=True)
        seconds = [("git clone", time.perf_counter() - begin)]
        seconds += followed(clone, steps((clone / "README.md").read_text()))
        asked = next(k for k, (step, _) in enumerate(seconds) if " infer " in step)
        first = sum(took for _, took in seconds[:asked]) + until_first(clone, *seconds[asked])
    for step, took in seconds:
        print(f"{took:7.1f} s  {step}")
    print(f"{sum(took for _, took in seconds):7.1f} s  in all")
    print(f"{first:7.1f} s  until the first answer, at most {options.most:g}")
    sys.exit(first > options.most)


if __name__ == "__main__":
    main()
