"""The words of the command line, and nothing else: what they do stands in `commands`."""

from __future__ import annotations

import enum
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from esper_audit import __version__, commands
from esper_audit.console import system_reason, tell
from esper_audit.core.errors import UsageError
from esper_audit.core.findings import Confidence, Severity
from esper_audit.engine import CheckRequest
from esper_audit.reporters import FORMATS

PROGRAM = "esper-audit"

Format = enum.Enum("Format", {name: name for name in FORMATS}, type=str)  # type: ignore[misc]


class Color(str, enum.Enum):
    """When to colour."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class ListFormat(str, enum.Enum):
    """How to list the rules."""

    TABLE = "table"
    JSON = "json"


class CheckByDefault(TyperGroup):
    """`esper-audit network.py` means `esper-audit check network.py`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `check` before the words when the first is no command and no option of the program itself."""
        own = {option for parameter in self.get_params(ctx) for option in parameter.opts}
        if args and args[0] not in self.commands and args[0] not in own:
            args = ["check", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=CheckByDefault,
    name=PROGRAM,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Audit PyTorch reinforcement-learning networks: each finding at its line, with the reason and the cure.

    Nothing of the audited code is imported or run unless `--probe` asks for it, and torch need not be installed.

    Examples:

    - `esper-audit agent/network.py` : audit one file

    - `esper-audit src --fail-on high` : audit a folder, fail only on high and critical findings

    - `esper-audit src -o AUDIT.md` : write the audit report besides

    - `esper-audit network.py --probe` : build the network and put each suspicion on trial

    - `esper-audit explain ESP201` : what a code means and what to do about it

    The options of an audit: `esper-audit check --help`

    Exit codes: 0 nothing to fail on, 1 findings, 2 wrong use, 3 the audit itself failed.
    """


ConfigOption = Annotated[
    str | None, typer.Option("--config", metavar="FILE", help="Take the settings from this TOML file.")
]
IsolatedOption = Annotated[bool, typer.Option("--isolated", help="Read no configuration file.")]
ColorOption = Annotated[
    Color, typer.Option("--color", help="When to colour; NO_COLOR and FORCE_COLOR are honoured by `auto`.")
]
_WHAT, _WHICH, _HOW, _WHERE = "What to audit", "Which findings", "What to print", "Settings"
_FIXES = "What to fix"
ProbeTimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--probe-timeout", min=1.0, metavar="SECONDS", help="For each worker. (default: 60)", rich_help_panel=_WHAT
    ),
]


@app.command()
def check(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH", help="Files, folders, or `-` for standard input.", show_default=False)
    ],
    stdin_filename: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="What standard input is called, and where its imports are looked up.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    force_exclude: Annotated[
        bool,
        typer.Option(
            "--force-exclude",
            help="Leave out excluded files even when they are named (for pre-commit).",
            rich_help_panel=_WHAT,
        ),
    ] = False,
    probe: Annotated[
        bool | None,
        typer.Option(
            "--probe/--no-probe",
            help="Build the networks in a subprocess and put each suspicion on trial. **Runs the audited code.**",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    probe_timeout: ProbeTimeoutOption = None,
    select: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CODES",
            help="Only these rules: codes, names, families such as `ESP2`, or `ALL`.",
            rich_help_panel=_WHICH,
        ),
    ] = None,
    extend_select: Annotated[
        list[str] | None,
        typer.Option(metavar="CODES", help="These rules besides those selected.", rich_help_panel=_WHICH),
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(metavar="CODES", help="Not these rules.", rich_help_panel=_WHICH)
    ] = None,
    min_severity: Annotated[
        Severity | None,
        typer.Option(help="Show findings from this severity on. (default: info)", rich_help_panel=_WHICH),
    ] = None,
    min_confidence: Annotated[
        Confidence | None,
        typer.Option(help="Show findings from this confidence on. (default: low)", rich_help_panel=_WHICH),
    ] = None,
    fail_on: Annotated[
        Severity | None,
        typer.Option(help="Exit with 1 from this severity on. (default: medium)", rich_help_panel=_WHICH),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline",
            metavar="FILE",
            help="Hold back the findings that this file lists; `esper-audit baseline` writes it.",
            rich_help_panel=_WHICH,
        ),
    ] = None,
    no_baseline: Annotated[
        bool,
        typer.Option("--no-baseline", help="Hold back nothing, whatever the settings say.", rich_help_panel=_WHICH),
    ] = False,
    diff_base: Annotated[
        str | None,
        typer.Option(
            "--diff-base",
            metavar="REV",
            help="Only findings on lines that changed since this revision of git; `main...` stands for where the"
            " branch left main.",
            rich_help_panel=_WHICH,
        ),
    ] = None,
    exit_zero: Annotated[
        bool, typer.Option("--exit-zero", help="Exit with 0 even when something is found.", rich_help_panel=_WHICH)
    ] = False,
    fix: Annotated[
        bool,
        typer.Option("--fix", help="Make the safe fixes: behaviour provably stays as it is.", rich_help_panel=_FIXES),
    ] = False,
    unsafe_fixes: Annotated[
        bool,
        typer.Option(
            "--unsafe-fixes",
            help="With `--fix` or `--diff`: those, too, that change behaviour.",
            rich_help_panel=_FIXES,
        ),
    ] = False,
    diff: Annotated[
        bool,
        typer.Option(
            "--diff",
            help="Write nothing; show what `--fix` would do, and exit with 1 if anything.",
            rich_help_panel=_FIXES,
        ),
    ] = False,
    format: Annotated[Format | None, typer.Option(help="How to report. (default: full)", rich_help_panel=_HOW)] = None,
    output: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            "-o",
            metavar="[FORMAT:]FILE",
            help="Write a report to a file; may be given several times. Without FORMAT, `--format` or the"
            " suffix of the file decides.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    statistics: Annotated[
        bool, typer.Option("--statistics", help="Count the findings by code.", rich_help_panel=_HOW)
    ] = False,
    show_suppressed: Annotated[
        bool,
        typer.Option("--show-suppressed", help="Show what comments suppress, with the reasons.", rich_help_panel=_HOW),
    ] = False,
    show_baselined: Annotated[
        bool, typer.Option("--show-baselined", help="Show what the baseline holds back.", rich_help_panel=_HOW)
    ] = False,
    show_refuted: Annotated[
        bool, typer.Option("--show-refuted", help="Show what an experiment refuted.", rich_help_panel=_HOW)
    ] = False,
    reproducible: Annotated[
        bool,
        typer.Option(
            "--reproducible",
            help="Leave the date out of reports, so that two of them compare cleanly.",
            rich_help_panel=_HOW,
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Only the findings: no notes, no summary.", rich_help_panel=_HOW)
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say which files were skipped and why.", rich_help_panel=_HOW)
    ] = False,
    color: Annotated[
        Color,
        typer.Option("--color", help="When to colour; `auto` honours NO_COLOR and FORCE_COLOR.", rich_help_panel=_HOW),
    ] = Color.AUTO,
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Take the settings from this file instead of the nearest pyproject.toml.",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    isolated: Annotated[
        bool, typer.Option("--isolated", help="Read no configuration file.", rich_help_panel=_WHERE)
    ] = False,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Audit every file anew and keep nothing.", rich_help_panel=_WHERE)
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            metavar="N",
            help="Processes to audit with. (default: as many as pay)",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    cache_dir: Annotated[
        str | None,
        typer.Option(
            "--cache-dir",
            metavar="DIR",
            help="Where results are kept; also ESPER_AUDIT_CACHE_DIR. (default: beside the configuration)",
            rich_help_panel=_WHERE,
        ),
    ] = None,
) -> None:
    """Audit files and folders. The word `check` may be left out.

    Examples:

    - `esper-audit network.py`

    - `esper-audit check src --select ESP2,ESP3 --format concise`

    - `esper-audit src --format json > audit.json`

    - `esper-audit src -o AUDIT.md -o json:audit.json`

    - `esper-audit src --format github -o audit.sarif`

    - `cat network.py | esper-audit - --stdin-filename agent/network.py`

    - `esper-audit src --diff` : what `--fix` would change

    A finding is silenced where it stands, with its reason: `# esper: ignore[ESP201] runs on the CPU only`
    """
    if baseline == "" or (baseline is not None and no_baseline):
        tell("error", "give either --baseline FILE or --no-baseline")
        raise typer.Exit(UsageError.exit_code)
    given: dict[str, Any] = {
        "format": format.value if format is not None else None,
        "outputs": tuple(output or ()),
        "select": _codes(select) if select else None,
        "extend_select": _codes(extend_select),
        "ignore": _codes(ignore),
        "fail_on": fail_on,
        "min_severity": min_severity,
        "min_confidence": min_confidence,
        "baseline": "" if no_baseline else baseline,
        "diff_base": diff_base,
        "config": config,
        "isolated": isolated,
        "stdin_filename": stdin_filename,
        "force_exclude": force_exclude,
        "statistics": statistics,
        "show_suppressed": show_suppressed,
        "show_baselined": show_baselined,
        "quiet": quiet,
        "verbose": verbose,
        "color": color.value,
        "exit_zero": exit_zero,
        "reproducible": reproducible,
        "probe": probe,
        "probe_timeout": probe_timeout,
        "show_refuted": show_refuted,
        "fix": fix,
        "unsafe_fixes": unsafe_fixes,
        "diff": diff,
        "cache": not no_cache,
        "cache_dir": cache_dir,
    }
    # what was not said is left out, so that the defaults stay in CheckRequest
    request = CheckRequest(
        paths=tuple(paths), jobs=jobs, **{name: value for name, value in given.items() if value is not None}
    )
    raise typer.Exit(commands.check(request))


def _codes(words: list[str] | None) -> tuple[str, ...]:
    """`--select A,B --select C` as A, B, C."""
    return tuple(code.strip() for word in words or () for code in word.split(",") if code.strip())


@app.command()
def probe(
    path: Annotated[str, typer.Argument(metavar="PATH[::CLASS]", help="A file or folder, or one class of a file.")],
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=1.0, metavar="SECONDS", help="For each worker. (default: 60)")
    ] = None,
    config: ConfigOption = None,
    isolated: IsolatedOption = False,
    color: ColorOption = Color.AUTO,
) -> None:
    """Run the experiments alone, and tell every number. **This runs the audited code**, in a subprocess.

    Exit codes: 0 nothing fails, 1 an experiment fails, 2 wrong use, 3 the audit itself failed.
    """
    raise typer.Exit(commands.probe(path, timeout=timeout, config=config, isolated=isolated, color=color.value))


@app.command()
def explain(
    code: Annotated[str, typer.Argument(metavar="CODE", help="A code such as `ESP201`, or the name of a rule.")],
    config: ConfigOption = None,
    isolated: IsolatedOption = False,
    color: ColorOption = Color.AUTO,
) -> None:
    """Print the page of a rule: what it does, why it matters, an example and what to write instead."""
    raise typer.Exit(commands.explain(code, config=config, isolated=isolated, color=color.value))


@app.command("list-rules")
def list_rules(
    format: Annotated[ListFormat, typer.Option(help="A table for people or JSON for programs.")] = ListFormat.TABLE,
    config: ConfigOption = None,
    isolated: IsolatedOption = False,
    color: ColorOption = Color.AUTO,
) -> None:
    """List every rule: code, name, severity, whether it has a fix, and the probe that can put it on trial."""
    raise typer.Exit(commands.list_rules(format.value, config=config, isolated=isolated, color=color.value))


@app.command()
def baseline(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH", help="Files and folders, as for `check`.", show_default=False)
    ],
    prune: Annotated[
        bool, typer.Option("--prune", help="Add nothing; only take out what is not found any more.")
    ] = False,
    file: Annotated[
        str | None,
        typer.Option(
            "--baseline",
            metavar="FILE",
            help="The file to write. (default: what the settings name, else `esper-audit-baseline.json` beside them)",
        ),
    ] = None,
    select: Annotated[list[str] | None, typer.Option(metavar="CODES", help="Only these rules.")] = None,
    extend_select: Annotated[
        list[str] | None, typer.Option(metavar="CODES", help="These rules besides those selected.")
    ] = None,
    ignore: Annotated[list[str] | None, typer.Option(metavar="CODES", help="Not these rules.")] = None,
    force_exclude: Annotated[
        bool, typer.Option("--force-exclude", help="Leave out excluded files even when they are named.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    config: ConfigOption = None,
    isolated: IsolatedOption = False,
) -> None:
    """Write down the findings there are, so that `check` reports only what comes after them.

    Moved and re-indented lines, and renamed files, keep their findings known. Entries about files that this run does
    not audit, and about rules that are not selected, stay as they are. Nothing is run: `--probe` has no part in it.

    Examples:

    - `esper-audit baseline src`

    - `esper-audit baseline --prune src` : take out what is mended

    Exit codes: 0 written, 2 wrong use, 3 a named file could not be audited.
    """
    request = CheckRequest(
        paths=tuple(paths),
        select=_codes(select) if select else None,
        extend_select=_codes(extend_select),
        ignore=_codes(ignore),
        force_exclude=force_exclude,
        quiet=quiet,
        config=config,
        isolated=isolated,
        jobs=None,
    )
    raise typer.Exit(commands.baseline(request, file=file, prune=prune))


@app.command("show-config")
def show_config(
    path: Annotated[str, typer.Argument(metavar="[PATH]", help="The settings for this file or folder.")] = ".",
    config: ConfigOption = None,
    isolated: IsolatedOption = False,
) -> None:
    """Print the settings in force and where each came from."""
    raise typer.Exit(commands.show_config(path, config=config, isolated=isolated))


@app.command()
def init(
    path: Annotated[str, typer.Argument(metavar="[PATH]", help="The folder of the project.")] = ".",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Write without asking.")] = False,
    color: ColorOption = Color.AUTO,
) -> None:
    """Show, and after a question write, what a project needs: settings, a pre-commit hook and a CI job.

    What is there already stays as it is. Without a terminal, and without `--yes`, nothing is written.
    """
    raise typer.Exit(commands.init(path, yes=yes, color=color.value))


def run(words: list[str]) -> int:
    """Run the words; wrong words get one line and exit code 2."""
    try:
        if not words:
            app(args=["--help"], prog_name=PROGRAM, standalone_mode=False)
            return UsageError.exit_code
        result = app(args=words, prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except typer.Abort:
        return 130
    except OSError as error:  # help on a full disk
        tell("error", f"cannot write to standard output: {system_reason(error)}")
        return 3
    except Exception as error:
        # The library's own usage errors. Their class moved between its versions, what they can do did not.
        if not hasattr(error, "format_message"):
            raise
        command = getattr(getattr(error, "ctx", None), "command_path", PROGRAM)
        message = error.format_message().replace("Value error, ", "").rstrip(".")
        tell("error", f"{message} (see `{command} --help`)")
        return UsageError.exit_code
    return result if isinstance(result, int) else 0
