"""What a stranger chose, be it names, comments, paths or words of a crash, is shown and does nothing in any format."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from markdown_it import MarkdownIt

from esper_audit.core.findings import (
    Category,
    Confidence,
    Edit,
    Finding,
    Fix,
    Highlight,
    Related,
    Severity,
    Span,
    Verdict,
)
from esper_audit.core.report import AuditReport, FileReport, HeadCard, MethodCard, NetworkCard, ProbeResult, RuleInfo
from esper_audit.reporters import FORMATS, RenderOptions, render

from .auditing import NETWORK

PAYLOADS = {
    "newline and command": "a\n::set-output name=x::y\r\n::error file=x::owned",
    "carriage return command": "a\r::stop-commands::x\r##[group]x",
    "escape": "a\x1b[31m\x1b]8;;http://evil.example/\x07link\x1b]8;;\x07\x9b2J\x08\x7f",
    "html": "<script>alert(1)</script><img src=x onerror=alert(1)><!-- </pre> -->",
    "markdown": "[x](javascript:alert(1)) ![x](http://evil.example/x.png) <http://evil.example> http://evil.example",
    "table": "a | b | c\n| --- |\n\\| `code` ``` \n# heading\n- [ ] task\n~~~",
    "directions": "a\u202eb\u2066c\u200f\u061c\u2069",
    "invisible": "a\u200bb\u2028c\u2029d\ufeff\U000e0041\u3164\x85\x0b\x0c",
    "surrogate": "a\udcffb\ud800c",
    "mention": "@everyone fixes #1 https://evil.example www.evil.example $x$ &lt;b&gt; &#60;i&#62;",
    "xml": "]]>\x00\x01\ufffe<failure/>&amp;\"'",
    "mermaid": 'x"]; click a href "javascript:alert(1)" %%{init: {}}%%\n```',
    "format": "%s %0A%0D %(x)s {0} {x} ${{ secrets.TOKEN }} \\n \\x1b[31m [red]x[/red] :smile:",
}
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def report_of(evil: str) -> AuditReport:
    """An audit in which every word that a stranger can choose is `evil`."""
    span, there = Span(evil, 2, 1, 2, 9), Span(f"other/{evil}.py", 1, 1, 3, 2)

    def finding(line: int, **more: Any) -> Finding:
        given: dict[str, Any] = {
            "code": "ESP201",
            "name": "hidden-without-dtype",
            "category": Category.DEVICE,
            "severity": Severity.HIGH,
            "confidence": Confidence.MEDIUM,
            "message": f"`{evil}` and {evil}",
            "help": f"{evil}\n```python\n{evil}\n```",
            "span": dataclasses.replace(span, line=line, end_line=line),
            "symbol": evil,
            "related": (Related(there, evil),),
            "fingerprint": f"abc:{line}",
            "network": f"{evil}::{evil}",
        }
        return Finding(**{**given, **more})

    edit = Edit(dataclasses.replace(span, line=3, end_line=3), evil)
    card = NetworkCard(
        evil,
        evil,
        1,
        evil,
        bases=(evil,),
        core=evil,
        trunk=(evil,),
        neck=(evil,),
        heads=(HeadCard(evil, "policy", evil), HeadCard(evil, evil, evil)),
        methods=(MethodCard(evil, "act", 1, (evil,)), MethodCard(evil, evil, 1, (evil,))),
        masks=(evil,),
        sizes=((evil, evil),),
    )
    lines = (evil.replace("\n", " "), evil.rsplit("\n", maxsplit=1)[-1], evil.replace("\n", "\x0b"), "x")
    return AuditReport(
        files=(
            FileReport(evil, "audited", (card,)),
            FileReport(f"{evil}/broken.py", "unparsable", error=evil, error_line=3),
            FileReport(f"{evil}/crashed.py", "crashed", error=evil),
        ),
        findings=(
            finding(1),
            finding(2, severity=Severity.CRITICAL, verdict=Verdict.CONFIRMED, evidence=evil),
            finding(3, fix=Fix(evil, safe=True, edits=(edit,)), verdict=Verdict.INCONCLUSIVE, evidence=evil),
            finding(4, verdict=Verdict.REFUTED, evidence=evil),
        ),
        highlights=(Highlight("ESP201", "hidden-without-dtype", Category.DEVICE, evil, evil, 1, evil),),
        suppressed=(finding(1, code="ESP202", reason=evil), finding(2, code="ESP202", reason="")),
        baselined=(finding(3, code="ESP203", reason=evil),),
        notes=(evil,),
        rules=(
            RuleInfo("ESP201", "hidden-without-dtype", "x", Category.DEVICE, Severity.HIGH, "hidden-dtype", None, ""),
        ),
        probes=(
            ProbeResult("hidden-dtype", f"{evil}::{evil}", Verdict.REFUTED, evil, evil, 1.0, evil, table=((evil,),)),
            ProbeResult("mask-rank", f"{evil}::{evil}", Verdict.INCONCLUSIVE, evil, "", 1.0, evil),
        ),
        torch_version=evil,
        sources={evil: lines, f"other/{evil}.py": lines},
    )


def rendered(format_name: str, report: AuditReport, *, color: bool = False) -> str:
    page = io.StringIO()
    options = RenderOptions(color=color, show_suppressed=True, show_refuted=True, statistics=True)
    render(format_name, report, page, options=options)
    return page.getvalue()


every_payload = pytest.mark.parametrize("evil", PAYLOADS.values(), ids=PAYLOADS)
every_format = pytest.mark.parametrize("format_name", FORMATS)


@every_format
@every_payload
def test_no_format_passes_on_characters_that_act_or_hide(format_name: str, evil: str) -> None:
    text = rendered(format_name, report_of(evil))
    assert [char for char in text if unicodedata.category(char) in ("Cc", "Cs") and char != "\n"] == []
    assert not set(text) & set(BIDI + "\u2028\u2029\u200b\ufeff\u3164\U000e0041")
    text.encode("utf-8")


@every_format
@every_payload
def test_no_line_is_a_workflow_command_of_a_stranger(format_name: str, evil: str) -> None:
    """Else it would be a workflow command: a runner obeys what it finds in the log."""
    for line in rendered(format_name, report_of(evil)).split("\n"):
        assert not re.match(r"\s*(::set-output|::error file=x|::stop-commands)", line)
        assert "##[" not in line


@pytest.mark.parametrize("format_name", ["full", "concise"])
@every_payload
def test_colours_on_a_terminal_are_ours(format_name: str, evil: str) -> None:
    text = rendered(format_name, report_of(evil), color=True)
    left = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert [char for char in left if unicodedata.category(char) in ("Cc", "Cs") and char != "\n"] == []
    plain = rendered(format_name, report_of(evil))
    assert [line.rstrip() for line in left.split("\n")] == [line.rstrip() for line in plain.split("\n")]


HARMLESS_TAGS = r"</?(code|br|details|summary|sub|b)>"


@pytest.mark.parametrize("html", [True, False], ids=["html", "no html"])
@every_payload
def test_rendered_markdown_has_no_element_link_or_image_of_a_stranger(html: bool, evil: str) -> None:
    parser = MarkdownIt("commonmark", {"html": html, "linkify": False}).enable(["table", "strikethrough"])
    harmless, hostile = (parser.parse(rendered("markdown", report_of(text))) for text in ("plain", evil))
    for token in [each for block in hostile for each in (block, *(block.children or []))]:
        assert token.type != "image"
        if token.type in ("html_block", "html_inline"):
            assert re.sub(HARMLESS_TAGS, "", token.content).strip() == "", token.content
        if token.type == "link_open":
            assert str(token.attrs["href"]).startswith("#"), token.attrs
    assert [token.type for token in hostile if token.type == "heading_open"] == [
        token.type for token in harmless if token.type == "heading_open"
    ]


@every_payload
def test_every_format_that_programs_read_can_be_read(evil: str) -> None:
    report = report_of(evil)
    for format_name in {"json", "sarif", "gitlab", "rdjson"} & set(FORMATS):
        json.loads(rendered(format_name, report))
    if "junit" in FORMATS:
        ET.fromstring(rendered("junit", report))  # noqa: S314  # our own output
    assert len(json.loads(rendered("json", report))["findings"]) == 4


@pytest.mark.skipif("github" not in FORMATS, reason="there is no such format yet")
@every_payload
def test_each_github_annotation_is_one_command_and_there_are_no_more(evil: str) -> None:
    commands = [line for line in rendered("github", report_of(evil)).split("\n") if line.startswith("::")]
    harmless = [line for line in rendered("github", report_of("plain")).split("\n") if line.startswith("::")]
    assert len(commands) == len(harmless)
    assert all(re.match(r"::(error|warning|notice) ", line) for line in commands)


# --- the same through the front door: real files with such names, and what goes to standard error


EVIL_NAMES = {
    "newline": "a\n::error::owned",
    "escape": "a\x1b[2J\x1b]0;owned\x07",
    "command": "::set-output name=x::y",
    "html": "<script>alert(1)<",
    "table": "a|b`c`[x](y)",
    "direction": "a\u202egnp",
    "bytes": os.fsdecode(b"a\xff\xfe"),
    "option": "--config=x",
}


@pytest.mark.skipif(sys.platform == "win32", reason="such names cannot be made there")
@pytest.mark.parametrize("name", EVIL_NAMES.values(), ids=EVIL_NAMES)
def test_hostile_names_of_files_and_folders_do_nothing_anywhere(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (tmp_path / ".git").mkdir()
    source = NETWORK.replace("MASK", "-1e9").replace("BODY", "pass  # esper: ignore[ESP999] a\x1b[31m\u202e<b>|`x`")
    (folder / f"{name}.py").write_text(source, encoding="utf-8")
    (folder / f"{name}broken.py").write_text("import torch\ndef f(:\n")
    (folder / "link.py").symlink_to(f"{name}.py")
    reports = [word for format in FORMATS for word in ("-o", f"{format}:report.{format}")]
    done = subprocess.run(
        [sys.executable, "-m", "esper_audit", ".", "-v", "--color", "never", *reports],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8:surrogateescape"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    for data in (done.stdout, done.stderr, *((tmp_path / f"report.{format}").read_bytes() for format in FORMATS)):
        text = data.decode("utf-8")  # strictly: no byte of a name gets through
        assert [char for char in text if unicodedata.category(char) in ("Cc", "Cf", "Cs") and char != "\n"] == []
        assert not re.search(r"^\s*::(set-output|error::owned)", text, re.MULTILINE)
    assert "link not followed" in done.stderr.decode()
