"""Processes that live and die together.

Role: starts a set of commands, watches them, names the first that dies with its last words, stops all of them within seconds
on a signal, and leaves no process behind even when it is killed itself. Knows nothing of plans or ROS.

Each child leads its own process group, so a Ctrl-C in the terminal reaches the supervisor alone, which then stops the
essential process first (it says good-bye to the others) and the rest after it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from whetstone.errors import InputError
from whetstone.processes import die_with

INTERRUPTED = 130
RESTARTS = 3
"""Times that one process is started again in a run: what is killed more often than that has a cause that stays."""
_LOG_PREFIX = re.compile(r"^\[(?P<level>[A-Z]+)\] (?:\[[\d.]+\] )?(?P<name>\S*): ")


@dataclass(frozen=True)
class Command:
    """One process: its name in messages and log file, and its argv. again: what is put behind argv to go on after it was killed in the
    middle of a run; empty: its death ends the run. stopping: seconds that it may take to stop after SIGINT, where others get less (an arm
    is parked)."""

    name: str
    argv: tuple[str, ...]
    again: tuple[str, ...] = ()
    stopping: float = 0.0


@dataclass(frozen=True)
class Result:
    """How it ended. code: exit code for the caller; reason: one line; culprit: the process that ended it, empty for a signal."""

    code: int
    reason: str
    culprit: str = ""


@dataclass(frozen=True)
class Patience:
    """Seconds: essential = for the essential process to stop alone; interrupt, terminate = after SIGINT and SIGTERM to all.

    settle: after the essential process failed, for the one that it failed for.
    """

    essential: float = 1.0
    interrupt: float = 2.0
    terminate: float = 1.0
    settle: float = 3.0


class Supervisor:
    """Runs commands until the essential one ends, any other one dies, or a signal comes."""

    def __init__(
        self,
        commands: Sequence[Command],
        *,
        essential: str,
        log_dir: Path,
        environment: Mapping[str, str] | None = None,
        patience: Patience | None = None,
        explain: Callable[[], str | None] = lambda: None,
        say: Callable[[str], object] = lambda _: None,
    ):
        """explain: asked for the essential process's own reason once it has ended. say: takes a line about a process started again."""
        self._commands = list(commands)
        self._essential = essential
        self._log_dir = log_dir
        self._environment = {**os.environ, **(environment or {})}
        self._patience = patience or Patience()
        self._explain = explain
        self._say = say
        self._restarts: Counter[str] = Counter()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._signal = 0
        self._asked = 0  # signals so far

    def run(self, tick: Callable[[], None] = lambda: None, period: float = 0.1) -> Result:
        """Start everything and watch. tick is called about every `period` s. Never leaves a child running."""
        previous = self._install_handlers()
        try:
            self._start()
            result = self._watch(tick, period)
            # A normal end may flush files; a Ctrl-C must be over within 5 s.
            self._stop(Patience(interrupt=10.0) if result.code == 0 else self._patience)
            tick()
            return result
        finally:
            self._stop(Patience(0.0, 0.0, 0.0))
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _install_handlers(self) -> dict[int, signal.Handlers]:
        if threading.current_thread() is not threading.main_thread():
            return {}

        def remember(number: int, _: FrameType | None) -> None:
            self._signal = number
            self._asked += 1

        return {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}  # type: ignore[misc]

    def _start(self) -> None:
        self._log_dir.mkdir(parents=True, exist_ok=True)
        for command in self._commands:
            if self._signal:
                return
            self._spawn(command)

    def _spawn(self, command: Command, again: bool = False) -> None:
        parent = os.getpid()

        def before_exec() -> None:
            die_with(parent)

        with (self._log_dir / f"{command.name}.log").open("ab") as log:
            try:
                self._processes[command.name] = subprocess.Popen(
                    [*command.argv, *(command.again if again else ())],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    start_new_session=True,
                    preexec_fn=before_exec,
                )
            except OSError as error:
                raise InputError(f"{command.name} cannot be started: {command.argv[0]}: {error.strerror}") from None

    def _watch(self, tick: Callable[[], None], period: float) -> Result:
        while True:
            if self._signal:
                return Result(INTERRUPTED, f"interrupted ({signal.Signals(self._signal).name})")
            if any(process.poll() is not None for process in self._processes.values()) and not self._restart():
                return self._ended()
            tick()
            time.sleep(period)

    def _restart(self) -> bool:
        """Start again what may be; whether that was all that is dead. Only what was killed: a process that ends by itself has said why, and
        would do so again."""
        dead = [command for command in self._commands if self._processes[command.name].poll() is not None]
        for command in dead:
            code = self._processes[command.name].returncode
            if not command.again or code >= 0 or self._restarts[command.name] >= RESTARTS:
                return False
        for command in dead:
            _send_group(self._processes[command.name], signal.SIGKILL)  # its own children
            self._restarts[command.name] += 1
            how = _exit(self._processes[command.name].returncode)
            self._say(f"{command.name} was killed ({how}); started again, {self._restarts[command.name]} of {RESTARTS}")
            self._spawn(command, again=True)
        return True

    def _ended(self) -> Result:
        """The essential process is done, or something died. The essential one fails for others' sake: look who else goes down."""
        essential = self._processes[self._essential]
        if essential.poll() == 0:
            return Result(0, self._explain() or "done", self._essential)
        deadline = time.monotonic() + self._patience.settle
        while time.monotonic() < deadline and not self._signal and not self._others_failed():
            time.sleep(0.02)
        dead = {name: process.returncode for name, process in self._processes.items() if process.poll() is not None}
        others = [name for name, code in dead.items() if name != self._essential and code != 0] or [
            name for name in dead if name != self._essential
        ]
        if others:
            name = others[0]
            return Result(1, f"{name} died ({_exit(dead[name])}): {last_words(self._log_dir / f'{name}.log')}", name)
        code = dead[self._essential]
        reason = self._explain() or f"{self._essential} died ({_exit(code)}): {last_words(self._log_dir / f'{self._essential}.log')}"
        return Result(1, reason, self._essential)

    def _others_failed(self) -> bool:
        return any(process.poll() is not None for name, process in self._processes.items() if name != self._essential)

    def _stop(self, patience: Patience) -> None:
        """SIGINT to the essential process, then to all, then SIGTERM, then SIGKILL to whole groups."""
        essential = self._processes.get(self._essential)
        if essential is not None and essential.poll() is None and patience.essential:
            _send(essential, signal.SIGINT)
            self._wait([essential], patience.essential)
        everybody = list(self._processes.values())
        for number, seconds in ((signal.SIGINT, patience.interrupt), (signal.SIGTERM, patience.terminate), (signal.SIGKILL, 5.0)):
            if number == signal.SIGTERM and patience.interrupt:
                self._await_slow(patience.interrupt)
            alive = [process for process in everybody if process.poll() is None]
            if number == signal.SIGKILL:
                for process in everybody:  # a node's own children may outlive it
                    _send_group(process, number)
            for process in alive if seconds else ():
                _send(process, number)
            self._wait(alive, seconds)

    def _await_slow(self, waited: float) -> None:
        """Those that may take longer to stop get their time, unless a human asks again."""
        slow = [command for command in self._commands if command.stopping > waited and self._alive(command)]
        began, asked = time.monotonic() - waited, self._asked
        for command in slow:
            self._say(f"waiting for {command.name}, for {command.stopping:.0f} s at most; Ctrl-C ends it at once")
        while any(time.monotonic() - began < command.stopping and self._alive(command) for command in slow):
            if self._asked > asked:
                return
            time.sleep(0.02)

    def _alive(self, command: Command) -> bool:
        process = self._processes.get(command.name)
        return process is not None and process.poll() is None

    @staticmethod
    def _wait(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
            time.sleep(0.02)


def _send(process: subprocess.Popen[bytes], number: int) -> None:
    if process.poll() is None:
        process.send_signal(number)


def _send_group(process: subprocess.Popen[bytes], number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def _exit(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def last_words(log: Path) -> str:
    """The last error line of a log, without its prefix; else the last line; else a hint where to look."""
    try:
        with log.open("rb") as handle:
            handle.seek(max(0, log.stat().st_size - 65536))
            lines = [line.strip() for line in handle.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        lines = []
    for line in reversed(lines):
        match = _LOG_PREFIX.match(line)
        if match and match["level"] in ("ERROR", "FATAL"):
            return line[match.end() :]
        # The end of a traceback; torchrun's own says only that one of its processes has failed.
        if re.match(r"^[\w.]*(Error|Exception)\b.*:", line) and not line.startswith("torch.distributed."):
            return line
    return lines[-1] if lines else f"it said nothing (log: {log})"
