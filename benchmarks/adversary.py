"""An adversary at the command line: damaged run folders, fuzzed observations, kills and interrupts.

    python benchmarks/adversary.py [--quick]

300 damaged files of a run folder must each be named, made anew to the same bits, or change nothing; 4,200 damaged and
hostile observation files must be read or refused in a sentence, in 10 s and 500 MB; after 50 kills and 20 interrupts of
the verbs the same command must end with the bits of an undisturbed run and leave nothing stray.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import damaged_runs
import fuzzed_observations
import killed_verbs
from reporting import arguments, check, finish


def damaged(rows: Sequence[damaged_runs.Row]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """One row for each verb and result; no result may be a failure."""
    table = _counted([("damaged file", row.verb, row.result) for row in rows])
    for row in rows:
        if row.result in damaged_runs.FAILURES:
            print(f"{row.result}  {row.file}, {row.damage}, {row.verb}: {row.said[:600]}")
    wrong = {kind: sum(row.result == kind for row in rows) for kind in damaged_runs.FAILURES}
    return table, [check(f"damaged files: {kind}", count, 0) for kind, count in wrong.items()]


def fuzzed(rows: Sequence[fuzzed_observations.Row]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """One row for each result; the slowest and the largest within bounds."""
    for row in rows:
        if row.failed:
            print(f"{row.result}  {row.name}: {row.seconds:.1f} s, {row.megabytes:.0f} MB, {row.error[:300]}")
    raw = sum(row.result not in ("read", "refused") for row in rows)
    bounds = [
        check("observation files: neither read nor refused", raw, 0),
        check("observation files: slowest, s", max(row.seconds for row in rows), fuzzed_observations.SECONDS),
        check("observation files: most MB", max(row.megabytes for row in rows), fuzzed_observations.MEGABYTES),
    ]
    return _counted([("observation file", "query", row.result) for row in rows]), bounds


def disturbed(rows: Sequence[killed_verbs.Row]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """One row for each verb, signal and result; every result must be equal."""
    for row in rows:
        if row.result != "equal":
            print(f"{row.result}  {row.verb}, {row.signal} after {row.moment:.2f} s: {row.said[:600]}")
    unlike = sum(row.result != "equal" for row in rows)
    table = _counted([(row.signal, row.verb, row.result) for row in rows])
    return table, [check("kills and interrupts: not the same in the end", unlike, 0)]


def _counted(results: Sequence[tuple[str, str, str]]) -> list[dict[str, Any]]:
    kinds = dict.fromkeys(sorted(results))
    return [dict(zip(("what", "verb", "result"), kind, strict=True), count=results.count(kind)) for kind in kinds]


def main() -> None:
    """All three parts."""
    given = arguments(__doc__ or "").parse_args()
    sizes = (12, 200, 6, 4) if given.quick else (300, 4_200, 50, 20)
    parts = [
        damaged(damaged_runs.run(sizes[0], given.seed)),
        disturbed(killed_verbs.run(*sizes[2:], given.seed)),
        fuzzed(fuzzed_observations.run(sizes[1], given.seed)),
    ]
    rows, checks = [row for table, _ in parts for row in table], [item for _, items in parts for item in items]
    finish(rows, checks, given.json)


if __name__ == "__main__":
    main()
