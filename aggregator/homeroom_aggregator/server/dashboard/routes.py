"""The dashboard's routes: signing in by a one-time link, the pages, and what an officer does there.

Without a session nothing is shown, not even whose dashboard it is. A link only shows a button, so that a program which
looks links up for somebody does not use it up; the button's form brings a cookie that no script and no other site can
use. Forms count with their session's word and this site's own Origin. No page needs a script, and none may run.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from functools import partial
from math import ceil
from urllib.parse import parse_qs, urlsplit

import anyio.to_thread
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from homeroom.errors import HomeroomError
from homeroom.system.html.render import style_source
from homeroom.system.sqlite import Database
from homeroom_aggregator.admin.configuration import DeviceLimits, RequestLimits
from homeroom_aggregator.admin.officers import Officer
from homeroom_aggregator.server import refusals, requests
from homeroom_aggregator.server.dashboard import actions, pages, queries
from homeroom_aggregator.server.dashboard.pages import PageContext
from homeroom_aggregator.server.dashboard.queries import AuditChain
from homeroom_aggregator.server.dashboard.sessions import Session, Sessions
from homeroom_aggregator.server.metrics import LOGGER
from homeroom_aggregator.server.rate_limits import RateMeter
from homeroom_aggregator.server.refusals import RefusedError
from homeroom_aggregator.server.service import Service
from homeroom_aggregator.state import login_links
from homeroom_aggregator.state.one_time_codes import LOGIN_LINK, is_genuine

COOKIE_NAME, DASHBOARD_PATH = "homeroom-office", "/dashboard"
FORM_LIMIT_BYTES = 8 << 10
AUDIT_CHECK_LIFE_S = 60.0  # then the audit log is checked anew
FORM_LIMITS = RequestLimits()
SESSION_LIMITS = DeviceLimits(requests_a_minute=120, burst=60)
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src {style_source()}; img-src data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "cache-control": "no-store",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
SIGN_IN_REMEDY = (
    "Run `homeroom district dashboard` with the aggregator's folder, or your invitation and key; it prints a link."
)


class Dashboard:
    """One server's dashboard: who is signed in, and the last check of the audit log."""

    def __init__(self, service: Service) -> None:
        self.service, self.sessions, self.meter = (
            service,
            Sessions(service.configuration.dashboard),
            RateMeter(SESSION_LIMITS),
        )
        self._chain: tuple[float, AuditChain] | None = None

    def chain(self, database: Database) -> AuditChain:
        """The audit log's check, at most a minute old."""
        if self._chain is None or time.monotonic() - self._chain[0] > AUDIT_CHECK_LIFE_S:
            self._chain = (time.monotonic(), queries.verify_audit(database))
        return self._chain[1]

    def session(self, request: Request) -> Session:
        """The session of a request; RefusedError without one, or after too many requests."""
        token = request.cookies.get(COOKIE_NAME, "")
        session = self.sessions.find(token, self.service.members)
        if session is None:
            raise RefusedError(401, "no_session", "You are not signed in", SIGN_IN_REMEDY)
        if wait_s := self.meter.request(session.form):
            raise RefusedError(429, "too_many", "Too many requests", "Wait a moment, then try again.", wait_s)
        return session

    async def render(self, request: Request, session: Session, page: Callable[[PageContext], str]) -> str:
        """A page's HTML, made in a thread over a connection of its own, which sees what is durable."""
        service = self.service
        waiting = await service.writer.do(partial(queries.pending_updates, service))
        query = {name: value for name, value in request.query_params.items() if len(value) < 200}

        def make() -> str:
            path = service.rounds.log.database.path
            with contextlib.closing(Database(path, shared=True)) as database:
                return page(PageContext(database, service, waiting, session, self.chain, query))

        return await anyio.to_thread.run_sync(make)


async def show_page(dashboard: Dashboard, request: Request) -> Response:
    """A page by its address."""
    session = dashboard.session(request)
    page = pages.PAGES.get(request.path_params.get("page", ""))
    if page is None:
        raise RefusedError(404, "no_page", "There is no such page")
    return HTMLResponse(await dashboard.render(request, session, page))


async def show_sign_in(dashboard: Dashboard, request: Request) -> Response:
    """Show a button that uses the login link up; whether the link is good is said when it is pressed."""
    code = request.query_params.get("code", "")[:100]
    minutes, hours = dashboard.sessions.idle_s / 60, dashboard.sessions.life_s / 3600
    sentence = "The link opens it once, on this device. You are signed out after "
    sentence += f"{minutes:g} minutes without a look, or after {hours:g} hours."
    return HTMLResponse(pages.render("plain", heading="Homeroom", sentences=[sentence], code=code))


async def sign_in(dashboard: Dashboard, request: Request) -> Response:
    """Use a login link up and begin a session."""
    service, code = dashboard.service, (await _form(request)).get("code", "")
    link = None
    if is_genuine(service.secret, LOGIN_LINK, code):
        link = await service.writer.do(lambda: login_links.redeem_link(service.rounds.log.database, code))
    if link is None:
        raise RefusedError(
            403, "bad_link", "This link opens nothing", f"It was used, or its time is over. {SIGN_IN_REMEDY}"
        )
    answer = RedirectResponse(DASHBOARD_PATH, 303)
    secure = request.url.scheme == "https"
    answer.set_cookie(
        COOKIE_NAME,
        dashboard.sessions.begin(link),
        max_age=int(dashboard.sessions.life_s),
        path=DASHBOARD_PATH,
        secure=secure,
        httponly=True,
        samesite="strict",
    )
    return answer


async def sign_out(dashboard: Dashboard, request: Request) -> Response:
    """End the session."""
    await _own_form(request, dashboard.session(request))
    dashboard.sessions.end(request.cookies.get(COOKIE_NAME, ""))
    answer = HTMLResponse(pages.render("plain", heading="Signed out", sentences=[SIGN_IN_REMEDY]))
    answer.delete_cookie(COOKIE_NAME, path=DASHBOARD_PATH)
    return answer


async def ask_action(dashboard: Dashboard, request: Request) -> Response:
    """The page that asks whether to do something, and why."""
    return await _ask(dashboard, request, _may_act(dashboard.session(request)))


async def _ask(dashboard: Dashboard, request: Request, session: Session, problem: str = "") -> Response:
    service, address = dashboard.service, f"{request.url.path}?{request.url.query}".rstrip("?")
    question = await service.writer.do(partial(actions.ask, service, *_action(request)))
    page = partial(pages.action_page, question=question, address=address, problem=problem)
    return HTMLResponse(await dashboard.render(request, session, page), 422 if problem else 200)


async def do_action(dashboard: Dashboard, request: Request) -> Response:
    """Do what the form of an action's page confirms, with its reason."""
    session, (name, subject) = _may_act(dashboard.session(request)), _action(request)
    form, service = await _own_form(request, session), dashboard.service
    why = " ".join(form.get("why", "").split())
    if not why:
        return await _ask(dashboard, request, session, "Say why.")
    confirmed = partial(actions.do, service, name, subject, form.get("seen", ""), _officer(session), why)
    await service.writer.do(confirmed)
    return RedirectResponse(f"{DASHBOARD_PATH}/{actions.ACTIONS[name].back}".rstrip("/"), 303)


def _officer(session: Session) -> Officer:
    """Who acts: the operator by a name, or a member with the rank of its link."""
    return Officer(session.link.name, session.link.rank if session.link.holder else None)


def _may_act(session: Session) -> Session:
    if session.link.rank != "district":
        raise RefusedError(403, "not_allowed", "An auditor sees, and changes nothing", "Ask the district's office.")
    return session


def _action(request: Request) -> tuple[str, str]:
    """The action of a request's address, and its subject."""
    if (number := request.path_params.get("number")) is not None:
        return "back", str(number)
    return request.path_params["action"], request.query_params.get("about", "")


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form from this very site."""
    origin, host = request.headers.get("origin"), request.headers.get("host", "")
    if origin is not None and urlsplit(origin).netloc != host:
        raise RefusedError(403, "foreign", "This form came from another site", "Use the dashboard's own pages.")
    body = await requests.read_body(request, FORM_LIMIT_BYTES, FORM_LIMITS)
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=20)
    except ValueError:
        raise RefusedError(422, "malformed", "That is no form") from None
    return {name: values[0] for name, values in fields.items()}


async def _own_form(request: Request, session: Session) -> dict[str, str]:
    form = await _form(request)
    if form.get("form") != session.form:
        raise RefusedError(403, "foreign", "This form is not of your session", "Open the page again.")
    return form


PageHandler = Callable[[Dashboard, Request], Awaitable[Response]]
PAGE_ROUTES: tuple[tuple[str, str, PageHandler], ...] = (
    ("GET", "/enter", show_sign_in),
    ("POST", "/enter", sign_in),
    ("POST", "/leave", sign_out),
    ("GET", "/versions/{number:number}/back", ask_action),
    ("POST", "/versions/{number:number}/back", do_action),
    ("GET", "/do/{action}", ask_action),
    ("POST", "/do/{action}", do_action),
    ("GET", "", show_page),
    ("GET", "/{page}", show_page),
)


def endpoint(
    dashboard: Dashboard, method: str, path: str, work: PageHandler
) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of a page: turns refusals into pages, counts each answer, and adds the security headers."""

    async def answer(request: Request) -> Response:
        start_s, code = time.monotonic(), ""
        try:
            if dashboard.service.addresses:
                dashboard.service.addresses.check(request)
            response = await work(dashboard, request)
        except (HomeroomError, RefusedError) as problem:
            refusal = refusals.refusal_of(problem)
            code = refusal.code
            sentences = [f"{refusal.remedy[:1].upper()}{refusal.remedy[1:]}"] if refusal.remedy else []
            back = {} if refusal.status == 401 or code == "bad_link" else {"back": DASHBOARD_PATH}
            heading = refusal.message if isinstance(problem, RefusedError) else str(problem).capitalize()
            response = HTMLResponse(pages.render("plain", heading=heading, sentences=sentences, **back), refusal.status)
            if refusal.wait_s:
                response.headers["retry-after"] = str(ceil(refusal.wait_s))
        except ClientDisconnect:
            code, response = "gone", Response(status_code=400)
        except Exception as problem:  # a fault of ours: whoever looks hears that it is, the operator what it was
            LOGGER.exception("%s %s%s failed", method, DASHBOARD_PATH, path, exc_info=problem)
            sorry = "Nothing was changed. Try again later, and tell whoever runs the server."
            page = pages.render("plain", heading="It failed", sentences=[sorry])
            code, response = "internal", HTMLResponse(page, 500)
        response.headers.update(SECURITY_HEADERS)
        _move_below(request.scope.get("root_path", ""), response)
        seconds = time.monotonic() - start_s
        dashboard.service.metrics.answered(
            method, f"{DASHBOARD_PATH}{path}", response.status_code, seconds, 0, "", code
        )
        return response

    return answer


def _move_below(prefix: str, response: Response) -> None:
    """Let an answer's own links, its redirect and its cookie begin with the path at which a proxy serves it.

    Text of people in a page holds no quotation mark: they are escaped.
    """
    if prefix:
        moved = f"{prefix}{DASHBOARD_PATH}"
        response.body = bytes(response.body).replace(f'="{DASHBOARD_PATH}'.encode(), f'="{moved}'.encode())
        changes = {b"content-length": (response.headers.get("content-length", ""), str(len(response.body)))}
        changes |= {b"location": (DASHBOARD_PATH, moved), b"set-cookie": (f"Path={DASHBOARD_PATH}", f"Path={moved}")}
        for index, (name, value) in enumerate(response.raw_headers):
            old, new = changes.get(name, ("", ""))
            response.raw_headers[index] = name, value.replace(old.encode(), new.encode(), 1) if old else value


def mount(app: Starlette, service: Service) -> Starlette:
    """Serve the dashboard beside the API."""
    dashboard = Dashboard(service)
    app.router.routes += [
        Route(f"{DASHBOARD_PATH}{path}", endpoint(dashboard, method, path, work), methods=[method])
        for method, path, work in PAGE_ROUTES
    ]
    return app
