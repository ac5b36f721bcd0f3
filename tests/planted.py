"""Secrets of many kinds, made up from the formats in their providers' public documentation.

Nothing here is a credential: each secret is drawn anew from a seed, and no file has one in it.
"""

from __future__ import annotations

import base64
import json
import random
import string
import uuid
from collections.abc import Callable
from typing import NamedTuple

ALNUM = string.ascii_letters + string.digits
LOWER = string.ascii_lowercase + string.digits
UPPER = string.ascii_uppercase + string.digits
BASE32 = string.ascii_uppercase + "234567"
URL = ALNUM + "-_"
BASE64 = ALNUM + "+/"
HEX = "0123456789abcdef"


class Planted(NamedTuple):
    """A secret and the way in which it is written.

    Attributes:
        kind: The kind of secret.
        secret: The part that must not be in a log.
        text: The secret with the words that belong to it, such as the name of a variable.
    """

    kind: str
    secret: str
    text: str


class Draw:
    """Draws texts from alphabets."""

    def __init__(self, seed: object) -> None:
        self._random = random.Random(str(seed))

    def __call__(self, n: int, alphabet: str = ALNUM) -> str:
        """Return `n` characters, of which one is a digit and one a letter if possible."""
        while True:
            text = "".join(self._random.choices(alphabet, k=n))
            is_mixed = any(map(str.isdigit, text)) and any(map(str.isalpha, text))
            if n < 8 or is_mixed or alphabet.isdigit():
                return text

    def uuid(self) -> str:
        """Return a random UUID."""
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def base64(self, n: int) -> str:
        """Return `n` random bytes in Base64."""
        return base64.b64encode(self._random.randbytes(n)).decode()

    def words(self) -> str:
        """Return a password that a person could choose."""
        words = ["correct", "horse", "battery", "staple", "lamp", "river", "stone", "cloud"]
        return self._random.choice(
            [
                f"{self._random.choice(words)}{self(2, '23456789')}",
                f"Tr0ub4dor&{self(1, '23456789')}{self(2)}",
                "-".join(self._random.sample(words, 4)),
                f"{self(3)}!{self(4)}#{self(3)}",
            ]
        )


Make = Callable[[Draw], tuple[str, str]]


def bare(make: Callable[[Draw], str]) -> Make:
    """Return a kind whose form alone gives it away."""

    def planted(draw: Draw) -> tuple[str, str]:
        secret = make(draw)
        return secret, secret

    return planted


def named(template: str, make: Callable[[Draw], str]) -> Make:
    """Return a kind that its documentation shows beside a name: `DD_API_KEY=...`."""

    def planted(draw: Draw) -> tuple[str, str]:
        secret = make(draw)
        return secret, template.replace("SECRET", secret)

    return planted


def _jwt(draw: Draw) -> str:
    parts = [{"alg": "HS256", "typ": "JWT"}, {"sub": draw(8), "iat": 1700000000}]
    encoded = [
        base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=").decode() for p in parts
    ]
    return ".".join([*encoded, draw(43, URL)])


def _pem(draw: Draw) -> str:
    body = draw.base64(600)
    return "\n".join(body[k : k + 64] for k in range(0, len(body), 64))


def _pem_text(draw: Draw) -> tuple[str, str]:
    body = _pem(draw)
    label = "PRIVATE KEY"
    return body.splitlines()[3], f"-----BEGIN {label}-----\n{body}\n-----END {label}-----"


def _basic(draw: Draw) -> tuple[str, str]:
    secret = base64.b64encode(f"bob:{draw(12)}".encode()).decode()
    return secret, f"Authorization: Basic {secret}"


def _discord(draw: Draw) -> str:
    user = base64.b64encode(draw(18, string.digits[1:]).encode()).decode().rstrip("=")
    return f"{user}.{draw(6, URL)}.{draw(38, URL)}"


KINDS: dict[str, Make] = {
    "openai": bare(lambda d: f"sk-proj-{d(48, URL)}T3BlbkFJ{d(48, URL)}"),
    "openai old": bare(lambda d: f"sk-{d(20)}T3BlbkFJ{d(20)}"),
    "anthropic": bare(lambda d: f"sk-ant-api03-{d(93, URL)}AA"),
    "google": bare(lambda d: f"AIza{d(35, URL)}"),
    "google oauth": bare(lambda d: f"ya29.{d(60, URL)}"),
    "google client": bare(lambda d: f"GOCSPX-{d(28, URL)}"),
    "aws access key": bare(lambda d: f"AKIA{d(16, BASE32)}"),
    "aws secret key": named("aws_secret_access_key = SECRET", lambda d: d(40, BASE64)),
    "aws session": bare(lambda d: f"IQoJb3JpZ2lu{d(300, BASE64)}=="),
    "azure storage": named(
        "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=SECRET;EndpointSuffix=core.windows.net",
        lambda d: d.base64(64),
    ),
    "azure sas": named(
        "https://a.blob.core.windows.net/c/b?sv=2022-11-02&sr=b&sig=SECRET&se=2030-01-01",
        lambda d: f"{d(42, ALNUM)}%3D",
    ),
    "azure ad": bare(lambda d: f"{d(3)}8Q~{d(34, ALNUM + '_-.~')}"),
    "github": bare(lambda d: f"gh{d(1, 'pousr')}_{d(36)}"),
    "github fine-grained": bare(lambda d: f"github_pat_{d(22)}_{d(59)}"),
    "gitlab": bare(lambda d: f"glpat-{d(20, URL)}"),
    "slack bot": bare(lambda d: f"xoxb-{d(12, '123456789')}-{d(12, '123456789')}-{d(24)}"),
    "slack webhook": bare(
        lambda d: f"https://hooks.slack.com/services/T{d(8, UPPER)}/B{d(8, UPPER)}/{d(24)}"
    ),
    "stripe": bare(lambda d: f"{d(1, 'sr')}k_live_{d(24)}"),
    "stripe webhook": bare(lambda d: f"whsec_{d(32)}"),
    "npm": bare(lambda d: f"npm_{d(36)}"),
    "pypi": bare(lambda d: f"pypi-AgEIcHlwaS5vcmc{d(70, URL)}"),
    "sendgrid": bare(lambda d: f"SG.{d(22, URL)}.{d(43, URL)}"),
    "twilio key": bare(lambda d: f"SK{d(32, HEX)}"),
    "twilio token": named("TWILIO_AUTH_TOKEN=SECRET", lambda d: d(32, HEX)),
    "mailgun": bare(lambda d: f"key-{d(32, HEX)}"),
    "mailchimp": bare(lambda d: f"{d(32, HEX)}-us{d(2, '12345678')}"),
    "discord": bare(_discord),
    "telegram": bare(lambda d: f"{d(10, '123456789')}:AA{d(33, URL)}"),
    "hugging face": bare(lambda d: f"hf_{d(34)}"),
    "databricks": bare(lambda d: f"dapi{d(32, HEX)}"),
    "digitalocean": bare(lambda d: f"dop_v1_{d(64, HEX)}"),
    "heroku": named("HEROKU_API_KEY=SECRET", lambda d: d.uuid()),
    "shopify": bare(lambda d: f"shpat_{d(32, HEX)}"),
    "square": bare(lambda d: f"EAAA{d(60, URL)}"),
    "datadog": named("DD_API_KEY=SECRET", lambda d: d(32, HEX)),
    "datadog header": named("DD-APPLICATION-KEY: SECRET", lambda d: d(40, HEX)),
    "new relic": bare(lambda d: f"NRAK-{d(27, UPPER)}"),
    "sentry dsn": named("https://SECRET@o123.ingest.sentry.io/456", lambda d: d(32, HEX)),
    "sentry": bare(lambda d: f"sntryu_{d(64, HEX)}"),
    "grafana": bare(lambda d: f"glsa_{d(32)}_{d(8, HEX)}"),
    "postman": bare(lambda d: f"PMAK-{d(24, HEX)}-{d(34, HEX)}"),
    "linear": bare(lambda d: f"lin_api_{d(40)}"),
    "notion": bare(lambda d: f"ntn_{d(46)}"),
    "figma": bare(lambda d: f"figd_{d(40, URL)}"),
    "airtable": bare(lambda d: f"pat{d(14)}.{d(64, HEX)}"),
    "cloudflare": named("CLOUDFLARE_API_TOKEN=SECRET", lambda d: d(40, URL)),
    "vault": bare(lambda d: f"hvs.{d(95, URL)}"),
    "terraform": bare(lambda d: f"{d(14)}.atlasv1.{d(67)}"),
    "docker": bare(lambda d: f"dckr_pat_{d(27, URL)}"),
    "jfrog": bare(lambda d: f"AKCp{d(69)}"),
    "confluent": named("confluent.api.secret=SECRET", lambda d: d(64, BASE64)),
    "supabase": bare(lambda d: f"sbp_{d(40, HEX)}"),
    "planetscale": bare(lambda d: f"pscale_tkn_{d(43, URL)}"),
    "jwt": bare(_jwt),
    "private key": _pem_text,
    "basic auth": _basic,
    "bearer": named("Authorization: Bearer SECRET", lambda d: d(40, URL)),
    "cookie": named("Cookie: theme=dark; sessionid=SECRET", lambda d: d(32, LOWER)),
    "set-cookie": named("Set-Cookie: sid=SECRET; Path=/; HttpOnly", lambda d: d(32, LOWER)),
    "url credential": named("postgresql://app:SECRET@db.internal:5432/shop", lambda d: d(14)),
    "redis url": named("redis://:SECRET@cache:6379/0", lambda d: d(20)),
    "git remote": named(
        "https://x-access-token:SECRET@github.com/a/b.git", lambda d: f"ghs_{d(36)}"
    ),
    "connection string": named(
        "Server=tcp:a,1433;User ID=sa;Password=SECRET;Encrypt=True", lambda d: d(14)
    ),
    "password env": named("DB_PASSWORD=SECRET", lambda d: d.words()),
    "password yaml": named("password: SECRET", lambda d: d(14)),
    "password json": named('{"user": "bob", "db_password": "SECRET"}', lambda d: d.words()),
    "password flag": named("psql --password SECRET -h db", lambda d: d(12)),
    "password sql": named("CREATE USER bob IDENTIFIED BY 'SECRET'", lambda d: d(12)),
    "password grant": named("GRANT ALL ON a.* TO bob IDENTIFIED BY 'SECRET'", lambda d: d(12)),
    "password oracle": named('ALTER USER bob IDENTIFIED BY "SECRET"', lambda d: d(12)),
    "password prompt": named("Password for bob@example.com: SECRET", lambda d: d(12)),
    "htpasswd": named("htpasswd -bBC 10 /etc/users bob SECRET", lambda d: d(12)),
    "htpasswd stdout": named("htpasswd -nb bob SECRET", lambda d: d(12)),
    "docker stdin": named(
        "echo SECRET | docker login -u bob --password-stdin", lambda d: d.words()
    ),
    "docker login": named("docker login -u bob -p SECRET", lambda d: d.words()),
    "redis": named("redis-cli -a SECRET ping", lambda d: d.words()),
    "mongosh": named("mongosh -u bob -p SECRET db", lambda d: d.words()),
    "sqlcmd": named("sqlcmd -S db -U sa -P SECRET -i a.sql", lambda d: d.words()),
    "token json": named('{"token": "SECRET"}', lambda d: d(24)),
    "api key header": named("X-Api-Key: SECRET", lambda d: d(32, HEX)),
    "api key query": named("https://api.example.com/v1/x?api_key=SECRET&n=1", lambda d: d(32)),
    "client secret": named("client_secret=SECRET", lambda d: d(40)),
    "npmrc": named("//registry.npmjs.org/:_authToken=SECRET", lambda d: d.uuid()),
    "netrc": named("machine git.example.com login bob password SECRET", lambda d: d(14)),
    "signed request": named(
        "AWS4-HMAC-SHA256 Credential=a/s3, SignedHeaders=host, Signature=SECRET",
        lambda d: d(64, HEX),
    ),
    "mysql dsn": named("app:SECRET@tcp(10.0.0.4:3306)/shop", lambda d: d(14)),
    "oracle": named("jdbc:oracle:thin:scott/SECRET@//db:1521/orcl", lambda d: d(14)),
    "infura": named("https://mainnet.infura.io/v3/SECRET", lambda d: d(32, HEX)),
    "alchemy": named("https://eth-mainnet.g.alchemy.com/v2/SECRET", lambda d: d(32, URL)),
    "express session": named("connect.sid=s%3ASECRET", lambda d: f"{d(32, URL)}.{d(43)}"),
    "django": bare(lambda d: f"django-insecure-{d(50, LOWER + '!@#^&*(-_=+)')}"),
    "personal access token": named("AZURE_DEVOPS_EXT_PAT=SECRET", lambda d: d(52, LOWER)),
    "adafruit": bare(lambda d: f"aio_{d(28)}"),
    "frame.io": bare(lambda d: f"fio-u-{d(64, URL)}"),
    "scalingo": bare(lambda d: f"tk-us-{d(48, URL)}"),
    "jwk": named('{"kty":"OKP","crv":"Ed25519","d":"SECRET"}', lambda d: d(43, URL)),
    "mnemonic": named(
        "mnemonic: SECRET", lambda d: " ".join(d(5, "abcdeilmnorst") for _ in range(12))
    ),
    "option": named("tool --ok-access-passphrase=SECRET --verbose", lambda d: d(14)),
    "curl": named("curl -u bob:SECRET https://git.internal/api", lambda d: d(14)),
}
"""Kind -> how a secret of it and the text around it are drawn."""


def plant(kind: str, seed: object = 0) -> Planted:
    """Return a secret of a kind."""
    secret, text = KINDS[kind](Draw(f"{kind} {seed}"))
    return Planted(kind, secret, text)
