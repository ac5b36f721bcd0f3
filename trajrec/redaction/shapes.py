"""Secrets whose form gives them away, but not their first characters."""

from __future__ import annotations

from trajrec.redaction.plausibility import (
    is_basic_credential,
    is_bearer_token,
    is_no_placeholder,
)
from trajrec.redaction.rules import Shape

_RFC7517 = "https://www.rfc-editor.org/rfc/rfc7517"
# The first private part. It and all that comes behind it is the secret.
_PRIVATE_NAME = r"[\"'](?:d|p|q|k)\\*[\"']\s*:\s*\\*[\"']"

# A line may end inside of JSON, too.
_NEWLINE = r"(?:\r?\n|\\+n)"
_SECRET_DATA = (
    r"(?:data|stringData):[ \t]*(?P<secret>(?:" + _NEWLINE + r"[ \t]+[\w.-]+: [^\n\\]+)+)"
)

_BIP39 = "https://github.com/bitcoin/bips/blob/master/bip-0039.mediawiki"
_WORDS = r"(?: is\b)?[^a-zA-Z]{1,12}(?P<secret>[a-z]{3,8}(?:[ \t]+[a-z]{3,8}){11,23})"

# The begin of a word, also behind the escape of a line's end or of a tab, and behind a colour.
_WORD = r"(?:(?<!\w)|(?<=\\[nrt])|(?<=[0-9\[][mK]))"

_AZURE = "https://learn.microsoft.com/en-us/purview/sit-defn-azure-"

TEXT_SHAPES = (
    Shape(
        "private key",
        "-----begin",
        # The lines of a key, also with the quotes and escapes that programs and JSON add to them.
        r"-----BEGIN[A-Z0-9 ]{0,30} PRIVATE KEY(?: BLOCK)?-----(?P<secret>"
        r"[A-Za-z0-9+/=:,.\-()\s\"'\\@<>]{64,16000}?-----END[A-Z0-9 ]{0,30} KEY(?: BLOCK)?-----"
        r"|(?:[\s\"',+\\]|\\?[nrt])*(?:[A-Za-z\-]{3,20}: [^\n\\]{1,100}(?:\s|\\+[nr])+){0,4}"
        r"(?:[A-Za-z0-9+/=]{32,}[\s\"',+\\nr]*){2,})",
        "https://www.rfc-editor.org/rfc/rfc7468",
    ),
    Shape(
        "private key",
        "private-lines",
        r"Private-Lines: [0-9]+(?P<secret>(?:\s|\\+[rn])+[A-Za-z0-9+/=\s\\]{40,})",
        "https://the.earth.li/~sgtatham/putty/latest/htmldoc/AppendixC.html",
    ),
    Shape(
        "url credential",
        "://",
        r"://[^\s/?#@\"'<>\\:]*:(?P<secret>[^\s/?#@\"'<>\\]+)@[\w\[]",
        "https://www.rfc-editor.org/rfc/rfc3986#section-3.2.1",
        check=is_no_placeholder,
    ),
    Shape(
        "url credential",
        # JSON may escape a slash.
        r":\/",
        r":\\+/\\+/[^\s/?#@\"'<>\\:]*:(?P<secret>[^\s/?#@\"'<>\\]+)@[\w\[]",
        "https://www.rfc-editor.org/rfc/rfc8259#section-7",
        check=is_no_placeholder,
    ),
    Shape(
        "url credential",
        "://",
        r"https?://(?P<secret>(?=[\w-]{0,40}[0-9])[\w-]{20,})@[\w\[]",
        "https://docs.sentry.io/concepts/key-terms/dsn-explainer/",
        before=5,
    ),
    Shape(
        "basic credential",
        "basic ",
        r"[Bb](?:asic|ASIC) +(?P<secret>[A-Za-z0-9+/_-]{8,}={0,2})",
        "https://www.rfc-editor.org/rfc/rfc7617",
        check=is_basic_credential,
    ),
    Shape(
        "bearer token",
        "bearer ",
        r"[Bb](?:earer|EARER) +(?P<secret>[A-Za-z0-9._~+/=-]{8,})",
        "https://www.rfc-editor.org/rfc/rfc6750",
        check=is_bearer_token,
    ),
    Shape(
        "password",
        "by '",
        r"(?i)\b(?:user|role)\b[^;\n]{0,120}?\sidentified\s+(?:with\s+[\"'`]?\w+[\"'`]?\s+)?by '(?P<secret>[^'\\\s]{3,})'",
        "https://dev.mysql.com/doc/refman/8.4/en/create-user.html",
        before=200,
        check=is_no_placeholder,
    ),
    Shape(
        "password",
        "-u",
        _WORD
        + r"(?:curl|wget|http|https)\b[^\n|;]{0,300}?\s(?:-u|--user|-U|--proxy-user)[ =]?[\"']?"
        r"[^\s:\"'/]{1,80}:(?P<secret>[^\s\"'$/][^\s\"']*)",
        "https://curl.se/docs/manpage.html#-u",
        before=300,
        check=is_no_placeholder,
    ),
    Shape(
        "password",
        "-p",
        _WORD
        + r"(?:mysql(?:dump|admin)?|mariadb)\b[^\n|;]{0,200}?\s-p(?P<secret>[^\s\"'$-][^\s\"']{3,})",
        "https://dev.mysql.com/doc/refman/8.4/en/command-line-options.html",
        before=200,
        check=is_no_placeholder,
    ),
    Shape(
        "password",
        "-p ",
        _WORD
        + r"(?:sshpass|docker\s+login\b[^\n|;]{0,200}?)\s+-p\s+[\"']?(?P<secret>[^\s\"'$-]{4,})",
        "https://docs.docker.com/reference/cli/docker/login/",
        before=200,
        check=is_no_placeholder,
    ),
    Shape(
        "password",
        "-a ",
        _WORD + r"redis-cli\b[^\n|;]{0,100}?\s-a\s+[\"']?(?P<secret>[^\s\"'$-]{4,})",
        "https://redis.io/docs/latest/develop/tools/cli/",
        before=100,
        check=is_no_placeholder,
    ),
    Shape(
        "password",
        "password ",
        _WORD + r"login\s+\S+\s+password\s+(?P<secret>[^\s\"'<>{}$(]+)",
        "https://www.gnu.org/software/inetutils/manual/html_node/The-_002enetrc-file.html",
        before=100,
        check=is_no_placeholder,
    ),
    Shape(
        "password",
        "@tcp(",
        r"(?<![\w/:])[\w.-]{1,60}:(?P<secret>[^\s:@/\"'<>]{3,})@tcp\(",
        "https://github.com/go-sql-driver/mysql#dsn-data-source-name",
        before=200,
        check=is_no_placeholder,
    ),
    Shape(
        "password",
        ":thin:",
        r":(?i:thin):[\w$#]{1,60}/(?P<secret>[^\s/@\"'<>]{3,})@",
        "https://docs.oracle.com/en/database/oracle/oracle-database/23/jjdbc/",
        check=is_no_placeholder,
    ),
    Shape(
        "password",
        ":5432:",
        r"(?<![^\s\"'])[^\s:\"'#]+:5432:[^\s:\"']+:[^\s:\"']+:(?P<secret>[^\s\"'\\<>]{3,})",
        "https://www.postgresql.org/docs/current/libpq-pgpass.html",
        before=200,
        check=is_no_placeholder,
    ),
    Shape(
        "digest response",
        "ponse=",
        r"Digest [^\n]{0,400}?\Wresponse=[\\\"']*(?P<secret>[0-9a-f]{32,64})",
        "https://www.rfc-editor.org/rfc/rfc7616",
        before=400,
    ),
    Shape(
        "kubernetes secret",
        "kind: secret",
        r"kind: Secret\b(?:(?!\n---)[^\x00]){0,2000}?" + _NEWLINE + _SECRET_DATA,
        "https://kubernetes.io/docs/concepts/configuration/secret/",
        check=is_no_placeholder,
    ),
    Shape(
        "kubernetes secret",
        "kind: secret",
        r"(?<![\w-])" + _SECRET_DATA + _NEWLINE + r"(?:(?!\n---)[^\x00]){0,2000}?kind: Secret\b",
        "https://kubernetes.io/docs/concepts/configuration/secret/",
        before=4000,
        check=is_no_placeholder,
    ),
    Shape(
        "private key",
        "kty",
        r"kty\\*[\"'](?:(?!kty)[^{}]){0,2000}?"
        + _PRIVATE_NAME
        + r"(?P<secret>[\w-]{20}[^{}]{0,4000}+)\}",
        _RFC7517,
    ),
    Shape(
        "private key",
        "kty",
        _PRIVATE_NAME + r"(?P<secret>[\w-]{20}[^{}]{0,4000}?)\\*[\"'],\s*\\*[\"']kty\b",
        _RFC7517,
        before=4000,
    ),
    Shape("mnemonic", "c: ", r"(?i:mnemonic)" + _WORDS, _BIP39, before=10),
    Shape("mnemonic", "c=", r"(?i:mnemonic)" + _WORDS, _BIP39, before=10),
    Shape(
        "mnemonic",
        "phrase",
        r"(?i:(?:seed|recovery|secret)[ _-]?phrase)" + _WORDS,
        _BIP39,
        before=10,
    ),
)
"""The rules for secrets that words beside them give away. Signs are in lower case here."""

LONG_SHAPES = (
    Shape(
        "telegram token",
        ":AA",
        r"(?<![0-9])[0-9]{8,10}:AA[\w-]{32,35}(?![\w-])",
        "https://core.telegram.org/bots/api#authorizing-your-bot",
    ),
    Shape(
        "mailchimp key",
        "-us",
        r"(?<![0-9A-Za-z])[0-9a-f]{32}-us[0-9]{1,2}(?![0-9A-Za-z])",
        "https://mailchimp.com/developer/marketing/docs/fundamentals/",
    ),
    Shape(
        "mailgun key",
        "-",
        r"(?<![0-9A-Za-z-])[0-9a-f]{32}-[0-9a-f]{8}-[0-9a-f]{8}(?![0-9A-Za-z-])",
        "https://documentation.mailgun.com/docs/mailgun/api-reference/authentication",
    ),
    Shape(
        "azure client secret",
        "Q~",
        r"(?<![\w.~-])[\w.~]{3}[0-9]Q~[\w.~-]{30,33}[\w~-](?![\w~-]|\.\w)",
        _AZURE + "ad-client-secret",
    ),
    Shape(
        "azure key",
        "JQQJ9",
        r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{52}JQQJ9[A-Za-z0-9+/]{20,30}={0,2}",
        "https://github.com/microsoft/security-utilities",
    ),
    Shape(
        "azure key",
        "==",
        # A digest of a file in a lock file has as many characters.
        r"(?<![A-Za-z0-9+/])(?<!sha512[-:=])(?=[a-z0-9+/]{0,60}[A-Z])(?=[A-Z0-9+/]{0,60}[a-z])[A-Za-z0-9+/]{86}==",
        _AZURE + "storage-account-key",
    ),
    Shape(
        "azure devops token",
        "AZDO",
        r"(?<![A-Za-z0-9])[A-Za-z0-9]{76}AZDO[A-Za-z0-9]{4}(?![A-Za-z0-9])",
        _AZURE + "devops-personal-access-token",
    ),
    Shape(
        "aws session token",
        "|",
        r"(?<![A-Za-z0-9])Atz[ar]\|[\w-]{50,}",
        "https://developer.amazon.com/docs/login-with-amazon/access-token.html",
    ),
    Shape(
        "facebook token",
        "|",
        r"(?<![0-9])[0-9]{15,17}\|[\w-]{27,40}(?![\w-])",
        "https://developers.facebook.com/docs/facebook-login/guides/access-tokens",
    ),
    Shape(
        "braintree token",
        "$",
        r"access_token\$(?:production|sandbox)\$[0-9a-z]{16}\$[0-9a-f]{32}",
        "https://developer.paypal.com/braintree/docs/guides/authorization/overview/",
    ),
    Shape(
        "password hash",
        "$",
        r"(?<![\w$])\$(?:2[abxy]?\$[0-9]{2}|[156y]|apr1|sha1|gy|7|argon2(?:id?|d))\$"
        r"[^\s:\"'<>\\]{20,}",
        "https://man7.org/linux/man-pages/man5/crypt.5.html",
    ),
    Shape(
        "terraform token",
        ".atlasv1.",
        r"(?<![A-Za-z0-9])[A-Za-z0-9]{14}\.atlasv1\.[\w=-]{50,}",
        "https://developer.hashicorp.com/terraform/cloud-docs/users-teams-organizations/api-tokens",
    ),
    Shape(
        "maxmind key",
        "_mmk",
        r"(?<![A-Za-z0-9])[A-Za-z0-9]{6}_[A-Za-z0-9]{29}_mmk(?!\w)",
        "https://support.maxmind.com/hc/en-us/articles/4407116112539-Using-License-Keys",
    ),
    Shape(
        "new relic key",
        "NRAL",
        r"(?<![A-Za-z0-9])(?:[a-z]{2}[0-9]{2}xx)?[0-9a-f]{28,36}(?:FFFF)?NRAL(?![A-Za-z0-9])",
        "https://docs.newrelic.com/docs/apis/intro-apis/new-relic-api-keys/",
    ),
    Shape(
        "asana token",
        ":",
        r"(?<![0-9])[0-9]/[0-9]{16}(?:/[0-9]{16})?:[0-9a-f]{32}(?![0-9a-f])",
        "https://developers.asana.com/docs/personal-access-token",
    ),
)
"""The rules for secrets of at least 16 characters without a space, which a sign in them gives
away."""
