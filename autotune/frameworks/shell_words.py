"""Cuts a shell script into words and operators, and fills in variables as a shell would."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

LONGEST_WORD = 64 * 1024  # characters; variables of variables could grow without end
MOST_TOKENS = 10_000
_OPERATORS = re.compile(r"2>&1|&>>?|2>>?|1?>>|1?>|&&|\|\||;;|<<<?|[;&|<()]")
_NAME = re.compile(
    r"\{([A-Za-z_][A-Za-z0-9_]*)(?::-([A-Za-z0-9_./:,-]*))?\}|([A-Za-z_][A-Za-z0-9_]*)"
)
_BRACES = re.compile(r"\{[^{}\s]*(,|\.\.)[^{}\s]*\}")
_TO_FILES = ("&>", "&>>", "2>", "2>>", ">>", ">", "1>", "1>>")


class Refused(Exception):
    """Something in a script that is not understood: what, on which line, and what to do."""

    def __init__(self, what: str, line: int, hint: str = "") -> None:
        super().__init__(what)
        self.what, self.line, self.hint = what, line, hint


@dataclass(frozen=True)
class Piece:
    """A part of a word: text, or the name of a variable; quoted ones are never split."""

    text: str
    variable: bool = False
    quoted: bool = False
    default: str | None = None  # of `${NAME:-default}`


@dataclass(frozen=True)
class Word:
    """One word as it is written."""

    pieces: tuple[Piece, ...]

    def head(self) -> str:
        """Return the text before the first variable or quote."""
        first = self.pieces[0] if self.pieces else Piece("")
        return "" if first.variable or first.quoted else first.text

    def plain(self) -> str:
        """Return the word where it is text alone; else nothing."""
        if any(piece.variable for piece in self.pieces):
            return ""
        return "".join(piece.text for piece in self.pieces)

    def after_equals(self, variables: Mapping[str, str], line: int) -> str:
        """Return the value of an assignment; raises Refused for a variable without a value."""
        first, *rest = self.pieces
        value = Piece(first.text.split("=", 1)[1])
        return _limited("".join(_filled(p, variables, line) for p in (value, *rest)), line)

    def expanded(self, variables: Mapping[str, str], line: int) -> list[str]:
        """Return the words this one becomes: a variable without quotes may hold several."""
        words, open_word = [""], bool([p for p in self.pieces if p.quoted or p.text])
        started = any(piece.quoted for piece in self.pieces)
        for piece in self.pieces:
            text = _filled(piece, variables, line)
            if piece.variable and not piece.quoted:
                _no_patterns(text, line)
                parts = re.split(r"[ \t\n]+", text)
                words[-1] += parts[0]
                words += parts[1:]
            else:
                words[-1] += text
            _limited("".join(words), line)
        kept = [word for word in words if word]
        return kept if kept or not (started and open_word) else [""]


@dataclass(frozen=True)
class Token:
    """A word, or an operator between words; a newline is an operator."""

    line: int
    word: Word | None = None
    operator: str = ""


def tokens(text: str) -> list[Token]:
    """Return the words and operators of a script; raises Refused."""
    return _Lexer(text).read()


class _Lexer:
    def __init__(self, text: str) -> None:
        self._text = text.replace("\r\n", "\n")
        self._at, self._line = 0, 1
        self._pieces: list[Piece] | None = None  # of the word being read
        self._found: list[Token] = []

    def read(self) -> list[Token]:
        while self._at < len(self._text):
            self._step()
            if len(self._found) > MOST_TOKENS:
                raise Refused("the script is far too long to be a training's start", self._line)
        self._end_word()
        return self._found

    def _step(self) -> None:
        text, letter = self._text, self._text[self._at]
        if letter == "\\":
            self._escape()
        elif letter == "\n":
            self._end_word()
            self._found.append(Token(self._line, operator="\n"))
            self._line += 1
            self._at += 1
        elif letter in " \t":
            self._end_word()
            self._at += 1
        elif letter == "#" and self._pieces is None:
            end = text.find("\n", self._at)
            self._at = len(text) if end < 0 else end
        elif letter == "'":
            end = text.find("'", self._at + 1)
            if end < 0:
                raise Refused("a quote is opened and never closed", self._line)
            self._add(Piece(text[self._at + 1 : end], quoted=True))
            self._line += text.count("\n", self._at, end)
            self._at = end + 1
        elif letter == '"':
            self._double()
        elif letter == "$":
            self._variable(quoted=False)
        elif letter == "`":
            raise Refused("a command inside the command (`…`) is not run here", self._line)
        else:
            self._plain()

    def _plain(self) -> None:
        starts_word = self._pieces is None
        match = _OPERATORS.match(self._text, self._at)
        # 2> is an operator where a word would begin; in `a2>b` the 2 belongs to the word.
        if match and (starts_word or not match.group()[0].isdigit()):
            self._end_word()
            operator = match.group()
            if operator in ("(", ")", "<", "<<", "<<<", ";;"):
                raise Refused(f"`{operator}` is shell grammar that is not understood", self._line)
            named = ">" if operator in _TO_FILES else operator
            self._found.append(Token(self._line, operator=named))
            self._at = match.end()
            return
        letter = self._text[self._at]
        if letter in "*?":
            raise Refused(
                f"`{letter}` is a pattern of file names, and none are looked up", self._line
            )
        if letter == "~" and starts_word:
            self._add(Piece("HOME", variable=True, quoted=True))
        elif letter == "{" and _BRACES.match(self._text, self._at):
            raise Refused("a list in braces stands for several words", self._line, "write them out")
        else:
            self._add(Piece(letter))
        self._at += 1

    def _escape(self) -> None:
        following = self._text[self._at + 1 : self._at + 2]
        if following == "\n":
            self._line += 1
        elif following:
            self._add(Piece(following, quoted=True))
        self._at += 2

    def _double(self) -> None:
        began, self._at = self._line, self._at + 1
        self._add(Piece("", quoted=True))
        while self._at < len(self._text):
            letter = self._text[self._at]
            if letter == '"':
                self._at += 1
                return
            if letter == "$":
                self._variable(quoted=True)
                continue
            if letter == "`":
                raise Refused("a command inside the command (`…`) is not run here", self._line)
            following = self._text[self._at + 1 : self._at + 2]
            if letter == "\\" and following in ('"', "\\", "$", "`", "\n"):
                self._add(Piece("" if following == "\n" else following, quoted=True))
                self._line += following == "\n"
                self._at += 2
                continue
            self._line += letter == "\n"
            self._add(Piece(letter, quoted=True))
            self._at += 1
        raise Refused("a quote is opened and never closed", began)

    def _variable(self, *, quoted: bool) -> None:
        following = self._text[self._at + 1 : self._at + 2]
        match = _NAME.match(self._text, self._at + 1)
        if match:
            name = match.group(1) or match.group(3)
            self._add(Piece(name, variable=True, quoted=quoted, default=match.group(2)))
            self._at = match.end()
        elif following == "(":
            raise Refused("a command inside the command ($(…)) is not run here", self._line)
        elif following and (following in "{'\"@*#?-$!" or following.isdigit()):
            text = f"`${following}` is a variable or text that only a shell can fill in"
            raise Refused(text, self._line)
        else:
            self._add(Piece("$", quoted=True))
            self._at += 1

    def _add(self, piece: Piece) -> None:
        self._pieces = self._pieces or []
        last = self._pieces[-1] if self._pieces else None
        if last and not piece.variable and not last.variable and last.quoted == piece.quoted:
            self._pieces[-1] = Piece(last.text + piece.text, quoted=piece.quoted)
        else:
            self._pieces.append(piece)

    def _end_word(self) -> None:
        if self._pieces is not None:
            self._found.append(Token(self._line, word=Word(tuple(self._pieces))))
        self._pieces = None


def _filled(piece: Piece, variables: Mapping[str, str], line: int) -> str:
    if not piece.variable:
        return piece.text
    value = variables.get(piece.text, "") or piece.default
    if value is None and piece.text not in variables:
        hint = "set it in the script, or write its value instead"
        raise Refused(f"`${piece.text}` has no value in the script", line, hint)
    return value or ""


def _no_patterns(text: str, line: int) -> None:
    if "*" in text or "?" in text:
        raise Refused("a pattern of file names stands in a variable, and none are looked up", line)


def _limited(text: str, line: int) -> str:
    if len(text) > LONGEST_WORD:
        raise Refused("a variable grows far beyond any command line", line)
    return text
