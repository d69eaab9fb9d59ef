"""Projects as they are found, run by mlflow and by mlproj: what each makes of them, as a table.

    python benchmarks/compat/table.py --mlflow PYTHON --checkout PATH [--mlproj PYTHON] [--only NAME ...]
                                      [--time-limit SECONDS] [--output FILE]

README.md beside this file says what the columns mean. Nothing here is a test: it prints, and whoever reads it judges.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from corpus import Case, example_cases, own_cases
from needs import Need, environment, needs
from programs import OTHER_MANAGERS, Attempt, Program, tracking_server, version_of
from results import VALUES

PAGE = """\
# Compatibility with MLflow Projects

Projects as they are found, run by `mlflow run` and by `mlproj run` with the same entry point and parameters:
{versions}. `benchmarks/compat/table.py` makes this page;
[its README](../benchmarks/compat/README.md) says what the columns mean and how to make it anew.
"""

HEADER = "| project | style, what it needs | mlflow | mlproj | result | note |\n|---|---|---|---|---|---|\n"


@dataclass(frozen=True)
class Row:
    """A line of the table: its cells."""

    project: str
    needs: str
    mlflow: str
    mlproj: str
    result: str
    note: str = ""

    @classmethod
    def of(cls, case: Case, found: list[Need], mlflow: str, mlproj: str, result: str, note: str) -> Row:
        told = [case.style, *(need.text for need in found)]
        return cls(case.name, "; ".join(filter(None, told)), mlflow, mlproj, result, note)

    def __str__(self) -> str:
        cells = (f"`{self.project}`", self.needs, self.mlflow, self.mlproj, self.result, self.note)
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


class Kept:
    """The rows that were made before, in a file of one JSON object a line; only those of the same versions count."""

    def __init__(self, file: Path | None, versions: dict[str, str]) -> None:
        self.file, self.versions = file, versions
        lines = file.read_text().splitlines() if file and file.exists() else []
        told = [json.loads(line) for line in lines]
        self.rows = {row["project"]: Row(**row) for row in (t["row"] for t in told if t["versions"] == versions)}

    def add(self, row: Row) -> None:
        self.rows[row.project] = row
        if self.file:
            with self.file.open("a") as file:
                file.write(json.dumps({"versions": self.versions, "row": asdict(row)}) + "\n")


def judged(mlflow: list[Attempt], mlproj: list[Attempt]) -> tuple[str, str]:
    """The result of a row and a note to it, from all tries of both; the last one counts."""
    theirs, ours = mlflow[-1], mlproj[-1]
    if not (theirs.finished and ours.finished):
        return ("better" if ours.finished else "worse" if theirs.finished else "both fail"), ""
    differing = theirs.left.differences(ours.left)
    if set(differing) - {VALUES}:
        return "differs", ", ".join(differing)
    note = f"the same but for {VALUES}" if differing else ""
    if theirs.manager and not ours.manager:
        return "better", "; ".join(filter(None, ["mlflow only with another manager named", note]))
    if ours.manager and not theirs.manager:
        return "worse", "; ".join(filter(None, ["mlproj only with another manager named", note]))
    return "same", note


def run_by_both(case: Case, found: list[Need], programs: list[Program], work: Path) -> Row:
    attempts = {}
    for program in programs:
        tries = attempts[program.name] = []
        for manager in (None, *OTHER_MANAGERS[program.name].get(environment(case)[0], ())):
            tries.append(program.run(case, work, manager))
            if tries[-1].finished or tries[-1].started:
                break
    result, note = judged(attempts["mlflow"], attempts["mlproj"])
    told = {name: "; ".join(map(str, tries)) for name, tries in attempts.items()}
    return Row.of(case, found, told["mlflow"], told["mlproj"], result, note)


def read_by_both(case: Case, found: list[Need], programs: list[Program]) -> Row:
    """A row for a project that cannot run here: both read it and render its command."""
    script = Path(__file__).with_name("reading.py")
    answers = {}
    for program in programs:
        asked = [program.python, script, program.name, case.project, case.entry_point, json.dumps(case.parameters)]
        done = subprocess.run(list(map(str, asked)), capture_output=True, text=True, env=program.variables(case))
        answers[program.name] = json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr[-160:]}
    cells = {
        name: f"not run; cannot read it: {answer['error']}" if "error" in answer else "not run; reads it"
        for name, answer in answers.items()
    }
    theirs, ours = answers["mlflow"], answers["mlproj"]
    result = "reads alike" if theirs == ours else "reads differently"
    note = "; ".join(need.missing for need in found if need.missing)
    return Row.of(case, found, cells["mlflow"], cells["mlproj"], result, note)


def row_of(case: Case, programs: list[Program], work: Path) -> Row:
    """The row of a project: run, if all that it needs is here; a missing Docker is for the programs to tell."""
    found = needs(case)
    if any(need.missing for need in found) and environment(case)[0] != "docker":
        return read_by_both(case, found, programs)
    return run_by_both(case, found, programs, work)


def summary(rows: list[Row]) -> str:
    counts = Counter(row.result for row in rows)
    return f"{len(rows)} rows: " + ", ".join(f"{counts[result]} {result}" for result in sorted(counts))


def main() -> None:
    parser = argparse.ArgumentParser(description="Run projects by mlflow and by mlproj, and print a table.")
    parser.add_argument("--mlflow", required=True, metavar="PYTHON", help="an interpreter that has the full mlflow")
    parser.add_argument("--mlproj", default=sys.executable, metavar="PYTHON", help="one that has mlproj")
    parser.add_argument("--checkout", type=Path, metavar="PATH", help="a checkout of mlflow, for its examples")
    parser.add_argument("--only", action="append", metavar="NAME", help="a project, or a pattern such as 'examples/*'")
    parser.add_argument("--time-limit", type=float, default=600, metavar="SECONDS", help="for each run (600)")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep rows and outputs of runs; what is there is not run again"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table here, too")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that whatever runs is ended, and the server too

    cases = own_cases() + (example_cases(arguments.checkout.resolve()) if arguments.checkout else [])
    wanted = arguments.only or ["*"]
    cases = [case for case in cases if any(fnmatch.fnmatch(case.name, pattern) for pattern in wanted)]
    pythons = {name: os.path.abspath(getattr(arguments, name)) for name in ("mlflow", "mlproj")}  # noqa: PTH100
    versions = {name: version_of(python, name) for name, python in pythons.items()}

    if arguments.keep:
        arguments.keep.mkdir(parents=True, exist_ok=True)
    kept = Kept(arguments.keep and arguments.keep / "rows.jsonl", versions)
    with tempfile.TemporaryDirectory(prefix="compat-", ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        with tracking_server(pythons["mlflow"], scratch) as server:
            programs = [
                Program(program, python, scratch, server, arguments.time_limit, arguments.keep)
                for program, python in pythons.items()
            ]
            print(HEADER, end="", flush=True)
            for case in cases:
                if case.name not in kept.rows:
                    kept.add(row_of(case, programs, scratch / "work"))
                print(kept.rows[case.name], flush=True)
    rows = [kept.rows[case.name] for case in cases]
    print(f"\n{summary(rows)}")
    if arguments.output:
        told = ", ".join(f"{name} {version}" for name, version in versions.items())
        table = HEADER + "".join(f"{row}\n" for row in rows)
        arguments.output.write_text(f"{PAGE.format(versions=told)}\n{table}\n{summary(rows)}.\n")


if __name__ == "__main__":
    main()
