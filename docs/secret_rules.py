"""The page of the rules by which secrets are found."""

from __future__ import annotations

from markdown_text import page_of

from trajrec.redaction.names import KEYS, PASSWORD_ENDS, PASSWORDS, WEAK
from trajrec.redaction.rules import Rule, Shape
from trajrec.redaction.shapes import LONG_SHAPES, TEXT_SHAPES
from trajrec.redaction.tokens import TOKENS


def secret_rules() -> str:
    """Return the page of all rules."""
    return page_of(
        [
            "# Secret rules",
            "trajrec replaces secrets before a byte is written; see [Security](../explanation/security.md#secrets).\n"
            "This page lists the rules by which it finds them.\n"
            "Nothing that has another form, stands under another name, or is encoded, is found; "
            "percent-encoding makes no difference.",
            "## Secrets known by their first characters",
            "No letter or digit comes before them.\n"
            "The column form is a regular expression for the rest.",
            _table("begins with", [_rule(rule) for rule in TOKENS]),
            "## Secrets known by their form",
            "If the form has a group `secret`, that part is the secret.",
            _table("sign", [_shape(shape) for shape in (*TEXT_SHAPES, *LONG_SHAPES)]),
            "A secret access key of AWS has no sign: "
            "40 characters of Base64 with `+` or `/`, or near the words `aws` or `secret`.",
            "## Secrets known by their names",
            "A name is the key of a dict, a field, a column, a variable, an option, a header or a parameter of a URL.\n"
            "Case, `-` and `_` make no difference.",
            f"- Each text under a name with {_words(PASSWORDS)} in it, or whose last word is {_words(PASSWORD_ENDS)}.\n"
            f"- Each text under a name that ends in {_words(KEYS)}.\n"
            "- A text that looks random, or is made of letters and digits or of three words, "
            f"under a name whose last word is {_words(WEAK)}.\n"
            '- Beside such a name in a text (`password=...`, `"token": "..."`, `--api-key ...`): a value that is no word, '
            "variable, template or example.\n"
            "- In a line of settings (`DB_PASSWORD=...`): each value of at least 6 characters that is no template or example.\n"
            "- In a table with such a name at its head (CSV, Markdown, the output of a database), and in an `INSERT` "
            "statement with such a column: a value as beside a name.\n"
            '- In a dict in which a `selector`, `locator`, `element` or `field` names a password (`{"selector": "#password", '
            '"text": ...}`): its `text` or `value`, as agents fill in forms; beside a `label` or `placeholder`: its `value`.\n'
            "- The `value` of each cookie of a browser, a dict with a `name` and `httpOnly` or `sameSite`.",
            "Names such as `max_tokens`, `password_length` and `token_url` name no secret: their first or last word says so.",
        ]
    )


def _table(sign: str, rows: list[str]) -> str:
    return "\n".join([f"| kind | {sign} | form | documentation |", "|---|---|---|---|", *rows])


def _rule(rule: Rule) -> str:
    return f"| {rule.kind} | {_words(rule.starts)} | {_code(rule.rest)} | <{rule.source}> |"


def _shape(shape: Shape) -> str:
    return f"| {shape.kind} | {_code(shape.sign)} | {_code(shape.pattern)} | <{shape.source}> |"


def _words(words: tuple[str, ...]) -> str:
    return ", ".join(map(_code, words))


def _code(text: str) -> str:
    fence = "``" if "`" in text else "`"
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}".replace("|", r"\|")
