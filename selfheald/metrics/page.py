"""The status page: plain HTML that loads nothing, runs nothing and asks for itself anew every few seconds.

Names and messages come from strangers: all text is escaped in one place, :func:`_text`.
"""

from __future__ import annotations

import base64
import hashlib
import html
import os
import time
from collections.abc import Iterator, Mapping, Sequence

from selfheald.figures import Figures, Snapshot
from selfheald.metrics.rows import Row
from selfheald.printable import one_line
from selfheald.standing import Standing

#: Seconds after which a browser asks again.
REFRESH_SECONDS = 5
_STYLE = """
:root{color-scheme:light dark;--back:#fff;--text:#1c2530;--soft:#5c6876;--line:#dfe4ea;--card:#f6f8fa;
--ready:#177245;--building:#0b6e8f;--waiting:#3451b2;--busy:#8a5a00;--failed:#b42318}
@media(prefers-color-scheme:dark){:root{--back:#14181d;--text:#e3e8ee;--soft:#98a4b3;--line:#2b333d;--card:#1b2128;
--ready:#5fd39a;--building:#5cc8ea;--waiting:#9db2ff;--busy:#f0bf5e;--failed:#ff8f85}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:76rem;padding:1.5rem;background:var(--back);color:var(--text);
font:15px/1.5 system-ui,sans-serif}
header{display:flex;flex-wrap:wrap;gap:.25rem 1rem;align-items:baseline}
h1{font-size:1.4rem;margin:0}
p{margin:.25rem 0}
.soft,dt,th,footer{color:var(--soft)}
.trouble{color:var(--failed);font-weight:600}
ul{display:flex;flex-wrap:wrap;gap:.75rem;list-style:none;margin:1rem 0;padding:0}
li{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.5rem 1rem;min-width:6.5rem}
li b{display:block;font-size:1.6rem;line-height:1.2;font-variant-numeric:tabular-nums}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;margin:1rem 0}
dd{margin:0;overflow-wrap:anywhere}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%}
th{text-align:left;font-weight:500}
th,td{padding:.4rem .75rem .4rem 0;border-bottom:1px solid var(--line);vertical-align:top}
td{overflow-wrap:anywhere}
td.near{white-space:nowrap;overflow-wrap:normal}
td code{font:13px/1.5 ui-monospace,monospace}
progress{width:8rem;vertical-align:middle;accent-color:var(--building)}
.state{font-weight:600}
.ready{color:var(--ready)}.building{color:var(--building)}.waiting{color:var(--waiting)}
.busy{color:var(--busy)}.failed{color:var(--failed)}
footer{margin-top:1.5rem;font-size:.85rem}
a{color:inherit}
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
#: The page may use its own style, and nothing else of this world.
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
}


def page(now: Snapshot, figures: Figures, rows: Sequence[Row], clock: float | None = None) -> str:
    """The whole page; ``clock`` is in seconds since the epoch."""
    clock = time.time() if clock is None else clock
    known = sum(now.standings.values())
    body = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>{_text(_title(now))}</title>",
        f"<style>{_STYLE}</style></head><body>",
        f'<header><h1>selfheald</h1><span class="soft">{_text(now.version)}, PID {os.getpid()}</span></header>',
        _trouble(now),
        _summary(now),
        "<dl>",
        *(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in _facts(now, figures, clock)),
        "</dl>",
        *(_table(rows, clock) if rows else ['<p class="soft">There is no database here yet.</p>']),
        f'<p class="soft">{known - len(rows)} more are not shown: <code>selfheald status</code> lists all.</p>'
        if known > len(rows)
        else "",
        f"<footer>{_text(_moment(clock))}. This page asks for itself every {REFRESH_SECONDS} s and changes nothing.",
        '<a href="/metrics">Figures</a></footer></body></html>',
    ]
    return "\n".join(line for line in body if line) + "\n"


def _title(now: Snapshot) -> str:
    counts = ((standing.value, now.standings.get(standing, 0)) for standing in (Standing.FAILED, Standing.READY))
    return "selfheald: " + (", ".join(f"{count} {word}" for word, count in counts if count) or now.state)


def _trouble(now: Snapshot) -> str:
    told = [now.unready(), "the last reload was refused, see the log" if now.reload_refused else None]
    return "".join(f'<p class="trouble">{_text(each[:1].upper() + each[1:])}.</p>' for each in told if each)


def _summary(now: Snapshot) -> str:
    tiles = (f'<li class="{each.value}"><b>{now.standings.get(each, 0)}</b>{each.value}</li>' for each in Standing)
    return f"<ul>{''.join(tiles)}</ul>"


def _facts(now: Snapshot, figures: Figures, clock: float) -> Iterator[tuple[str, str]]:
    yield "Daemon", f"{now.state}, watching {', '.join(now.roots)}"
    yield "Watcher", now.watcher
    waits = f"{now.queue} waiting, the first for {_period(now.oldest)}" if now.queue else "empty"
    yield "Queue", waits if now.running is None else f"{waits}; one is being made for {_period(now.running)}"
    if figures.scans:
        ago = _period(clock - figures.scan_ended_at)
        yield "Last scan", f"{ago} ago, took {figures.scan_seconds:.2f} s"


def _table(rows: Sequence[Row], clock: float) -> Iterator[str]:
    base = _above(rows)
    yield '<div class="wide"><table><thead><tr><th>Workspace<th>State<th>Since<th>Why, and what now</tr></thead><tbody>'
    for row in rows:
        word = row.standing.value
        name = os.path.relpath(row.workspace, base) if base else row.workspace
        since = (
            ""
            if row.since is None
            else f'<span title="{_text(_moment(row.since))}">{_period(clock - row.since)}</span>'
        )
        yield (
            f'<tr><td title="{_text(row.database)}"><code>{_text(name)}</code>'
            f'<td class="near"><span class="state {word}">{word}</span><td class="near">{since}<td>{_why(row)}</tr>'
        )
    yield "</tbody></table></div>"


def _why(row: Row) -> str:
    bar = f'<progress value="{row.done}" max="{row.total}"></progress> {row.done}/{row.total} ' if row.total else ""
    advice = f'<br><span class="soft">{_text(row.advice)}</span>' if row.advice else ""
    return f"{bar}{_text(row.why)}{advice}"


def _above(rows: Sequence[Row]) -> str:
    """The folder that all workspaces lie in; empty if one of them is it."""
    base = os.path.commonpath([row.workspace for row in rows])
    return "" if any(row.workspace == base for row in rows) else base


def _text(text: str) -> str:
    """Text that anybody may have written, as text and nothing else."""
    return html.escape(one_line(text))


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(seconds))


def _period(seconds: float) -> str:
    """``12 s``, ``3 min``, ``5 h`` or ``2 d``."""
    seconds = max(0.0, seconds)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
