"""Whether a value beside a name looks like a secret, or like code, prose or a placeholder."""

from __future__ import annotations

import base64
import binascii
import itertools
import re

from trajrec.redaction.names import Strength, strength_of

MAX_SECRET_BYTES = 4096
"""Longer values beside a name are no secrets. Private keys have a rule of their own."""

MIN_WEAK_CHARS = 7

_PLACEHOLDER_TEXT = """
    access access_token admin any api api_key api-key apikey auth auto basic bearer bool boolean
    bytes changeit changeme client client_secret config credential credentials custom default digest
    disabled dummy empty enabled env environment example external fake false file foo foobar guest
    header hidden http https id input int integer internal invalid jwt key keyring keyword list
    local manual missing mock my mypass mypassword mysecret n/a na name new nil no none null number
    oauth oauth2 object off old on optional pass passphrase password passwd pat private private_key
    prompt public pwd query redacted repo required root sample secret secret_key secretkey self service
    session static str string system tbd test testing text todo token token_value true type
    undefined unknown unset user username value yes you your
    """
_PLACEHOLDERS = frozenset(_PLACEHOLDER_TEXT.split())

_NOUN_TEXT = """
    auth cred credential credentials creds key password pwd secret secrets token tokens
"""
_NOUNS = frozenset(_NOUN_TEXT.split())

_STAND_IN = re.compile(
    r"your|example|placeholder|change.?me|replace|insert|dummy|sample|redacted|hidden|masked|"
    r"\.\.\.|…|\*\*\*|xxxx|<|>|\$\{|\$\(|\{\{|%\(|%s(?!\w)|\{[a-z_]*\}",
    re.IGNORECASE,
)

_IDENTIFIER = re.compile(r"[A-Za-z_$][\w$]*(?:(?:\.|::|->)[A-Za-z_$][\w$]*)*")
_VERSION = re.compile(r"[vV]?[0-9]+(?:[.:/-][0-9]+)*[a-z]{0,3}[0-9]*")
# The name of a class, such as PKCS7PrivateKeyTypes.
_CAMEL_CASE = re.compile(r"[A-Z]{0,6}[0-9]{0,4}(?:[A-Z][a-z]{2,}[0-9]{0,5})+")
# The words that stand for the seed of a wallet.
_MNEMONIC = re.compile(r"[a-z]{3,8}(?: [a-z]{3,8}){11,23}")
_CLASS_NAME = re.compile(r"(?:[a-z][a-z_]*\.)*" + _CAMEL_CASE.pattern)
# A call such as `base64.b64encode(b"...")`, as far as its quote.
_CALL = re.compile(r"[A-Za-z_$][\w$]*(?:(?:\.|::|->)[A-Za-z_$][\w$]*)+\(\w*\Z")
_DIGIT_BORDER = re.compile(r"[A-Za-z](?=[0-9])|[0-9](?=[A-Za-z])")
_DIGIT = re.compile(r"[0-9]")
# Signs of programs and of regular expressions, which a token does not have.
_EXPRESSION = re.compile(r"[\[\](){}^|]")
_OPAQUE = re.compile(r"[\w.+/=~%-]+")
_TEMPLATE = re.compile(r"\$\{[^}]*\}|\$\([^)]*\)|\{\{.*\}\}|<[^<>]*>|%\w+%|\[\w+\(.*\)\]")
_LETTER = re.compile(r"[A-Za-z]")


def is_placeholder(value: str) -> bool:
    """Return whether a value stands for a secret in an example or a template.

    >>> is_placeholder("your-api-key"), is_placeholder("${TOKEN}"), is_placeholder("hunter2")
    (True, True, False)
    """
    lowered = value.lower()
    # "password1" is one as well.
    if (
        lowered in _PLACEHOLDERS
        or lowered[:-1] in _PLACEHOLDERS
        or _STAND_IN.search(value) is not None
    ):
        return True
    # "********", "xxxxxxxx", "--------"
    return len(set(lowered)) <= 2


def is_common_word(value: str) -> bool:
    """Return whether a value is a word that programs and sentences are full of, such as "password".

    >>> is_common_word("Password"), is_common_word("password1"), is_common_word("hunter2")
    (True, False, False)
    """
    return value.lower() in _PLACEHOLDERS


def looks_random(value: str) -> bool:
    """Return whether letters and digits alternate as they do not in words, names and numbers.

    >>> looks_random("9f86d081884c7d65"), looks_random("sha256_of_the_file")
    (True, False)
    """
    if len(value) < 8 or _VERSION.fullmatch(value) or _CLASS_NAME.fullmatch(value):
        return False
    n_borders = len(_DIGIT_BORDER.findall(value))
    if n_borders >= 6 or (n_borders >= 3 and n_borders * 12 >= len(value)):
        return True
    return len(value) >= 16 and _has_mixed_case(value)


def _has_mixed_case(value: str) -> bool:
    """Return whether capitals and small letters are mixed as in no name of a program.

    In camelCase a fifth of the letters are capitals; in random letters half of them are, and the
    next one is of the other case as often as not.
    """
    letters = _LETTER.findall(value)
    n_capitals = sum(map(str.isupper, letters))
    n_changes = sum(a.isupper() != b.isupper() for a, b in itertools.pairwise(letters))
    return 3 * len(letters) <= 10 * n_capitals <= 7 * len(letters) and 4 * n_changes >= len(letters)


def is_secret_value(value: str, strength: Strength, *, is_quoted: bool) -> bool:
    """Return whether a value beside a name in a text is a secret.

    Args:
        value: The value.
        strength: How surely the name names a secret.
        is_quoted: Whether the value stands in quotes, so that it is no expression of a program.
    """
    if not 4 <= len(value) <= MAX_SECRET_BYTES:
        return False
    if _LETTER.search(value) is None:
        # "pass: 20240101" is a date, but in quotes it is a text.
        is_number = value.isdigit() and len(value) >= 8 and len(set(value)) > 3
        return strength == "password" and is_quoted and is_number
    if is_placeholder(value) or (not is_quoted and _CALL.match(value)):
        return False
    if any(sign.isspace() for sign in value):
        return strength != "weak" and _MNEMONIC.fullmatch(value) is not None
    is_identifier = _IDENTIFIER.fullmatch(value) is not None
    n_digits = len(_DIGIT.findall(value))
    # The name of another secret, as in `password=db_password2` and `"api_key": "X-API-Key"`.
    if (n_digits == 0 or (is_identifier and not is_quoted)) and strength_of(value):
        return False
    if strength == "weak":
        # Not the parts of a dotted name together.
        longest = max(re.split(r"[./]", value), key=len)
        return _EXPRESSION.search(value) is None and looks_random(longest)
    if looks_random(value):
        return True
    if strength == "password" and len(value) >= 10 and _has_mixed_case(value):
        return _CLASS_NAME.fullmatch(value) is None
    if is_identifier and strength == "key":
        # Many digits, and not the "2" of a second variable.
        return "_" not in value and n_digits >= 4 and len(value) >= 12
    if is_identifier:
        # hunter2: programs have names like it, but hardly in the place of a password.
        return n_digits > 0
    if any(sign in value for sign in "([/:"):
        return strength == "password" and is_quoted and n_digits > 0
    if value.count("-") >= 2:
        return _has_own_words(value)
    if strength == "password":
        is_word = value.replace("-", "").replace(".", "").isalpha()
        return n_digits > 0 or (len(value) >= 6 and not is_word)
    return n_digits > 0 and len(value) >= 12


def _has_own_words(value: str) -> bool:
    """Return whether a value of several words is more than a name for a secret.

    >>> _has_own_words("correct-horse-battery-staple"), _has_own_words("my-service-api-key")
    (True, False)
    """
    words = [word.lower() for word in re.split(r"[-_.]", value) if word]
    if words[-1] in _NOUNS:
        return False
    return 2 * sum(word in _PLACEHOLDERS for word in words) <= len(words)


def is_no_placeholder(value: str) -> bool:
    """Return whether a value is no example: `is_placeholder` reversed."""
    return not is_placeholder(value)


def is_password(value: str) -> bool:
    """Return whether a value in the place of a password is no word of a sentence either.

    >>> is_password("hunter2"), is_password("required")
    (True, False)
    """
    return is_secret_value(value, "password", is_quoted=True)


def is_basic_credential(value: str) -> bool:
    """Return whether a text is a user and a password in Base64.

    >>> is_basic_credential("dXNlcjpodW50ZXIy"), is_basic_credential("authentication")
    (True, False)
    """
    try:
        decoded = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_")
    except (binascii.Error, ValueError):
        return False
    return b":" in decoded and all(byte >= 0x20 and byte != 0x7F for byte in decoded)


def is_bearer_token(value: str) -> bool:
    """Return whether a text behind "Bearer" is a token, and no word of a sentence.

    >>> is_bearer_token("9f86d081884c7d65"), is_bearer_token("authentication")
    (True, False)
    """
    if is_placeholder(value):
        return False
    if looks_random(value) or _has_mixed_case(value):
        return True
    if _DIGIT.search(value) is not None:
        return len(value) >= 12
    return value.count("-") >= 2 and _has_own_words(value)


def is_aws_secret(value: str) -> bool:
    """Return whether 40 characters of Base64 are as mixed as a secret access key of AWS.

    >>> is_aws_secret("glReplacementCodeuiTexCoord2fVertex3fSUN")
    False
    """
    n_digits = sum(map(str.isdigit, value))
    n_capitals = sum(map(str.isupper, value))
    n_small = sum(map(str.islower, value))
    n_borders = len(_DIGIT_BORDER.findall(value))
    return n_digits >= 2 and n_borders >= 3 and min(n_capitals, n_small) >= 6


def is_weak_secret(text: str) -> bool:
    """Return whether a value whose name may name a secret is one.

    >>> is_weak_secret("9f86d081884c7d65"), is_weak_secret("an-opaque-token-value")
    (True, True)
    >>> is_weak_secret("understanding"), is_weak_secret("Bearer")
    (False, False)
    """
    value = text.strip()
    if len(value) < MIN_WEAK_CHARS or is_placeholder(value) or _OPAQUE.fullmatch(value) is None:
        return False
    return looks_random(value) or value.count("-") >= 2 or _DIGIT.search(value) is not None


def is_mask(text: str) -> bool:
    """Return whether another program has put signs in the place of a secret.

    >>> is_mask("**********"), is_mask("hunter2")
    (True, False)
    """
    return len(set(text)) == 1 and text[0] in "*\u2022xX.-_"


def is_template(text: str) -> bool:
    """Return whether a text names the place that a secret comes from, and holds none.

    >>> is_template("${DB_PASSWORD}"), is_template("[parameters('key')]"), is_template("a{b}")
    (True, True, False)
    """
    return _TEMPLATE.fullmatch(text) is not None
