"""Whatever audited code does: it does it in the worker, the audit goes on, and each probe gets its sentence."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pytest

from esper_audit.probes.contract import PASSED, UNDECIDED, MethodFacts, Order, Outcome
from esper_audit.probes.launch import Tell, carry_out

GATE, HIDDEN = "init-forget-bias", "hidden-used"  # one builds the network, the other one calls it, in this order
FORWARD = MethodFacts("forward", "forward", {"obs": "obs", "hidden": "hidden"}, {"tuple": ["logits", "hidden"]})


def network(*, top: str = "", bases: str = "nn.Module", init: str = "", forward: str = "") -> str:
    """A recurrent policy, with statements of a test at the top of its file, in its constructor and in its forward."""
    return f"""
import atexit, ctypes, fcntl, os, signal, socket, subprocess, sys, tempfile, threading, time
import torch
from torch import nn
{dedent(top)}

class Policy({bases}):
    def __init__(self, obs_dim: int, num_actions: int, hidden_size: int = 8) -> None:
        super().__init__()
        self.lstm = nn.LSTM(obs_dim, hidden_size, batch_first=True)
        self.actor = nn.Linear(hidden_size, num_actions)
{indent(dedent(init), " " * 8)}

    def forward(self, obs, hidden=None):
{indent(dedent(forward), " " * 8)}
        features, hidden = self.lstm(obs, hidden)
        return self.actor(features), hidden
"""


def tried(
    folder: Path, source: str, *, timeout: float = 120, tell: Tell = lambda _: None, **order: Any
) -> dict[str, Outcome]:
    """The outcomes of both probes on the network of a source."""
    file = folder / "project" / "network.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text(source, encoding="utf-8")
    parts = {"class_name": "Policy", "root": str(file.parent), "probes": (GATE, HIDDEN), **order}
    about, outcomes = carry_out(Order(str(file), methods=(FORWARD,), **parts), timeout=timeout, tell=tell)
    assert isinstance(about, dict)
    assert [outcome.id for outcome in outcomes] == list(parts["probes"])
    for outcome in outcomes:
        if outcome.result == UNDECIDED:
            assert len(outcome.error) > 20
            assert outcome.error.isprintable()
            assert not outcome.measured
        else:
            assert outcome.measured
            assert not outcome.error
    return {outcome.id: outcome for outcome in outcomes}


def reason(outcomes: dict[str, Outcome]) -> str:
    """Why none of the probes was decided, which is the same for all of them."""
    assert {outcome.result for outcome in outcomes.values()} == {UNDECIDED}
    assert len({outcome.error for outcome in outcomes.values()}) == 1
    return next(iter(outcomes.values())).error


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Temporary files lie in a folder of the test, and none is left in it."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert not list(folder.iterdir())


def test_a_network_is_tried_and_each_experiment_is_told_when_it_begins(tmp_path: Path) -> None:
    told: list[str] = []
    outcomes = tried(tmp_path, network(forward="time.sleep(0.2)"), tell=told.append)
    assert {outcome.result for outcome in outcomes.values()} == {PASSED}
    assert all(outcome.seconds >= 0 for outcome in outcomes.values())
    assert told[-1] == HIDDEN


def test_audited_code_runs_in_another_process(tmp_path: Path) -> None:
    here = set(sys.modules)
    said = reason(tried(tmp_path, network(top="raise RuntimeError(f'in process {os.getpid()}')")))
    pid = int(said.rpartition(" ")[2])
    assert pid != os.getpid()
    assert not any("network" in name for name in set(sys.modules) - here)


# --- ends


@pytest.mark.parametrize(
    ("top", "says"),
    [
        pytest.param(
            "raise ValueError('two\\nlines, \\x1b[31mred\\x1b[0m')",
            "importing network.py failed: ValueError: two lines, [31mred [0m",
            id="error",
        ),
        pytest.param(
            "def", "importing network.py failed: SyntaxError: invalid syntax (network.py, line 5)", id="syntax"
        ),
        pytest.param(
            "import no_such_package",
            "importing network.py failed: ModuleNotFoundError: No module named 'no_such_package' "
            f"(it has to be installed where esper-audit is: {sys.prefix})",
            id="missing",
        ),
        pytest.param("sys.exit(3)", "importing network.py failed: SystemExit: 3", id="sys.exit"),
        pytest.param("os._exit(0)", "the worker stopped with exit code 0 before the network was built", id="_exit(0)"),
        pytest.param(
            "print('so long', file=sys.stderr); os._exit(3)",
            "the worker stopped with exit code 3 (its last words: so long) before the network was built",
            id="_exit(3)",
        ),
        pytest.param(
            "ctypes.string_at(0)", "the interpreter died of SIGSEGV before the network was built", id="segfault"
        ),
        pytest.param(
            "os.kill(os.getpid(), signal.SIGKILL)",
            "the interpreter died of SIGKILL (perhaps for want of memory) before the network was built",
            id="killed",
        ),
        pytest.param(
            "hoard = []\nwhile True: hoard.append(torch.empty(1 << 28))",
            "importing network.py failed: RuntimeError: ",
            id="memory",
        ),
        pytest.param("bytearray(1 << 34)", "importing network.py failed: MemoryError", id="much memory"),
        pytest.param(
            """
            class Silent(BaseException):
                def __str__(self):
                    raise self
                __repr__ = __str__
            raise Silent
            """,
            "importing network.py failed: Silent",
            id="speechless",
        ),
        pytest.param(
            """
            sys.stdout.write("x" * (1 << 24)); sys.stderr.write("y\\n" * (1 << 23) + "last \\xff\\n")
            os.write(2, b"z" * (1 << 24)); os._exit(5)
            """,
            f"the worker stopped with exit code 5 (its last words: {'z' * 200}) before the network was built",
            id="noise",
        ),
    ],
)
def test_an_import_that_fails_is_told_in_one_sentence(tmp_path: Path, top: str, says: str) -> None:
    said = reason(tried(tmp_path, network(top=top)))
    assert said.startswith(says) if says.endswith(": ") else said == says


def test_an_endless_loop_is_ended_when_its_time_is_up(tmp_path: Path) -> None:
    said = reason(tried(tmp_path, network(top="while True: pass"), timeout=3))
    assert said == "the worker was ended after 3 s before the network was built"


def test_a_network_that_uses_up_its_processor_time_is_told(tmp_path: Path) -> None:
    hurry = "import resource; resource.setrlimit(resource.RLIMIT_CPU, (1, 120))\nwhile True: pass"
    outcomes = tried(tmp_path, network(forward=hurry))
    assert outcomes[HIDDEN].error == f"the worker was ended, its processor time was used up in `{HIDDEN}`"


@pytest.mark.parametrize(
    ("forward", "says"),
    [
        ("sys.exit(3)", "the experiment could not be finished: SystemExit: 3"),
        ("os._exit(3)", f"the worker stopped with exit code 3 in `{HIDDEN}`"),
        ("ctypes.string_at(0)", f"the interpreter died of SIGSEGV in `{HIDDEN}`"),
    ],
)
def test_what_was_decided_before_a_crash_counts(tmp_path: Path, forward: str, says: str) -> None:
    outcomes = tried(tmp_path, network(forward=forward))
    assert outcomes[GATE].result == PASSED
    assert outcomes[HIDDEN].result == UNDECIDED
    assert outcomes[HIDDEN].error == says


def test_an_experiment_that_was_not_reached_names_the_one_that_was_the_end(tmp_path: Path) -> None:
    said = reason(tried(tmp_path, network(forward="os._exit(3)"), probes=(HIDDEN, GATE)))
    assert said == f"the worker stopped with exit code 3 in `{HIDDEN}`"


@pytest.mark.parametrize(
    ("init", "error"), [("raise ValueError('no')", "ValueError: no"), ("sys.exit('bye')", "SystemExit: bye")]
)
def test_a_constructor_that_fails_says_what_it_was_given_and_what_to_configure(
    tmp_path: Path, init: str, error: str
) -> None:
    assert reason(tried(tmp_path, network(init=init))) == (
        f"Policy(obs_dim=17, num_actions=5) failed: {error}; "
        'configure [tool.esper-audit.probe."network.py::Policy"] with args = {obs_dim = ..., num_actions = ...} '
        'or with factory = "module:function"'
    )


def test_a_project_that_is_gone_is_told(tmp_path: Path) -> None:
    said = reason(tried(tmp_path, network(), root=str(tmp_path / "gone")))
    assert said.startswith("building Policy failed: FileNotFoundError: [Errno 2] No such file or directory")


def test_a_fault_of_the_worker_itself_is_told(tmp_path: Path) -> None:
    assert reason(tried(tmp_path, network(), probes=("no-such-probe",))) == (
        "the worker stopped with exit code 1 (its last words: KeyError: 'no-such-probe') before the network was built"
    )


def test_a_worker_that_cannot_be_started_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    said = reason(tried(tmp_path, network()))
    assert said.startswith("the worker could not be started ([Errno 2] No such file or directory")


# --- processes


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock: the system gives it back when the last one that held it has ended."""
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def is_released(path: Path) -> bool:
    """Whether it is given back, be it a moment after the signal."""
    for _ in range(500):
        if not is_locked(path):
            return True
        time.sleep(0.01)
    return False


def test_a_process_that_the_network_leaves_behind_is_ended_with_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    top = f"""
    if ctypes.CDLL(None).fork() == 0:
        file = open({str(lock)!r})
        fcntl.flock(file, fcntl.LOCK_EX)
        while True:
            time.sleep(60)
    file = open({str(lock)!r})
    try:
        while True:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_UN)
            time.sleep(0.01)
    except BlockingIOError:
        raise RuntimeError("the child has the lock")
    """
    assert reason(tried(tmp_path, network(top=top))).endswith("the child has the lock")
    assert is_released(lock)


def test_an_interrupted_audit_leaves_no_worker_behind(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()

    def interrupt(_probe: str) -> None:
        assert is_locked(lock)
        raise KeyboardInterrupt

    top = f"file = open({str(lock)!r}); fcntl.flock(file, fcntl.LOCK_EX)"
    with pytest.raises(KeyboardInterrupt):
        tried(tmp_path, network(top=top, forward="while True: pass"), tell=interrupt)
    assert is_released(lock)


# --- habits that are no end


@pytest.mark.parametrize(
    "top",
    [
        pytest.param("os.closerange(0, 4096)", id="closes all files"),
        pytest.param(
            """
            for _ in range(200):
                threading.Thread(target=time.sleep, args=(1000,)).start()
            atexit.register(time.sleep, 1000)
            """,
            id="threads that do not end",
        ),
        pytest.param(
            """
            assert sys.stdin.read() == "" and os.read(0, 1) == b""
            assert torch.get_num_threads() == 1 and not torch.cuda.is_available()
            breakpoint()
            os.chdir("/")
            with tempfile.TemporaryDirectory() as folder:
                os.makedirs(folder + "/a/b")
                torch.save(torch.zeros(1), folder + "/a/b/zeros.pt")
            """,
            id="looks around",
        ),
        pytest.param(
            """
            with open(tempfile.gettempdir() + "/../results.jsonl", "a") as file:
                for line in ("nonsense", "7", '{"about": 7}', "[" * 9999, '{"id": "hidden-used", "result": "fine"}'):
                    print(line, file=file)
            """,
            id="writes among the results",
        ),
    ],
)
def test_a_network_with_bad_habits_is_tried_all_the_same(tmp_path: Path, top: str) -> None:
    outcomes = tried(tmp_path, network(top=top))
    assert {outcome.result for outcome in outcomes.values()} == {PASSED}, outcomes


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(network(init="self.me = self"), id="contains itself"),
        pytest.param(network(forward="raise type('Odd', (BaseException,), {'__str__': None})()"), id="odd error"),
        pytest.param(
            network(top="hoard = []", forward="while True: hoard.append(open(os.devnull))"), id="opens too many files"
        ),
    ],
)
def test_a_network_that_breaks_an_experiment_gets_a_sentence(tmp_path: Path, source: str) -> None:
    outcomes = tried(tmp_path, source)
    assert outcomes[HIDDEN].error.startswith(("the experiment could not be finished: ", "not comparable: "))


METACLASS = network(
    top="""
    class Meta(type):
        def __hash__(cls): raise RuntimeError("no hash")
        def __eq__(cls, other): raise RuntimeError("no equality")
        def __repr__(cls): raise RuntimeError("no words")
    """,
    bases="nn.Module, metaclass=Meta",
)


def test_a_class_that_can_be_neither_hashed_nor_compared_nor_shown_gets_a_sentence(tmp_path: Path) -> None:
    outcomes = tried(tmp_path, METACLASS, arguments={"obs_dim": 17, "num_actions": 5})
    assert outcomes[GATE].result == PASSED
    assert outcomes[HIDDEN].error == "the experiment could not be finished: RuntimeError: no hash"


def test_modules_beside_the_network_win_over_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, lib = tmp_path / "project", tmp_path / "lib"
    for folder in (project, lib):
        folder.mkdir()
        for name in ("rules", "auditor", "esper", "launch", "worker", "contract"):
            (folder / f"{name}.py").write_text(f"PLACE = {folder.name!r}\n", encoding="utf-8")
    (lib / "helper.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "lib")
    top = """
    import auditor, contract, esper, helper, launch, rules, worker
    assert {each.PLACE for each in (auditor, contract, esper, launch, rules, worker)} == {"project"}
    """
    outcomes = tried(tmp_path, network(top=top))
    assert {outcome.result for outcome in outcomes.values()} == {PASSED}, outcomes


# --- refusals


def test_a_refusal_is_an_error_of_the_audited_code(tmp_path: Path) -> None:
    said = reason(tried(tmp_path, network(top="subprocess.run(['true'])")))
    assert said == "importing network.py failed: Refused: a probe's worker refuses subprocess.Popen"


def test_a_network_that_lives_with_refusals_is_tried_and_has_changed_nothing(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        top = f"""
        for attempt in (
            lambda: socket.create_connection({server.getsockname()!r}),
            lambda: socket.socket().connect({server.getsockname()!r}),
            lambda: subprocess.Popen(["touch", {str(tmp_path / "made")!r}]),
            lambda: os.system("touch {tmp_path / "made"}"),
            lambda: open({str(tmp_path / "made")!r}, "w"),
            lambda: os.remove({str(tmp_path / "precious")!r}),
            lambda: os.kill(os.getppid(), signal.SIGKILL),
            lambda: os.fork(),
        ):
            try:
                attempt()
            except OSError as error:
                assert "refuses" in str(error)
            else:
                raise AssertionError(attempt)
        """
        outcomes = tried(tmp_path, network(top=top))
        with pytest.raises(BlockingIOError):
            server.accept()
    assert {outcome.result for outcome in outcomes.values()} == {PASSED}, outcomes
    assert (tmp_path / "precious").exists()
    assert not (tmp_path / "made").exists()


ALLOWED = (
    "open(inside / 'a', 'w').close(); open(inside / 'a'); open(outside / 'old'); open(os.devnull, 'w').close()",
    "open(os.open(inside / 'a', os.O_RDWR), 'w').close()",
    "os.mkdir(inside / 'b'); os.rename(inside / 'b', inside / 'c'); os.rmdir(inside / 'c')",
    "os.symlink(outside / 'old', inside / 'link'); open(inside / 'link'); os.remove(inside / 'link')",
    "os.makedirs(inside / 'd' / 'e'); open(inside / 'd' / 'e' / 'f', 'w').close(); shutil.rmtree(inside / 'd')",
    "fd = os.open(inside, 0); os.mkdir('g', dir_fd=fd); os.rmdir('g', dir_fd=fd)",
    "os.kill(os.getpid(), 0); os.killpg(0, 0); socket.socket().close()",
)
REFUSED = (
    "open(outside / 'new', 'w')",
    "open(outside / 'old', 'r+')",
    "os.open(outside / 'new', os.O_CREAT)",
    "open(str(inside) + '/../outside/new', 'a')",
    "open('new', 'x')",
    "os.symlink(outside / 'old', inside / 'link'); open(inside / 'link', 'w')",
    "os.symlink(inside, outside / 'link')",
    "os.rename(outside / 'old', inside / 'old')",
    "os.rename(inside / 'kept', outside / 'kept')",
    "os.link(outside / 'old', inside / 'hard')",
    "os.remove('old', dir_fd=os.open(outside, 0))",
    "os.truncate(outside / 'old', 0)",
    "os.chmod(outside / 'old', 0)",
    "os.utime(outside / 'old')",
    "shutil.rmtree(outside)",
    "socket.socket().bind(('127.0.0.1', 0))",
    "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
    "os.execv('/bin/true', ['true'])",
    "os.posix_spawn('/bin/true', ['true'], {})",
    "os.kill(-1, 0)",
    "os.killpg(os.getppid(), 0)",
)


def test_what_may_be_changed_is_what_lies_in_the_folder_of_the_worker(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / "kept").touch()
    (outside / "old").write_text("old", encoding="utf-8")
    script = f"""
import os, shutil, socket, sys
from pathlib import Path
from esper_audit.probes.sandbox import Refused, limit, refuse
inside, outside = Path({str(inside)!r}), Path({str(outside)!r})
limit(60)
refuse(inside)
for attempt in {ALLOWED!r}:
    exec(attempt)
for attempt in {REFUSED!r}:
    try:
        exec(attempt)
    except Refused:
        (inside / "link").unlink(missing_ok=True)
    else:
        raise AssertionError(attempt)
try:
    with open(inside / "large", "wb") as file:
        file.truncate(1 << 40)
except OSError:
    print("too large")
"""
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=outside,
        env=os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("too large\n", "")
    assert [file.name for file in outside.iterdir()] == ["old"]
    assert (outside / "old").read_text(encoding="utf-8") == "old"
