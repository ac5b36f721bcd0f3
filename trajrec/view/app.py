"""The pages of the viewer and their addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

from trajrec.errors import CorpusError, LogError, QueryError, TrajrecError
from trajrec.types import Value
from trajrec.values.json import to_json
from trajrec.view.commands import credit_commands
from trajrec.view.corpus_view import CorpusView
from trajrec.view.diff_view import compare_views
from trajrec.view.episode_view import EpisodeView
from trajrec.view.film import film_chunk, picture_at, png, small
from trajrec.view.guard import Guard
from trajrec.view.links import Links
from trajrec.view.live import Listed
from trajrec.view.news import news_json
from trajrec.view.page_values import page_values, pane_values
from trajrec.view.pages import LATER, own_file, render
from trajrec.view.panes import state_text
from trajrec.view.place_view import read_places
from trajrec.view.served_corpus import ServedCorpus

_LINKS = Links()
_FILES = {"csv": "text/csv", "json": "application/json"}
_TYPES = {
    "view.css": "text/css",
    "view.js": "text/javascript",
    "live.js": "text/javascript",
    "film.js": "text/javascript",
}


def make_app(served: ServedCorpus, *, port: int, token: str) -> Guard:
    """Return the viewer as an ASGI application.

    Args:
        served: The corpus that it shows.
        port: The port that it is served on.
        token: The token of its address.
    """
    pages = _Pages(served)
    routes = [
        Route("/", pages.corpus),
        Route("/table", pages.table),
        Route("/failures", pages.failures),
        Route("/compare", pages.compare),
        Route("/interfaces", pages.interfaces),
        Route("/i/{a}", pages.interface),
        Route("/i/{a}/vs/{b}", pages.interface_pair),
        Route("/sql", pages.sql),
        Route("/diff/{a}/{b}", pages.diff),
        Route("/e/{id}", pages.episode),
        Route("/e/{id}/forks", pages.forks),
        Route("/e/{id}/credit", pages.credit),
        Route("/e/{id}/state", pages.state_places),
        Route("/e/{id}/live", pages.live),
        Route("/e/{id}/{step:int}", pages.step),
        Route("/e/{id}/{step:int}/pane", pages.pane),
        Route("/e/{id}/{step:int}/state.json", pages.state),
        Route("/e/{id}/{step:int}/raw", pages.raw),
        Route("/e/{id}/{step:int}/frame.png", pages.frame),
        Route("/e/{id}/film/{number:int}", pages.film),
        Route("/static/{name}", _static),
    ]
    handlers: dict[type[Exception] | int, Callable[..., Response]] = {
        HTTPException: _not_found,
        TrajrecError: _failed,
        IndexError: _failed,
        OSError: _failed,
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    return Guard(app, port=port, token=token)


class _Pages:
    """Each method answers one address. They run in threads: reading a log takes its time."""

    def __init__(self, served: ServedCorpus) -> None:
        self._served = served

    def corpus(self, request: Request) -> Response:
        revision = self._served.revision()
        view = self._served.table(request.query_params.multi_items())
        values = {"view": view, "revision": revision, "name": self._served.name, "links": _LINKS}
        page = render("corpus.html", place="episodes", **values)
        return StreamingResponse(self._in_parts(page, view), media_type="text/html")

    def _in_parts(self, page: str, view: CorpusView) -> Iterator[str]:
        """Yield the table, which the browser paints, and then its facets, which take longer."""
        before, after = page.split(LATER)
        yield before
        with self._served.lock:
            facets = render("corpus_facets.html", view=view)
        yield facets
        yield after

    def table(self, request: Request) -> Response:
        asked = request.query_params.multi_items()
        revision = self._served.revision()
        if ("version", str(revision.number)) in asked:
            return Response(status_code=204)
        values = {"view": self._served.table(asked), "links": _LINKS}
        with self._served.lock:
            facets = render("corpus_facets.html", **values)
        return JSONResponse(
            {
                "version": str(revision.number),
                "isLive": revision.n_recording > 0,
                "episodes": render("corpus_table.html", **values),
                "facets": facets,
            }
        )

    def failures(self, request: Request) -> Response:
        given = request.query_params
        view = self._served.failures(phase=given.get("phase"), tool=given.get("tool"))
        return self._corpus_page("failures", "failures.html", view=view)

    def diff(self, request: Request) -> Response:
        given = (request.path_params["a"], request.path_params["b"])
        views = [self._served.episode(text) for text in given]
        ids = [view.id for view in views]
        if ids != list(given):
            return RedirectResponse(f"/diff/{quote(ids[0])}/{quote(ids[1])}", status_code=303)
        if views[0].is_agent != views[1].is_agent:
            return _message(
                400,
                "One episode is an agent's and the other an environment's: they have no steps that "
                "could be compared.",
            )
        with self._served.lock:
            view = compare_views(*views)
            return self._corpus_page("diff", "diff.html", view=view)

    def compare(self, request: Request) -> Response:
        given = {name: request.query_params.get(name, "").strip() for name in ("a", "b", "check")}
        view = self._served.comparison(a=given["a"], b=given["b"], check=given["check"])
        status = 400 if view.error else 200
        return self._corpus_page("compare", "compare.html", status=status, view=view)

    def interfaces(self, _request: Request) -> Response:
        return self._corpus_page("interfaces", "interfaces.html", rows=self._served.interfaces())

    def interface(self, request: Request) -> Response:
        view = self._served.interface(request.path_params["a"])
        return self._corpus_page("interface", "interface.html", view=view)

    def interface_pair(self, request: Request) -> Response:
        given = request.path_params
        view = self._served.interface_pair(given["a"], given["b"])
        return self._corpus_page("interface", "interface_pair.html", view=view)

    def forks(self, request: Request) -> Response:
        given = request.path_params["id"]
        view = self._served.episode(given)
        if view.id != given:
            return RedirectResponse(f"/e/{quote(view.id)}/forks", status_code=303)
        tree = self._served.fork_tree(view.id)
        return self._corpus_page("forks", "forks.html", tree=tree, id=view.id)

    def credit(self, request: Request) -> Response:
        given = request.path_params["id"]
        view = self._served.episode(given)
        if view.id != given:
            return RedirectResponse(f"/e/{quote(view.id)}/credit", status_code=303)
        asked = request.query_params
        credit = self._served.credit(view, run_id=asked.get("run", ""), sort=asked.get("sort", ""))
        commands = credit_commands(self._served.name, view.id, is_agent=view.is_agent)
        return self._corpus_page(
            "credit", "credit.html", view=credit, episode=view, commands=commands
        )

    def sql(self, request: Request) -> Response:
        query = request.query_params.get("q", "").strip()
        name = request.query_params.get("format", "")
        if query and name in _FILES:
            try:
                text = self._served.query_file(query, name)
            except QueryError as exc:
                return _message(400, str(exc))
            # As a file: nothing in it is looked at by the browser.
            headers = {"content-disposition": f'attachment; filename="rows.{name}"'}
            return Response(text.encode("utf-8", "backslashreplace"), 200, headers, _FILES[name])
        view = self._served.query(query)
        return self._corpus_page("sql", "sql.html", status=400 if view.error else 200, view=view)

    def _corpus_page(
        self, place: str, template: str, *, status: int = 200, **values: Value
    ) -> Response:
        """Return a page of the whole corpus, which the head of each of them links to."""
        text = render(template, place=place, name=self._served.name, links=_LINKS, **values)
        return HTMLResponse(text, status_code=status)

    def episode(self, request: Request) -> Response:
        given = request.path_params["id"]
        view = self._served.episode(given)
        if view.id != given:
            return RedirectResponse(f"/e/{quote(view.id)}", status_code=303)
        with self._served.lock:
            return self._page(view, view.telling_step, request)

    def step(self, request: Request) -> Response:
        view = self._served.episode(request.path_params["id"])
        step = request.path_params["step"]
        if view.id != request.path_params["id"]:
            return RedirectResponse(f"/e/{quote(view.id)}/{step}", status_code=303)
        if step == view.episode.end_step and step in view.evidence.fork_steps and view.steps:
            # A fork that begins behind the last step, in the state after it.
            return RedirectResponse(f"/e/{quote(view.id)}/{view.steps[-1]}", status_code=303)
        with self._served.lock:
            self._require(view, step)
            return self._page(view, step, request)

    def pane(self, request: Request) -> Response:
        step = request.path_params["step"]
        view = self._served.episode(request.path_params["id"], is_new_page=False)
        with self._served.lock:
            self._require(view, step)
            return HTMLResponse(render("pane.html", **self._pane(view, step, request)))

    def live(self, request: Request) -> Response:
        asked = request.query_params
        try:
            listed = Listed(
                int(asked.get("first", "0")),
                int(asked.get("last", "-1")),
                is_tail=asked.get("tail") == "1",
                follows=asked.get("follow") == "1",
            )
        except ValueError:
            return _message(400, "first and last must be numbers of steps.")
        version = asked.get("version", "")
        with self._served.lock:
            view, news = self._served.news(request.path_params["id"], version, listed)
            if view.growth.version == version and not listed.follows:
                return Response(status_code=204)
            return JSONResponse(news_json(view, news, _LINKS))

    def state(self, request: Request) -> Response:
        step = request.path_params["step"]
        view = self._served.episode(request.path_params["id"], is_new_page=False)
        with self._served.lock:
            self._require(view, step)
            state, reason = state_text(view.episode, step + 1)
        if reason:
            return JSONResponse({"unknown": reason}, status_code=404)
        return Response(to_json(state), media_type="application/json")

    def state_places(self, request: Request) -> Response:
        given = request.path_params["id"]
        asked = request.query_params
        view = self._served.episode(given)
        if view.id != given:
            query = f"?{request.url.query}" if request.url.query else ""
            return RedirectResponse(f"{_LINKS.state(view.id)}{query}", status_code=303)
        try:
            at = int(asked["at"]) if asked.get("at") else None
            first = int(asked.get("from", "-1"))
        except ValueError:
            return _message(400, "at and from must be whole numbers.")
        with self._served.lock:
            page = read_places(view, asked.get("path"), at, first)
            return self._corpus_page("state", "place.html", page=page, view=view)

    def raw(self, request: Request) -> Response:
        step = request.path_params["step"]
        view = self._served.episode(request.path_params["id"], is_new_page=False)
        with self._served.lock:
            self._require(view, step)
            return Response(to_json(view.raw(step)), media_type="text/plain")

    def frame(self, request: Request) -> Response:
        step = request.path_params["step"]
        view = self._served.episode(request.path_params["id"], is_new_page=False)
        with self._served.lock:
            self._require(view, step)
            picture = picture_at(view.episode, step)
        if picture is None:
            return _message(404, f"No picture was observed after step {step}.")
        if request.query_params.get("small"):
            picture = small(picture)
        return Response(png(picture), media_type="image/png")

    def film(self, request: Request) -> Response:
        number = request.path_params["number"]
        view = self._served.episode(request.path_params["id"], is_new_page=False)
        with self._served.lock:
            if view.film is None or number * view.film.chunk >= view.episode.n_steps:
                return _message(404, "No pictures were observed there.")
            data = film_chunk(view.episode, view.film, number)
        return Response(data, media_type="application/octet-stream")

    def _page(self, view: EpisodeView, step: int | None, request: Request) -> Response:
        values = page_values(view, step, _LINKS, folder=self._served.name)
        if step is not None:
            values |= self._pane(view, step, request)
        return HTMLResponse(render("episode.html", name=self._served.name, **values))

    def _pane(self, view: EpisodeView, step: int, request: Request) -> dict[str, Value]:
        has_state = request.query_params.get("tab") == "state"
        return pane_values(view, step, _LINKS, folder=self._served.name, has_state=has_state)

    def _require(self, view: EpisodeView, step: int) -> None:
        if step not in view.steps:
            last = view.steps[-1] if view.steps else None
            raise IndexError(f"episode {view.id} has no step {step}; its last one is {last}")


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in _TYPES:
        raise HTTPException(404)
    return Response(own_file(name), media_type=_TYPES[name])


def _not_found(_request: Request, exc: HTTPException) -> Response:
    return _message(exc.status_code, "There is no page at this address.")


def _failed(_request: Request, exc: Exception) -> Response:
    # A damaged log is no fault of the viewer's; an episode that is not there is none either.
    status = 500 if isinstance(exc, (LogError, OSError)) else 404
    is_missing = isinstance(exc, CorpusError)
    hints = (
        ["An id may be shortened to the first digits that no other id has."] if is_missing else []
    )
    return _message(status, str(exc), hints)


def _message(status: int, text: str, hints: list[str] | None = None) -> Response:
    page = render(
        "message.html", title=str(status), text=text, hints=hints or [], corpus=_LINKS.corpus()
    )
    return HTMLResponse(page, status_code=status)
