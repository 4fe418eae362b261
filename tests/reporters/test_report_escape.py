"""Whatever stands in an audited file, a reader sees all of it, and it does nothing."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from esper_audit.reporters.escape import (
    code_span,
    commandless,
    fence,
    inline,
    is_hidden,
    mermaid_label,
    slug,
    visible,
)
from esper_audit.reporters.layout import char_width, text_width, wrap

GFM = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])

HOSTILE = (
    "\x1b[31mred\x1b[0m",
    "\x9b31m",
    "a\u202eb\u2066c",
    "zero\u200bwidth\ufeff",
    "tag\U000e0041\ufe0f",
    "line\nbreak\r\n\u2028\u2029\x85",
    "\ud800",
    "<script>alert(1)</script>",
    "<!-- hidden",
    "[link](javascript:alert(1)) ![i](x)",
    "[ref]: http://example.org",
    "**bold** __bold__ _it_ *it* ~~gone~~ snake_case __init__",
    "`code` ``double`` ```",
    "`a``b` `c`@d `|` | pipe \\| \\",
    "# heading",
    "- item",
    "1. item",
    "2) item",
    "=== ---",
    "> [!NOTE]",
    "| a | b |\n| --- | --- |",
    "@everyone see https://example.org www.example.org a@b.org owner/repo#1 $x$",
    "&lt; &#65; &amp",
    "    indented",
    "```\n# out of the fence\n```",
    "~~~~",
    "$`x`$",
)
# Markup characters far more often than chance would have them.
texts = st.one_of(
    st.text(),
    st.text(alphabet="`|\\*_[]()<>!#-+=~@$&.:/ \n\t1a\u202e\x1bé漢\ufe0f"),
    st.lists(st.sampled_from(HOSTILE), max_size=4).map(" ".join),
)


def squeezed(text: str) -> str:
    """The text without what Markdown may lawfully change: blanks, and the backticks around code."""
    return re.sub(r"[\s`]", "", text)


def shown(tokens: list[Token]) -> str:
    """The characters a reader sees, and a failure for every token that is more than text or code."""
    parts = []
    for token in tokens:
        if token.type in ("text", "code_inline"):
            parts.append(token.content)
        elif token.type == "softbreak":
            parts.append(" ")
        else:
            assert token.type == "html_inline", token
            assert token.content in ("<code>", "</code>"), token
    return "".join(parts)


@given(texts)
def test_visible_text_has_no_character_that_acts_unseen(text: str) -> None:
    """Control, direction, zero-width and line-end characters are all spelled out."""
    assert not any(map(is_hidden, visible(text)))
    assert "\n" not in visible(text)


@given(texts)
def test_visible_text_stays_as_it_is_when_escaped_again(text: str) -> None:
    """Layers may escape without agreeing who does it."""
    assert visible(visible(text)) == visible(text)


@pytest.mark.parametrize(
    ("char", "escape"),
    [
        ("\x1b", r"\x1b"),
        ("\x9b", r"\x9b"),
        ("\x7f", r"\x7f"),
        ("\n", r"\n"),
        ("\t", r"\t"),
        ("\u202e", r"\u202e"),
        ("\u2066", r"\u2066"),
        ("\u200b", r"\u200b"),
        ("\ufeff", r"\ufeff"),
        ("\u2028", r"\u2028"),
        ("\u3164", r"\u3164"),
        ("\ufe0f", r"\ufe0f"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_hidden_characters_become_their_escapes(char: str, escape: str) -> None:
    """A reader can tell which one it was."""
    assert visible(f"a{char}b") == f"a{escape}b"


@pytest.mark.parametrize("text", ["plain", "naïve", "漢字", "Größe", "עברית", "a b", "e\u0301"])
def test_honest_letters_of_any_language_stay(text: str) -> None:
    """Only what cannot be seen is spelled out."""
    assert visible(text) == text


@given(texts)
def test_code_spans_show_their_text_literally(text: str) -> None:
    """Backticks, backslashes and pipes inside included."""
    (paragraph,) = [token for token in GFM.parse(f"x {code_span(text)} y") if token.type == "inline"]
    assert squeezed(shown(paragraph.children or [])) == squeezed(f"x{visible(text)}y")


@given(texts)
def test_prose_shows_its_text_and_stays_one_paragraph(text: str) -> None:
    """No heading, list, quote, table, link, emphasis or HTML comes out of a message."""
    tokens = GFM.parse(inline(text))
    assert [token.type for token in tokens] in ([], ["paragraph_open", "inline", "paragraph_close"])
    children = tokens[1].children or [] if tokens else []
    assert squeezed(shown(children)) == squeezed(visible(text))


@given(st.lists(texts, min_size=2, max_size=4), st.booleans())
@example(["\\", "|"], True)
def test_table_cells_stay_in_their_columns(cells: list[str], as_code: bool) -> None:
    """A pipe in a cell opens no new column, a line end closes no row."""
    write = code_span if as_code else inline
    row = f"| {' | '.join(map(write, cells))} |"
    head = f"|{' a |' * len(cells)}\n|{' --- |' * len(cells)}"
    tokens = GFM.parse(f"{head}\n{row}\n\nafter")
    texts_shown = [shown(token.children or []) for token in tokens if token.type == "inline"]
    assert len([token for token in tokens if token.type == "td_open"]) == len(cells)
    wanted = [*map(visible, cells), "after"]
    assert list(map(squeezed, texts_shown[len(cells) :])) == list(map(squeezed, wanted))


@given(texts)
def test_prose_holds_nothing_that_a_forge_makes_lively_outside_code(text: str) -> None:
    """Mentions, links, references and formulas stand in code, where no forge looks for them."""
    prose = re.sub("<code>.*?</code>", "", inline(text))
    (paragraph,) = [token for token in GFM.parse(f"x {prose}") if token.type == "inline"]
    read = "".join(token.content for token in paragraph.children or [] if token.type == "text")
    assert not re.search(r"[@$]|://|www\.|#\d", read)


def test_identifiers_in_prose_stay_readable() -> None:
    """Escaping what needs no escape would make the source of a report unreadable."""
    assert inline("`act` lifts 2-D masks of batch_first layers, max_entropy too.") == (
        "`act` lifts 2-D masks of batch_first layers, max_entropy too."
    )


@given(texts)
def test_fences_cannot_be_closed_by_their_content(text: str) -> None:
    """However many backticks the code has."""
    tokens = GFM.parse(f"before\n\n{fence(text, 'python')}\n\nafter")
    kinds = [token.type for token in tokens if token.type not in ("paragraph_open", "paragraph_close")]
    assert kinds == ["inline", "fence", "inline"]
    block = next(token for token in tokens if token.type == "fence")
    wanted = [commandless(visible(line.expandtabs(4))) for line in text.split("\n")]
    assert block.content == "\n".join(wanted) + "\n"


@given(texts)
def test_mermaid_labels_hold_safe_characters_only_and_lose_nothing(text: str) -> None:
    """Everything else is a numbered entity, which Mermaid turns into text and never into syntax."""
    label = mermaid_label(text[:40])
    assert re.fullmatch(r'"(?:[A-Za-z0-9 _(),=/.-]|#\d+;)*"', label)
    plain = html.unescape(re.sub(r"#(\d+);", r"&#\1;", label[1:-1]))
    wanted = visible(text[:40]).strip()
    assert plain == (wanted if len(wanted) <= 60 else wanted[:57] + "...")


@pytest.mark.parametrize("text", ["1. first", "- item", "* item", "+ item"])
def test_mermaid_labels_are_no_lists(text: str) -> None:
    """Mermaid answers `unsupported markdown: list` to a label that begins like one."""
    assert not re.match(r'"(\d+\.|[-*+]) ', mermaid_label(text))


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("3.1 ESP301 log-probs-in-inference-mode (high)", "31-esp301-log-probs-in-inference-mode-high"),
        ("What was examined", "what-was-examined"),
    ],
)
def test_anchors_are_those_of_the_forges(heading: str, anchor: str) -> None:
    """Else the links of a report lead nowhere."""
    assert slug(heading) == anchor


@given(texts, st.integers(20, 120), st.integers(0, 15))
def test_wrapped_lines_fit_unless_one_word_does_not(text: str, width: int, lead: int) -> None:
    """Width counts columns of the terminal."""
    for number, line in enumerate(wrap(text, width, lead=lead)):
        room = width - (0 if number else lead)
        assert text_width(line) <= room or " " not in line.strip()


@given(texts)
def test_wrapping_keeps_every_word(text: str) -> None:
    """Only blanks go."""
    assert "".join(wrap(text, 20)).replace(" ", "") == "".join(
        visible(line.expandtabs(4)).replace(" ", "") for line in text.split("\n")
    )


@pytest.mark.parametrize(("char", "width"), [("a", 1), ("漢", 2), ("Ａ", 2), ("\u0301", 0), ("é", 1), ("🎲", 2)])
def test_characters_take_the_columns_a_terminal_gives_them(char: str, width: int) -> None:
    """East Asian wide characters take two, combining marks none."""
    assert char_width(char) == width
