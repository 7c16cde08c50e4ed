"""What stands for SLURM where none is installed: its commands as programs that start and end processes here."""

from __future__ import annotations

import sys
from pathlib import Path

_PROGRAM = """#!{python}
import os, pathlib, re, signal, subprocess, sys, time
place, name = pathlib.Path({place!r}), pathlib.Path(sys.argv[0]).name

def tasks():
    for file in sorted(place.glob("task.*")):
        pid, share, job = map(int, file.read_text().split())
        try:
            state = pathlib.Path(f"/proc/{{pid}}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            state = "Z"
        if state != "Z":
            yield pid, share, job

if name == "sbatch":
    script = pathlib.Path(sys.argv[-1])
    text = script.read_text()
    if "--partition=nowhere" in text:
        sys.exit("sbatch: error: invalid partition specified: nowhere")
    array = next(word[8:] for word in sys.argv if word.startswith("--array="))
    log = re.search("^#SBATCH --output=(.*)$", text, re.M).group(1)
    job = len(list(place.glob("job.*"))) + 1
    (place / f"job.{{job}}").touch()
    for part in array.split(","):
        low, _, high = part.partition("-")
        for share in range(int(low), int(high or low) + 1):
            with open(log.replace("%A", str(job)).replace("%a", str(share)), "a") as out:
                new = subprocess.Popen(
                    ["bash", str(script)], stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True,
                    env={{**os.environ, "SLURM_ARRAY_TASK_ID": str(share)}},
                )
            (place / f"task.{{job}}.{{share}}").write_text(f"{{new.pid}} {{share}} {{job}}")
    print(job)
elif name == "squeue":
    for pid, share, job in tasks():
        print(share)
else:
    for pid, share, job in tasks():
        if any(word.startswith("--jobname") for word in sys.argv) or f"{{job}}_{{share}}" in sys.argv:
            os.kill(pid, signal.SIGTERM)
"""


def pretended(folder: Path) -> Path:
    """A folder with the programs sbatch, squeue and scancel, for PATH."""
    (folder / "bin").mkdir(parents=True)
    (folder / "state").mkdir()
    for name in ("sbatch", "squeue", "scancel"):
        (folder / "bin" / name).write_text(_PROGRAM.format(python=sys.executable, place=str(folder / "state")))
        (folder / "bin" / name).chmod(0o755)
    return folder / "bin"
