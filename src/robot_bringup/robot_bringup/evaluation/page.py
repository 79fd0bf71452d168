"""The report of an evaluation: one HTML file that needs no other.

Role: results to a page: what falls short, tables to sort, and of each recording its curves, pictures and figures. Charts are SVG, pictures
are in the page, and so are the few lines of JavaScript that sort a table; without JavaScript everything is there, unsorted. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from robot_bringup import charts
from robot_bringup.evaluation.settings import Settings
from robot_bringup.evaluation.summary import Result, Summary
from robot_bringup.report import STYLE

SHOWN = 200
"""Recordings with curves and pictures of their own, at most; the tables have all."""

_STYLE = """
.line.series4{stroke:#8a6fb0}.line.series5{stroke:#b08a3a}
.line.faint{opacity:.55;stroke-width:1.2}
.mark{fill:none;stroke:var(--ink);stroke-width:1.5}
.strip{display:flex;flex-wrap:wrap;gap:.6rem;margin:.5rem 0 1rem}
.strip figure{width:112px}
.strip figcaption{font-size:.78rem;line-height:1.3}
th button{all:unset;cursor:pointer;font-weight:600}
th button:focus-visible{outline:2px solid var(--c1)}
th[aria-sort=ascending] button::after{content:" \\2191"}
th[aria-sort=descending] button::after{content:" \\2193"}
td.number{text-align:right}
td:last-child{min-width:0}
details.recording{border-top:1px solid var(--rule);padding:.6rem 0}
details.recording summary{font-weight:600}
h3{font-size:1rem;margin:1.2rem 0 .3rem}
ul{margin:.3rem 0;padding-left:1.2rem}
"""

_SORT = """
for(const table of document.querySelectorAll('table.sortable')){
 const heads=[...table.tHead.rows[0].cells];
 heads.forEach((head,column)=>head.querySelector('button').addEventListener('click',()=>{
  const down=head.getAttribute('aria-sort')==='ascending';
  heads.forEach(one=>one.removeAttribute('aria-sort'));
  head.setAttribute('aria-sort',down?'descending':'ascending');
  const key=row=>row.cells[column].dataset.value??row.cells[column].textContent;
  const body=table.tBodies[0];
  const compare=(a,b)=>{const x=key(a),y=key(b);
   if(x===''||y==='')return (x==='')-(y==='');
   const order=isNaN(x)||isNaN(y)?x.localeCompare(y):x-y;
   return down?-order:order;};
  [...body.rows].sort(compare).forEach(row=>body.append(row));
 }));
}
"""

_LETTERS = {"start": "S", "peak": "P", "drop": "D", "success": "!", "end": "E"}
_REWARD_COLUMNS = {
    "voc": "VOC", "gain": "rise", "end": "end", "progress_end": "progress at the end", "completion_end": "completion at the end",
    "largest_drop": "largest drop", "success_at": "success at, s", "latency_p50": "median time of a score, ms", "invalid": "not scored",
}  # fmt: skip
_SUMMARY_COLUMNS = {
    "voc": "VOC", "voc_success": "VOC, successes", "voc_failure": "VOC, failures", "success_auc": "success AUC",
    "success_auc_completion": "success AUC, completion", "false_success_rate": "failures called a success",
    "missed_success_rate": "successes not called so", "latency_p50": "median time of a score, ms", "latency_p95": "95th percentile, ms",
}  # fmt: skip
_POLICY_COLUMNS = {
    "joints": "joint error, rad", "ratio": "as a share of staying", "gripper": "gripper error",
    "joints_chunk": "joint error of whole chunks, rad", "jerk": "jerk, rad/s³", "done_jerk": "jerk of what was done",
    "seam_p95": "seam, 95th percentile, rad", "guard_changed": "changed by the guard", "guard_held": "held by the guard",
    "latency_p50": "median inference, ms",
}  # fmt: skip
_CONTROL_WORDS = {
    "static": "first frame repeated", "noisy_static": "first frame, noise", "reversed": "backwards", "shuffled": "in no order",
    "wrong_object": "wrong object named", "wrong_task": "another task named",
}  # fmt: skip


_STAYING = "staying where the arm was"


def render(results: Sequence[Result], summary: Summary, failed: Mapping[str, str], command: str, settings: Settings) -> str:
    """The page."""
    rewards, policies = (list(dict.fromkeys(name for one in results for name in one[kind])) for kind in ("rewards", "policies"))
    names = ", ".join([*rewards, *policies])
    body = [
        f"<h1>{escape(names)}</h1>",
        f'<p class="soft">{len(results)} recordings of {escape(settings.robot)}, {_outcomes(results)}</p>',
        _shortcomings(summary, failed, results),
        _reward_summary(summary, rewards),
        _controls(summary, rewards),
        _agreement(summary, rewards),
        _policy_summary(summary, policies, results),
        _recordings(results, rewards, policies),
        *(_recording(one, place) for place, one in enumerate(results[:SHOWN])),
        f'<p class="soft">{len(results) - SHOWN} more recordings are in the tables only.</p>' if len(results) > SHOWN else "",
        _about(command, results),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Whetstone, {escape(names)}</title><style>{STYLE}{_STYLE}</style></head>"
        f"<body>{''.join(body)}<script>{_SORT}</script></body></html>\n"
    )


def _outcomes(results: Sequence[Result]) -> str:
    won, lost = (sum(one["succeeded"] is said for one in results) for said in (True, False))
    parts = [f"{won} successes", f"{lost} failures", f"{len(results) - won - lost} of unknown outcome"]
    judges = sorted({one["judge"] for one in results if one["judge"] and one["succeeded"] is not None})
    return escape(", ".join(parts) + (f"; outcomes as judged by {', '.join(judges)}" if judges else ""))


def _shortcomings(summary: Summary, failed: Mapping[str, str], results: Sequence[Result]) -> str:
    said = [*summary.shortcomings, *(f"{name}: not evaluated: {why}" for name, why in failed.items())]
    warned = [f"{one['name']}: {text}" for one in results for text in one["warnings"]]
    parts = ["<h2>What falls short</h2>"]
    parts.append(_list(said) if said else "<p>Nothing that is looked for here: docs/evaluation.md lists it.</p>")
    if summary.notes:
        parts.append("<h3>Not computed</h3>" + _list(summary.notes))
    if warned:
        shown = "".join(f"<li>{escape(text)}</li>" for text in warned)
        parts.append(f"<details{' open' if len(warned) <= 5 else ''}><summary>Warnings ({len(warned)})</summary><ul>{shown}</ul></details>")
    return "".join(parts)


def _reward_summary(summary: Summary, names: Sequence[str]) -> str:
    if not names:
        return ""
    lines = [[name, *(_cell(summary, name, metric) for metric in _SUMMARY_COLUMNS)] for name in names]
    return "<h2>Reward models</h2>" + _table(["model", *_SUMMARY_COLUMNS.values()], lines)


def _controls(summary: Summary, names: Sequence[str]) -> str:
    lines = []
    for name in names:
        for control, words in _CONTROL_WORDS.items():
            cells = [_cell(summary, name, f"{control}_{metric}") for metric in ("voc", "gain", "share")]
            above = _cell(summary, name, f"right_above_{control}")
            if any(cell != "" for cell in cells):
                lines.append([name, words, *cells, above])
    if not lines:
        return ""
    heading = ["model", "control", "VOC", "rise", "as a share of the real rise", "recordings that end higher than their control"]
    note = '<p class="soft">What only looks like the recording. A model that looks at what was done does not rise over it.</p>'
    return "<h2>Controls</h2>" + note + _table(heading, lines)


def _agreement(summary: Summary, names: Sequence[str]) -> str:
    pairs = [subject for subject, metric in summary.of_all if metric == "ends_rank_correlation"]
    if not pairs:
        return ""
    metrics = ("rank_correlation", "ends_rank_correlation", "same_verdict")
    lines = [[pair.replace("|", ", "), *(_cell(summary, pair, metric) for metric in metrics)] for pair in pairs]
    heading = ["models", "rank correlation within a recording", "of how recordings end", "same word on success"]
    return "<h2>Agreement between reward models</h2>" + _table(heading, lines)


def _policy_summary(summary: Summary, names: Sequence[str], results: Sequence[Result]) -> str:
    if not names:
        return ""
    lines = [[name, *(_cell(summary, name, metric) for metric in _POLICY_COLUMNS)] for name in names]
    note = (
        '<p class="soft">Open loop: each chunk answers what was recorded and moves nothing. Errors say how near a policy is to whoever '
        "acted; they do not say whether it would have succeeded.</p>"
    )
    series: dict[str, charts.Points] = {}
    for name in names:
        of = [one["policies"][name] for one in results if name in one["policies"]]
        series[name] = _horizon([one["by_row"] for one in of])
        series[_STAYING] = _horizon([one["hold_by_row"] for one in of])
    label = "row of the chunk; mean joint error, rad"
    chart = charts.curves(series, alt="joint error over the rows of a chunk", x_label=label, faint=(_STAYING,))
    table = _table(["policy", *_POLICY_COLUMNS.values()], lines)
    return f"<h2>Policies</h2>{note}{table}<h3>Error by horizon</h3>{chart}"


def _horizon(recordings: Sequence[Any]) -> charts.Points:
    """Mean over joints and recordings of each row."""
    count = max((len(rows) for rows in recordings), default=0)
    means = []
    for row in range(count):
        values = [value for rows in recordings if row < len(rows) for value in rows[row][:-1] if value is not None]
        means.append(sum(values) / len(values) if values else math.nan)
    return list(range(count)), means


def _recordings(results: Sequence[Result], rewards: Sequence[str], policies: Sequence[str]) -> str:
    parts = ["<h2>Recordings</h2>"]
    for names, kind, word, columns in ((rewards, "rewards", "model", _REWARD_COLUMNS), (policies, "policies", "policy", _POLICY_COLUMNS)):
        lines = []
        for place, one in enumerate(results):
            for name, found in one[kind].items():
                numbers = (_number(_scaled(metric, found["figures"][metric])) for metric in columns)
                lines.append([_link(one, place), name, _won(one), *numbers])
        parts.append(_table(["recording", word, "outcome", *columns.values()], lines) if names else "")
    return "".join(parts)


def _recording(one: Result, place: int) -> str:
    told = (one["task"], f"“{one['instruction']}”", f"{one['seconds']:.1f} s", one["outcome"] or "outcome unknown")
    facts = [text for text in told if text]
    parts = [f'<details class="recording" open id="r-{place}"><summary>{escape(one["name"])}</summary>']
    parts.append(f'<p class="soft">{escape(", ".join(facts))}</p>')
    if one["warnings"]:
        parts.append(_list(one["warnings"]))
    if one["rewards"]:
        parts.append(_progress(one))
    for name, found in one["rewards"].items():
        parts.append(f"<h3>{escape(name)}</h3>")
        if found["note"]:
            parts.append(f'<p class="soft">{escape(found["note"])}</p>')
        parts.append(_own(found))
        parts.append(_strip(found["landmarks"]))
    for name, found in one["policies"].items():
        label = "row of the chunk; mean error, rad, gripper: opening"
        chart = charts.curves(_joint_series(found), alt=f"error of {name} over the rows of a chunk", x_label=label)
        note = f'<p class="soft">{escape(found["note"])}</p>' if found["note"] else ""
        guard = ", ".join(f"{reason} {count}" for reason, count in list(found["guard"].items())[:6])
        told = f'<p class="soft">guard: {escape(guard)}</p>' if guard else ""
        parts.append(f"<h3>{escape(name)}</h3>{note}{chart}{told}")
    return "".join(parts) + "</details>"


def _progress(one: Result) -> str:
    """Progress of all models over each other; only where there are several, for the chart of one has its own."""
    series = {name: (found["curve"]["t"], _values(found["curve"]["progress"])) for name, found in one["rewards"].items()}
    series = {name: points for name, points in series.items() if any(math.isfinite(y) for y in points[1])}
    if len(series) < 2:
        return ""
    return charts.curves(series, alt=f"progress of {one['name']} by each model", x_label="s from the first frame; progress")


def _own(found: Mapping[str, Any]) -> str:
    """The model's own value, its controls, and its landmarks."""
    curve = found["curve"]
    series: dict[str, charts.Points] = {"as it was": (curve["t"], _values(curve["raw"]))}
    for name, values in found["control_curves"].items():
        if values and name in ("static", "reversed", "shuffled"):
            end = curve["t"][-1] if curve["t"] else 0.0
            along = [end * index / max(len(values) - 1, 1) for index in range(len(values))]
            series[_CONTROL_WORDS[name]] = (along, _values(values))
    marks = [(mark["at"], mark["raw"], _LETTERS[mark["what"]]) for mark in found["landmarks"] if mark["raw"] is not None]
    faint = [name for name in series if name != "as it was"]
    return charts.curves(
        series, alt="the model's own value", x_label="s from the first frame; the model's own value", marks=marks, faint=faint
    )


def _strip(landmarks: Sequence[Mapping[str, Any]]) -> str:
    words = {"start": "start", "peak": "peak", "drop": "after a drop", "success": "success", "end": "end"}
    figures = []
    for mark in landmarks:
        value = "" if mark["raw"] is None else f", {mark['raw']:.3g}"
        caption = f"{_LETTERS[mark['what']]} {words[mark['what']]}, {mark['at']:.2f} s{value}"
        image = f'<img alt="{escape(caption)}" src="{mark["image"]}">' if "image" in mark else ""
        figures.append(f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>")
    return f'<div class="strip">{"".join(figures)}</div>' if figures else ""


def _joint_series(found: Mapping[str, Any]) -> dict[str, charts.Points]:
    rows = found["by_row"]
    joints = [[math.nan if value is None else value for value in row] for row in rows]
    along = list(range(len(rows)))
    worst = [max((value for value in row[:-1] if math.isfinite(value)), default=math.nan) for row in joints]
    hold = _horizon([found["hold_by_row"]])[1]
    mean = _horizon([rows])[1]
    gripper = [row[-1] for row in joints]
    return {"mean joint": (along, mean), "worst joint": (along, worst), "gripper": (along, gripper), "staying": (along, hold)}


def _about(command: str, results: Sequence[Result]) -> str:
    identities = {}
    for one in results:
        for name, found in {**one["rewards"], **one["policies"]}.items():
            identities.setdefault(name, (found.get("model_id") or found.get("policy_id"), found["config"]))
    lines = [[name, model, config] for name, (model, config) in identities.items()]
    return f"<h2>Made by</h2><pre>{escape(command)}</pre>" + _table(["model", "identity", "configuration"], lines)


# Parts of these.


class _Cell(str):
    """HTML with the value that the column is sorted by."""

    value: str

    def __new__(cls, text: str, value: str = "") -> _Cell:
        made = super().__new__(cls, text)
        made.value = value
        return made


def _number(value: float | None) -> _Cell:
    return _Cell("", "") if value is None else _Cell(f"{value:.3g}", repr(float(value)))


def _cell(summary: Summary, subject: str, metric: str) -> _Cell:
    row = summary.of_all.get((subject, metric))
    value = _scaled(metric, row["value"]) if row is not None else None
    if row is None or value is None:
        return _Cell("", "")
    n = f' <span class="soft">({row["n"]})</span>' if "n" in row else ""
    return _Cell(f"{value:.3g}{n}", repr(float(value)))


def _scaled(metric: str, value: float | None) -> float | None:
    return None if value is None else 1e3 * value if metric.startswith("latency") else value


def _link(one: Result, place: int) -> _Cell:
    name = escape(one["name"])
    return _Cell(f'<a href="#r-{place}">{name}</a>' if place < SHOWN else name, one["name"])


def _won(one: Result) -> str:
    return {True: "success", False: "failure", None: "unknown"}[one["succeeded"]]


def _values(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _table(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """With a column sorted by a click on its heading."""
    head = "".join(f'<th scope="col"><button type="button">{escape(name)}</button></th>' for name in heading)
    body = "".join("<tr>" + "".join(map(_td, line)) + "</tr>" for line in lines)
    return f'<div class="scroll"><table class="sortable"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _td(cell: str) -> str:
    if isinstance(cell, _Cell):
        number = cell.value and not cell.startswith("<a")
        return f'<td{" class=number" if number else ""} data-value="{escape(cell.value)}">{str(cell)}</td>'
    return f"<td>{escape(str(cell))}</td>"
