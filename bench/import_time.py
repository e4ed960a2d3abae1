"""What ``import grpcpool`` takes on top of ``import grpc``, and which modules take it.

Fresh processes, in turn. Two ways to tell the time: ``-X importtime``, which also says where it goes and makes
everything a little slower, and a plain clock. Parts of the package are loaded when they are first used, so that is
measured too: what the import saves comes due there. Bytecode is compiled before the first measurement, as an
installer does, and kept in a directory of the benchmark's own: whether the environment forbids to write it or not.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from .report import ROOT, Figure, conclude, spread

__all__ = ["main", "measure"]

BAR_MS = 30.0
WORST = 12
IMPORT = "import grpcpool"
FIRST_USE = {
    f"{IMPORT}, first use of the sync pool": f"{IMPORT}; grpcpool.insecure_channel",
    f"{IMPORT}, first use of the aio pool": f"{IMPORT}; grpcpool.aio.insecure_channel",
    f"{IMPORT}, first use of both": f"{IMPORT}; grpcpool.insecure_channel; grpcpool.aio.insecure_channel",
}
EVERYTHING = list(FIRST_USE.values())[-1]
# ``import time:  self µs | cumulative µs |  package``, two spaces for each level of nesting.
LINE = re.compile(r"^import time:\s+(\d+) \|\s+(\d+) \| (\s*)(\S+)$")


def measure(runs: int) -> list[Figure]:
    """Run the processes, print the worst modules, and return the figures."""
    with tempfile.TemporaryDirectory() as bytecode:
        return _measure(runs, Path(bytecode))


def _measure(runs: int, bytecode: Path) -> list[Figure]:
    _traced(EVERYTHING, bytecode)
    traced: list[float] = []
    clocked: dict[str, list[float]] = {name: [] for name in (IMPORT, *FIRST_USE)}
    modules: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(runs):
        traced.append(sum(_traced(IMPORT, bytecode).values()))
        for module, own in _traced(EVERYTHING, bytecode).items():
            modules[module].append(own)
        for name, statements in ((IMPORT, IMPORT), *FIRST_USE.items()):
            clocked[name].append(_clocked(statements, bytecode))
    worst = sorted(((statistics.median(own), module) for module, own in modules.items()), reverse=True)
    print(f"worst of the {len(worst)} modules that the use of both pools brings along, each without what it imports:")
    for own, module in worst[:WORST]:
        print(f"  {own:6.2f} ms  {module}")
    figures = [_figure(f"{IMPORT} (-X importtime)", traced, BAR_MS)]
    return figures + [_figure(f"{name} (plain clock)", values, None) for name, values in clocked.items()]


def _figure(name: str, values: list[float], bar: float | None) -> Figure:
    middle, low, high = spread(values)
    note = f"quartiles {low:.1f} to {high:.1f}, fastest {min(values):.1f}, {len(values)} processes"
    return Figure(name, middle, "ms", bar, note=note)


def _clocked(statements: str, bytecode: Path) -> float:
    """Return the milliseconds that the statements take once grpc is imported."""
    code = f"import grpc, time; t = time.perf_counter(); {statements}; print(time.perf_counter() - t)"
    return float(_python(bytecode, "-c", code).stdout) * 1e3


def _traced(statements: str, bytecode: Path) -> dict[str, float]:
    """Return, for each module that the statements import once grpc is there, its own milliseconds."""
    found: dict[str, float] = {}
    for line in _python(bytecode, "-X", "importtime", "-c", f"import grpc; {statements}").stderr.splitlines():
        match = LINE.match(line)
        if match is None:
            continue
        own, _, indent, module = match.groups()
        if module == "grpc" and not indent:
            # A module is listed after those that it imports: all that came before belongs to grpc or the interpreter.
            found = {}
            continue
        found[module] = found.get(module, 0.0) + int(own) / 1e3
    return found


def _python(bytecode: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(bytecode), "PYTHONDONTWRITEBYTECODE": ""}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)


def main() -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15, help="processes for each figure (default: 15)")
    parser.add_argument("--json", type=Path, help="write the figures")
    arguments = parser.parse_args()
    return conclude("Import time", measure(arguments.runs), arguments.json)


if __name__ == "__main__":
    sys.exit(main())
