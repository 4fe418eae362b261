"""What the words on the command line name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from esper_audit.collect import Collection, Patterns, collect, display_path
from esper_audit.core.errors import ConfigError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder that is a repository of its own."""
    (tmp_path / ".git").mkdir()
    return tmp_path


def put(tree: Path, *names: str) -> None:
    for name in names:
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("import torch\n")


def gather(tree: Path, *paths: str, exclude: tuple[str, ...] = (), force_exclude: bool = False) -> Collection:
    commands = ("check", "explain")
    patterns = Patterns(exclude, tree)
    return collect(paths or (".",), cwd=tree, exclude=patterns, force_exclude=force_exclude, commands=commands)


def names(collection: Collection) -> list[str]:
    return [target.display for target in collection.targets]


def test_a_folder_gives_its_python_files_sorted(tree: Path) -> None:
    put(tree, "b.py", "a/z.py", "a/b.py", "a/notes.txt", "a/stub.pyi", "c.PYC")
    assert names(gather(tree)) == ["a/b.py", "a/z.py", "b.py"]


@pytest.mark.parametrize(
    "folder",
    [".venv", ".git", ".tox", "venv", "build", "dist", "node_modules", "__pycache__", "site-packages", "x.egg-info"],
)
def test_folders_that_hold_no_source_are_skipped(tree: Path, folder: str) -> None:
    put(tree, f"{folder}/net.py", f"sub/{folder}/net.py", "sub/net.py")
    assert names(gather(tree)) == ["sub/net.py"]


def test_a_skipped_folder_is_walked_when_it_is_named(tree: Path) -> None:
    put(tree, "build/net.py")
    assert names(gather(tree, "build")) == ["build/net.py"]


def test_a_folder_called_env_is_source_unless_it_is_an_environment(tree: Path) -> None:
    put(tree, "env/net.py", "env2/lib/net.py", "conda/lib/net.py", "env2/pyvenv.cfg", "conda/conda-meta/history")
    assert names(gather(tree)) == ["env/net.py"]


def test_gitignore_files_are_honoured_down_the_tree(tree: Path) -> None:
    put(tree, "a/gen_x.py", "a/keep.py", "a/b/gen_y.py", "a/b/gen_keep.py", "old/net.py", "a/old/net.py", "top.py")
    (tree / ".gitignore").write_text("gen_*.py\n/old/\n")
    (tree / "a/b/.gitignore").write_text("!gen_keep.py\n")
    assert names(gather(tree)) == ["a/b/gen_keep.py", "a/keep.py", "a/old/net.py", "top.py"]


def test_the_gitignore_above_a_walked_folder_counts_up_to_the_repository(tree: Path) -> None:
    put(tree, "src/a.py", "src/gen.py", "src/sub/gen.py")
    (tree / ".gitignore").write_text("gen.py\n")
    (tree.parent / ".gitignore").write_text("a.py\n")
    try:
        assert names(gather(tree, "src")) == ["src/a.py"]
        assert names(gather(tree, "src/sub")) == []
    finally:
        (tree.parent / ".gitignore").unlink()


def test_an_ignored_folder_is_walked_when_it_is_named(tree: Path) -> None:
    put(tree, "corpus/a.py", "corpus/deep/b.py")
    (tree / ".gitignore").write_text("corpus/\n*.txt\n")
    assert names(gather(tree)) == []
    assert names(gather(tree, "corpus")) == ["corpus/a.py", "corpus/deep/b.py"]
    assert names(gather(tree, "corpus/deep")) == ["corpus/deep/b.py"]


def test_a_gitignore_with_a_line_git_cannot_read_is_honoured_for_the_rest(tree: Path) -> None:
    put(tree, "a.py", "gen.py")
    (tree / ".gitignore").write_bytes(b"gen.py\n!\n\xff\xfe\n")
    assert names(gather(tree)) == ["a.py"]


def test_exclude_leaves_out_of_a_walk_but_not_what_is_named(tree: Path) -> None:
    put(tree, "a.py", "legacy/net.py", "src/legacy/net.py", "src/b.py")
    assert names(gather(tree, exclude=("legacy",))) == ["a.py", "src/b.py"]
    assert names(gather(tree, exclude=("/legacy",))) == ["a.py", "src/b.py", "src/legacy/net.py"]
    assert names(gather(tree, "legacy/net.py", exclude=("legacy",))) == ["legacy/net.py"]


def test_force_exclude_leaves_out_what_is_named_too(tree: Path) -> None:
    put(tree, "legacy/net.py", "build/net.py", "net.py")
    words = ("legacy/net.py", "build/net.py", "net.py")
    collection = gather(tree, *words, exclude=("legacy",), force_exclude=True)
    assert names(collection) == ["net.py"]
    assert collection.excluded == ("build/net.py", "legacy/net.py")


def test_exclude_patterns_without_a_slash_reach_files_outside_the_configured_tree(tree: Path) -> None:
    put(tree, "conf/x.py", "other/legacy/net.py", "other/net.py")
    collection = collect(["other"], cwd=tree, exclude=Patterns(["legacy"], tree / "conf"))
    assert names(collection) == ["other/net.py"]


def test_a_pattern_that_is_none_names_its_place() -> None:
    with pytest.raises(ConfigError, match=r"pyproject.toml: 'exclude': '!' is not a valid pattern"):
        Patterns(["ok", "!"], Path("/x"), "pyproject.toml: 'exclude'").match(Path("/x/a.py"))


def test_a_link_loop_ends(tree: Path) -> None:
    put(tree, "a/net.py")
    (tree / "a/loop").symlink_to(tree, target_is_directory=True)
    (tree / "self").symlink_to("self")
    collection = gather(tree)
    assert names(collection) == ["a/net.py"]
    assert collection.details == ("link not followed: a/loop",)


def test_links_out_of_the_tree_are_not_followed(tree: Path) -> None:
    put(tree, "outside/secret.py", "inside/net.py")
    (tree / "inside/out").symlink_to(tree / "outside", target_is_directory=True)
    (tree / "inside/out.py").symlink_to(tree / "outside/secret.py")
    assert names(gather(tree, "inside")) == ["inside/net.py"]


def test_a_link_that_is_named_is_followed(tree: Path) -> None:
    put(tree, "real/net.py")
    (tree / "folder").symlink_to("real", target_is_directory=True)
    (tree / "file.py").symlink_to("real/net.py")
    assert names(gather(tree, "folder")) == ["folder/net.py"]
    assert names(gather(tree, "file.py")) == ["file.py"]


def test_a_file_named_twice_is_one_target_and_counts_as_named(tree: Path) -> None:
    put(tree, "a/net.py", "a/other.py")
    collection = gather(tree, "a", "./a/../a/net.py", "a/net.py")
    assert [(target.display, target.explicit) for target in collection.targets] == [
        ("a/net.py", True),
        ("a/other.py", False),
    ]


def test_a_named_file_needs_no_suffix_and_a_dangling_link_is_left_to_the_reader(tree: Path) -> None:
    put(tree, "script")
    (tree / "gone.py").symlink_to("nowhere.py")
    assert names(gather(tree, "script", "gone.py")) == ["gone.py", "script"]


def test_pipes_in_a_folder_are_not_opened(tree: Path) -> None:
    os.mkfifo(tree / "pipe.py")
    put(tree, "net.py")
    assert names(gather(tree)) == ["net.py"]


def test_a_folder_named_like_a_file_is_a_folder(tree: Path) -> None:
    put(tree, "x.py/net.py")
    assert names(gather(tree, "x.py")) == ["x.py/net.py"]
    assert names(gather(tree)) == ["x.py/net.py"]


def test_a_folder_without_python_gets_a_note(tree: Path) -> None:
    (tree / "docs").mkdir()
    collection = gather(tree, "docs")
    assert collection.notes == ("no Python files to audit under 'docs'",)
    assert collection.problems == ()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("chek", "no such file or folder: 'chek'; did you mean the command 'check'?"),
        ("netwrok.py", "no such file or folder: 'netwrok.py'; did you mean 'network.py'?"),
        ("src/agnet.py", "no such file or folder: 'src/agnet.py'; did you mean 'src/agent.py'?"),
        ("no/such/thing.py", "no such file or folder: 'no/such/thing.py'"),
        ("qqqq", "no such file or folder: 'qqqq'"),
        ("", "no such file or folder: ''"),
    ],
)
def test_a_missing_path_names_the_nearest_command_or_file(tree: Path, word: str, message: str) -> None:
    put(tree, "network.py", "src/agent.py")
    assert gather(tree, word).problems == (message,)


def test_only_the_first_word_can_be_a_misspelt_command(tree: Path) -> None:
    put(tree, "net.py")
    assert gather(tree, "net.py", "chek").problems == ("no such file or folder: 'chek'",)


def test_standard_input_takes_the_name_it_is_given(tree: Path) -> None:
    collection = collect(["-", "-"], cwd=tree, exclude=Patterns((), tree), stdin_filename="agent/net.py")
    assert [(target.display, target.stdin) for target in collection.targets] == [("agent/net.py", True)]


def test_paths_are_shown_from_the_current_folder_and_absolute_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    assert display_path(tmp_path / "here/a/../b.py", tmp_path / "here") == "b.py"
    assert display_path(tmp_path / "b.py", tmp_path / "here") == f"{tmp_path.as_posix()}/b.py"
    (tmp_path / "link").symlink_to("here", target_is_directory=True)
    assert display_path(tmp_path / "link/c.py", tmp_path / "here") == "c.py"
