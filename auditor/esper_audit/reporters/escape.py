"""Makes text out of an audited file harmless before it is shown.

Names, comments, paths and source lines belong to a stranger. They must not move a cursor, hide or reorder what a
reader sees, call people by name on a forge, or become markup in a report that carries our name.
"""

from __future__ import annotations

import re
import unicodedata

# Invisible, although Unicode files them under letters, symbols, marks or nothing: fillers of Hangul and Braille,
# joiners, variation selectors, tags (which can carry whole hidden messages), and what is no character at all.
_BLANKS = frozenset(
    [
        *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2065, 0x2800, 0x3164, 0xFFA0),
        *range(0x180B, 0x1810),
        *range(0xFE00, 0xFE10),
        *range(0xFFF0, 0xFFF9),
        *(0xFFFE, 0xFFFF),
        *range(0xE0000, 0xE1000),
    ]
)
_HIDDEN_CATEGORIES = frozenset(["Cc", "Cf", "Cs", "Zl", "Zp"])
_LAST_OF_BYTE, _LAST_OF_PLANE = 0xFF, 0xFFFF
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}

_INLINE = re.compile(r"(?<!`)`(?P<code>[^`]+)`(?!`)|(?P<word>[^\s`]+)")
# What a forge turns into a link, a ping or a formula even where Markdown itself would leave it alone.
_LIVELY = re.compile(r"[@$]|://|www\.|#\d|GH-\d", re.IGNORECASE)
_LINE_START = re.compile(r"^(\d{1,9}(?=[.)](?:\s|$))|(?=[-+=#:]))")
_UNDERSCORES = re.compile(r"_+")
_ENTITIES = str.maketrans(
    {
        "&": "&amp;",
        "<": "&lt;",
        ">": "&gt;",
        "\\": "&#92;",
        "`": "&#96;",
        "|": "&#124;",
        "*": r"\*",
        "[": r"\[",
        "]": r"\]",
        "~": r"\~",
    }
)
_QUIET = str.maketrans({":": "&#58;", ".": "&#46;", "@": "&#64;", "$": "&#36;"})
_MERMAID_UNSAFE = re.compile(r"[^A-Za-z0-9 _(),=/.-]|[.-](?![A-Za-z0-9])|^[.-]|(?<=[.-])[.-]")
_MERMAID_LABEL_LENGTH = 60


def is_hidden(char: str) -> bool:
    """Whether a character acts on the reader's screen instead of being seen on it."""
    return unicodedata.category(char) in _HIDDEN_CATEGORIES or ord(char) in _BLANKS


def visible_char(char: str) -> str:
    """The character itself, or its escape when it cannot be seen."""
    if not is_hidden(char):
        return char
    if char in _SHORT:
        return _SHORT[char]
    code = ord(char)
    if code <= _LAST_OF_BYTE:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= _LAST_OF_PLANE else f"\\U{code:08x}"


def visible(text: str) -> str:
    """One line in which every character can be seen: line ends, control and direction characters become escapes.

    `##[` starts a command wherever it stands in the log of a runner of GitHub or Azure, so it is spelled out, too.
    """
    text = text.replace("##[", r"#\x23[")
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(visible_char, text))


def code_span(text: str) -> str:
    """Markdown code that shows `text` literally, in running text as well as in a table."""
    text = visible(text)
    if not text.strip():
        return ""
    if "|" in text:  # no spelling of a pipe in backticks is read alike by all table parsers
        return f"<code>{_literal(text).translate(_QUIET)}</code>"
    ticks = "`" * (_longest_run(text) + 1)
    pad = " " if text[0] in "` " or text[-1] in "` " else ""
    return f"{ticks}{pad}{text}{pad}{ticks}"


def inline(text: str) -> str:
    """One line of Markdown prose that shows `text`; only its `code` in backticks keeps a meaning."""
    text = visible(text).strip()
    parts: list[str] = []
    end = 0
    for match in _INLINE.finditer(text):
        between, word = text[end : match.start()], match["word"]
        if word is not None and not _LIVELY.search(word):
            parts.append(_literal(between) + _literal(word))
        else:
            # two spans that touch would be read as one, hence the blank
            parts.append(_literal(between) or (" " if parts else ""))
            parts.append(code_span(word or match["code"]) or _literal(match[0]))
        end = match.end()
    parts.append(_literal(text[end:]))
    return _LINE_START.sub(r"\1\\", "".join(parts).strip())


def _literal(text: str) -> str:
    return _UNDERSCORES.sub(_escape_underscores, text).translate(_ENTITIES).replace("\0", r"\_")


def _escape_underscores(match: re.Match[str]) -> str:
    """Leave `snake_case` readable: between letters an underscore is never emphasis."""
    text = match.string
    before, after = text[: match.start()][-1:], text[match.end() :][:1]
    return match[0] if before.isalnum() and after.isalnum() else "\0" * len(match[0])


def commandless(line: str) -> str:
    """The line, its first colon spelled out where it would be a workflow command such as `::error::`."""
    return line.replace(":", r"\x3a", 1) if line.lstrip().startswith("::") else line


def fence(text: str, language: str) -> str:
    """A Markdown code block that its content cannot close."""
    lines = [commandless(visible(line.expandtabs(4))) for line in text.split("\n")]
    body = "\n".join(lines)
    ticks = "`" * max(3, _longest_run(body) + 1)
    return f"{ticks}{language}\n{body}\n{ticks}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def mermaid_label(text: str) -> str:
    """A quoted Mermaid label. What could be syntax, markup or a Markdown list becomes a numbered entity."""
    text = visible(text).strip()
    if len(text) > _MERMAID_LABEL_LENGTH:
        text = text[: _MERMAID_LABEL_LENGTH - 3] + "..."
    return '"' + _MERMAID_UNSAFE.sub(lambda match: f"#{ord(match[0])};", text) + '"'


def slug(heading: str) -> str:
    """The anchor that forges give to a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.lower())
    return kept.replace(" ", "-")
