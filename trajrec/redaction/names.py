"""Names that name a secret: keys of dicts, fields, variables, options, headers, columns."""

from __future__ import annotations

import functools
import re
from typing import Literal

Strength = Literal["", "weak", "key", "password"]
"""How surely a name names a secret.

- "password": people choose the value, so it may be any word.
- "key": a machine makes the value, so it looks random in a text.
- "weak": the name has other meanings too, such as the tokens of a text.
- "": it names no secret.
"""

PASSWORDS = ("password", "passwd", "passphrase", "passcode", "passwort", "kennwort", "userpass")
"""A name is of strength "password" if these letters are in it."""

PASSWORD_ENDS = ("pwd", "pass", "pw")
"""A name is of strength "password" if its last word is one of these, or "pwd" is its end."""

KEYS = (
    "accesskey",
    "accesskeyid",
    "accesstoken",
    "accountkey",
    "adminkey",
    "apikey",
    "apisecret",
    "apitoken",
    "appkey",
    "applicationkey",
    "appsecret",
    "authkey",
    "authorization",
    "authsecret",
    "authtoken",
    "bearer",
    "bearertoken",
    "clientkeydata",
    "clientsecret",
    "consumersecret",
    "cookie",
    "cookies",
    "credential",
    "credentials",
    "csrftoken",
    "deploykey",
    "encryptionkey",
    "hmackey",
    "idtoken",
    "ingestionkey",
    "insertkey",
    "jwt",
    "keypass",
    "licensekey",
    "masterkey",
    "mnemonic",
    "privatekey",
    "refreshtoken",
    "sastoken",
    "secret",
    "secretaccesskey",
    "secretkey",
    "secrets",
    "securitytoken",
    "seedphrase",
    "servicekey",
    "sessionkey",
    "sessiontoken",
    "setcookie",
    "sharedaccesskey",
    "sharedkey",
    "signingkey",
    "sshkey",
    "storagekey",
    "subscriptionkey",
    "webhooksecret",
    "xsrftoken",
)
"""A name is of strength "key" if it ends in one of these, without regard to case and separators."""

WEAK = ("token", "tokens", "apikeys", "auth", "oauth", "sessid", "sessionid", "sid", "sig")
"""A name is of strength "weak" if its last word is one of these, or "key" or "pat" (a personal
access token) with a word before it."""

# A last word of these says that the value is about the secret, and not the secret.
_HARMLESS_ENDS_TEXT = """
    able age alias algorithm arn at attempts author bits bytes callback changed chars class cls cmd
    column columns command config confirmed context cost count counts created date decode default
    description desc disabled enabled encode encoding endpoint env error errors exists expired
    expires expiry factory field fields file filename files flow fn format func function generator
    getter handler hash hasher header headers help hint host id idx ids index info input is issuer
    label len length level limit list loader location lookup manager map max message method min mode
    model msg name names needed number object option optional options param parameter params parser
    path paths pattern placeholder policy position prefix price prompt property protected provider
    proxy query rate reader ref reference regex region regexp required reset resolver response
    result role rotation rule rules schema scheme scope scopes screen selector service set setting
    settings size source spec state stats status store strategy strength style suffix table tag
    template test text time timeout title total ttl type types uri url usage used user username
    validate validation validator valid value values var variable verified version view warning
    writer
    """
_HARMLESS_ENDS = frozenset(_HARMLESS_ENDS_TEXT.split())

# A first word of these says the same of the name of a token or password.
_HARMLESS_STARTS_TEXT = """
    added allow ask avg bucket cache composite dedup dict foreign group hash hot
    i18n idempotency join lookup map natural object partition primary range routing row shard sort
    translation unique bos byte can change check cls completion continuation control
    count current cursor decoded disable do draft enable end eos extra first forgot
    generated get has hide image input is last mask max min missing n need needs next no num
    number of output pad padding page pagination per prev previous prompt public publishable
    remaining require required requires reserved reset sep show skip special start stop sub sync
    total trial unk unknown use used uses valid verify video want word ws
    """
_HARMLESS_STARTS = frozenset(_HARMLESS_STARTS_TEXT.split())

# A key with one of these before it is no secret: it tells agents and tasks apart in a trace.
_HARMLESS_KEYS = frozenset({"agent", "crew", "task"})

# Random letters may end in "pW" or "jWT" too.
_SHORT_NAMES = ("pw", "jwt")
_SHORT_NAME = re.compile(
    r"(?:[a-z0-9._-]+[_.-])?(?:pw|jwt)|(?:[A-Z0-9._-]+[_.-])?(?:PW|JWT)"
    r"|(?:(?:[A-Za-z0-9]+[_.-])*[A-Z]?[a-z]{0,12})?(?:Pw|Jwt|JWT)"
)
# A document, a sentence or a mark is no name, whatever it ends with.
_NO_NAME = re.compile(r"[{}<>;,\n]|\[redacted ")
# The name of a type, such as AWS::ApiGateway::ApiKey.
_TYPE_NAME = re.compile(r"(?:[A-Z][A-Za-z0-9]*::)+[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*")
_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")

PARTS = (b"ken", b"key", b"uth", b"pass", b"pw", b"cret", b"cred", b"cook", b"jwt")
"""Letters of which some are in each name that is looked for in texts: those that are rare, so that
the search for them is fast. "ken" is in "token", "uth" in "auth"."""

LAST_PART = b"pat"
"""The same, if no letter comes behind it: "path" and "pattern" are everywhere."""


MAX_NAME_CHARS = 100
"""A longer text is no name."""

MAX_KIND_CHARS = 40
MAX_KIND_DIGITS = 3
"""A name with more than these may have a part of another secret in it."""


def kind_of(name: str) -> str:
    """Return the kind of the secret that a name names, for its mark.

    >>> kind_of("DB_PASSWORD"), kind_of("AKIA0123456789_password")
    ('db_password', 'secret')
    """
    kind = name.lower().strip("-._")
    n_digits = sum(map(str.isdigit, kind))
    return "secret" if len(kind) > MAX_KIND_CHARS or n_digits > MAX_KIND_DIGITS else kind


# Programs use few names, and a look-up takes a tenth of the time.
@functools.lru_cache(maxsize=4096)
def strength_of(name: str) -> Strength:
    """Return how surely a name names a secret.

    >>> strength_of("DB_PASSWORD"), strength_of("x-api-key"), strength_of("refreshToken")
    ('password', 'key', 'key')
    >>> strength_of("token"), strength_of("max_tokens"), strength_of("password_length")
    ('weak', '', '')
    """
    # Of a dotted name the last part: `response.next_token`.
    words = [word.lower() for word in _WORD.findall(name)]
    while words and words[-1].isdigit():
        words.pop()
    if not words or len(name) > MAX_NAME_CHARS or _NO_NAME.search(name):
        return ""
    if "::" in name and _TYPE_NAME.fullmatch(name):
        return ""
    if words[-1] in _SHORT_NAMES and not _SHORT_NAME.fullmatch(name):
        return ""
    joined = "".join(words)
    # "access_key_id" is a key, and ends in a word that is harmless elsewhere.
    is_key = joined.endswith(KEYS)
    if not is_key and words[-1] in _HARMLESS_ENDS:
        return ""
    if len(words) > 1 and not _HARMLESS_STARTS.isdisjoint((words[0], words[-2])):
        return ""
    if any(part in joined for part in PASSWORDS):
        return "password"
    if words[-1] in PASSWORD_ENDS or joined.endswith("pwd"):
        return "password"
    if is_key:
        return "key"
    if words[-1] in WEAK or joined.endswith("token"):
        return "weak"
    # STRIPE_KEY and GITHUB_PAT, but no "key" alone, also behind the escape of a URL: "%26key".
    if words[-1] not in ("key", "pat") or not any(map(str.isalpha, words[:-1])):
        return ""
    return "" if words[-2] in _HARMLESS_KEYS else "weak"
