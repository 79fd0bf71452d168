"""The report of a run: one HTML file that needs no other.

Role: reads a finished (or interrupted) run directory and writes report.html: the figures, curves over iterations, pictures of
an episode before and after, the configuration and the versions. Depends on numpy and Pillow; not on ROS.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from robot_bringup import charts, figures, records
from robot_bringup.statistics import wilson
from whetstone import files, jsonfile
from whetstone.errors import InputError

STYLE = """
:root{--paper:#fcfcfa;--ink:#1d2327;--soft:#5c666d;--rule:#dcdfdf;--c0:#8a949b;--c1:#5a7d9a;--c2:#c4622d;--c3:#2f7d5b;
  color-scheme:light dark}
@media(prefers-color-scheme:dark){:root{--paper:#15191c;--ink:#e7eaeb;--soft:#9aa5ab;--rule:#333a3f;--c0:#78838a;--c1:#7fa8c9;
  --c2:#e8935f;--c3:#6fc39b}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:62rem;padding:2.5rem 1.25rem 4rem;background:var(--paper);color:var(--ink);
  font:16px/1.55 system-ui,sans-serif}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .3rem;font-weight:650}
h2{font-size:1.15rem;margin:2.6rem 0 .6rem;padding-top:1rem;border-top:1px solid var(--rule)}
p{margin:.4rem 0}
.soft,figcaption{color:var(--soft)}
.warning{border-left:4px solid var(--c2);padding:.4rem .9rem}
svg{width:100%;height:auto;display:block;max-width:44rem}
svg text{fill:var(--ink);font:13px system-ui,sans-serif}
svg .tick{fill:var(--soft);font-size:12px}
.grid{stroke:var(--rule)}
.bar{fill:var(--c0)}
.bar.last{fill:var(--c2)}
.interval{stroke:var(--ink);stroke-width:1.5;fill:none}
.line{fill:none;stroke-width:2}
.line.series0{stroke:var(--c2)}
.line.series1{stroke:var(--c1)}
.line.series2{stroke:var(--c3)}
.line.series3{stroke:var(--c0)}
.dot.series0{fill:var(--c2)}
.dot.series1{fill:var(--c1)}
.dot.series2{fill:var(--c3)}
.dot.series3{fill:var(--c0)}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(16rem,1fr));gap:1.5rem}
figure{margin:0}
figure img{width:100%;image-rendering:auto;border-radius:4px;display:block}
figure.strip{margin-top:1rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.92rem}
th,td{text-align:left;padding:.3rem 1rem .3rem 0;border-bottom:1px solid var(--rule);vertical-align:top}
th{vertical-align:bottom}
td:last-child{min-width:10rem}
pre{overflow-x:auto;font-size:.85rem;line-height:1.45;padding:.8rem 1rem;border:1px solid var(--rule);border-radius:4px}
summary{cursor:pointer}
"""

_NAMES = {
    "base_greedy": "base, greedy",
    "base_sampled": "base, sampled",
    "refined": "refined",
}


def write_report(run_dir: Path, path: Path | None = None) -> Path:
    """Write run_dir/report.html (or `path`), whole or not at all. Returns its path. Raises InputError where there is no run."""
    settings = jsonfile.read(run_dir / records.SETTINGS)
    if settings is None:
        raise InputError(f"{run_dir}: no run directory (no {records.SETTINGS})")
    path = path or run_dir / "report.html"
    try:
        with files.replacing(path) as partial:
            partial.write_text(render(run_dir, settings), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    return path


def render(run_dir: Path, settings: dict[str, Any]) -> str:
    """The page."""
    arguments = settings["arguments"]
    found = figures.evaluations(run_dir)
    episodes = records.read_all(run_dir / records.EPISODES)
    updates = records.read_all(run_dir / records.UPDATES)
    name = f"{arguments['robot']}: {str(arguments['task']).replace('_', ' ')}"
    body = [
        f"<h1>{escape(name)}</h1>",
        f'<p class="soft">{escape(_subtitle(arguments, settings))}</p>',
        _outcome(jsonfile.read(run_dir / records.OUTCOME)),
        _success(found),
        _curves(episodes, records.read_all(run_dir / records.TRUTH)),
        _pictures(run_dir, found),
        _updates(updates),
        _configuration(settings),
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Whetstone, {escape(name)}</title><style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _subtitle(arguments: dict[str, Any], settings: dict[str, Any]) -> str:
    words = [f"{name} {arguments[name]}" for name in ("policy", "reward", "learner", "seed") if name in arguments]
    return ", ".join([*words, f"commit {str(settings['commit'])[:12]}", settings["machine"]])


def _outcome(outcome: dict[str, Any] | None) -> str:
    if outcome is not None and outcome["result"] == "finished":
        return ""
    reason = outcome["reason"] if outcome else "it ended without a word"
    return f'<p class="warning">This run did not finish: {escape(reason)}. The figures below are what it had until then.</p>'


def _success(found: dict[str, list[dict[str, Any]]]) -> str:
    if not found:
        return ""
    items, table = [], []
    for label, lines in found.items():
        name, n, successes = _NAMES.get(label, label.replace("_", " ")), len(lines), sum(line["success"] for line in lines)
        low, high = wilson(successes, n)
        items.append((name, successes / n, low, high))
        steps = [line["steps"] for line in lines if line["success"]]
        cells = [f"{successes} of {n}", f"{100 * low:.0f} to {100 * high:.0f} %", f"{np.mean(steps):.0f}" if steps else ""]
        table.append([name, *cells, f"{lines[0]['seed']} to {lines[-1]['seed']}"])
    chart = charts.bars(
        items, alt="success on held-out episodes: " + ", ".join(f"{name} {100 * value:.0f} %" for name, value, _, _ in items)
    )
    chart = chart.replace(f'class="bar bar{len(items) - 1}"', 'class="bar last"')
    best = figures.best_mode(found)
    note = f"<p>The base policy's better mode is <b>{best}</b>; that is the base to beat.</p>" if best else ""
    heading = ["policy", "successes", "95 % interval", "mean steps to success", "seeds"]
    return f"<h2>Success on held-out episodes, by ground truth</h2>{chart}{note}{_table(heading, table)}"


def _curves(episodes: Sequence[dict[str, Any]], truth: Sequence[dict[str, Any]]) -> str:
    training = [record for record in episodes if record["mode"] == "train" and record["outcome"] != "aborted"]
    if not training:
        return ""
    count = 1 + max(record["iteration"] for record in training)

    def mean(values: Sequence[tuple[int, float | None]]) -> list[float]:
        columns: list[list[float]] = [[] for _ in range(count)]
        for iteration, value in values:
            if value is not None and iteration < count:
                columns[iteration].append(float(value))
        return [float(np.mean(column)) if column else math.nan for column in columns]

    success = {"by reward": mean([(r["iteration"], r["outcome"] == "success") for r in training])}
    if truth:
        success["by truth (nobody learns from it)"] = mean([(r["iteration"], r["ever"]) for r in truth])
    reward = {
        "progress, highest of episode": mean([(r["iteration"], r["reward"]["max_progress"]) for r in training]),
        "total, mean of episode": mean([(r["iteration"], r["reward"]["mean_total"]) for r in training]),
    }
    first = charts.lines(success, alt="success rate of training episodes over iterations", x_label="iteration")
    second = charts.lines(reward, alt="rewards of training episodes over iterations", x_label="iteration", percent=False)
    return f"<h2>Training episodes: success</h2>{first}<h2>Training episodes: reward</h2>{second}"


def _pictures(run_dir: Path, found: dict[str, list[dict[str, Any]]]) -> str:
    before = f"base_{figures.best_mode(found)}"
    pairs = []
    for index, line in enumerate(found.get(before, ())):
        old, new = (run_dir / "pictures" / f"{label}-{index:04d}.npz" for label in (before, "refined"))
        after = found.get("refined", [])
        if old.exists() and new.exists() and index < len(after):
            pairs.append(((after[index]["success"], not line["success"]), line, after[index], old, new))
    if not pairs:
        return ""
    # The same start for both; of those kept, one where the difference shows.
    _, first, second, old, new = max(pairs, key=lambda pair: (pair[0][0] and pair[0][1], pair[0][0]))
    parts = [f"<h2>The same episode before and after (seed {first['seed']})</h2>"]
    animations, strips = [], []
    for word, line, path in (("before", first, old), ("after", second, new)):
        with np.load(path) as data:
            frames = data["frames"]
        verdict = f"{word}: {'success' if line['success'] else 'no success'} after {line['steps']} steps"
        animations.append(f'<figure><img alt="{verdict}, animation" src="{_animation(frames)}"><figcaption>{verdict}</figcaption></figure>')
        strips.append(f'<figure class="strip"><img alt="{verdict}, pictures" src="{_strip(frames)}"></figure>')
    return "".join([*parts, f'<div class="pair">{"".join(animations)}</div>', *strips])


def _updates(updates: Sequence[dict[str, Any]]) -> str:
    if not updates:
        return ""
    names = list(dict.fromkeys(name for record in updates for name in record["metrics"]))
    heading = ["iteration", "weights", *(name.replace("_", " ") for name in names), "gate"]
    table = []
    for record in updates:
        figures = [record["metrics"].get(name) for name in names]
        words = "deployed" if record["deployed"] else "kept"
        table.append(
            [record["iteration"], f"{words} {record['version']}", *("" if f is None else f"{f:.4g}" for f in figures), record["reason"]]
        )
    return f"<h2>What the learner did</h2>{_table(heading, table)}"


def _configuration(settings: dict[str, Any]) -> str:
    arguments = _table(["argument", "value"], [[name, value] for name, value in settings["arguments"].items()])
    versions = _table(["package", "version"], [[name, value] for name, value in settings["versions"].items()])
    files = "".join(
        f"<details><summary>{escape(name)}</summary><pre>{escape(text)}</pre></details>" for name, text in settings["configuration"].items()
    )
    return (
        f'<h2>Configuration</h2><p class="soft">hash {escape(settings["configuration_hash"])}, commit {escape(settings["commit"])}</p>'
        f'<div class="pair"><div>{arguments}</div><div>{versions}</div></div>{files}'
    )


def _table(heading: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th>{escape(str(cell))}</th>" for cell in heading)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in line) + "</tr>" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _animation(frames: np.ndarray, size: int = 256, milliseconds: int = 100) -> str:
    """(N, H, W, 3) uint8 -> animated WebP as a data URL; the last picture stays for a second."""
    pictures = [Image.fromarray(frame).resize((size, size), Image.Resampling.LANCZOS) for frame in frames]
    durations = [milliseconds] * (len(pictures) - 1) + [1000]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "WEBP", save_all=True, append_images=pictures[1:], duration=durations, loop=0, quality=70, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _strip(frames: np.ndarray, count: int = 8) -> str:
    """Equally spaced pictures side by side as a PNG data URL."""
    chosen = frames[np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)]
    gap = np.full((chosen.shape[1], 2, 3), 255, np.uint8)
    row = np.concatenate([part for frame in chosen for part in (frame, gap)][:-1], axis=1)
    buffer = io.BytesIO()
    Image.fromarray(row).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
