"""A benchmark with the package of another revision and with this one, in turn: ratios pair by pair.

    python benchmarks/compare.py main~20 lanes.py --count 32 --busy 0
    python benchmarks/compare.py v0.1 decoding.py --precision bf16 --pairs 5

What the machine does meanwhile changes from minute to minute; the ratio of two runs side by side changes less. The
benchmark itself is this revision's in both. What is behind its name goes to it, but for --pairs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def lines(checkout: Path, benchmark: str, arguments: list[str]) -> dict[str, float]:
    """What the benchmark printed under *ours*, by table and line. Ends the program where it fails."""
    command = [sys.executable, str(checkout / "benchmarks" / benchmark), *arguments]
    environment = os.environ | {"PYTHONPATH": str(checkout)}  # for the processes that it starts too
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{benchmark} failed with the package in {checkout}; see above")
    table, found = "", {}
    for line in done.stdout.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith(("idle", "beside")):
            table = line.partition(",")[0]
        elif line.startswith("|") and cells[0] not in ("what", "---"):
            found[f"{table}: {cells[0]}, {cells[1]}"] = float(cells[3])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", help="of this repository, as git names it")
    parser.add_argument("benchmark", help="a file of this folder")
    parser.add_argument("--pairs", type=int, default=3)
    options, arguments = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "other"
        git = ["git", "-C", str(HERE.parent), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(other), options.revision], check=True)
        try:
            shutil.copytree(HERE, other / "benchmarks", dirs_exist_ok=True)
            ratios: dict[str, list[float]] = {}
            for pair in range(options.pairs):
                # First one, then the other begins, for a machine grows warm.
                order = [other, HERE.parent] if pair % 2 == 0 else [HERE.parent, other]
                found = {checkout: lines(checkout, options.benchmark, arguments) for checkout in order}
                for what, before in found[other].items():
                    now = found[HERE.parent][what]
                    ratios.setdefault(what, []).append(now / before)
                    print(f"{pair + 1}. {what}: {before:.3g}, now {now:.3g}, ratio {now / before:.3f}", flush=True)
        finally:
            subprocess.run([*git, "remove", "--force", str(other)], check=True)
    for what, all_of_them in ratios.items():
        print(f"median of {len(all_of_them)}, {what}: {statistics.median(all_of_them):.3f}")


if __name__ == "__main__":
    main()
