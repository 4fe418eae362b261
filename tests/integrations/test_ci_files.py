"""The action, the workflow and the files to paste: held against what reads them, and really run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from esper_audit import __version__, init
from esper_audit.reporters import FORMATS

from .conftest import CURED, FAULTY, ROOT, Installed, Source, clean_environment, readme_files, tool

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTION = ROOT / "action.yml"
SCHEMAS = {
    "action.yml": "github-actions",
    ".github/dependabot.yml": "dependabot",
    **{f".github/workflows/{path.name}": "github-workflows" for path in WORKFLOWS},
}
PASTED_SCHEMAS = {init.WORKFLOW: "github-workflows", init.GITLAB: "gitlab-ci"}
# Nobody knows the commit of a release that is to come; whoever pastes the file and wants a commit writes one.
ZIZMOR = "rules: {unpinned-uses: {config: {policies: {'esper-audit/*': ref-pin, '*': hash-pin}}}}\n"


def checked(*words: str, cwd: Path = ROOT) -> None:
    """Run a checker, which must be content."""
    run = subprocess.run(words, cwd=cwd, capture_output=True, encoding="utf-8", check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def against_schema(path: Path, schema: str) -> None:
    checked(sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", str(path))


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_github_reads_here_has_the_form_that_github_wants(name: str) -> None:
    against_schema(ROOT / name, SCHEMAS[name])


def test_zizmor_finds_nothing_in_the_action_and_the_workflows() -> None:
    checked(tool("zizmor"), "--offline", "--persona", "pedantic", "--quiet", ".")


def test_zizmor_finds_nothing_in_the_workflow_to_paste(tmp_path: Path) -> None:
    path = tmp_path / init.WORKFLOW
    path.parent.mkdir(parents=True)
    path.write_text(readme_files()[init.WORKFLOW])
    (tmp_path / "zizmor.yml").write_text(ZIZMOR)
    checked(tool("zizmor"), "--offline", "--persona", "pedantic", "--quiet", ".", cwd=tmp_path)


def test_one_action_is_pinned_to_one_commit_everywhere() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (*WORKFLOWS, ACTION, ROOT / "README.md")] + [init.GITHUB_JOB]
    uses = {use for text in texts for use in re.findall(r"uses: (\S+)@(\S+)(?: # (\S+))?", text)}
    own = {use for use in uses if use[0] == "esper-audit/esper-audit"}
    others = uses - own
    assert own == {("esper-audit/esper-audit", f"v{__version__}", "")}
    assert len(others) == len({name for name, _, _ in others}) == 3
    assert all(re.fullmatch(r"[0-9a-f]{40}", commit) and re.match(r"v\d", tag) for _, commit, tag in others)


def test_no_input_of_the_action_is_pasted_into_a_script() -> None:
    scripts = [step["run"] for step in steps() if "run" in step]
    assert len(scripts) == 3
    assert not [script for script in scripts if "${{" in script]


def test_the_readme_names_every_input_of_the_action() -> None:
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("### GitHub\n")[2].partition("\n### ")[0]
    assert set(re.findall(r"^\| ([\w-]+) \| .*\|$", table, re.MULTILINE)) - {"input"} == set(action()["inputs"])


# --- the action, step by step in a shell


def action() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(ACTION.read_text(encoding="utf-8"))
    return document


def steps() -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = action()["runs"]["steps"]
    return listed


class Runner:
    """As much of GitHub's runner as the scripts of the action see."""

    def __init__(self, folder: Path, source: Source, installed: Installed, given: Mapping[str, str]) -> None:
        self.folder = folder
        self.outputs = {"steps.python.outputs.python-path": str(installed.folder / "bin" / "python")}
        self.inputs = {f"inputs.{name}": given.get(name, item["default"]) for name, item in action()["inputs"].items()}
        self.env = {
            **clean_environment(folder),
            "RUNNER_TEMP": str(installed.folder.parent),
            "GITHUB_ACTION_PATH": str(source.path),
        }

    def run(self, name: str) -> subprocess.CompletedProcess[str]:
        """Run one step as `shell: bash` does, and take over what it puts out."""
        (step,) = [step for step in steps() if step["name"] == name]
        output = self.folder.parent / f"{self.folder.name}.output"
        output.write_text("")
        known = {**self.inputs, **self.outputs}
        env = {
            key: re.sub(r"\$\{\{ (\S+) \}\}", lambda match: known[match[1]], text) for key, text in step["env"].items()
        }
        run = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=self.folder,
            env={**self.env, **env, "GITHUB_OUTPUT": str(output)},
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        written = re.sub(r"<<(\S+)\n(.*?)\n\1\n", r"=\2\n", output.read_text(), flags=re.DOTALL)
        for line in written.splitlines():
            key, _, value = line.partition("=")
            self.outputs[f"steps.{step.get('id')}.outputs.{key}"] = value
        return run


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    folder = tmp_path / "sample"
    for name, text in {"bad one/policy.py": FAULTY, "good/policy.py": CURED}.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)
    return folder


def audited(runner: Runner) -> tuple[str, int]:
    """What the audit of the action prints, and the code that the job ends with."""
    audit = runner.run("Audit")
    assert audit.returncode == 0, audit.stderr
    return audit.stdout, runner.run("Fail where the audit says so").returncode


def test_the_action_installs_the_version_that_it_is(sample: Path, source: Source, installed: Installed) -> None:
    run = Runner(sample, source, installed, {}).run("Install")
    assert run.returncode == 0, run.stderr
    told = subprocess.run([installed.folder / "bin" / "esper-audit", "-V"], capture_output=True, text=True, check=True)
    assert told.stdout == f"esper-audit {__version__}\n"


def test_the_action_fails_for_findings_and_passes_without(sample: Path, source: Source, installed: Installed) -> None:
    concise = {"args": "--format concise"}  # so that the lines do not depend on how annotations look
    shown, code = audited(Runner(sample, source, installed, concise))
    assert "bad one/policy.py:12:16: ESP202" in shown
    assert code == 1
    assert audited(Runner(sample, source, installed, concise | {"path": "good"}))[1] == 0
    assert audited(Runner(sample, source, installed, concise | {"fail-on": "critical"}))[1] == 0
    assert audited(Runner(sample, source, installed, concise | {"path": "missing"}))[1] == 2


def test_paths_stand_one_per_line_and_words_are_separated_by_spaces(
    sample: Path, source: Source, installed: Installed
) -> None:
    given = {"path": "bad one\ngood/policy.py\n", "args": "--format concise --select ESP2,ESP3\n  --ignore ESP201"}
    shown, code = audited(Runner(sample, source, installed, given))
    assert {line.split(": ")[1].split()[0] for line in shown.splitlines() if ": ESP" in line} == {"ESP202"}
    assert code == 1


def test_no_input_of_the_action_is_run_as_a_command(sample: Path, source: Source, installed: Installed) -> None:
    planted = "$(touch planted)`touch planted`;touch planted;"
    for name in ("path", "args", "fail-on", "sarif", "version"):
        runner = Runner(sample, source, installed, {name: planted})
        runner.run("Install") if name == "version" else runner.run("Audit")
        assert not list(sample.rglob("planted")), name


@pytest.mark.skipif(not {"github", "sarif"} <= {*FORMATS}, reason="this version has no such formats")
def test_the_action_annotates_and_leaves_a_sarif_report(sample: Path, source: Source, installed: Installed) -> None:
    runner = Runner(sample, source, installed, {"sarif": "out put.sarif"})
    shown, code = audited(runner)
    assert re.search(r"^::error .*file=bad one/policy\.py", shown, re.MULTILINE)
    assert code == 1
    assert runner.outputs["steps.audit.outputs.sarif"] == "out put.sarif"
    assert '"ESP202"' in (sample / "out put.sarif").read_text()


def test_there_is_nothing_to_upload_where_none_was_asked_for(
    sample: Path, source: Source, installed: Installed
) -> None:
    runner = Runner(sample, source, installed, {"args": "--format concise"})
    audited(runner)
    assert "steps.audit.outputs.sarif" not in runner.outputs


def test_shellcheck_has_nothing_to_say_about_the_scripts_of_the_action(tmp_path: Path) -> None:
    for step in steps():
        if "run" in step:
            (tmp_path / "step.sh").write_text("#!/usr/bin/env bash\n" + step["run"])
            checked(tool("shellcheck"), str(tmp_path / "step.sh"))


# --- the files to paste


def test_the_readme_gives_the_files_that_init_writes() -> None:
    files = readme_files()
    assert set(files) == {init.HOOKS, init.WORKFLOW, init.GITLAB, "esper-audit.sh"}
    assert files[init.HOOKS] == init.with_hook(None)
    assert files[init.WORKFLOW] == init.GITHUB_JOB
    assert files[init.GITLAB] == init.GITLAB_JOB
    assert f"/v{__version__}.tar.gz" in files["esper-audit.sh"]


@pytest.mark.parametrize("name", PASTED_SCHEMAS)
def test_a_file_to_paste_has_the_form_that_its_reader_wants(name: str, tmp_path: Path) -> None:
    (tmp_path / "file.yml").write_text(readme_files()[name])
    against_schema(tmp_path / "file.yml", PASTED_SCHEMAS[name])


def test_the_pre_commit_configuration_to_paste_names_hooks_that_are_there(tmp_path: Path) -> None:
    path = tmp_path / init.HOOKS
    path.write_text(readme_files()[init.HOOKS])
    checked(sys.executable, "-m", "pre_commit", "validate-config", str(path))
    named = {hook["id"] for repo in yaml.safe_load(path.read_text())["repos"] for hook in repo["hooks"]}
    offered = {hook["id"] for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))}
    assert named <= offered


def test_the_shell_script_installs_audits_and_exits_as_the_audit_does(installed: Installed) -> None:
    first = installed.first_run
    assert "src/policy.py:12:16: ESP202" in first.stdout
    assert first.returncode == 1
    # nothing is installed again: the address does not exist
    env = {**clean_environment(installed.folder), "ESPER_AUDIT": "file:///nowhere", "VENV": str(installed.folder)}
    folder = installed.script.parent
    again = subprocess.run(["sh", installed.script, "src", "--exit-zero"], cwd=folder, env=env, check=False)
    assert again.returncode == 0


def test_shellcheck_has_nothing_to_say_about_the_shell_script(installed: Installed) -> None:
    checked(tool("shellcheck"), str(installed.script))


@pytest.mark.skipif("gitlab" not in FORMATS, reason="this version has no such format")
def test_the_gitlab_job_runs(tmp_path: Path, source: Source, installed: Installed) -> None:
    job = yaml.safe_load(readme_files()[init.GITLAB])["esper-audit"]
    path = f"{installed.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    env = {**clean_environment(tmp_path), **job["variables"], "ESPER_AUDIT": source.path.as_uri(), "PATH": path}

    def lines(key: str) -> int:
        script = "\n".join(["set -e", *job[key]])
        return subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env=env, capture_output=True, check=False
        ).returncode

    assert lines("before_script") == 0
    for text, code in ((FAULTY, 1), (CURED, 0)):
        (tmp_path / "policy.py").write_text(text)
        assert lines("script") == code
        report = tmp_path / job["artifacts"]["reports"]["codequality"]
        assert ("ESP202" in report.read_text()) is bool(code)
