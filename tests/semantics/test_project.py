"""Names lead to their definitions across the files of a project, and nothing outside it is looked at."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from esper_audit.semantics.project import project_root

from .written import Written

NET = "from torch import nn\nclass Net(nn.Module):\n    pass\n"


# where a project ends


@pytest.mark.parametrize("marker", ["pyproject.toml", "setup.cfg", "setup.py", ".git"])
def test_a_marker_makes_the_root_of_a_project(marker: str, tmp_path: Path) -> None:
    written = Written(tmp_path / "repository", {"a/b/network.py": NET}, marker)
    assert project_root(written.path("a/b/network.py")) == written.folder


def test_the_nearest_marker_counts(tmp_path: Path) -> None:
    Written(tmp_path, {}, ".git")
    inner = Written(tmp_path / "packages" / "inner", {"network.py": NET})
    assert project_root(inner.path("network.py")) == inner.folder
    assert project_root(inner.folder) == inner.folder


def test_a_project_is_looked_through_without_its_environments(tmp_path: Path) -> None:
    names = ["network.py", "sub/caller.py", ".venv/lib/x.py", "node_modules/y.py", "build/z.py", "mine/lib/w.py"]
    written = Written(tmp_path, dict.fromkeys(names, NET) | {"mine/pyvenv.cfg": ""})
    assert written.project.python_files == (written.path("network.py"), written.path("sub/caller.py"))


def test_a_folder_without_a_marker_is_not_searched_below(tmp_path: Path) -> None:
    written = Written(tmp_path, {"network.py": NET, "beside.py": "Net", "below/caller.py": "Net"}, marker="")
    assert written.project.python_files == (written.path("beside.py"), written.path("network.py"))
    assert written.project.files_naming("Net") == (written.path("beside.py"), written.path("network.py"))


def test_files_are_found_by_whole_words(tmp_path: Path) -> None:
    written = Written(tmp_path, {"network.py": NET, "a.py": "Net()", "b.py": "Network()", "c.py": "my_Net"})
    wanted = (written.path("a.py"), written.path("network.py"))
    assert written.project.files_naming("Net") == wanted
    for number in range(12):  # after some questions, an index of words answers
        written.project.files_naming(f"other_{number}")
    written.project._naming.pop("Net")  # noqa: SLF001  # asked anew, by the other way
    assert written.project.files_naming("Net") == wanted


# where imports lead


def test_a_package_under_src_is_found_from_everywhere(tmp_path: Path) -> None:
    written = Written(
        tmp_path,
        {
            "src/pkg/__init__.py": "",
            "src/pkg/net.py": NET,
            "src/pkg/agent.py": "from pkg.net import Net\n",
            "scripts/train.py": "from pkg.net import Net\n",
            "train.py": "import pkg.net\n",
        },
    )
    assert written.leads("src/pkg/agent.py", "Net") == ("src/pkg/net.py", "Net")
    assert written.leads("scripts/train.py", "Net") == ("src/pkg/net.py", "Net")
    assert written.leads("train.py", "pkg.net.Net") == ("src/pkg/net.py", "Net")


def test_a_name_is_followed_through_the_packages_that_re_export_it(tmp_path: Path) -> None:
    written = Written(
        tmp_path,
        {
            "pkg/__init__.py": "from .models import Net as Policy\n",
            "pkg/models/__init__.py": "from .net import Net\n",
            "pkg/models/net.py": NET,
            "train.py": "from pkg import Policy as P\n",
            "run.py": "import pkg as p\n",
        },
    )
    assert written.leads("train.py", "P") == ("pkg/models/net.py", "Net")
    assert written.leads("run.py", "p.Policy") == ("pkg/models/net.py", "Net")


def test_relative_imports_count_the_dots(tmp_path: Path) -> None:
    written = Written(
        tmp_path,
        {
            "pkg/__init__.py": "",
            "pkg/base.py": NET,
            "pkg/deep/__init__.py": "from ..base import Net\nfrom . import own\n",
            "pkg/deep/own.py": "from ..base import Net as A\nfrom .. import base\nfrom .sister import B\n",
            "pkg/deep/sister.py": "class B:\n    pass\n",
        },
    )
    assert written.leads("pkg/deep/__init__.py", "Net") == ("pkg/base.py", "Net")
    assert written.leads("pkg/deep/__init__.py", "own.B") == ("pkg/deep/sister.py", "B")
    assert written.leads("pkg/deep/own.py", "A") == ("pkg/base.py", "Net")
    assert written.leads("pkg/deep/own.py", "base.Net") == ("pkg/base.py", "Net")
    assert written.leads("pkg/deep/own.py", "B") == ("pkg/deep/sister.py", "B")


def test_star_imports_are_searched(tmp_path: Path) -> None:
    written = Written(
        tmp_path,
        {
            "network.py": "from torch.nn import *\nclass Net(Module):\n    pass\n",
            "middle.py": "from network import *\n",
            "train.py": "from os.path import *\nfrom middle import *\n",
        },
    )
    assert written.networks() == ("Net",)
    assert written.leads("train.py", "Net") == ("network.py", "Net")
    assert written.leads("network.py", "Linear") == ("", "torch.nn.Linear")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import torch", "torch.nn.Module"),
        ("import torch.nn as tnn", "tnn.Module"),
        ("from torch import nn as n", "n.Module"),
        ("from torch.nn import Module as M", "M"),
        ("import torch\nBase = torch.nn.Module", "Base"),
        ("from torch import nn\nModule = nn.Module\nBase = Module", "Base"),
        ("try:\n    from torch import nn\nexcept ImportError:\n    raise SystemExit from None", "nn.Module"),
        ("if True:\n    from torch.nn import Module", "Module"),
    ],
)
def test_every_spelling_of_an_import_leads_to_torch(source: str, name: str, tmp_path: Path) -> None:
    written = Written(tmp_path, f"{source}\nclass Net({name}):\n    pass\n")
    assert written.leads("network.py", name) == ("", "torch.nn.Module")
    assert written.networks() == ("Net",)


def test_a_stand_in_for_a_missing_torch_does_not_hide_the_network(tmp_path: Path) -> None:
    guarded = "try:\n    from torch import nn\nexcept ImportError:\n    nn = None\n"
    written = Written(tmp_path, f"{guarded}class Net(nn.Module):\n    pass\n")
    assert written.networks() == ("Net",)


def test_an_alias_of_another_file_leads_to_the_class_itself(tmp_path: Path) -> None:
    written = Written(
        tmp_path, {"network.py": NET + "Policy = Net\n", "train.py": "from network import Policy\nMine = Policy\n"}
    )
    assert written.leads("train.py", "Mine") == ("network.py", "Net")


def test_what_lies_outside_stays_a_name(tmp_path: Path) -> None:
    written = Written(tmp_path, {"train.py": "import gymnasium as gym\nfrom somewhere import Thing\n"})
    assert written.leads("train.py", "gym.Env") == ("", "gymnasium.Env")
    assert written.leads("train.py", "Thing") == ("", "somewhere.Thing")


def test_a_file_that_does_not_parse_is_unknown_and_no_error(tmp_path: Path) -> None:
    written = Written(tmp_path, {"broken.py": "class Net(\n", "train.py": "from broken import Net\n"})
    assert written.project.index(written.path("broken.py")) is None
    assert written.leads("train.py", "Net")[0] == ""


# cycles


def test_import_cycles_end_and_the_names_are_found(tmp_path: Path) -> None:
    written = Written(
        tmp_path,
        {
            "a.py": "from b import Base\nfrom b import missing\nclass Net(Base):\n    pass\n",
            "b.py": "from torch import nn\nfrom a import Net, missing\nclass Base(nn.Module):\n    pass\n",
        },
    )
    assert written.networks("a.py") == ("Net",)
    assert written.leads("b.py", "Net") == ("a.py", "Net")
    assert written.leads("a.py", "missing")[0] == ""


def test_cycles_of_aliases_bases_and_constants_end(tmp_path: Path) -> None:
    written = Written(
        tmp_path,
        {
            "network.py": "from other import Y, W\nX = Y\nV = W + 1\nclass A(B):\n    pass\nclass B(A):\n    pass\n",
            "other.py": "from network import X, V\nY = X\nW = V + 1\n",
            "self_star.py": "from self_star import *\nclass C(D):\n    pass\n",
        },
    )
    assert written.networks() == ()
    assert written.networks("self_star.py") == ()
    assert written.project.constant(written.path("network.py"), "X") is NotImplemented
    assert written.project.constant(written.path("network.py"), "V") is NotImplemented
    network = written.network("A")
    assert [model.name for model in network.model.lineage] == ["A", "B"]


STAR_CYCLE = {"a.py": "from b import *\nfrom c import *\n", "b.py": "from a import *\n", "c.py": NET}


def test_a_star_cycle_does_not_hide_a_name(tmp_path: Path) -> None:
    assert Written(tmp_path, STAR_CYCLE).leads("b.py", "Net") == ("c.py", "Net")


def test_a_name_in_a_star_cycle_does_not_depend_on_who_was_asked_first(tmp_path: Path) -> None:
    written = Written(tmp_path, STAR_CYCLE)
    assert written.leads("a.py", "Net") == ("c.py", "Net")
    assert written.leads("b.py", "Net") == ("c.py", "Net")


def test_a_long_chain_of_re_exports_does_not_depend_on_who_was_asked_first(tmp_path: Path) -> None:
    chain = {f"m{n}.py": f"from m{n + 1} import Net\n" for n in range(16)} | {"m16.py": NET}
    alone = Written(tmp_path / "one", chain).leads("m10.py", "Net")
    written = Written(tmp_path / "two", chain)
    written.leads("m0.py", "Net")
    assert written.leads("m10.py", "Net") == alone


# constants


@pytest.mark.parametrize(
    "expression",
    [
        'float("-inf")',
        '-float("inf")',
        'float("-Infinity")',
        "-math.inf",
        "-inf",
        "-np.inf",
        "-torch.inf",
        "numpy_infinity",
        "math.inf * -1",
        "-1e999",
    ],
)
def test_every_spelling_of_minus_infinity_is_known_across_files(expression: str, tmp_path: Path) -> None:
    header = "import math\nfrom math import inf\nimport numpy as np\nimport torch\nnumpy_infinity = np.NINF\n"
    written = Written(
        tmp_path,
        {
            "masks.py": f"{header}BLOCKED: float = {expression}\n",
            "pkg/__init__.py": "from masks import BLOCKED as CLOSED\n",
            "network.py": "import masks\nfrom pkg import CLOSED\nNAMED = CLOSED\nREACHED = masks.BLOCKED\n",
        },
    )
    for name in ("NAMED", "REACHED"):
        assert written.project.constant(written.path("network.py"), name) == -math.inf


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("-1e4", -1e4),
        ("-(10 ** 4)", -10_000),
        ("2 * 3 + 1", 7),
        ("7 // 2", 3),
        ('"text"', "text"),
        ("None", None),
        ("torch.finfo(torch.float16).min", "finfo.min"),
        ("np.finfo(np.float32).min", "finfo.min"),
        ("1 / 0", NotImplemented),
        ("10 ** 9999", NotImplemented),
        ("read()", NotImplemented),
        ("-OTHER", NotImplemented),
        ('float("abc")', NotImplemented),
    ],
)
def test_constants_are_folded_where_they_are_plain(expression: str, value: object, tmp_path: Path) -> None:
    written = Written(tmp_path, f"import torch\nimport numpy as np\nX = {expression}\n")
    assert written.project.constant(written.path("network.py"), "X") == value


# what is a network


def test_nested_classes_are_networks_under_their_full_names(tmp_path: Path) -> None:
    written = Written(
        tmp_path,
        """\
        from torch import nn

        class Builder:
            class Base(nn.Module):
                def forward(self, x):  # [batch, dim]
                    return x

            class Net(Base):
                pass

        def make():
            class Local(nn.Module):
                pass
            return Local
        """,
    )
    assert written.networks() == ("Builder.Base", "Builder.Net", "make.Local")
    assert [model.name for model in written.network("Builder.Net").model.lineage] == ["Builder.Net", "Builder.Base"]


@pytest.mark.parametrize("methods", ["step reset render", "step reset close", "_step _reset"])
def test_environments_are_no_networks(methods: str, tmp_path: Path) -> None:
    body = "".join(f"    def {name}(self): ...\n" for name in methods.split())
    written = Written(tmp_path, f"from torch import nn\nclass Env(nn.Module):\n{body}class Net(Env):\n    pass\n")
    assert written.networks() == ()


@pytest.mark.parametrize(
    ("source", "networks"),
    [
        ("class Net(nn.Module): pass", ("Net",)),
        ("class Net(nn.LSTM): pass", ("Net",)),
        ("class Net(Generic[T], nn.Module): pass", ("Net",)),
        ("class Net(sb3.Policy):\n    def __init__(self):\n        self.pi = nn.Linear(2, 2)", ("Net",)),
        ("class Net(sb3.Policy):\n    def __init__(self):\n        self.pi = 3", ()),
        ("class Agent:\n    def __init__(self):\n        self.pi = nn.Linear(2, 2)", ()),
        ("class Data(torch.utils.data.Dataset): pass", ()),
        ("class Weight(nn.Parameter): pass", ()),
        ("class Net(Unknown): pass", ()),
    ],
)
def test_a_network_is_what_descends_from_a_module(source: str, networks: tuple[str, ...], tmp_path: Path) -> None:
    header = "import torch\nfrom torch import nn\nfrom typing import Generic, TypeVar\nimport sb3\nT = TypeVar('T')\n"
    assert Written(tmp_path, f"{header}{source}\n").networks() == networks
