"""An evaluation from start to end: sources over processes, what is there already left alone, the report at the end.

Role: the progress bar, the processes and the order of things. An error in one source leaves the others alone. Does not depend on ROS.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from robot_bringup.evaluation import page, tables
from robot_bringup.evaluation.recordings import Source
from robot_bringup.evaluation.settings import Settings
from robot_bringup.evaluation.summary import Result, summarise
from robot_bringup.evaluation.work import RESULT, Bench, place
from whetstone import files, jsonfile, results
from whetstone.errors import InputError, WhetstoneError
from whetstone.processes import die_with

PARTS = "recordings"
"""Folder of the results of single sources, from which an evaluation that was cut off goes on."""


@dataclass
class Ended:
    """failed: source -> why it has no result; reused: sources whose result was there already; shortcomings, notes: sentences."""

    recordings: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    reused: int = 0
    shortcomings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def evaluate(settings: Settings, sources: Sequence[Source], out: Path, jobs: int, command: str) -> Ended:
    """Write report.html, evaluation.json, scores.parquet and chunks.parquet to `out`. Raises WhetstoneError where no source has a result,
    or a model cannot be loaded."""
    folder, ended = out / PARTS, Ended()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}") from None
    # Before anything is shown to a model, for the key of a source needs its files.
    places = {source: place(folder, source, settings) for source in sources}
    wanted = [source for source in sources if not (places[source] / RESULT).is_file()]
    ended.reused = len(sources) - len(wanted)
    left = list({places[source]: source for source in wanted}.values())  # copies of one recording have one place
    failed: dict[Path, str] = {}
    with tqdm(total=ended.reused + len(left), initial=ended.reused, unit="recording", disable=None, file=sys.stderr) as bar:
        for source, why in _each(settings, [(source, places[source]) for source in left], min(jobs, len(left)), bar):
            if why:
                failed[places[source]] = why
            bar.update()
    ended.failed = {source.name: failed[places[source]] for source in sources if places[source] in failed}
    parts = {source: places[source] for source in sources if places[source] not in failed}
    if not parts:
        raise InputError(next(iter(ended.failed.values())))
    _finish(parts, out, command, ended, settings)
    return ended


def _each(settings: Settings, wanted: Sequence[tuple[Source, Path]], jobs: int, bar: Any) -> Iterator[tuple[Source, str]]:
    """Every source when it is done, with why it failed, or nothing. wanted: sources and where their results belong."""
    if not wanted:
        return
    if jobs == 1:
        bench = Bench(settings)
        for source, target in wanted:
            yield source, _one(bench, source, target, _ticking(bar))
        return
    context = multiprocessing.get_context("spawn")
    counter, others = context.Value("q", 0), set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(settings, counter, os.getpid()))
    try:
        waiting: dict[Future[tuple[str, bool]], Source] = {pool.submit(_in_process, *one): one[0] for one in wanted}
        while waiting:
            done, _ = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            bar.set_postfix(frames=counter.value, refresh=True)
            for future in done:
                source = waiting.pop(future)
                try:
                    why, everywhere = future.result()
                except BrokenProcessPool:
                    raise InputError(f"{source.name}: its process was killed; is there enough memory? jobs:=1 needs less") from None
                if everywhere:
                    raise InputError(why)
                yield source, why
    except BaseException:
        # Nobody waits for a recording that may take an hour; what it had is made again.
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _one(bench: Bench, source: Source, target: Path, tick: Any) -> str:
    try:
        bench.evaluate(source, target, tick)
    except WhetstoneError as error:
        return str(error)
    except OSError as error:
        return f"{source.name}: {error.strerror or error}"
    return ""


def _ticking(bar: Any) -> Any:
    count = 0

    def tick(_: int) -> None:
        nonlocal count
        count += 1
        if count % 16 == 0:
            bar.set_postfix(frames=count, refresh=False)
            bar.update(0)

    return tick


# In a process of the pool.

_process: dict[str, Any] = {}


def _begin(settings: Settings, counter: Any, parent: int) -> None:
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent ends this one
    # As conftest and the plan do: threads that wait for each other on a busy machine cost twice the time.
    os.environ.setdefault("OMP_NUM_THREADS", str(settings.threads))
    _process.update(settings=settings, counter=counter)


def _in_process(source: Source, target: Path) -> tuple[str, bool]:
    """Why the source failed, empty where it did not; and whether every other would for the same reason."""
    if "bench" not in _process:
        try:
            _process["bench"] = Bench(_process["settings"])
        except WhetstoneError as error:
            return str(error), True
    counter = _process["counter"]

    def tick(_: int) -> None:
        with counter.get_lock():
            counter.value += 1

    return _one(_process["bench"], source, target, tick), False


def _finish(parts: Mapping[Source, Path], out: Path, command: str, ended: Ended, settings: Settings) -> None:
    """parts: where the results of sources are, in which recordings have their own names."""
    found: list[Result] = []  # with curves and pictures where the page shows them: memory holds no more of these
    for source, part in parts.items():
        for one in jsonfile.read(part / RESULT)["recordings"]:
            named = {**one, "name": source.recording(one["name"])}
            found.append(named if len(found) < page.SHOWN else _bare(named))
    ended.recordings = len(found)
    summary = summarise(found)
    ended.shortcomings, ended.notes = summary.shortcomings, summary.notes
    said = {
        "shortcomings": summary.shortcomings,
        "notes": summary.notes,
        "failed": ended.failed,
        "recordings": [_bare(one) for one in found],
    }
    results.write(out / "evaluation.json", summary.rows, command=command, beside=said)
    for name in (tables.SCORES, tables.CHUNKS):
        try:
            with files.replacing(out / name) as partial:
                tables.join([(part / name, source.recording) for source, part in parts.items()], partial)
        except OSError as error:
            raise InputError(f"{out / name}: cannot be written: {error.strerror or error}") from None
    text = page.render(found, summary, ended.failed, command, settings)
    try:
        with files.replacing(out / "report.html") as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{out / 'report.html'}: cannot be written: {error.strerror or error}") from None


def _bare(result: Result) -> dict[str, Any]:
    """Without pictures and curves, which the report and the tables have."""
    kept = {name: value for name, value in result.items() if name not in ("rewards", "policies")}
    for kind in ("rewards", "policies"):
        kept[kind] = {
            name: {key: value for key, value in found.items() if key not in ("curve", "control_curves")}
            | (
                {"landmarks": [{k: v for k, v in mark.items() if k != "image"} for mark in found["landmarks"]]}
                if "landmarks" in found
                else {}
            )
            for name, found in result[kind].items()
        }
    return kept
