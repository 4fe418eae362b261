"""What other linters see in the network whose hand-written audit founded this project.

That audit named six faults in ``FactoredRecurrentActorCritic`` of the public repository tachyon-beep/esper-lite at
commit 1bfd94a9. This script runs every peer it finds, and ``esper-audit``, over that file and its two neighbours
(the masks it imports and the agent that uses it), and prints how many of the six each of them reports::

    git clone https://github.com/tachyon-beep/esper-lite && git -C esper-lite checkout 1bfd94a9
    python tests/benchmarks/peers.py --root esper-lite --target esper-lite/src/esper/simic/tamiyo_network.py

How a message is counted, for every tool alike:

* it must *begin* on one of the lines where the fault can fairly be shown (``Fault.places``, which is generous: a
  fault of a method may be reported at its signature as well as in its body), and
* its text must be about the fault (``Fault.subject``, words that must all occur). "Line too long" on the line that
  creates the hidden state is no report of the missing dtype, and 'Type of "inference_mode" is unknown', which a type
  checker says where torch is not installed, is no report of lost gradients: the consequence has to be named.

``esper-audit`` is held to the lines as well, but to its published code instead of the words. All counted messages are
printed, and with ``--rejected`` all that stood on the right line and were about something else, so that a reader can
judge the counting.

Every peer runs with all the rules it has, not with its defaults, where it offers that. semgrep ships no rule for any
of this; its two rules below were written for this very file by someone who knew the answer. The others get no hints.
mypy, pyright and pylint see more with torch at hand: ``--python`` names an interpreter that has it installed.
torchshapeflow checks only what carries its shape annotations, and this file has none.

This is run by hand, needs nothing but the standard library and is no test.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COMMIT = "1bfd94a9"
NETWORK, MASKS, AGENT = "tamiyo_network.py", "action_masks.py", "ppo.py"
PATIENCE_SECONDS = 600

# A word that has to stand on a line, or the checkout is another version and the line numbers below mean nothing.
ANCHORS = (
    (NETWORK, 95, "max_entropies"),
    (NETWORK, 164, "zeros"),
    (NETWORK, 266, "inference_mode"),
    (NETWORK, 302, "evaluate_actions"),
    (MASKS, 265, "disable"),
)

SEMGREP_RULES = """\
rules:
  - id: hidden-state-without-dtype
    languages: [python]
    severity: WARNING
    message: the initial hidden state is created without a dtype, so it does not follow the dtype of the network
    patterns:
      - pattern-inside: |
          def get_initial_hidden(...):
              ...
      - pattern: torch.zeros(...)
      - pattern-not: torch.zeros(..., dtype=$DTYPE, ...)
  - id: log-probs-from-inference-mode
    languages: [python]
    severity: ERROR
    message: the returned log_probs were computed under inference_mode and cannot carry a gradient
    pattern-either:
      - pattern: |
          with torch.inference_mode():
              ...
              return ..., log_probs, ...
      - pattern: |
          with torch.inference_mode():
              ...
          ...
          return ..., log_probs, ...
"""


@dataclass(frozen=True)
class Place:
    """A range of lines, both ends included, in one of the three files."""

    file: str
    first: int
    last: int


@dataclass(frozen=True)
class Fault:
    """One of the six findings of the hand-written audit, and what counts as a report of it."""

    number: int
    title: str
    code: str
    places: tuple[Place, ...]
    subject: re.Pattern[str]


@dataclass(frozen=True)
class Message:
    """One message of a tool, in one shape for all of them. `path` is absolute, `line` counts from 1."""

    path: Path
    line: int
    code: str
    text: str

    def __str__(self) -> str:
        """Show the message as one line of text."""
        words = " ".join(self.text.split())
        return f"{self.path.name}:{self.line} {self.code} {words[:200]}".replace("  ", " ")


def about(*patterns: str) -> re.Pattern[str]:
    """Match a text in which every one of the patterns occurs, in any order and case."""
    return re.compile("".join(f"(?=.*(?:{pattern}))" for pattern in patterns), re.IGNORECASE | re.DOTALL)


FORWARD_HEAD = Place(NETWORK, 168, 187)
ACT_HEAD = Place(NETWORK, 234, 251)
EVALUATE = Place(NETWORK, 302, 353)

FAULTS = (
    Fault(
        1,
        "get_action returns log-probs computed under inference_mode",
        "ESP301",
        (ACT_HEAD, Place(NETWORK, 266, 300)),
        about(r"inference.?mode|no_grad|log.?prob", r"gradient|autograd|differentiab|detach|backward|\breturned\b"),
    ),
    Fault(
        2,
        "get_initial_hidden creates h and c without a dtype",
        "ESP201",
        (Place(NETWORK, 158, 166),),
        about(r"dtype|precision|float(16|32|64)|bfloat|\bhalf\b"),
    ),
    Fault(
        3,
        "MaskedCategorical validates in a function kept from the compiler: a graph break",
        "ESP102",
        (Place(NETWORK, 287, 287), Place(NETWORK, 349, 349), Place(MASKS, 265, 278), Place(MASKS, 302, 302)),
        about(r"graph.?break|\bdynamo\b|compil", r"break|eager|falls? back|slow|\btrac(?:e|ed|ing)\b"),
    ),
    Fault(
        4,
        "get_action lifts 2-D masks to 3-D, forward and evaluate_actions neither lift nor check them",
        "ESP501",
        (FORWARD_HEAD, Place(NETWORK, 213, 220), ACT_HEAD, Place(NETWORK, 256, 264), EVALUATE),
        about(r"mask", r"\brank|\bdim|\b[23]-?d\b|unsqueeze|broadcast|\blift"),
    ),
    Fault(
        5,
        "self.max_entropies is written and never read",
        "ESP401",
        (Place(NETWORK, 95, 100),),
        about(r"max_entropies", r"unused|\b(?:never|not) (?:read|used|accessed)|\bdead\b"),
    ),
    Fault(
        6,
        "the head sizes are arguments, and nothing checks masks or actions against them",
        "ESP503",
        (Place(NETWORK, 28, 33), Place(NETWORK, 43, 69), FORWARD_HEAD, ACT_HEAD, EVALUATE),
        about(r"mask|action|head", r"\bsizes?\b|num_\w+|cardinal|action_dim", r"valid|check|mismatch|disagree|compare"),
    ),
)

Reader = Callable[[str, Path], Iterator[Message]]


@dataclass(frozen=True)
class Workplace:
    """Where the tools run: the checkout, the three files, a scratch folder and, if named, a Python with torch."""

    root: Path
    files: tuple[Path, ...]
    scratch: Path
    python: str | None

    @property
    def sources(self) -> Path:
        """The folder from which the checkout's own package is imported."""
        folder = self.root / "src"
        return folder if folder.is_dir() else self.root

    @property
    def arguments(self) -> tuple[str, ...]:
        """The three files as a tool gets them on its command line."""
        return tuple(os.path.relpath(file, self.root) for file in self.files)


@dataclass(frozen=True)
class Peer:
    """A tool: how to ask for its version, how to run it on the three files, how to read what it prints."""

    name: str
    program: str
    commands: Callable[[Workplace], Sequence[Sequence[str]]]
    read: Reader
    version: tuple[str, ...] = ("--version",)
    good_exits: tuple[int, ...] = (0, 1)


@dataclass
class Row:
    """One line of the table."""

    peer: Peer
    version: str = "-"
    problem: str = ""
    messages: list[Message] = field(default_factory=list)
    reports: dict[int, list[Message]] = field(default_factory=dict)
    rejected: list[Message] = field(default_factory=list)


# ---------------------------------------------------------------------------------------------------------------------
# Reading what the tools print. A reader that meets an unknown format raises, and the row says so: a tool that did not
# run must never look like a tool that found nothing.


def read_json_messages(
    items: Callable[[Any], Sequence[Any]],
    pick: Callable[[Any], tuple[str, int, str, str]],
    failures: Callable[[Any], Sequence[Any]] = lambda _: (),
) -> Reader:
    """Build a reader for one JSON document: where its messages are, the four facts of each, what went wrong."""

    def read(output: str, root: Path) -> Iterator[Message]:
        report = json.loads(output)
        if failures(report):
            raise ValueError(failures(report)[0])
        for item in items(report):
            path, line, code, text = pick(item)
            yield Message((root / path).resolve(), line, code, text)

    return read


def read_mypy(output: str, root: Path) -> Iterator[Message]:
    """Read one JSON object a line; notes only continue the error before them."""
    for line in output.splitlines():
        item = json.loads(line)
        if item["severity"] == "error":
            yield Message((root / item["file"]).resolve(), item["line"], item["code"] or "", item["message"])


LINE_OF_TEXT = re.compile(r"(?P<path>[^:\s][^:]*):(?P<line>\d+):(?:\d+:)?\s*(?:(?P<code>[A-Z]+\d+)\s)?(?P<text>.*)")


def read_lines(output: str, root: Path) -> Iterator[Message]:
    """Read `path:line: text` and `path:line:column: text`, the form of tools that have no JSON."""
    for line in output.splitlines():
        found = LINE_OF_TEXT.match(line)
        if found:
            path = (root / found["path"]).resolve()
            yield Message(path, int(found["line"]), found["code"] or "", found["text"])


def pyright_commands(work: Workplace) -> list[list[str]]:
    """Strict mode can only be set in a configuration file, whose paths must be relative to it: hence the link."""
    checkout = work.scratch / "checkout"
    checkout.symlink_to(work.root, target_is_directory=True)
    settings = {
        "typeCheckingMode": "strict",
        "include": [f"checkout/{argument}" for argument in work.arguments],
        "extraPaths": [f"checkout/{work.sources.relative_to(work.root)}"],
    }
    (work.scratch / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    interpreter = ["--pythonpath", work.python] if work.python else []
    return [["--project", str(work.scratch), "--outputjson", *interpreter]]


def read_pyright(output: str, root: Path) -> Iterator[Message]:
    """Read pyright's JSON; it says so in the summary, and nowhere else, when it looked at no file."""
    report = json.loads(output)
    if report["summary"]["filesAnalyzed"] == 0:
        message = "pyright analysed no file"
        raise ValueError(message)
    for item in report["generalDiagnostics"]:
        line = item["range"]["start"]["line"] + 1
        yield Message((root / item["file"]).resolve(), line, item.get("rule", ""), item["message"])


def mypy_commands(work: Workplace) -> list[list[str]]:
    """Everything strict, no configuration but this, imports followed but their messages not counted."""
    interpreter = ["--python-executable", work.python] if work.python else []
    options = ["--strict", "--ignore-missing-imports", "--explicit-package-bases", "--config-file="]
    options += ["--output", "json", "--cache-dir", str(work.scratch / "mypy"), *interpreter]
    return [[*options, *work.arguments]]


def pylint_commands(work: Workplace) -> list[list[str]]:
    """Every message on; the checkout's package, and torch if there is one, can be imported by the analysis."""
    paths = [str(work.sources)]
    if work.python:
        question = "import sysconfig; print(sysconfig.get_path('purelib'))"
        answer = subprocess.run([work.python, "-c", question], capture_output=True, text=True, check=True)
        paths.append(answer.stdout.strip())
    hook = f"import sys; sys.path.extend({paths!r})"
    options = [f"--rcfile={os.devnull}", "--init-hook", hook, "--enable=all", "--output-format=json2"]
    return [[*options, *work.arguments]]


def semgrep_commands(work: Workplace) -> list[list[str]]:
    """Use the two rules of this script and no others: the public registry has none for these faults."""
    rules = work.scratch / "semgrep.yaml"
    rules.write_text(SEMGREP_RULES, encoding="utf-8")
    options = ["scan", "--config", str(rules), "--metrics", "off", "--disable-version-check", "--no-git-ignore"]
    return [[*options, "--json", "--quiet", *work.arguments]]


def one_command(*options: str) -> Callable[[Workplace], Sequence[Sequence[str]]]:
    """Options first, then the three files."""
    return lambda work: [[*options, *work.arguments]]


def one_command_per_file(*options: str) -> Callable[[Workplace], Sequence[Sequence[str]]]:
    """For a tool that takes a single path."""
    return lambda work: [[*options, argument] for argument in work.arguments]


OURS = Peer(
    "esper-audit",
    "esper-audit",
    lambda work: [["check", *work.arguments, "--format", "json"]],
    read_json_messages(
        lambda report: report["findings"], lambda item: (item["path"], item["line"], item["code"], item["message"])
    ),
)

PEERS = (
    Peer(
        "ruff",
        "ruff",
        one_command("check", "--no-cache", "--isolated", "--preview", "--select", "ALL", "--output-format", "json"),
        read_json_messages(
            lambda report: report,
            lambda item: (item["filename"], item["location"]["row"], item["code"] or "", item["message"]),
        ),
    ),
    Peer(
        "flake8",
        "flake8",
        # Its own checks alone, all of them: plug-ins installed beside it are peers of their own.
        one_command("--isolated", "--select", "E,F,W,C90", "--ignore=", "--max-complexity", "10"),
        read_lines,
    ),
    Peer(
        "pylint",
        "pylint",
        pylint_commands,
        read_json_messages(
            lambda report: report["messages"],
            lambda item: (item["absolutePath"], item["line"], item["messageId"], item["message"]),
        ),
        # pylint's exit code is a set of bits, 1 and 32 of which are failures of its own.
        good_exits=tuple(bits for bits in range(32) if not bits & 1),
    ),
    Peer("mypy", "mypy", mypy_commands, read_mypy),
    Peer("pyright", "pyright", pyright_commands, read_pyright),
    Peer("torchfix", "torchfix", one_command("--select", "ALL"), read_lines),
    Peer(
        "fixit",
        "fixit",
        one_command(
            *("--rules", "fixit.rules,fixit.rules.extra", "--output-format", "custom"),
            *("--output-template", "{path}:{start_line}: {rule_name} {message}", "lint"),
        ),
        read_lines,
    ),
    Peer(
        "torch-preflight",
        "torch-preflight",
        one_command("check", "--format", "json"),
        read_json_messages(
            lambda report: report["diagnostics"],
            lambda item: (item["path"], item["line"], item["code"], item["message"]),
            lambda report: report["failures"],
        ),
    ),
    Peer(
        "torchshapeflow",
        "tsf",
        one_command_per_file("check", "--json"),
        read_json_messages(
            lambda report: [item for file in report["files"] for item in file["diagnostics"]],
            lambda item: (item["path"], item["line"], item["code"], item["message"]),
        ),
        version=("version",),
    ),
    Peer("vulture", "vulture", one_command("--min-confidence", "0"), read_lines, good_exits=(0, 3)),
    Peer(
        "semgrep, two rules written for this file",
        "semgrep",
        semgrep_commands,
        read_json_messages(
            lambda report: report["results"],
            lambda item: (
                item["path"],
                item["start"]["line"],
                item["check_id"].rpartition(".")[2],
                item["extra"]["message"],
            ),
            lambda report: report["errors"],
        ),
    ),
    OURS,
)


# ---------------------------------------------------------------------------------------------------------------------
# Running and judging.


def stands_at(message: Message, fault: Fault) -> bool:
    """Tell whether a message begins where this fault can be shown."""
    return any(message.path.name == place.file and place.first <= message.line <= place.last for place in fault.places)


def reports(message: Message, fault: Fault, peer: Peer) -> bool:
    """Tell whether a message, known to stand at the fault, is about it."""
    if peer is OURS:
        return message.code == fault.code
    return fault.subject.match(f"{message.code} {message.text}") is not None


def judge(row: Row, files: Sequence[Path]) -> None:
    """Sort the messages of one tool into reports of the six faults and rejected neighbours."""
    row.messages = [message for message in row.messages if message.path in files]
    for message in row.messages:
        near = [fault for fault in FAULTS if stands_at(message, fault)]
        hits = [fault for fault in near if reports(message, fault, row.peer)]
        for fault in hits:
            row.reports.setdefault(fault.number, []).append(message)
        elsewhere = row.peer is OURS and message.code in {fault.code for fault in FAULTS}
        if not hits and (near or elsewhere):
            row.rejected.append(message)


def find_program(name: str, folder: Path | None) -> str | None:
    """Look in the folder the user named, and on PATH only if there is none."""
    return shutil.which(name, path=str(folder)) if folder else shutil.which(name)


def last_words(text: str) -> str:
    """Pick the line of an error output that most likely says what went wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[-1] if lines else "no message")[:100].replace("|", "\\|")


def run_peer(peer: Peer, work: Workplace, folder: Path | None) -> Row:
    """Run one tool and read it; whatever goes wrong becomes the text of its row."""
    row = Row(peer)
    program = find_program(peer.program, folder)
    if program is None:
        row.problem = "not found"
        return row
    environment = os.environ | {
        "MYPYPATH": str(work.sources),
        "PYLINTHOME": str(work.scratch / "pylint"),
        "SEMGREP_SETTINGS_FILE": str(work.scratch / "semgrep-settings.yaml"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "NO_COLOR": "1",
    }

    def call(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, *arguments],
            cwd=work.root,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            timeout=PATIENCE_SECONDS,
            check=False,
        )

    try:
        found = re.search(r"\d+(?:\.\w+)+", call(peer.version).stdout)
        row.version = found[0] if found else "unknown"
        for arguments in peer.commands(work):
            print(f"{peer.program} {' '.join(arguments)}", file=sys.stderr)
            done = call(arguments)
            if done.returncode not in peer.good_exits:
                row.problem = f"failed with exit code {done.returncode}: {last_words(done.stderr or done.stdout)}"
                return row
            read = list(peer.read(done.stdout, work.root))
            if done.returncode and not read:
                row.problem = f"exit code {done.returncode} without a message: {last_words(done.stderr)}"
                return row
            row.messages += read
    except (OSError, ValueError, KeyError, TypeError, subprocess.SubprocessError) as error:
        row.problem = f"failed: {last_words(str(error)) if str(error) else type(error).__name__}"
    return row


def table(rows: Sequence[Row], target: Path) -> Iterator[str]:
    """Write the markdown table, one line for each tool."""
    yield f"| tool | version | of the six | which | messages in {target.name} | messages in all three files |"
    yield "|---|---|---:|---|---:|---:|"
    for row in rows:
        if row.problem:
            yield f"| {row.peer.name} | {row.version} | {row.problem} | | | |"
            continue
        which = ", ".join(str(number) for number in sorted(row.reports)) or "-"
        on_target = sum(message.path == target for message in row.messages)
        yield f"| {row.peer.name} | {row.version} | {len(row.reports)} | {which} | {on_target} | {len(row.messages)} |"


def evidence(rows: Sequence[Row], *, rejected: bool) -> Iterator[str]:
    """Write the messages that were counted and, when asked for, those that were not although their line was right."""
    yield "The six faults:"
    yield ""
    for fault in FAULTS:
        places = ", ".join(
            f"{place.file}:{place.first}" + (f"-{place.last}" if place.last > place.first else "")
            for place in fault.places
        )
        yield f"{fault.number}. {fault.title} ({fault.code}; {places})"
    yield ""
    yield "Messages counted:"
    yield ""
    for row in rows:
        for number, messages in sorted(row.reports.items()):
            yield from (f"- {row.peer.program}, fault {number}: {message}" for message in messages)
    if rejected:
        yield ""
        yield "Messages on the lines of a fault that are about something else:"
        yield ""
        yield from (f"- {row.peer.program}: {message}" for row in rows for message in row.rejected)


def neighbours(target: Path) -> tuple[Path, ...]:
    """Name the three files, after making sure that they are the audited version."""
    files = tuple(target.with_name(name) for name in (NETWORK, MASKS, AGENT))
    for file in files:
        if not file.is_file():
            sys.exit(f"{file}: no such file; --target is to be {NETWORK} of tachyon-beep/esper-lite")
    for name, line, word in ANCHORS:
        lines = target.with_name(name).read_text(encoding="utf-8").splitlines()
        if len(lines) < line or word not in lines[line - 1]:
            sys.exit(f"{name}:{line} lacks the word {word!r}: check out commit {COMMIT}, the version that was audited")
    return files


def main() -> None:
    """Run all tools and print the table and its evidence as markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--target", type=Path, required=True, help=f"{NETWORK} of the checkout")
    parser.add_argument("--root", type=Path, required=True, help="the checkout")
    parser.add_argument("--bin", type=Path, help="folder with the tools, instead of PATH")
    parser.add_argument("--esper-audit", type=Path, help="folder with esper-audit, if it is not with the other tools")
    parser.add_argument("--python", help="interpreter with torch, for mypy, pyright and pylint")
    parser.add_argument("--rejected", action="store_true", help="also list what stood on a right line in vain")
    options = parser.parse_args()

    target, root = options.target.resolve(), options.root.resolve()
    if root not in target.parents:
        parser.error("--target lies outside --root")
    files = neighbours(target)
    python = shutil.which(options.python) if options.python else None
    if options.python and python is None:
        parser.error(f"{options.python}: no such interpreter")
    # Absolute, yet not resolved: the interpreter of a virtual environment is a link whose own place matters.
    python = os.path.abspath(python) if python else None

    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        work = Workplace(root, files, Path(scratch).resolve(), python)
        for peer in PEERS:
            folder = options.esper_audit or options.bin if peer is OURS else options.bin
            row = run_peer(peer, work, folder)
            judge(row, files)
            rows.append(row)
    print(*table(rows, target), "", *evidence(rows, rejected=options.rejected), sep="\n")


if __name__ == "__main__":
    main()
