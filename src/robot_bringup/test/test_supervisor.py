"""Processes that live and die together, with dummy processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from robot_bringup.supervisor import INTERRUPTED, Command, Patience, Supervisor, last_words
from whetstone.errors import InputError

QUICK = Patience(essential=0.5, interrupt=0.5, terminate=0.5, settle=0.3)
SLEEP = "import time; time.sleep(600)"
STUBBORN = "import signal, time\nfor n in (2, 15): signal.signal(n, signal.SIG_IGN)\nprint('deaf', flush=True)\nwhile True: time.sleep(1)"


def python(name: str, code: str) -> Command:
    return Command(name, (sys.executable, "-c", textwrap.dedent(code)))


def alive(pid: int) -> bool:
    """The process runs; a zombie that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=15.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def supervise(tmp_path, *commands, essential="main", **more):
    supervisor = Supervisor(commands, essential=essential, log_dir=tmp_path / "logs", patience=QUICK, **more)
    result = supervisor.run(period=0.02)
    assert all(process.poll() is not None for process in supervisor._processes.values())
    return result


def test_the_essential_process_ends_the_run_and_the_others(tmp_path):
    started = tmp_path / "started"
    other = python("other", f"import time; open({str(started)!r}, 'w').close(); time.sleep(600)")
    main = python("main", f"import os, time\nwhile not os.path.exists({str(started)!r}): time.sleep(.01)")
    result = supervise(tmp_path, other, main, explain=lambda: "all episodes are done")
    assert (result.code, result.reason, result.culprit) == (0, "all episodes are done", "main")


def test_a_node_that_dies_is_named_with_its_last_error(tmp_path):
    dying = """
        import sys
        print('[INFO] franka.policy: loading')
        print('[FATAL] franka.policy: weights are damaged')
        print('[INFO] franka.policy: cleaned up')
        sys.exit(2)
    """
    result = supervise(tmp_path, python("main", SLEEP), python("policy", dying))
    assert (result.code, result.reason, result.culprit) == (1, "policy died (exit code 2): weights are damaged", "policy")


def test_a_signal_death_is_named(tmp_path):
    result = supervise(tmp_path, python("main", SLEEP), python("learner", "import os; os.kill(os.getpid(), 11)"))
    assert result.reason.startswith("learner died (SIGSEGV): it said nothing (log: ")


def test_a_node_that_leaves_early_with_code_0_fails_the_run_too(tmp_path):
    result = supervise(tmp_path, python("main", SLEEP), python("reward", "print('bye')"))
    assert (result.code, result.reason) == (1, "reward died (exit code 0): bye")


def test_the_cause_is_preferred_to_the_essential_process_s_complaint(tmp_path):
    main = python("main", "import time; time.sleep(.2); raise SystemExit(1)")
    both = supervise(tmp_path, main, python("policy", "raise SystemExit('no camera')"))
    assert (both.culprit, both.reason) == ("policy", "policy died (exit code 1): no camera")


def test_the_essential_process_s_failure_has_its_own_reason(tmp_path):
    result = supervise(tmp_path, python("main", "raise SystemExit(1)"), python("x", SLEEP), explain=lambda: "no frame for 60 s")
    assert (result.code, result.reason) == (1, "no frame for 60 s")


def test_stubborn_processes_and_their_children_are_killed(tmp_path):
    child_file = tmp_path / "child"
    stubborn = f"""
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", {STUBBORN!r}], stdout=subprocess.PIPE)
        child.stdout.readline()
        open({str(child_file)!r} + ".tmp", "w").write(str(child.pid))
        import os; os.rename({str(child_file)!r} + ".tmp", {str(child_file)!r})
        exec({STUBBORN!r})
    """
    main = python("main", f"import os, time\nwhile not os.path.exists({str(child_file)!r}): time.sleep(.01)\nraise SystemExit(3)")
    result = supervise(tmp_path, python("deaf", stubborn), main)
    assert result.code == 1
    pid = int(child_file.read_text())
    wait_until(lambda: not alive(pid))


def test_a_command_that_does_not_exist_is_named_and_what_had_started_is_stopped(tmp_path):
    with pytest.raises(InputError, match="policy cannot be started: /nowhere/policy: No such file"):
        supervise(tmp_path, python("main", SLEEP), Command("policy", ("/nowhere/policy",)))


SCRIPT = """
import sys
from pathlib import Path
from robot_bringup.supervisor import Command, Supervisor
folder = Path(sys.argv[1])
code = '''
import os, sys, time, signal
path = sys.argv[1]
def leave(n, f):
    open(path + ".left", "w").close(); sys.exit(0)
signal.signal(signal.SIGINT, leave)
open(path + ".tmp", "w").write(str(os.getpid())); os.rename(path + ".tmp", path)
while True: time.sleep(1)
'''
commands = [Command(name, (sys.executable, "-c", code, str(folder / name))) for name in ("main", "a", "b")]
result = Supervisor(commands, essential="main", log_dir=folder / "logs").run()
print(result.code, result.reason)
sys.exit(result.code)
"""


def start_script(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    wait_until(lambda: all((tmp_path / name).exists() for name in ("main", "a", "b")))
    return process, [int((tmp_path / name).read_text()) for name in ("main", "a", "b")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything_in_order_and_soon(tmp_path, number):
    process, pids = start_script(tmp_path)
    began = time.monotonic()
    process.send_signal(number)
    output, _ = process.communicate(timeout=15)
    assert time.monotonic() - began < 5
    assert process.returncode == INTERRUPTED
    assert output.strip() == f"130 interrupted ({number.name})"
    assert not any(alive(pid) for pid in pids)
    left = [(tmp_path / f"{name}.left").stat().st_mtime_ns for name in ("main", "a", "b")]
    assert left[0] == min(left), "the essential process says good-bye first"


def test_no_process_is_left_when_the_supervisor_is_killed(tmp_path):
    process, pids = start_script(tmp_path)
    process.kill()
    process.communicate()
    wait_until(lambda: not any(alive(pid) for pid in pids))


def test_children_do_not_hear_the_terminal_s_ctrl_c(tmp_path):
    process, pids = start_script(tmp_path)
    assert all(os.getpgid(pid) == pid for pid in pids)
    process.terminate()
    process.communicate(timeout=15)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[ERROR] [1763.5] [franka.policy]: one\nlater\n", "one"),
        ("[ERROR] franka.policy: one\n[FATAL] franka.policy: two\n[WARN] franka.policy: three\n", "two"),
        ("Traceback (most recent call last):\n  File x\nKeyError: 'y'\n", "KeyError: 'y'"),
        ("just\nthis\n\n", "this"),
    ],
)
def test_last_words(tmp_path, text, words):
    (tmp_path / "log").write_text(text)
    assert last_words(tmp_path / "log") == words


KILLED = """
    import os, sys
    with open({file!r}, "a") as file:
        file.write(" ".join(sys.argv[1:]) + "\\n")
    os.kill(os.getpid(), 9)
"""


def test_what_may_go_on_is_started_again_and_not_for_ever(tmp_path):
    file, said = str(tmp_path / "starts"), []
    learner = python("learner", KILLED.format(file=file))
    learner = Command("learner", (*learner.argv, "first"), ("again",))
    result = supervise(tmp_path, python("main", SLEEP), learner, say=said.append)
    assert result.reason.startswith("learner died (SIGKILL)")
    assert Path(file).read_text().splitlines() == ["first", *["first again"] * 3]
    assert said == [f"learner was killed (SIGKILL); started again, {count} of 3" for count in (1, 2, 3)]


def test_what_ends_by_itself_is_not_started_again(tmp_path):
    learner = Command("learner", python("learner", "raise SystemExit('the disk is full')").argv, ("again",))
    result = supervise(tmp_path, python("main", SLEEP), learner)
    assert result.reason == "learner died (exit code 1): the disk is full"


def test_torchrun_s_own_complaint_is_not_the_reason(tmp_path):
    log = tmp_path / "learner.log"
    log.write_text(
        "[FATAL] left.learner: no space for rollouts\ntorch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n====\n"
    )
    assert last_words(log) == "no space for rollouts"


SLOW = """
    import signal, sys, time
    def leave(*_):
        signal.signal(signal.SIGINT, leave_at_once); signal.signal(signal.SIGTERM, leave_at_once)
        open({file!r} + ".asked", "w").close()
        time.sleep({seconds})
        open({file!r}, "w").close()
        sys.exit(0)
    def leave_at_once(*_):
        sys.exit(7)
    signal.signal(signal.SIGINT, leave)
    open({file!r} + ".started", "w").close()
    while True: time.sleep(1)
"""


def slow(tmp_path: Path, seconds: float, stopping: float) -> Command:
    """A process that takes its time after SIGINT and goes at once at another signal, as an arm's driver does."""
    return Command("driver", python("driver", SLOW.format(file=str(tmp_path / "parked"), seconds=seconds)).argv, (), stopping)


def test_who_takes_longer_to_stop_gets_the_time(tmp_path):
    wait = f"import os, time\nwhile not os.path.exists({str(tmp_path / 'parked.started')!r}): time.sleep(.01)\nraise SystemExit(1)"
    said: list[str] = []
    supervise(tmp_path, slow(tmp_path, 2.0, 10.0), python("main", wait), say=said.append)
    assert (tmp_path / "parked").exists(), "it was cut off"
    assert said == ["waiting for driver, for 10 s at most; Ctrl-C ends it at once"]


def test_not_for_ever_and_not_when_a_human_asks_again(tmp_path):
    wait = f"import os, time\nwhile not os.path.exists({str(tmp_path / 'parked.started')!r}): time.sleep(.01)\nraise SystemExit(1)"
    supervise(tmp_path, slow(tmp_path, 60.0, 1.0), python("main", wait))
    assert not (tmp_path / "parked").exists()

    (tmp_path / "parked.started").unlink()
    (tmp_path / "parked.asked").unlink()
    supervisor = Supervisor(
        [slow(tmp_path, 60.0, 60.0), python("main", SLEEP)],
        essential="main",
        log_dir=tmp_path / "logs",
        patience=QUICK,
        say=lambda _: os.kill(os.getpid(), signal.SIGINT),  # the second one
    )

    def press() -> None:
        if (tmp_path / "parked.started").exists():
            os.kill(os.getpid(), signal.SIGINT)

    assert supervisor.run(press, period=0.02).code == INTERRUPTED
    assert supervisor._processes["driver"].returncode == 7 and not (tmp_path / "parked").exists()
