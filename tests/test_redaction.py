"""Secrets: those of all documented kinds are found in all places, and nothing else is."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import time
import types
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted import HEX, KINDS, LOWER, URL, Draw, Planted, plant
from tiers import third_slow

from trajrec.redaction.comparison import differences
from trajrec.redaction.digests import mark
from trajrec.redaction.names import KEYS, PASSWORD_ENDS, PASSWORDS, WEAK, strength_of
from trajrec.redaction.redactor import NO_REDACTION, Redactor, as_redactor
from trajrec.redaction.shapes import LONG_SHAPES, TEXT_SHAPES
from trajrec.redaction.streams import StreamRedactor
from trajrec.redaction.survey import Survey
from trajrec.redaction.tokens import TOKENS
from trajrec.values import codec
from trajrec.values.diff import Change
from trajrec.values.encoder import MAX_REPR

REDACTOR = Redactor({})
KEY = "sk-proj-" + "Ab3dEfGh" * 4


class Client:
    """An object that only its repr shows."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"Client(text={self.text!r}, n=3)"


@dataclasses.dataclass
class Settings:
    note: str
    n: int = 3


PLACES: dict[str, Callable[[str], Any]] = {
    "a text": lambda text: text,
    "a sentence": lambda text: f"Please use this one: {text} and tell me when it is done.",
    "the end of a sentence": lambda text: f"I stored it as {text}.",
    "a file of settings": lambda text: f"# settings\nDEBUG=1\n{text}\nPORT=80\n",
    "a nested dict": lambda text: {"orders": [{"note": text, "n": 1}]},
    "JSON": lambda text: json.dumps({"orders": [{"note": text}]}),
    "JSON in JSON": lambda text: json.dumps({"body": json.dumps({"note": text})}),
    "a line in JSON": lambda text: json.dumps({"body": json.dumps({"note": f"Here:\n{text}\n"})}),
    "a line in a repr": lambda text: repr(["Here:", f"\t\r\n{text}\n"]),
    "a colour of a terminal": lambda text: f"see \x1b[01;31m\x1b[K{text}\x1b[m",
    "the repr of a colour": lambda text: repr(f"see \x1b[01;31m\x1b[K{text}\x1b[m"),
    "the repr of an object": Client,
    "the repr of a dict": lambda text: repr({"note": [text]}),
    "a dataclass": Settings,
    "bytes": str.encode,
    "a tuple": lambda text: ("x", text, 1.5),
    "a key": lambda text: {text: 1},
    "Markdown": lambda text: f"Run `{text}` now.",
    "HTML": lambda text: f"<td>{text}</td>",
    "an array of texts": lambda text: np.array(["a", text]),
}


def is_in(planted: Planted, data: bytes) -> bool:
    """Return whether a secret is in bytes, as it is or as JSON writes it."""
    forms = (planted.secret, json.dumps(planted.secret)[1:-1])
    # Arrays of texts are stored as UTF-32.
    return any(form.encode(coding) in data for form in forms for coding in ("utf-8", "utf-32-le"))


@pytest.mark.parametrize("place", PLACES)
def test_each_kind_of_secret_is_found_in_each_place(place: str) -> None:
    missed = []
    for kind in KINDS:
        planted = plant(kind, place)
        data, is_redacted = REDACTOR.encode(PLACES[place](planted.text))
        if is_in(planted, data) or not is_redacted:
            missed.append(planted)
    assert not missed


@pytest.mark.slow
@third_slow("agents")
def test_secrets_that_are_drawn_anew_are_found() -> None:
    n_missed = 0
    n = 0
    for kind in KINDS:
        for seed in range(20):
            planted = plant(kind, f"{random.random()} {seed}")
            for place in PLACES.values():
                n += 1
                n_missed += is_in(planted, REDACTOR.encode(place(planted.text))[0])
    print(f"{n - n_missed} of {n} secrets found")
    assert n_missed < 0.005 * n


@pytest.mark.parametrize("rule", TOKENS, ids=lambda rule: f"{rule.kind} {rule.starts[0]}")
def test_each_rule_has_a_source_and_begins_as_its_search_expects(rule: Any) -> None:
    assert rule.source.startswith("https://")
    assert all(start.strip() == start and start for start in rule.starts)


def test_each_shape_has_a_source_and_text_shapes_have_small_signs() -> None:
    for shape in (*TEXT_SHAPES, *LONG_SHAPES):
        assert shape.source.startswith("https://")
        assert shape.sign
    assert all(shape.sign == shape.sign.lower() for shape in TEXT_SHAPES)


SPELLINGS: dict[str, Callable[[str], str]] = {
    "small": str.lower,
    "capitals": str.upper,
    "title": str.title,
    "hyphens": lambda name: "-".join(name),
    "prefix": lambda name: f"db_{name}",
    "camel case": lambda name: f"my{name.capitalize()}",
}


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
def test_a_name_of_a_secret_is_known_in_any_spelling(spell: Callable[[str], str]) -> None:
    for name in (*PASSWORDS, *PASSWORD_ENDS, *KEYS):
        if spell is SPELLINGS["hyphens"] and name in PASSWORD_ENDS:
            continue
        key = spell(name)
        data, is_redacted = REDACTOR.encode({key: "any words at all"})
        assert is_redacted, key
        assert b"any words" not in data
        assert f"[redacted {key.lower()} ".encode() in data


@pytest.mark.parametrize("name", [*PASSWORDS, *PASSWORD_ENDS, *KEYS, *WEAK])
def test_a_name_of_a_secret_is_known_in_a_text(name: str) -> None:
    if name in ("mnemonic", "seedphrase", "bearer", "sessid", "sessionid", "sid", "sig"):
        pytest.skip("is looked for in values only")
    assert "hu9n7t3er2" not in REDACTOR.text(f"{name}=sid=hu9n7t3er2; x=1, n=2")


@pytest.mark.parametrize(
    "name",
    """max_tokens token_count n_tokens pad_token next_token page_token tokenizer password_length
    password_hash_algorithm token_type secret_name key keys primary_key monkey author authority
    keyboard hotkey is_password show_password api_key_header token_url passenger compass bypass
    cookie_path secretary credentials_file auth_method public_key completion_tokens""".split(),  # noqa: SIM905
)
def test_a_name_about_a_secret_names_none(name: str) -> None:
    assert strength_of(name) == ""
    assert REDACTOR.encode({name: "a9b8c7d6e5f4"}) == (codec.encode({name: "a9b8c7d6e5f4"}), False)


SYNTAXES = {
    "environment": "{name}={value}",
    "shell": "export {name}={value}\n",
    "quoted": '{name}="{value}"',
    "YAML": "a: 1\n{name}: {value}\nb: 2",
    "YAML with quotes": "{name}: '{value}'",
    "JSON": '{{"{name}": "{value}"}}',
    "JSON in a sentence": 'the reply was {{"{name}": "{value}", "x": 1}}, as asked',
    "JSON in JSON": '"{{\\\\"{name}\\\\": \\\\"{value}\\\\"}}", "x": 1',
    "an argument": "Client({name}='{value}', x=1)",
    "a dict": "{{'{name}': '{value}'}}",
    "TOML": '{name} = "{value}"',
    "INI": "{name} = {value}",
    "a URL": "https://x.io/a?{name}={value}&b=1",
    "an option": "tool --{name} {value} run",
    "an option with a sign": "tool --{name}={value} run",
    "an option with hyphens": "tool --x-{name}={value} run",
    "XML": "<{name}>{value}</{name}>",
    "a header": "{name}: {value}\r\nHost: x",
    "a pair": "('{name}', '{value}')",
    "PHP": "'{name}' => '{value}',",
    "JavaScript": "const {name} = '{value}';",
    "YAML block": "a:\n  {name}: |\n    {value}\n  b: 1\n",
    "a container": "env:\n- name: {name}\n  value: {value}\n",
    "a row of Markdown": "| name | value |\n|---|---|\n| `{name}` | {value} |\n",
    "a form": '<input name="{name}" value="{value}">',
}

NAMED = {
    "DD_API_KEY": lambda draw: draw(32, HEX),
    "TWILIO_AUTH_TOKEN": lambda draw: draw(32, HEX),
    "HEROKU_API_KEY": lambda draw: draw.uuid(),
    "algolia_admin_key": lambda draw: draw(32, LOWER),
    "facebook_app_secret": lambda draw: draw(32, HEX),
    "clientSecret": lambda draw: draw(40),
    "accessToken": lambda draw: draw(60, URL),
    "spring.datasource.password": lambda draw: f"Summer{draw(4, '23456789')}!",
    "MYSQL_PWD": lambda draw: f"lamp{draw(2, '23456789')}",
    "db_password": lambda draw: draw.words(),
    "x-api-key": lambda draw: draw(32),
    "encryption_key": lambda draw: draw.base64(32),
    "jwt_secret": lambda draw: "correct-horse-battery",
}


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_value_beside_a_name_is_found_in_each_syntax(syntax: str) -> None:
    missed = []
    for name, make in NAMED.items():
        value = make(Draw(f"{syntax} {name}"))
        text = SYNTAXES[syntax].format(name=name, value=value)
        redacted = REDACTOR.text(text)
        # An ampersand ends a value in a URL, and all of it must be gone elsewhere.
        if value.partition("&")[0] in redacted:
            missed.append(text)
    assert not missed


HARMLESS = [
    {"AWS::ApiGateway::ApiKey": "b899a0d240b53d9d"},
    "arn:aws:secretsmanager:us-west-2:123456789012:secret:MyTestDatabaseSecret-a1b2c3",
    '"AWS::SecretsManager::Secret": "f6b785ff8e74d121", "AWS::MSK::BatchScramSecret": "b68c9a1a87"',
    "encoded_credentials = base64.b64encode(b'test:password')",
    "in their original positions--pass `strict=False`. To produce it",
    {"token": "understanding", "logprob": -0.25},
    [{"token": "sha256sum", "bytes": [1], "logprob": -0.1}],
    {"type": "object", "properties": {"password": {"type": "string", "description": "Your own."}}},
    {"password": {"anyOf": [{"type": "string"}, {"type": "null"}], "title": "Password"}},
    '{"components": {"api_key": {"type": "apiKey", "in": "header", "name": "key"}}}',
    {"sqlite_schema": {"secrets": "CREATE TABLE secrets (a)"}},
    {"password": "${DB_PASSWORD}", "api_key": "{{ secrets.KEY }}", "token": "<your token>"},
    "the task-list of sky-high disk-usage; token count 5; AKITA; eyJ; sk-ip; max_tokens",
    "Bearer authentication is used; the password is required, and the token is optional.",
    "def login(password: str, token: Token | None = None, *, key=secret_key) -> None: ...",
    'parser.add_argument("--password", help="the password")',
    "if line.startswith('-----BEGIN PRIVATE KEY-----'): load(line)",
    "postgresql://user:password@localhost/db and https://${USER}:${PASS}@host",
    "commit 9fceb02d0ae598e95dc970b74767f19372d61af8 of 2024-01-02",
    "sha512-" + "Ab3dEfGh" * 10 + "==",
    '"node_modules/a": {"version": "1.2.3", "integrity": "sha512-' + "Ab3dEfGh" * 10 + 'Ab3dEf=="}',
    "pass: 12345678 of 20000000 tests; first pass: 20240101",
    'client = Client(api_key=os.environ["API_KEY"], token=get_token(), password=None)',
    "sk-estimator-doc-link-label sk-toggleable__label-arrow",
    {"required": ["password", "email"], "columns": ["api_key", "model"]},
    ["Reset your password", "Click here"],
    '<input type="password" name="password" placeholder="Enter your password">',
    {"api_key": "**********", "password": "\u2022\u2022\u2022\u2022\u2022\u2022"},
    {"crew_key": "4d5b21867b638a1846a38dc4af8e29a4", "task_key": "5b92f5460a744cf1afb1d8a1"},
    'key: typing.Union["rsa.RSAPrivateKey", "rsa.RSAPublicKey"]',
    'token = r"[-!#$%&\'*+.^_`|~0-9a-zA-Z]+"',
    "ec.EllipticCurvePrivateKey,\n    ed448.Ed448PrivateKey,\n    x448.X448PrivateKey,\n]\n",
    "    | mlkem.MLKEM768PrivateKey\n    | mlkem.MLKEM1024PrivateKey\n    | str\n",
    "| option | meaning |\n|---|---|\n| password | the password of the user |\n| api_key | string |\n",
    "name,password,meaning\nuser,required,optional\n",
    "INSERT INTO users (name, password) VALUES (?, ?), (:name, :password), ('a', NULL);",
    "https://x.io/a%20b%2Fc?next=%2Fhome%3Fpage%3D2&token=abc",
    "The token is optional, and the API key is required.",
    "PASSWORD=$DB_PASSWORD\nAPI_TOKEN=${TOKEN}\nPASS=\n",
    "FROM a\nENV DB_PASSWORD $PASS\nENV PASSWORD_FILE /run/secrets/db\nENV DB_PASSWORD changeme\n",
    "ENV PASSWORD must be given by the user",
    "htpasswd -b file user password; htpasswd -c /etc/users bob2; htpasswd -b takes it from there",
    'echo "$PASS1" | docker login -u bob --password-stdin; cat pass1 | docker login --password-stdin',
    "mongosh -p --host db1; sqlcmd -P $PASS1 -i a.sql; sqlcmd -S db1 -p 1; cp -p file1 file2",
    "Each row is identified by 'order2', and a column by \"name2\".",
    "[sudo] password for bob1: Sorry, try again.\nPassword for bob1: \n$ ls -l1\n",
    "The password for bob2 is required; the password for the site was changed on 2024-01-02.",
    ["authorization", "Required to call this endpoint."],
    {"kind": "SecretList", "data": {"a": "b"}},
    {"selector": "#user", "value": "ada"},
    {"element": "Search field", "ref": "e3", "text": "how to choose a password"},
    {"text": "I forgot my password, what now?", "label": "password_reset"},
    {"type": "text", "text": "The field of the password is empty."},
    {"selector": "#password", "timeout": "5 s"},
    {"name": "session", "value": "3 of 4"},
    "A mnemonic is a list of words that a person can write down and read again later on.",
    "kind: Secret\ndata:\n  password: {{ .Values.password }}\n",
]


@pytest.mark.parametrize("value", HARMLESS, ids=lambda value: str(value)[:40])
def test_ordinary_values_are_left_as_they_are(value: Any) -> None:
    assert REDACTOR.encode(value) == (codec.encode(value, opaque=True), False)
    if isinstance(value, str):
        assert REDACTOR.text(value) == value


@pytest.mark.parametrize(
    "text",
    [
        "CREATE USER a IDENTIFIED BY '{0}'; CREATE USER b IDENTIFIED BY '{1}';",
        "curl -u a:{0} https://x; curl -u b:{1} https://y",
        "mysql -p{0} -u a; mysql -p{1} -u b",
    ],
)
def test_a_second_secret_of_one_form_is_found_beside_the_first(text: str) -> None:
    secrets = ("Xp49Qabcd", "Yq50Rbcde")
    cleaned = Redactor({}).text(text.format(*secrets))
    assert all(secret not in cleaned for secret in secrets)


KUBERNETES = """apiVersion: v1
kind: Secret
metadata:
  name: tls
data:
  ca.crt: aGVsbG8gd29ybGQ=
  tls: Z29vZCBieWUgd29ybGQ=
"""


FIELDS = [
    {"selector": "input[name=password]", "value": "any words"},
    {"selector": "#password", "text": "any words"},
    {"element": "Password field", "ref": "e3", "text": "any words"},
    {"element": "New password textbox", "value": "any words"},
    {"locator": "//input[@type='password']", "value": "any words"},
    {"label": "Your password", "value": "any words"},
    {"field": "password", "text": "any words"},
    {"placeholder": "Passwort", "value": "any words"},
    {"name": "session", "value": "any words", "domain": "a.io", "httpOnly": True},
    {"name": "theme", "value": "any words", "sameSite": "Lax", "path": "/"},
]


@pytest.mark.parametrize("fields", FIELDS, ids=str)
def test_what_a_browser_fills_in_and_its_cookies_are_secret(fields: dict[str, Any]) -> None:
    call = {"name": "fill", "arguments": json.dumps(fields)}
    values = [fields, [fields], {"fields": [fields]}, call, {"answer": json.dumps(call)}]
    for value in values:
        data, is_redacted = REDACTOR.encode(value)
        assert is_redacted
        assert b"any words" not in data
        assert b"[redacted " in data
    stream = StreamRedactor(REDACTOR)
    text = json.dumps(fields)
    pieces = [text[begin : begin + 3] for begin in range(0, len(text), 3)]
    cleaned = join([*(data for piece in pieces for data in stream.add(piece)), *stream.finish()])
    assert "any words" not in cleaned
    assert "[redacted " in cleaned


def join(pieces: list[bytes]) -> str:
    return "".join(map(codec.decode, pieces))


def test_the_data_of_a_kubernetes_secret_is_secret() -> None:
    head, data = KUBERNETES.split("\ndata:\n")
    documents = [
        KUBERNETES,
        f"data:\n{data}{head}\n",
        {"kind": "Secret", "data": {"ca.crt": "aGVsbG8gd29ybGQ=", "tls": "Z29vZCBieWUgd29ybGQ="}},
        json.dumps({"kind": "Secret", "stringData": {"a": "aGVsbG8gd29ybGQ="}}),
    ]
    for document in documents:
        cleaned = repr(REDACTOR.redacted(document)[0])
        assert "aGVsbG8" not in cleaned
        assert "Z29vZCB" not in cleaned
        assert "kind" in cleaned


TABLES = {
    "CSV": "id,host,{name}\n1,db,{value}\n2,db,{value}\n",
    "CSV with quotes": '"{name}","id"\r\n"{value}",1\r\n"{value}",2\r\n',
    "tabs": "id\t{name}\n1\t{value}\n2\t{value}",
    "psql": " id | {name} \n----+----\n  1 | {value}\n  2 | {value}\n(2 rows)\n",
    "Markdown": "| id | {name} |\n|---|---|\n| 1 | `{value}` |\n| 2 | {value} |\n",
    "INSERT": "INSERT INTO t (id, {name}) VALUES (1, '{value}'), (now(), '{value}');",
}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("name", ["db_password", "DD_API_KEY", "session_token"])
def test_secrets_in_a_column_with_the_name_are_found(table: str, name: str) -> None:
    value = Draw(f"{table} {name}")(24, HEX)
    text = TABLES[table].format(name=name, value=value)
    cleaned = REDACTOR.text(text)
    assert value not in cleaned
    assert cleaned.count("[redacted ") == 2
    assert cleaned.count("\n") == text.count("\n")


@pytest.mark.parametrize("name", ["DB_PASSWORD", "PrivateKey", "clientSecret", "API_TOKEN"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\t"])
def test_an_escape_before_a_name_is_no_letter_of_it(name: str, end: str) -> None:
    secret = "WaYVMCrTjK/5yzztiFym59eRP7Td5vL2bJosaJO6Wfj="
    text = f"# settings{end}{name} = {secret}{end}"
    for written in (json.dumps({"stdout": text}), repr({"stdout": text}), f"b{text!r}"):
        assert secret not in REDACTOR.text(f"the output was {written}")


def test_a_token_with_an_encoded_beginning_is_found() -> None:
    token = "1%2F%2F0cr0IreXe1vT69_1DPS82pdcy5rQP0kRIXjpjjjsjy-3SWFVyykNIe0"
    assert token not in REDACTOR.text(f"https://x.io/?next={token}&a=1")


def test_percent_encoded_secrets_are_found() -> None:
    secrets = {
        "DATABASE_URL": "postgresql://svc:4Q6Hck!vJQaW@db.internal/app",
        "config": json.dumps({"db_password": "4Q6Hck!vJQaW", "port": 5432}),
        "key": "-----BEGIN PRIVATE KEY-----\n"
        + "4Q6HckvJQaW8" * 40
        + "\n-----END PRIVATE KEY-----",
    }
    for name, secret in secrets.items():
        once = urllib.parse.urlencode({"a": "1", name: secret, "z": "2"})
        twice = urllib.parse.urlencode({"next": f"https://x.io/?{once}"})
        for text in (once, twice):
            cleaned = REDACTOR.text(f"GET /cb?{text} HTTP/1.1")
            assert "4Q6Hck" not in cleaned
            assert cleaned.startswith("GET /cb?")
            assert cleaned.endswith("2 HTTP/1.1")


@pytest.mark.parametrize(
    "text",
    [
        "The stripe API key is {}, keep it.",
        "I made an access token: `{}`",
        "The vercel token is {}.",
        "FTP_PASS={}\nPORT=21",
        'PASSPHRASE="{} more words"',
        "password: {}",
        "Driver=x;Uid=sa;Pwd={{{}}};Encrypt=yes",
        "a=1\ndb_password = {}&#DgvT\n",
    ],
)
def test_secrets_in_sentences_and_lines_of_settings_are_found(text: str) -> None:
    secret = "Xp49QabcdYq50Rbcde"
    assert "Xp49" not in (cleaned := REDACTOR.text(text.format(secret)))
    assert "DgvT" not in cleaned


@pytest.mark.parametrize("before", ["", "FROM a\n", "RUN b\r\n", "#7 [4/9] ", "Step 4/9 : "])
@pytest.mark.parametrize("name", ["PASSWORD", "DB_PASSWORD", "MYSQL_PWD", "ROOT_PASS"])
def test_a_secret_in_a_line_of_a_dockerfile_is_found(before: str, name: str) -> None:
    for value in ("correct-horse", "'hunter2-x'", '"Tr0ub4dor&3"'):
        text = REDACTOR.text(f"{before}ENV {name} {value}\nRUN c")
        assert value.strip("'\"") not in text
        assert text.endswith("\nRUN c")
    assert "hunter2x" not in REDACTOR.text(f"{before}ENV APP_SECRET hunter2x\n")


def test_passwords_of_letters_or_digits_are_found_where_nothing_else_stands() -> None:
    cleaned = REDACTOR.text(
        "FTP_PASS=ngbxzjhsbxeh\nDB_PASSWORD='falcon meadow'\npasswd: '740228067'\n"
    )
    assert not any(word in cleaned for word in ("ngbx", "falcon", "7402"))


@pytest.mark.slow
@third_slow("agents")
def test_hostile_texts_are_searched_in_good_time() -> None:
    parts = [
        "%41", "%25", "password,x\n", "password,", "id,password\n1,Summer2024!\n", "values (1,2)",
        '"kty","d":"aaaaaaaaaaaaaaaaaaaaaaaa",', "kind: Secret\ndata:\n a: b\n", "api key is ",
        "mnemonic: abc abc ", "a:5432:b:c:d ", "Digest response= ", "x@tcp(", "| password ", "-p -u ",
        "name: password\nvalue: ", "insert into a (password) values ('x') ",
    ]  # fmt: skip
    for part in parts:
        start = time.process_time()
        REDACTOR.text(part * (20_000 // len(part)))
        assert time.process_time() - start < 3, part


@pytest.mark.parametrize("size", [1, 5, 60])
@pytest.mark.parametrize(
    "piece",
    [
        lambda text: types.SimpleNamespace(id="c1", delta=types.SimpleNamespace(content=text)),
        Client,
        lambda text: {"index": 0, "chunk": Client(text)},
    ],
)
def test_secrets_in_streamed_objects_are_found(piece: Callable[[str], Any], size: int) -> None:
    stream = StreamRedactor(REDACTOR)
    text = f"I made this one: {KEY} for you, and then some more words.\n" * 2
    pieces = [piece(text[k : k + size]) for k in range(0, len(text), size)]
    encoded = [data for p in pieces for data in stream.add(p)] + stream.finish()
    assert len(encoded) == len(pieces)
    reprs = [repr(codec.decode(data)) for data in encoded]
    literals = [re.findall(r"(?:content|Client\(text)=\\?'([^']*?)\\?'", r) for r in reprs]
    joined = "".join(part for parts in literals for part in parts)
    assert "I made this" in joined
    assert "Ab3dEfGh" not in joined
    assert stream.n_secrets == 2


@pytest.mark.parametrize("scheme", ["Bearer", "Token", "SSWS"])
def test_the_credentials_of_a_listed_header_are_secret(scheme: str) -> None:
    headers = [["Accept", "*/*"], ["Authorization", f"{scheme} 4ae!3f-Xy77"]]
    cleaned, n = REDACTOR.redacted(headers)
    assert n == 1
    assert cleaned[0] == headers[0]
    assert "4ae" not in repr(cleaned)


def test_a_mark_holds_no_part_of_a_name_with_a_secret() -> None:
    aws = plant("aws access key", "names").secret
    cleaned = repr(Redactor({}).redacted({f"{aws}_password": "hunter2"})[0]).lower()
    assert aws.lower() not in cleaned
    cleaned = Redactor({}).text(f"{aws}_password=Tr0ub4dor&3").lower()
    assert aws.lower() not in cleaned


ODD_NAMES = (
    "password",
    "\u0142_token",
    "\ud800_secret",
    "\xe4password",
    'a"b_pwd',
    "\x00pw",
    "type",
)
ODD_PARTS = (
    *ODD_NAMES,
    *(
        "\u20ac",
        "\\u20ac",
        "\ud83d\ude00",
        "\ud800",
        '"',
        "\\",
        "\n",
        ": ",
        "=",
        "{",
        "}",
        "[",
        "]",
    ),
    *("data: ", "'", "token", " ", "%3D", "&", "\x00", "\xff", "-----BEGIN PRIVATE KEY-----"),
)


class Shown:
    """A value that has no encoding."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"Shown({self.value!r})"


def odd_value(rng: random.Random, depth: int = 0) -> Any:
    """Draw a value of texts with characters that are hard to read, encode or cut."""

    def text() -> str:
        secrets = [plant(kind, rng.random()).text for kind in rng.sample(list(KINDS), 2)]
        return "".join(rng.choices([*ODD_PARTS, *secrets], k=rng.randrange(7)))

    form = rng.randrange(10 if depth < 4 else 3)
    if form == 0:
        return text().encode("utf-8", "surrogatepass")
    if form < 4:
        return text()
    if form == 4:
        return Shown(odd_value(rng, depth + 1))
    if form == 5:
        return [odd_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if form == 6:
        return (rng.choice(ODD_NAMES), odd_value(rng, depth + 1))
    if form == 7:
        return np.array([text() for _ in range(2)], dtype=object)
    if form == 8:
        return json.dumps({rng.choice(ODD_NAMES): text()}, ensure_ascii=rng.random() < 0.5)
    return {rng.choice(ODD_NAMES): odd_value(rng, depth + 1) for _ in range(rng.randrange(4))}


def test_no_value_is_too_odd_to_be_redacted() -> None:
    rng = random.Random(5)
    redactor = Redactor({})
    for _ in range(600):
        value = odd_value(rng)
        data, _ = redactor.encode(value)
        cleaned = codec.decode(data)
        stream = StreamRedactor(redactor)
        is_text = isinstance(value, (str, bytes)) and len(value) > 0
        pieces = [value[k : k + 4] for k in range(0, len(value), 4)] if is_text else [value, value]
        done = [data for piece in pieces for data in stream.add(piece)] + stream.finish()
        assert len(done) == len(pieces)
        assert all(codec.encode(codec.decode(piece), opaque=True) == piece for piece in done)
        # A replay compares a redacted value with a redacted one.
        again = codec.decode(redactor.encode(cleaned)[0])
        assert is_glued(cleaned) or repr(again) == repr(cleaned)


def is_glued(value: Any) -> bool:
    """Return whether a text goes on behind a mark without a border, as no real one does."""
    return re.search(r"[0-9a-f]{8}\]\w", repr(value)) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_redaction_of_a_redacted_text_changes_nothing(kind: str) -> None:
    once = REDACTOR.text(f"with {plant(kind).text} in it")
    assert REDACTOR.text(once) == once
    assert REDACTOR.encode({"password": once, "n": [once]})[0]
    nested = REDACTOR.plain({"password": plant(kind).secret, "note": [plant(kind).text]})
    assert REDACTOR.plain(nested) == nested


def test_equal_secrets_have_equal_marks_and_keep_the_rest_of_a_text() -> None:
    assert (
        REDACTOR.text(f"a {KEY} b {KEY}.") == f"a {mark('api key', KEY)} b {mark('api key', KEY)}."
    )
    assert mark("x", "one") != mark("x", "two")
    document = f'{{"n": 1.50, "password": "none", "list": [1,  2], "note": "{KEY}"}}'
    redacted = REDACTOR.text(document)
    assert redacted.startswith('{"n": 1.50, "password": "[redacted password ')
    assert '"list": [1,  2]' in redacted
    assert json.loads(redacted)["note"] == mark("api key", KEY)


def test_a_key_that_stands_twice_in_json_hides_nothing() -> None:
    document = f'{{"a": "{KEY}", "a": "b", "password": "lamp"}}'
    assert KEY not in REDACTOR.text(document)
    assert "lamp" not in REDACTOR.text(document)


@pytest.mark.parametrize("n_before", [0, 1, 950, 970, 985, 990, 999, 1100])
def test_a_secret_that_the_end_of_a_repr_cuts_is_found(n_before: int) -> None:
    class Long:
        def __repr__(self) -> str:
            return "." * n_before + " " + KEY

    data, is_redacted = REDACTOR.encode({"client": Long()})
    # A start of four characters says no more than the kind.
    assert KEY[:8].encode() not in data
    assert is_redacted == (n_before + 4 < MAX_REPR)


def test_each_type_of_text_keeps_its_type() -> None:
    values = [KEY.encode(), bytearray(KEY.encode()), np.str_(KEY), {KEY}, frozenset([KEY]), (KEY,)]
    for value in values:
        data, is_redacted = REDACTOR.encode(value)
        assert is_redacted
        assert KEY.encode() not in data
        assert type(codec.decode(data)) is type(codec.decode(codec.encode(value)))
    for array in (np.array([["a", KEY]]), np.array([[1, KEY]], object)):
        redacted = REDACTOR.plain({"array": array})["array"]
        assert redacted.shape == (1, 2)
        assert redacted[0, 1] == mark("api key", KEY)
        assert redacted[0, 0] == array[0, 0]
    assert REDACTOR.plain({"password": b"lamp"}) == {"password": mark("password", "lamp").encode()}


def test_numbers_are_not_looked_at() -> None:
    value = {"pin": 1234, "password": 5, "frame": np.zeros(1_000_000), "n": list(range(99))}
    survey = Survey(strength_of)
    survey.add(value)
    assert (survey.texts, survey.has_name, survey.has_object) == ([], False, False)


@pytest.mark.parametrize(
    "value",
    [
        [("cookie", "lamp-post"), (b"authorization", b"lamp-post")],
        {"headers": [{"name": "X-Api-Key", "value": "lamp-post"}]},
        ["psql", "--password", "lamp-post"],
        {"kty": "RSA", "n": "modulus", "d": "lamp-post"},
        {"secrets": {"db": {"main": ["lamp-post"]}}},
        json.dumps({"credentials": {"db": ["lamp-post"]}}),
        {"token": "an-opaque-lamp-post"},
        {"token": {"mode": "644", "text": "an-opaque-lamp-post\n"}},
    ],
    ids=str,
)
def test_names_reach_their_values(value: Any) -> None:
    data, is_redacted = REDACTOR.encode(value)
    assert is_redacted
    assert b"lamp" not in data
    assert b"644" in data or "644" not in str(value)


def test_values_of_secret_variables_are_found_in_any_text() -> None:
    redactor = Redactor(
        {
            "SHOP_API_TOKEN": "correct-horse-battery",
            "DATABASE_URL": "postgres://app:lamp-post-17@db/shop",
            "PWD": "/home/bob/trajrec",
            "MYSQL_PWD": 'with "quotes"',
            "SHORT_KEY": "short",
        }
    )
    text = "correct-horse-battery lamp-post-17 /home/bob/trajrec short"
    assert redactor.text(text).endswith("/home/bob/trajrec short")
    assert "horse" not in redactor.text(text)
    assert "lamp" not in redactor.text(text)
    assert "quotes" not in redactor.text(json.dumps({"a": 'with "quotes"'}))


def test_users_add_rules_names_and_secrets() -> None:
    redactor = Redactor(
        {},
        also=["Project Lamp"],
        rules={"order code": r"\bORD-[0-9]{6}\b", "door": r"door (?P<secret>\d+)"},
        names=["pin_code"],
    )
    assert redactor.text("ORD-123456 at door 17") == (
        f"{mark('order code', 'ORD-123456')} at door {mark('door', '17')}"
    )
    assert "Lamp" not in redactor.text("the Project Lamp")
    assert redactor.plain({"pinCode": "ab"})["pinCode"].startswith("[redacted pincode ")
    assert "a1b2" not in redactor.text("pin_code=a1b2")
    assert redactor.text("pincer=ab") == "pincer=ab"


def test_changes_are_redacted_by_the_names_in_their_paths() -> None:
    change = REDACTOR.change(Change(("config", "db_password", 0), "lamp", "post"))
    assert change.before == mark("db_password", "lamp")
    assert change.after == mark("db_password", "post")
    same = Change(("config", "port"), 1, 2)
    assert REDACTOR.change(same) is same


def test_differences_leave_out_the_digests_of_marks() -> None:
    here = {"a": f"x {mark('api key', 'one')}", "b": 1}
    elsewhere = {"a": f"x {mark('api key', 'two')}", "b": 2}
    assert differences(here, elsewhere) == [Change(("b",), 1, 2)]


def test_without_redaction_nothing_is_removed() -> None:
    assert as_redactor(False) is NO_REDACTION
    assert as_redactor(REDACTOR) is REDACTOR
    assert NO_REDACTION.encode({"password": KEY}) == (codec.encode({"password": KEY}), False)
    assert NO_REDACTION.text(KEY) == KEY
    change = Change(("password",), KEY, KEY)
    assert NO_REDACTION.change(change) is change


def package_texts(size: int) -> Iterator[tuple[Path, str]]:
    """Yield sources, docs and sample data of installed packages, in an order of chance."""
    suffixes = {".py", ".md", ".rst", ".txt", ".json", ".yaml", ".toml", ".html", ".js", ".csv"}
    root = Path(np.__file__).parent.parent
    files = sorted(path for path in root.rglob("*") if path.suffix in suffixes)
    random.shuffle(files)
    for path in files:
        if path.relative_to(root).parts[0] == "moto":
            # Its answers hold keys of AWS, made up, but keys in every character.
            continue
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError):
            continue
        size -= len(text)
        yield path.relative_to(root), text
        if size < 0:
            return


JUDGED = (
    "aws key",
    "accesskeyid",
    "url credential",
    "token",
    "bearer token",
    "password",
    "jwt",
    "private key",
)
"""Kinds that examples in documentation have, and are secrets as far as a program can see."""


@pytest.mark.slow
@third_slow("agents")
def test_ten_megabytes_of_installed_packages_stay_as_they_are() -> None:
    changed = [
        f"{path}: {text[span.start : span.end]!r} ({span.kind})"
        for path, text in package_texts(10_000_000)
        if REDACTOR.text(text) != text
        for span in [*REDACTOR._scanner.search(text.encode()).spans]
        if not span.kind.endswith(JUDGED)
    ]
    print(*changed, sep="\n")
    assert len(changed) <= 3


def test_an_own_rule_damages_no_other_text() -> None:
    rules = {"id": r"id=(?P<secret>[0-9]+)|ACME.{2}", "none": "z*"}
    redactor = Redactor({}, rules=rules)
    text = redactor.text("plain id=42 and ACME\u20ac! end")
    assert text.startswith("plain id=[redacted id ")
    assert "ACME" not in text
    assert text.endswith("! end")
    assert redactor.text("plain") == "plain"


def test_empty_secrets_and_names_are_refused() -> None:
    for options in ({"also": [""]}, {"names": [""]}, {"names": ["-_"]}):
        with pytest.raises(ValueError, match="must"):
            Redactor({}, **options)


@pytest.mark.parametrize(
    "text",
    [
        f"https://x.io/?q=my%20{KEY}",
        f'body: "\\u003c{KEY}\\u003e"',
        json.dumps({"url": "https://bob:hu9n7t3er2@x.io/"}).replace("/", "\\/"),
        json.dumps({".netrc": "machine x.io\nlogin bob\npassword hu9n7t3er2\n"}),
        json.dumps({"run": "cd /tmp\ncurl -u bob:hu9n7t3er2 https://x.io"}),
    ],
)
def test_an_escape_before_a_secret_does_not_hide_it(text: str) -> None:
    cleaned = REDACTOR.text(text)
    assert "[redacted " in cleaned
    assert KEY not in cleaned
    assert "hu9n7t3er2" not in cleaned
    assert REDACTOR.encode(text) == (codec.encode(cleaned), True)


@pytest.mark.parametrize("depth", [100, 600, 5000])
def test_json_nested_deeply_raises_nothing_and_is_searched(depth: int) -> None:
    cleaned = REDACTOR.text("[" * depth + json.dumps(KEY) + "]" * depth)
    assert KEY not in cleaned
    assert cleaned.count("[redacted ") == 1


@pytest.mark.parametrize(
    "secret", ["hunter2", "p\u00e4ssw\u00f6rt", "correct horse/b\u00e4ttery+1"]
)
@pytest.mark.parametrize(
    "place",
    [
        lambda secret: {secret: 1},
        lambda secret: [{"a": {secret}}],
        lambda secret: {"a": secret.encode(), "b": 1},
        lambda secret: json.dumps({"a": secret}),
        lambda secret: "a=1&b=" + urllib.parse.quote(secret),
        lambda secret: "a=1&b=" + urllib.parse.quote_plus(secret),
        lambda secret: "a=1&b=" + urllib.parse.quote(secret, safe=""),
    ],
)
def test_a_secret_of_the_user_is_found_in_each_spelling(
    secret: str, place: Callable[[str], Any]
) -> None:
    # A secret that is read from a file ends with a line's end.
    redactor = Redactor({"API_KEY": "x" * 40}, also=[f"{secret}\n"])
    assert redactor.encode(place(secret))[1]
    assert "[redacted environment " in repr(redactor.plain(place(secret)))


@pytest.mark.parametrize("rule", [r"^\d{6}$", r"(?<!.)\d{6}", r"\A\d{6}\Z"])
def test_an_own_rule_may_look_at_the_ends_of_a_text(rule: str) -> None:
    redactor = Redactor({}, rules={"pin": rule})
    cleaned = redactor.plain({"a": "x", "b": "123456", "123457": "y"})
    assert cleaned["b"].startswith("[redacted pin ")
    assert "123457" not in cleaned


def test_a_word_of_many_texts_is_no_secret_variable() -> None:
    redactor = Redactor({"POSTGRES_PASSWORD": "password", "MY_PASSWORD": "swordfish"})
    text = "Please enter the password of the database."
    assert redactor.text(text) == text
    assert "swordfish" not in redactor.text("It is swordfish.")


@pytest.mark.parametrize(
    "text",
    [
        b'{"password": "any words"}',
        bytearray(b'{"a": {"password": "any words"}}'),
        '\r\n{"password": "any words"}',
        np.str_('{"password": "any words"}'),
    ],
)
def test_a_document_of_json_is_read_in_each_type_of_text(text: Any) -> None:
    for value in (text, {"body": text}):
        cleaned = REDACTOR.plain(value)
        assert "any words" not in repr(cleaned)
        assert "[redacted password " in repr(cleaned)
    assert type(REDACTOR.plain(text)) is type(codec.decode(codec.encode(text)))


@pytest.mark.parametrize(
    "value",
    [
        {b"password": b"any words"},
        {"password": np.array(["any words", "x y"])},
        {"password": np.array([["any words"]], object)},
        np.array([("any words", 1)], [("password", "U9"), ("n", "i4")]),
        np.array(
            [(("any words", b"x"), 2)],
            [("password", [("a", "U9"), ("b", "S1")]), ("n", "i4")],
        ),
    ],
)
def test_names_hide_texts_in_bytes_arrays_and_records(value: Any) -> None:
    data, is_redacted = REDACTOR.encode(value)
    assert is_redacted
    cleaned = codec.decode(data)
    assert "any words" not in repr(cleaned)
    assert "[redacted password " in repr(cleaned)
    if isinstance(value, np.ndarray):
        assert cleaned.shape == value.shape
        assert np.array_equal(cleaned["n"], value["n"])
        one = REDACTOR.plain(value[0])
        assert type(one) is np.void
        assert one.tolist() == cleaned[0].tolist()


def test_a_token_in_a_field_of_records_is_found() -> None:
    records = np.array([("a", 1), (KEY, 2)], [("note", "U60"), ("n", "i4")])
    cleaned = REDACTOR.plain({"records": records})["records"]
    assert cleaned["note"].tolist() == ["a", mark("api key", KEY)]
    assert REDACTOR.encode(records[:1]) == (codec.encode(records[:1]), False)


@pytest.mark.parametrize(
    "table",
    [
        'name,password,note\nbob,hunter2xx,"hi, there"\n"X, Ann",hunter3xx,"a ""b"" c"\ncy,"hunter4xx",\n',
        'name\tpassword\nbob "b"\thunter2xx\n"a\tb"\thunter3xx\ncy\thunter4xx\n',
        "INSERT INTO users (id, inserted_at, password) VALUES (1, 'x', 'hunter2xx'), (2, 'y', 'hunter3xx')",
        r"INSERT INTO users (note, password) VALUES ('it\'s', 'hunter2xx'), ('a\\', 'hunter3xx')",
        "INSERT INTO users (note, password) VALUES ('it''s', 'hunter2xx'), ('', 'hunter3xx')",
        "insert ignore into users (note, password) values (now(), 'hunter2xx'), (1, 'hunter3xx')",
        "REPLACE INTO users (note, password) VALUES ('a, (b)', 'hunter2xx'), (1, 'hunter3xx')",
    ],
)
def test_each_row_of_a_table_is_searched(table: str) -> None:
    cleaned = REDACTOR.text(table)
    assert re.findall(r"hunter\dxx", cleaned) == []
    assert cleaned.count("[redacted password ") == len(re.findall(r"hunter\dxx", table))
    assert re.sub(r"\[redacted .*?\]", "*", cleaned) == re.sub(r"hunter\dxx", "*", table)


def test_a_table_of_thousands_of_rows_is_searched_to_its_end() -> None:
    table = "name,password\n" + "".join(f"bob,hunter{n}xx\n" for n in range(5000))
    assert REDACTOR.text(table).count("[redacted password ") == 5000
    rows = ", ".join(f"('bob', 'hunter{n}xx')" for n in range(5000))
    cleaned = REDACTOR.text(f"INSERT INTO users (name, password) VALUES {rows};")
    assert cleaned.count("[redacted password ") == 5000


@pytest.mark.parametrize(
    "name", ["contrase\u00f1a", "\u5bc6\u7801", "Schl\u00fcssel", "\u00e9cole"]
)
def test_an_own_name_may_have_letters_of_any_language(name: str) -> None:
    redactor = Redactor({}, names=[name])
    for spelling in (name, name.lower(), name.upper(), name.capitalize(), f"my_{name}"):
        assert "hu9n7t3er2" not in redactor.text(f"{spelling}=hu9n7t3er2 and more")
        assert "any words" not in redactor.text(json.dumps({spelling: "any words"}))
        assert redactor.encode({spelling: "any words"})[1]


@pytest.mark.parametrize("name", ["door-code", "door_code", "Door code"])
def test_an_own_name_is_found_in_each_spelling_in_texts(name: str) -> None:
    redactor = Redactor({}, names=[name])
    for spelling in (
        "door-code",
        "door_code",
        "doorCode",
        "DOOR_CODE",
        "my-door-code",
    ):
        assert "hu9n7t3er2" not in redactor.text(f"set {spelling}=hu9n7t3er2 now")
        assert redactor.encode({spelling: "any words"})[1]
    assert redactor.text("set code=hu9n7t3er2 now") == "set code=hu9n7t3er2 now"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"also": "secret"}, "also must be a list of texts, got str"),
        ({"also": [b"secret"]}, "also must be a list of texts"),
        ({"also": [None]}, "also must be a list of texts"),
        ({"names": "pin"}, "names must be a list of texts, got str"),
        ({"rules": {"pin": "("}}, "the rule 'pin' is no regular expression of bytes"),
        ({"rules": {"pin": r"(?u)\w"}}, "the rule 'pin' is no regular expression of bytes"),
    ],
)
def test_a_redactor_refuses_what_would_damage_texts(arguments: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(words)):
        Redactor({}, **arguments)


def test_an_own_secret_is_found_in_the_bytes_of_a_stream() -> None:
    stream = StreamRedactor(Redactor({}, also=["p\u00e4ssw\u00f6rt"]))
    data = "it is p\u00e4ssw\u00f6rt, and".encode()
    done = [piece for n in range(len(data)) for piece in stream.add(data[n : n + 1])]
    said = b"".join(map(codec.decode, [*done, *stream.finish()]))
    assert said.startswith(b"it is [redacted environment ")
    assert said.endswith(b"], and")
