"""Mutation testing: how many small bugs in the library would the tests not notice?

    python -m tools.mutants run [MODULE ...] [--most 60] [--again]   # resumable
    python -m tools.mutants report                                   # by module, and what survives

cosmic-ray makes the mutants: it edits the file itself, so that decorated functions, methods of
dataclasses and default values are mutated like the rest (mutmut leaves decorated functions out,
which are most of this library). Tests are chosen by coverage and run in a warm process
(tools/warm_tests.py). Everything happens in a copy of the repository, build/mutants/copy.
`tests/mutants.yml` lists survivors that are equivalent to the code, each with its reason.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import yaml
from cosmic_ray.commands import execute, init  # pyright: ignore[reportMissingImports]
from cosmic_ray.config import ConfigDict  # pyright: ignore[reportMissingImports]
from cosmic_ray.work_db import WorkDB, use_db  # pyright: ignore[reportMissingImports]
from cosmic_ray.work_item import WorkerOutcome, WorkResult  # pyright: ignore[reportMissingImports]
from coverage import CoverageData  # pyright: ignore[reportMissingImports]

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "mutants"
COPY = BUILD / "copy"
TABLE = BUILD / "coverage.json"
PACKAGE = Path("meanflow_lite")

WHOLE = ("paths", "losses", "identity", "guidance", "samplers", "fields", "domains")
SAMPLED = (
    "objectives",
    "training/loop",
    "training/ema",
    "networks/tangent",
    "networks/attention",
    "networks/embedding",
    "networks/dit",
    "evaluation",
)
#: Tests of the library; the others build books, notebooks and packages, and say nothing of a line.
LEAVE = re.compile(
    r"book|layout|notation|own_network|check_pages|notebooks|workflows|package|readme"
    r"|contributing|fresh_run|pipeline|full_scale|exercises|claims|published|panels|distributed|cli|train_command|live|damage|crash|step_cost"
)
#: Operators that say something of numerical code; the others are killed by any call of the line.
KEEP = re.compile(
    r"core/(ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Div_Mul|Pow_Mul|FloorDiv_Div|Mod_Div"
    r"|BitAnd_BitOr|BitOr_BitAnd)|ReplaceComparisonOperator_(Lt_LtE|LtE_Lt|Gt_GtE|GtE_Gt|Lt_Gt"
    r"|LtE_GtE|Gt_Lt|GtE_LtE|Eq_NotEq|NotEq_Eq|Is_IsNot|IsNot_Is)|ReplaceUnaryOperator_USub_UAdd"
    r"|ReplaceUnaryOperator_Delete_(USub|Not|Invert)|AddNot|ReplaceTrueWithFalse"
    r"|ReplaceFalseWithTrue|ReplaceAndWithOr|ReplaceOrWithAnd|ReplaceBreakWithContinue"
    r"|ReplaceContinueWithBreak|RemoveDecorator|ZeroIterationForLoop|NumberReplacer)$"
)


def modules(names: tuple[str, ...]) -> list[Path]:
    """Files of modules and packages, relative to the repository; an unknown name is an error."""
    found: list[Path] = []
    for name in names:
        path = PACKAGE / name
        files = sorted(path.rglob("*.py")) if (ROOT / path).is_dir() else [path.with_suffix(".py")]
        found += [f for f in files if f.name != "__init__.py"]
    missing = [str(f) for f in found if not (ROOT / f).is_file()]
    if missing:
        raise SystemExit(f"error: no such module: {', '.join(missing)}")
    return found


def prepare() -> None:
    """A fresh copy of what git does not ignore, and the table of the tests that reach each line."""
    shutil.rmtree(COPY, ignore_errors=True)
    COPY.mkdir(parents=True)
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in files.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith(("notebooks/", "book/")):
            (COPY / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, COPY / name)
    tests = [f for f in sorted((COPY / "tests").glob("test_*.py")) if not LEAVE.search(f.stem)]
    rc = BUILD / "coveragerc"
    rc.write_text(f"[run]\nsource = meanflow_lite\ndata_file = {BUILD}/data\n", "utf-8")
    times = BUILD / "times.xml"
    command = [sys.executable, "-m", "coverage", "run", f"--rcfile={rc}", "-m", "pytest", "-q"]
    command += ["-m", "not slow", f"--junitxml={times}", "-p", "tools.mutants_contexts"]
    subprocess.run([*command, *map(str, tests)], cwd=COPY, check=True)
    TABLE.write_text(json.dumps({"seconds": _seconds(times), "lines": _lines()}), "utf-8")


def _seconds(times: Path) -> dict[str, float]:
    """Seconds of a test function, its cases summed, by its name on pytest's command line."""
    total: dict[str, float] = {}
    for case in ET.parse(times).iter("testcase"):
        file = case.attrib["classname"].replace(".", "/") + ".py"
        test = f"{file}::{case.attrib['name'].split('[')[0]}"
        total[test] = total.get(test, 0.0) + float(case.attrib["time"])
    return total


def _lines() -> dict[str, dict[str, list[str]]]:
    """The tests that reach a line, for each line of each file of the package."""
    data = CoverageData(str(BUILD / "data"))
    data.read()
    table = {}
    for file in data.measured_files():
        lines = data.contexts_by_lineno(file)
        name = str(Path(file).relative_to(COPY))
        table[name] = {str(n): sorted({c for c in tests if c}) for n, tests in lines.items()}
    return table


def session(module: Path, most: int | None, again: bool) -> Path:
    """The session of a module: every mutant worth a run, or a seeded sample of ``most`` of them."""
    path = BUILD / f"{str(module.with_suffix('')).replace('/', '.')}.sqlite"
    if path.exists() and not again:
        return path
    path.unlink(missing_ok=True)
    with use_db(path, WorkDB.Mode.create) as work:
        init([COPY / module], work, {})
        items = sorted(work.work_items, key=lambda i: (i.mutations[0].start_pos, _kind(i)))
        source = (COPY / module).read_text("utf-8").splitlines()
        kept = [i for i in items if KEEP.match(_kind(i)) and _worth(source, i)]
        if most is not None and len(kept) > most:
            kept = random.Random(str(module)).sample(kept, most)
        skipped = WorkResult(worker_outcome=WorkerOutcome.SKIPPED, output="left out")
        wanted = {i.job_id for i in kept}
        work.set_multiple_results([i.job_id for i in items if i.job_id not in wanted], skipped)
    return path


def _kind(item) -> str:
    return item.mutations[0].operator_name


def _worth(source: list[str], item) -> bool:
    """Not an annotation, nor the text of an error message or of an import."""
    line = source[item.mutations[0].start_pos[0] - 1].strip()
    return not line.startswith(
        ("from ", "import ", 'f"', '"', "@overload", "@runtime", "@jaxtyped")
    )


def run(names: tuple[str, ...], most: int | None, again: bool) -> None:
    """Make and try the mutants of the modules; a second call goes on where the first stopped."""
    if again or not TABLE.exists():
        prepare()
    door = BUILD / f"door-{int(time.time())}"
    server = subprocess.Popen(
        [sys.executable, "-m", "tools.warm_tests", "serve", str(door), str(TABLE)], cwd=COPY
    )
    try:
        while not door.exists():
            if server.poll() is not None:
                raise SystemExit("error: the process that runs the tests ended at its start")
            time.sleep(0.2)
        ask = f"{sys.executable} -S -E {ROOT / 'tools' / 'warm_tests.py'} ask {door}"
        config = ConfigDict(
            {"test-command": ask, "timeout": 120.0, "distributor": {"name": "local"}}
        )
        for module in modules(names):
            share = most if _is_sampled(module) else None
            with use_db(session(module, share, again), WorkDB.Mode.open) as work:
                print(f"{module}: {len(work.pending_work_items)} to go", flush=True)
                execute(work, config)
    finally:
        server.kill()


def _is_sampled(module: Path) -> bool:
    name = str(module.relative_to(PACKAGE).with_suffix(""))
    return any(name == s or name.startswith(f"{s}/") for s in SAMPLED)


def report() -> int:
    """Print what survives; returns how many survivors are not listed as equivalent."""
    listed = yaml.safe_load((ROOT / "tests" / "mutants.yml").read_text("utf-8"))["equivalent"] or []
    known = {(row["file"], row["was"], row["is"]) for row in listed}
    left = tried = 0
    for path in sorted(BUILD.glob("*.sqlite")):
        with use_db(path, WorkDB.Mode.open) as work:
            done = [r for _, r in work.completed_work_items if r.test_outcome]
            waiting = len(work.pending_work_items)
        alive = [_change(r.diff or "") for r in done if not r.is_killed]
        file = f"{path.stem.replace('.', '/')}.py"
        open_ = [c for c in alive if (file, *c[1:]) not in known]
        tried, left = tried + len(done) - (len(alive) - len(open_)), left + len(open_)
        print(
            f"{file}: {len(done)} tried, {len(alive)} survive, {len(open_)} not equivalent", end=""
        )
        print(f", {waiting} to go" if waiting else "")
        for line, was, now in sorted(open_):
            print(f"    {line}: {was}\n      -> {now}")
    print(f"{left} of {tried} survive: {left / max(tried, 1):.1%}")
    return left


def _change(diff: str) -> tuple[int, str, str]:
    """Line, old text and new text of a mutant."""
    start = re.search(r"@@ -(\d+)", diff)
    number = int(start.group(1)) - 1 if start else 0
    was, now, at = [], [], 0
    for line in diff.split("\n"):
        if line.startswith(("@@", "---", "+++")):
            continue
        if line[:1] == "-":
            was.append(line[1:].strip())
            at = at or number + 1
        if line[:1] == "+":
            now.append(line[1:].strip())
        else:
            number += 1
    return at, " ".join(was), " ".join(now)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("modules", nargs="*", default=[*WHOLE, *SAMPLED])
    parser.add_argument("--most", type=int, default=60, help="mutants of a sampled file")
    parser.add_argument("--again", action="store_true", help="start anew, on the code as it is")
    options = parser.parse_args()
    if options.command == "run":
        BUILD.mkdir(parents=True, exist_ok=True)
        run(tuple(options.modules), options.most, options.again)
    report()


if __name__ == "__main__":
    main()
