"""What the experiments say about network classes of published packages, as a markdown table.

    python tests/benchmarks/real_classes.py LIST [--details FILE] [--timeout SECONDS]

Each line of LIST names a class, and a factory for where a guess does not build it:

    stable_baselines3/common/policies.py::ActorCriticPolicy making:actor_critic

The path begins with an importable package. The module of the factories has to be on PYTHONPATH. First the class is
tried without configuration, as `esper-audit probe` does; where that does not build it, with the factory. The details
say what every claim that failed or stayed undecided measured. The two experiments that compile are left out: they
convict nobody and take longest. Progress goes to standard error.

This is run by hand and is never a test: it needs torch and the packages, and takes about ten seconds for each class.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from esper_audit.core.findings import Verdict
from esper_audit.core.report import ProbeResult
from esper_audit.engine import CheckRequest, audit, prepare

_COMPILING = ("ESP102", "ESP103")
_UNBUILT = ("configure [tool.esper-audit.probe", "configure a factory", "importing ", 'factory = "')


@dataclass
class Row:
    """One class: how it was built, and what came of its experiments."""

    package: str
    name: str
    factory: str = ""
    built: str = "not"
    why: str = ""  # it was not built
    results: list[ProbeResult] = field(default_factory=list)

    @property
    def how(self) -> str:
        """How it was built, with the factory where one made it: two factories may make networks of one class."""
        return f"`{self.factory}`" if self.built == "by factory" else self.built

    def of(self, verdict: Verdict) -> list[ProbeResult]:
        """The results with this verdict."""
        return [result for result in self.results if result.verdict is verdict]


def located(word: str) -> tuple[Path, str]:
    """The file and the class that `package/module.py::Class` names; the package is found but not imported."""
    path, _, name = word.partition("::")
    package, _, rest = path.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        sys.exit(f"{package} is not installed")
    return Path(next(iter(spec.submodule_search_locations))) / rest, name


def experiments(path: Path, name: str, factory: str, timeout: float) -> list[ProbeResult]:
    """The experiments on one class, with the configuration that a user would write."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "esper-audit.toml"
        table = f'[tool.esper-audit.probe."{path.as_posix()}::{name}"]\nfactory = "{factory}"\n'
        config.write_text(table if factory else "[tool.esper-audit]\n", encoding="utf-8")
        plan = prepare(
            CheckRequest(
                paths=(str(path),),
                probe=True,
                probe_timeout=timeout,
                network=name,
                config=str(config),
                ignore=_COMPILING,
            )
        )
        return list(audit(plan).probes)


def tried(word: str, factory: str, timeout: float) -> Row:
    """The row of one class."""
    path, name = located(word)
    row = Row(word.partition("/")[0], name, factory.rpartition(":")[2])
    for how, by in (("automatically", ""), ("by factory", factory)):
        if how == "by factory" and not by:
            break
        results = experiments(path, name, by, timeout)
        errors = {result.error for result in results}
        if results and not (len(errors) == 1 and any(sign in min(errors) for sign in _UNBUILT)):
            row.built, row.results = how, results
            break
        row.why = min(errors) if errors else "no network for the audit"
    return row


def table(rows: list[Row]) -> Iterator[str]:
    """The lines of the markdown table."""
    yield "| package | class | built | held | failed | undecided | failed claims |"
    yield "|---|---|---|--:|--:|--:|---|"
    for row in rows:
        held, open_ = (len(row.of(verdict)) for verdict in (Verdict.CONFIRMED, Verdict.INCONCLUSIVE))
        failed = [f"`{r.id}`" if r.decisive else f"`{r.id}` (asks)" for r in row.of(Verdict.REFUTED)]
        yield (
            f"| {row.package} | `{row.name}` | {row.how} | {held} | {len(failed)} | {open_} | {', '.join(failed)} |"
            if row.results
            else f"| {row.package} | `{row.name}` | {row.how} | | | | |"
        )


def details(rows: list[Row]) -> Iterator[str]:
    """What was measured where a claim did not hold, and why classes were not built."""
    for row in rows:
        yield f"{row.package} {row.name}: {row.built} {row.factory}  {row.why}"
        for verdict in (Verdict.REFUTED, Verdict.INCONCLUSIVE):
            yield from (f"  {verdict.value} {r.id}: {r.measured or r.error}" for r in row.of(verdict))


def main() -> None:
    """Try every class of the list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", type=Path)
    parser.add_argument("--details", type=Path)
    parser.add_argument("--timeout", type=float, default=60.0)
    options = parser.parse_args()
    rows: list[Row] = []
    lines = [line.split() for line in options.list.read_text(encoding="utf-8").splitlines()]
    try:
        for word, *factory in filter(None, lines):
            rows.append(tried(word, factory[0] if factory else "", options.timeout))
            print(f"{word}: {rows[-1].built} {rows[-1].why}", file=sys.stderr)
            if options.details:
                options.details.write_text("\n".join(details(rows)) + "\n", encoding="utf-8")
    except KeyboardInterrupt:
        print("interrupted: the table ends here", file=sys.stderr)
    print(*table(rows), sep="\n")
    print()
    print(", ".join(f"{count} {how}" for how, count in Counter(row.built for row in rows).items()))


if __name__ == "__main__":
    main()
