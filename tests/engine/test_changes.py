"""`--diff-base`: which findings are on changed lines, in real repositories, friendly and hostile ones."""

from __future__ import annotations

import difflib
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_audit.changes import Changes, Lines, changed_lines
from esper_audit.core.errors import UsageError
from esper_audit.core.findings import Category, Confidence, Finding, Severity, Span
from esper_audit.semantics.source import Source

from .toy_auditor import Workbench, codes

BODY = "    a = 1  # <- ESP201\n    b = 2\n    c = 3  # <- ESP202\n"


def git(folder: Path, *words: str, **environment: str) -> str:
    """Run git as somebody with a name and no settings of their own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    who = {f"GIT_{role}_{what}": "a@b.c" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(
        ["git", "-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always", *words],
        cwd=folder,
        env={**clean, **who, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, **environment},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    return done.stdout.strip()


def commit(folder: Path, message: str = "more") -> str:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", message)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def repository(bench: Workbench) -> Workbench:
    """A repository with one network in its first commit, tagged `start`."""
    (bench.folder / ".git").rmdir()
    git(bench.folder, "init", "--quiet")
    bench.network(BODY)
    commit(bench.folder, "start")
    git(bench.folder, "tag", "start")
    return bench


def refusal(bench: Workbench, revision: str, *paths: str) -> str:
    with pytest.raises(UsageError) as error:
        bench.audit(*paths, diff_base=revision)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- which lines


def test_nothing_changed_shows_nothing_and_counts_what_it_hides(repository: Workbench) -> None:
    report = repository.audit(diff_base="HEAD")
    assert (report.findings, report.unchanged, report.hidden) == ((), 2, 0)
    assert report.summary()["hidden"] == 2


def test_a_changed_line_shows_its_finding_and_no_other(repository: Workbench) -> None:
    repository.network(BODY.replace("c = 3", "c = 4") + "    d = 5  # <- ESP301\n")
    report = repository.audit(diff_base="start")
    assert codes(report.findings) == [("ESP202", 6), ("ESP301", 7)]
    assert report.unchanged == 1


@pytest.mark.parametrize("how", ["left in the working tree", "staged", "committed", "partly committed"])
def test_it_is_the_working_tree_that_counts(repository: Workbench, how: str) -> None:
    repository.network(BODY + "    d = 5  # <- ESP301\n")
    if how != "left in the working tree":
        git(repository.folder, "add", "net.py")
    if "committed" in how:
        commit(repository.folder)
    if how == "partly committed":
        repository.network(BODY)
    found = codes(repository.audit(diff_base="start").findings)
    assert found == ([] if how == "partly committed" else [("ESP301", 7)])


def test_moved_lines_are_not_changed_lines(repository: Workbench) -> None:
    repository.network("    pass\n\n" + BODY)
    assert repository.audit(diff_base="start").findings == ()


def test_untracked_and_ignored_files_are_all_new(repository: Workbench) -> None:
    repository.write(".gitignore", "ignored.py\n")
    for name in ("untracked.py", "ignored.py", "with space.py", "ü\n\t\"'\\.py", "-x.py"):
        repository.network(BODY, name)
        assert len(repository.audit(f"./{name}", diff_base="start").findings) == 2


def test_odd_names_are_found_in_the_commit(repository: Workbench) -> None:
    names = ["with space.py", "ü\n\t\"'\\.py", "-x.py", "[ab]*.py", ":(top)x.py", os.fsdecode(b"latin-\xe9.py")]
    for name in names:
        repository.network(BODY, f"sub/{name}")
    commit(repository.folder)
    report = repository.audit("sub", diff_base="HEAD")
    assert (report.findings, report.unchanged) == ((), 2 * len(names))


def test_a_renamed_file_is_compared_with_what_it_was(repository: Workbench) -> None:
    git(repository.folder, "mv", "net.py", "other.py")
    repository.network(BODY + "    d = 5  # <- ESP301\n", "other.py")
    for _ in range(2):
        assert codes(repository.audit("other.py", diff_base="start").findings) == [("ESP301", 7)]
        commit(repository.folder)


def test_line_ends_and_a_missing_last_one_are_no_change(repository: Workbench) -> None:
    path = repository.folder / "net.py"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n").rstrip())
    assert repository.audit(diff_base="start").findings == ()


def test_a_line_taken_out_of_a_statement_changes_it(repository: Workbench) -> None:
    assert Lines(deleted=((4, 5),)).touch(4, 5)
    assert not Lines(deleted=((4, 5),)).touch(5, 6)
    assert not Lines(deleted=((4, 5),)).touch(3, 4)
    repository.network("    a = 1  # <- ESP201\n    c = 3  # <- ESP202\n")
    assert repository.audit(diff_base="start").findings == ()


def test_comments_about_suppressions_are_judged_by_their_own_line(repository: Workbench) -> None:
    repository.network(BODY + "    d = 5  # esper: ignore[ESP301] gone\n")
    commit(repository.folder)
    assert repository.audit(diff_base="HEAD").findings == ()
    assert codes(repository.audit(diff_base="start").findings) == [("ESP901", 7)]


def test_a_finding_in_another_file_is_judged_there(repository: Workbench) -> None:
    repository.write("masks.py", "FILL = 1\n")
    repository.network("    x = 1  # <- ESP301 at masks.py:1\n")
    commit(repository.folder)
    repository.network("    x = 2  # <- ESP301 at masks.py:1\n")
    report = repository.audit(diff_base="HEAD")
    assert (report.findings, report.unchanged) == ((), 1)
    repository.write("masks.py", "FILL = 2\n")
    assert codes(repository.audit(diff_base="HEAD").findings) == [("ESP301", 1)]


def test_standard_input_is_compared_under_its_name(repository: Workbench) -> None:
    text = (repository.folder / "net.py").read_bytes() + b"    d = 5  # <- ESP301\n"
    report = repository.audit("-", stdin=text, stdin_filename="net.py", diff_base="start")
    assert codes(report.findings) == [("ESP301", 7)]


def test_a_baseline_and_a_base_go_together(repository: Workbench) -> None:
    repository.write("known.json", '{"schema": "esper-audit-baseline/1", "files": {}}')
    repository.network(BODY + "    d = 5  # <- ESP301\n")
    report = repository.audit(diff_base="start", baseline="known.json")
    assert (codes(report.findings), report.unchanged) == ([("ESP301", 7)], 2)


# --- which repository, which commit


def test_every_repository_answers_for_its_own_files(repository: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = repository.folder / "vendor/inner"
    repository.network(BODY, "vendor/inner/net.py")
    git(inner, "init", "--quiet")
    commit(inner)
    git(inner, "tag", "start")
    repository.network(BODY.replace("a = 1", "a = 0"))
    monkeypatch.chdir(inner)
    report = repository.audit("../..", diff_base="start")
    assert [finding.span.path.rpartition("/")[0] for finding in report.findings] == [str(repository.folder)]
    assert report.unchanged == 3


def test_a_worktree_is_a_repository(repository: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    git(repository.folder, "worktree", "add", "--quiet", "-b", "side", "tree")
    monkeypatch.chdir(repository.folder / "tree")
    repository.network(BODY + "    d = 5  # <- ESP301\n", "tree/net.py")
    assert codes(repository.audit(diff_base="main").findings) == [("ESP301", 7)]


def test_dots_compare_with_where_the_branch_left(repository: Workbench) -> None:
    git(repository.folder, "checkout", "--quiet", "-b", "side")
    repository.write("other.py", "")
    commit(repository.folder)
    git(repository.folder, "checkout", "--quiet", "main")
    repository.network(BODY.replace("a = 1", "a = 2"))
    commit(repository.folder)
    git(repository.folder, "checkout", "--quiet", "side")
    assert codes(repository.audit(diff_base="main").findings) == [("ESP201", 4)]  # main moved on
    assert repository.audit(diff_base="main...").findings == ()


def test_histories_that_share_nothing_have_no_such_place(repository: Workbench) -> None:
    git(repository.folder, "checkout", "--quiet", "--orphan", "lonely")
    commit(repository.folder)
    assert refusal(repository, "main...") == (
        "--diff-base: 'main' and HEAD have no common ancestor here; a shallow clone may lack it"
    )


@pytest.mark.parametrize("word", ["nowhere", "HEAD~99", "main..side", "^main", "0" * 40, "start:net.py", "a\nb"])
def test_an_unknown_revision_is_wrong_use(repository: Workbench, word: str) -> None:
    assert refusal(repository, word) == (
        f"--diff-base: {word!r} is no revision that the repository in {str(repository.folder)!r} has"
    )


@pytest.mark.parametrize("word", ["", "...", "--output=pwned", "-h", "--git-dir=x", "a\0b"])
def test_a_revision_is_never_an_option(repository: Workbench, word: str) -> None:
    assert refusal(repository, word) == f"--diff-base: {word!r} is no revision"
    assert not (repository.folder / "pwned").exists()


def test_no_repository_and_no_git_are_wrong_use(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bench.network(BODY)
    assert refusal(bench, "HEAD").startswith("--diff-base: not a git repository")  # an empty .git
    (bench.folder / ".git").rmdir()
    assert refusal(bench, "HEAD") == (
        f"--diff-base needs a git repository, and {str(bench.folder / 'net.py')!r} is in none"
    )
    git(bench.folder, "init", "--quiet")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert refusal(bench, "HEAD") == "--diff-base: cannot run git: is it installed?"


def test_a_git_that_never_answers_is_given_up(repository: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = repository.write("bin/git", "#!/bin/sh\nexec sleep 600\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(fake.parent), prepend=os.pathsep)
    monkeypatch.setattr("esper_audit.changes._TIMEOUT", 0.1)
    assert refusal(repository, "HEAD") == "--diff-base: git did not answer within 0 seconds"


def test_inside_a_hook_git_points_elsewhere_and_is_not_followed(
    repository: Workbench, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    git(other, "init", "--quiet")
    commit(other)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_CONFIG_PARAMETERS"):
        monkeypatch.setenv(name, str(other / ".git"))
    assert repository.audit(diff_base="start").unchanged == 2


# --- a hostile repository


def test_no_program_that_a_repository_names_is_run(repository: Workbench) -> None:
    folder = repository.folder
    touched = folder / "touched"
    script = folder / "evil.sh"
    script.write_text(f"#!/bin/sh\necho $0 $* >> {touched}\ncat\n")
    script.chmod(0o755)
    hooks = folder / ".git/evil-hooks"
    hooks.mkdir()
    for hook in ("post-index-change", "reference-transaction", "post-checkout", "fsmonitor-watchman"):
        (hooks / hook).write_bytes(script.read_bytes())
        (hooks / hook).chmod(0o755)
    repository.write(".gitattributes", "*.py filter=evil diff=evil\n")
    git(folder, "add", ".gitattributes")
    git(folder, "mv", "net.py", "moved.py")
    for setting in (
        "core.fsmonitor", "core.pager", "core.editor", "core.sshCommand", "core.askPass", "diff.external",
        "diff.evil.command", "diff.evil.textconv", "filter.evil.clean", "filter.evil.smudge", "filter.evil.process",
        "pager.diff-index", "pager.cat-file", "pager.rev-parse", "gpg.program", "credential.helper",
        "alias.rev-parse", "alias.cat-file", "alias.ls-tree",
    ):  # fmt: skip
        git(folder, "config", setting, str(script))
    git(folder, "config", "core.hooksPath", str(hooks))
    repository.network(BODY + "    d = 5  # <- ESP301\n", "moved.py")
    assert codes(repository.audit("moved.py", diff_base="start").findings) == [("ESP301", 7)]
    assert not touched.exists()
    subprocess.run(["git", "diff", "start"], cwd=folder, capture_output=True, check=False)
    assert touched.exists()  # the traps are set


def test_a_partial_clone_fetches_nothing(repository: Workbench) -> None:
    folder = repository.folder
    touched = folder / "touched"
    blob = git(folder, "rev-parse", "HEAD:net.py")
    (folder / ".git/objects" / blob[:2] / blob[2:]).unlink()
    git(folder, "config", "core.repositoryFormatVersion", "1")
    git(folder, "config", "extensions.partialClone", "origin")
    git(folder, "config", "remote.origin.promisor", "true")
    git(folder, "config", "remote.origin.uploadpack", f"touch {touched}; false")
    git(folder, "config", "core.sshCommand", f"touch {touched}; false")
    where = f"--diff-base: cannot read {str(folder / 'net.py')!r} at 'start': "
    for url in (str(folder), "ssh://nobody@localhost/x"):
        git(folder, "config", "remote.origin.url", url)
        assert refusal(repository, "start").startswith(where)
        assert not touched.exists()
        subprocess.run(["git", "cat-file", "blob", blob], cwd=folder, capture_output=True, check=False)
        assert touched.exists()  # the trap is set
        touched.unlink()


def test_a_clone_without_its_large_files_still_follows_renames(repository: Workbench) -> None:
    repository.write("picture.gif", "large")
    commit(repository.folder)
    blob = git(repository.folder, "rev-parse", "HEAD:picture.gif")
    git(repository.folder, "mv", "net.py", "sub.py")
    git(repository.folder, "mv", "picture.gif", "other.gif")
    repository.write("other.gif", "larger")
    git(repository.folder, "add", "other.gif")
    (repository.folder / ".git/objects" / blob[:2] / blob[2:]).unlink()
    assert repository.audit("sub.py", diff_base="HEAD").findings == ()


# --- comparing


LINES = st.lists(st.sampled_from([b"a", b"b", b"c", b""]), max_size=12).map(tuple)


def expanded(lines: Lines) -> set[int]:
    return {number for first, last in lines.changed for number in range(first, last + 1)}


@settings(deadline=None)
@given(LINES, LINES)
def test_what_is_not_changed_stood_there_before_in_the_same_order(
    old: tuple[bytes, ...], new: tuple[bytes, ...]
) -> None:
    lines = changed_lines(old, new)
    kept = [line for number, line in enumerate(new, 1) if number not in expanded(lines)]
    rest = iter(old)
    assert all(line in rest for line in kept)
    assert bool(lines) == (old != new)
    assert all(1 <= first <= last <= len(new) for first, last in lines.changed)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_of_lines_that_differ_exactly_the_inserted_and_the_replaced_ones_changed(data: st.DataObject) -> None:
    old = [b"%d" % number for number in range(data.draw(st.integers(0, 20)))]
    new: list[bytes] = []
    wanted: set[int] = set()
    for line in old:
        what = data.draw(st.sampled_from(["keep", "keep", "drop", "replace", "insert"]))
        if what in ("replace", "insert"):
            new.append(b"new %d" % len(new))
            wanted.add(len(new))
        if what in ("keep", "insert"):
            new.append(line)
    assert expanded(changed_lines(tuple(old), tuple(new))) == wanted


def test_a_million_equal_lines_do_not_hang_the_comparison() -> None:
    old, new = (b"x",) * 20_000 + (b"y",), (b"z",) + (b"x",) * 30_000
    assert changed_lines(old, new) == Lines(changed=((1, 30_001),))


def test_the_comparison_agrees_with_git_about_a_real_change(repository: Workbench) -> None:
    before = [f"line {number}" for number in range(300)]
    after = list(before)
    del after[250:260], after[40]
    after[100:103] = ["other", "lines"]
    after.insert(7, "one more")
    repository.write("text.py", "\n".join(before) + "\n")
    commit(repository.folder)
    repository.write("text.py", "\n".join(after) + "\n")
    heads = [line for line in git(repository.folder, "diff", "-U0", "text.py").splitlines() if line.startswith("@@")]
    ranges = [head.split()[2].removeprefix("+").split(",") for head in heads]
    added = {int(first) + step for first, *many in ranges for step in range(int(many[0]) if many else 1)}
    old, new = (tuple(line.encode() for line in lines) for lines in (before, after))
    assert expanded(changed_lines(old, new)) == added
    assert len(changed_lines(old, new).deleted) == sum(many == ["0"] for _, *many in ranges)
    assert difflib.SequenceMatcher(None, before, after).ratio() > 0.9  # a change, not another file


def found_on(span: Span, **more: Any) -> Finding:
    return Finding("ESP201", "a", Category.DEVICE, Severity.HIGH, Confidence.HIGH, "m", "h", span, **more)


def touched(repository: Workbench, finding: Finding) -> bool:
    path = repository.folder / "net.py"
    return Changes("start").touch(finding, path, Source.read(path))


def test_what_an_experiment_alone_found_is_about_the_whole_file(repository: Workbench) -> None:
    head = Span("net.py", 3, 1, 3, 2)
    assert not touched(repository, found_on(head, origin="probe"))
    repository.network(BODY.replace("c = 3", "c = 4"))
    assert touched(repository, found_on(head, origin="probe"))
    assert not touched(repository, found_on(head))


def test_a_span_that_ends_at_the_start_of_a_line_does_not_hold_that_line(repository: Workbench) -> None:
    repository.network(BODY.replace("b = 2", "b = 3"))
    assert not touched(repository, found_on(Span("net.py", 4, 1, 5, 1)))
    assert touched(repository, found_on(Span("net.py", 4, 1, 5, 2)))


def test_where_nobody_can_tell_a_finding_is_shown(
    repository: Workbench, tmp_path_factory: pytest.TempPathFactory
) -> None:
    found = found_on(Span("net.py", 4, 1, 4, 2))
    assert Changes("start").touch(found, repository.folder / "net.py", None)  # it cannot be read any more
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "net.py"
    elsewhere.write_text(BODY)
    assert Changes("start").touch(found, elsewhere, Source.read(elsewhere))  # in no repository
    git(elsewhere.parent, "init", "--quiet")
    assert Changes("start").touch(found, elsewhere, Source.read(elsewhere))  # in one that has no such revision
