"""The status as one calm screen, and as a document for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ops.diagnosis import Finding, ago
from ops.drift import newest
from ops.releases import Release
from ops.status import Node, Report, Service
from ops.urls import Checked
from ops.urls import document as urls_document

GOOD, BAD, WAITING = "green", "red", "yellow"


def screen(report: Report) -> RenderableType:
    return Group(*_parts(report))


def _parts(report: Report) -> Iterator[RenderableType]:
    grave = [each for each in report.findings if each.grave]
    passing = [each for each in report.findings if not each.grave]
    verdict = ("healthy", GOOD) if report.healthy else ("UNHEALTHY", BAD)
    yield Text.assemble(
        (f"honeyDue {report.stack}", "bold"),
        f"  {report.at:%Y-%m-%d %H:%M:%S} UTC  ",
        (verdict[0], f"bold {verdict[1]}"),
    )
    yield Text()
    yield _facts(report)
    if report.nodes:
        yield Text()
        yield _table(("Node", "State", "etcd", "API server"), map(_node(report), report.nodes))
    if report.services:
        yield Text()
        columns = ("Service", "Runs", "Digest", "Ready", "State")
        yield _table(columns, map(_service, report.services))
    if report.urls:
        yield Text()
        yield _table(("URL", "Status", "Latency"), map(_url, report.urls))
    if passing:
        yield Text()
        for each in passing:
            yield _line(each)
    if report.problems or grave:
        yield Text()
        yield Text("What is wrong", style="bold")
        for problem in report.problems:
            yield _problem(problem.what, (("do", problem.mend),))
        for each in grave:
            yield _problem(_title(each), _told(each, report.logs.get(each, "")))


def _facts(report: Report) -> Table:
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_row("etcd", report.etcd)
    for each in report.around:
        facts.add_row(each.name, str(each))
    if report.certificates:
        first = report.certificates[0]
        facts.add_row(
            "certificates",
            f"{len(report.certificates)}; the first to end: {first.name}, {first.ends:%Y-%m-%d}",
        )
    else:
        facts.add_row("certificates", "not known")
    facts.add_row("records", _records(report))
    facts.add_row("drift", _drift(report))
    if report.release is not None:
        facts.add_row("release", _release(report, report.release))
    facts.add_row("last up", report.last_up)
    if report.unasked:
        facts.add_row("URLs", f"not asked: {report.unasked}")
    if report.under_way is None:
        facts.add_row("under way", "not known")
    for holder in report.under_way or ():
        facts.add_row("under way", Text(f"a run by {holder}", style=WAITING))
    if report.lock:
        facts.add_row("lock", Text(report.lock, style=WAITING))
    return facts


def _records(report: Report) -> Text:
    made, live = report.records.made, report.records.live
    if not made:
        return Text("none are the stack's")
    if live is None:
        return Text(f"{len(made)}; what Cloudflare has is not known", WAITING)
    at = newest(made, live)
    age = f"; the youngest change is {ago(report.at, at)} old" if at is not None else ""
    return Text(f"{len(made)} in Cloudflare's DNS{age}")


def _drift(report: Report) -> Text:
    if report.changed is None:
        why = "a run is under way" if report.under_way or report.lock else "the state is not known"
        return Text(f"not compared: {why}", WAITING)
    things = list(dict.fromkeys(each.what for each in report.changed))
    if not things:
        return Text("none")
    since = min((each.since for each in report.changed if each.since), default=None)
    age = f", the first {ago(report.at, since)} ago" if since is not None else ""
    are = "thing is" if len(things) == 1 else "things are"
    return Text(f"{len(things)} {are} not as the last `up` left them{age}", BAD)


def _release(report: Report, release: Release) -> str:
    outcome = "" if release.outcome == "succeeded" else f" {release.outcome}"
    return f"{release}{outcome}, {ago(report.at, release.at)} ago, by {release.by}"


def _node(report: Report) -> Any:
    def row(node: Node) -> tuple[Text, ...]:
        since = f" {ago(report.at, node.since)}" if node.since else ""
        state = Text(f"Ready{since}", GOOD) if node.ready else Text(f"not Ready{since}", BAD)
        etcd = Text(node.etcd, GOOD if node.etcd == "voter" else WAITING)
        return Text(node.name), state, etcd, Text(node.api, BAD) if node.api else Text("ok", GOOD)

    return row


_STYLES = {"up to date": GOOD, "rolling": WAITING, "paused": WAITING}


def _service(service: Service) -> tuple[Text, ...]:
    enough = service.ready >= service.desired and service.desired > 0
    state = Text(service.condition, _STYLES.get(service.condition, BAD))
    return (
        Text(service.name),
        Text(service.tag or "no tag"),
        Text(service.runs.removeprefix("sha256:")[:12] or "nothing"),
        Text(f"{service.ready}/{service.desired}", GOOD if enough else WAITING),
        state + Text(f": {service.note}" if service.note else "", style="default"),
    )


def _url(checked: Checked) -> tuple[Text, ...]:
    status = Text(str(checked.status or "none"), GOOD if checked.well else BAD)
    return Text(checked.url), status, Text("-" if checked.ms is None else f"{checked.ms} ms")


def _table(columns: tuple[str, ...], rows: Any) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    return table


def _title(finding: Finding) -> str:
    pods = ", ".join(finding.pods[:3]) + (", …" if len(finding.pods) > 3 else "")
    many = f" ({len(finding.pods)})" if len(finding.pods) > 1 else ""
    return f"{finding.service}: {finding.symptom}{many}{f'  {pods}' if pods else ''}"


def _told(finding: Finding, log: str) -> tuple[tuple[str, str], ...]:
    said = (("said", finding.said), ("log", log))
    return (
        *((name, line) for name, line in said if line),
        ("likely", finding.cause),
        ("do", finding.todo),
    )


def _problem(title: str, lines: tuple[tuple[str, str], ...]) -> RenderableType:
    details = Table.grid(padding=(0, 2, 0, 0))
    for name, line in lines:
        details.add_row(Text(name, style="dim"), Text(line))
    return Group(Text("  ") + Text(title, style=BAD), Padding(details, (0, 0, 0, 4)))


def _line(finding: Finding) -> Text:
    what = ", ".join(filter(None, (finding.said, finding.cause)))
    todo = f" → {finding.todo}" if finding.todo != "wait" else ""
    return Text.assemble((_title(finding), WAITING), f"  {what}{todo}")


def document(report: Report) -> dict[str, Any]:
    """For `--json`. Times are RFC 3339."""
    return {
        "stack": report.stack,
        "at": report.at.isoformat(),
        "healthy": report.healthy,
        "problems": [{"what": each.what, "do": each.mend} for each in report.problems],
        "findings": [
            {
                "service": each.service,
                "pods": list(each.pods),
                "symptom": each.symptom,
                "said": each.said,
                "lastLogLine": report.logs.get(each),
                "likelyCause": each.cause,
                "do": each.todo,
                "grave": each.grave,
            }
            for each in report.findings
        ],
        "nodes": [
            {
                "name": each.name,
                "ready": each.ready,
                "since": each.since.isoformat() if each.since else None,
                "etcd": each.etcd,
                "apiServer": each.api or "ok",
            }
            for each in report.nodes
        ],
        "etcd": report.etcd,
        "services": [
            {
                "name": each.name,
                "tag": each.tag or None,
                "digest": each.runs or None,
                "release": each.wanted or None,
                "ready": each.ready,
                "desired": each.desired,
                "state": each.condition,
                "note": each.note or None,
            }
            for each in report.services
        ],
        **{each.name: str(each) for each in report.around},
        "urls": urls_document(report.urls) if not report.unasked else None,
        "certificates": [
            {"name": each.name, "ends": each.ends.isoformat()} for each in report.certificates
        ],
        "records": _records_document(report),
        "drift": None
        if report.changed is None
        else [
            {
                "what": each.what,
                "said": each.said,
                "how": each.how,
                "since": each.since.isoformat() if each.since else None,
                "do": each.mend,
            }
            for each in report.changed
        ],
        "release": None if report.release is None else report.release.number,
        "lock": report.lock or None,
        "lastUp": report.last_up,
        "underWay": None if report.under_way is None else list(report.under_way),
    }


def _records_document(report: Report) -> dict[str, Any]:
    made, live = report.records.made, report.records.live
    at = newest(made, live or ())
    return {
        "made": len(made),
        "asked": live is not None,
        "lastChange": at.isoformat() if at is not None else None,
    }
