"""Secrets whose form gives them away, but not their first characters."""

from __future__ import annotations

from trajrec.redaction.plausibility import (
    is_basic_credential,
    is_bearer_token,
    is_no_placeholder,
    is_password,
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

# An argument of a command, in quotes or not: its first character is none of an option or variable.
_ARGUMENT = r"[\"']?(?P<secret>[^\s\"'`<$-][^\s\"'`<]{3,})"

# Options of htpasswd, of which one may have a number, and a word that is none.
_OPTIONS = r"(?:[ \t]++-[A-Za-z]++(?:[ \t]++[0-9]++)?){0,8}"
_UNQUOTED = r"[ \t]+[^\s<>|&;`\"'-][^\s<>|&;`\"']*"

_PIPED = (
    _WORD
    + r"(?:echo|printf)\s+(?:-\w+\s+|[\"']%s(?:\\+n)?[\"']\s+)*[\"']?"
    + r"(?P<secret>[^\s\"'`$|<-][^\s\"'|]{3,})[\"']?\s*\|\s*(?:sudo\s+)?"
    + r"(?:docker|podman)\s+login\b[^\n;|]{0,200}?--password-stdin"
)
# A line of a Dockerfile, also as a build prints it. The word first: `re` skips to it.
_ENV = (
    r"ENV(?:(?<=\AENV)|(?<=[\n\r]ENV)|(?<=\\nENV)|(?<=[\]:] ENV))[ \t]+(?:[A-Z0-9_]{1,40}_)?"
    r"(?:PASSWORD|PASSWD|PASS|PWD|SECRET)[ \t]+[\"']?"
    r"(?P<secret>[^\s\"'$<=-][^\s\"']{5,})[\"']?[ \t]*(?=[\r\n]|\\+[nr]|\Z)"
)

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
        r"(?i)\b(?:user|role|grant)\b[^;\n]{0,120}?\sidentified\s+"
        r"(?:with\s+[\"'`]?\w+[\"'`]?\s+)?by '(?P<secret>[^'\\\s]{3,})'",
        "https://dev.mysql.com/doc/refman/8.4/en/create-user.html",
        before=200,
        check=is_no_placeholder,
    ),
    Shape(
        "password",
        "by '",
        # In capitals it is a word of SQL, and none of a sentence.
        r"\bIDENTIFIED\s+(?:WITH\s+[\"'`]?\w+[\"'`]?\s+)?BY '(?P<secret>[^'\\\s]{3,})'",
        "https://mariadb.com/kb/en/grant/",
        before=80,
        check=is_no_placeholder,
    ),
    Shape(
        "password",
        'by "',
        r"\bIDENTIFIED\s+BY \"(?P<secret>[^\"\\\s]{3,})\"",
        "https://docs.oracle.com/en/database/oracle/oracle-database/23/sqlrf/ALTER-USER.html",
        before=80,
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
        _WORD + r"(?:sshpass|(?:docker|podman)\s+login\b[^\n|;]{0,200}?)\s+-p\s+" + _ARGUMENT,
        "https://docs.docker.com/reference/cli/docker/login/",
        before=200,
        check=is_no_placeholder,
    ),
    Shape(
        "password",
        "-p ",
        _WORD
        + r"mongo(?:sh|dump|restore|export|import|stat|top)\b[^\n|;]{0,200}?\s-p\s+"
        + _ARGUMENT,
        "https://www.mongodb.com/docs/mongodb-shell/reference/options/",
        before=200,
        check=is_no_placeholder,
    ),
    Shape(
        "password",
        "-p",
        _WORD + r"(?:sqlcmd|bcp)\b[^\n|;]{0,200}?\s-P[ \t]*(?!%)" + _ARGUMENT,
        "https://learn.microsoft.com/en-us/sql/tools/sqlcmd/sqlcmd-utility",
        before=200,
        check=is_no_placeholder,
    ),
    Shape(
        "password",
        "passwd -",
        # Options, one of them with "b"; a file unless one has an "n"; a user; the password.
        rf"htpasswd(?={_OPTIONS}[ \t]+-[A-Za-z]*b)(?P<prints>(?={_OPTIONS}[ \t]+-[A-Za-z]*n))?"
        rf"{_OPTIONS}{_UNQUOTED}(?(prints)|{_UNQUOTED})[ \t]+"
        r"[\"']?(?P<secret>[^\s\"'`$<>|&;)-][^\s\"'`<>|&;)]{3,})",
        "https://httpd.apache.org/docs/2.4/programs/htpasswd.html",
        before=2,
        check=is_password,
    ),
    Shape(
        "password",
        "password for ",
        r"(?i:password)[ \t]+for[ \t]+(?:user[ \t]+)?[^\s:]\S{0,79}?[ \t]*(?::|[ \t]is\b)[ \t]*"
        r"[\"'`]?(?P<secret>[^\s\"'`<]+?)(?=[.,;!?]?(?:[\s\"'`<]|\Z))",
        "https://git-scm.com/docs/gitcredentials",
        check=is_password,
    ),
    Shape(
        "password",
        "-a ",
        _WORD + r"redis-cli\b[^\n|;]{0,100}?\s-a\s+" + _ARGUMENT,
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
    # The signs begin as other signs and names do: each other first letter slows the search for all.
    *(
        Shape(
            "password",
            sign,
            _PIPED,
            "https://docs.docker.com/reference/cli/docker/login/",
            before=300,
            check=is_no_placeholder,
        )
        for sign in ("ker login", "podman login")
    ),
    *(
        Shape(
            "password",
            sign,
            _ENV,
            "https://docs.docker.com/reference/dockerfile/#env",
            before=60,
            check=is_no_placeholder,
        )
        for sign in ("password ", "passwd ", "pass ", "pwd ", "cret ")
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
