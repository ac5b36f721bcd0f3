"""The guard of the viewer: it answers this machine's user and nobody else, and only reads.

Other users of the machine reach loopback too, hence the token. A page of another site reaches it
through the browser, hence the checks of Host (a name that is bound to 127.0.0.1 anew) and of
Sec-Fetch-Site. Recorded text is untrusted, hence a policy under which nothing of it can run.
"""

from __future__ import annotations

import secrets
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trajrec.view.pages import render

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types view",
    )
)

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Headers of every response."""

TOKEN_BYTES = 16


def new_token() -> str:
    """Return a random token of 128 bits."""
    return secrets.token_urlsafe(TOKEN_BYTES)


class Guard:
    """Middleware that refuses all requests but those of the user that started the viewer.

    Args:
        app: The application behind it.
        port: The port, which the Host header must name.
        token: The token of the printed address.
    """

    def __init__(self, app: ASGIApp, *, port: int, token: str) -> None:
        self._app = app
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}
        # Cookies ignore ports: two viewers would overwrite each other's.
        self._cookie = f"trajrec-{port}"
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if headers.get("host", "").lower() not in self._hosts:
            return _message(400, "This address is not the viewer's: open the one that it printed.")
        if scope["method"] not in ("GET", "HEAD"):
            return _message(405, "The viewer only reads.")
        given = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        token = next((value for name, value in given if name == "token"), None)
        if token is not None:
            # Before the check of the site: a browser that opens a file first comes from elsewhere.
            return self._swap(scope["path"], token, [item for item in given if item[0] != "token"])
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return _message(403, "The viewer answers no other site.")
        if not self._is_token(self._cookie_of(headers)):
            return _message(403, "Open the address that `trajrec view` printed: it has the token.")
        return None

    def _swap(self, path: str, token: str, rest: list[tuple[str, str]]) -> Response:
        """Swap a token for a cookie, and open the address without it."""
        if not self._is_token(token):
            return _message(403, "This token is of another `trajrec view`.")
        # One slash: two of them would be the address of another host.
        target = "/" + path.lstrip("/\\")
        target += f"?{urlencode(rest)}" if rest else ""
        # A page and no redirect: a browser sends a strict cookie only if the viewer's own page
        # asks for the next one.
        response = HTMLResponse(render("entry.html", target=target))
        response.set_cookie(self._cookie, self._token, httponly=True, samesite="strict", path="/")
        return response

    def _cookie_of(self, headers: Headers) -> str:
        for part in headers.get("cookie", "").split(";"):
            name, _, value = part.strip().partition("=")
            if name == self._cookie:
                return value
        return ""

    def _is_token(self, text: str) -> bool:
        return secrets.compare_digest(text.encode("utf-8", "replace"), self._token.encode())


def _message(status: int, text: str) -> Response:
    page = render("message.html", title=str(status), text=text, hints=[], corpus=None)
    return HTMLResponse(page, status_code=status)
