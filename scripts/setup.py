"""Sets Whetstone up in this checkout: environment, ROS 2, robot models, built packages. Run by `make setup`.

Role: turns a fresh clone into one where `source scripts/env.sh` is enough. Uses the standard library only, for nothing
is installed yet. Every step is skipped while what it depends on has not changed (a stamp in .venv/.setup holds the hash
of that), so running it again costs a second and an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
STAMPS = VENV / ".setup"
LOGS = ROOT / "log" / "setup"
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
PYTHON_PACKAGES = ("whetstone", "reward_node", "policy_node", "learner_node", "robot_bringup")
EXECUTABLES = (
    "reward_node/reward_node",
    "policy_node/policy_node",
    "learner_node/learner_node",
    "robot_bringup/simulator",
    "robot_bringup/scene",
    "robot_bringup/episode_manager",
    "robot_bringup/evaluator",
    "robot_bringup/so100_driver",
    "robot_bringup/whetstone",
)


class SetupError(Exception):
    """A step failed; the message names it and what to do."""


def say(text: str) -> None:
    print(text, flush=True)


# ------------------------------------------------------------------------------------------------------------- the machine


def ament_prefixes() -> list[Path]:
    """Prefixes of a ROS 2 that is sourced in this shell, without what this checkout (or another one) makes itself."""
    prefixes = [Path(entry) for entry in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if entry]
    return [prefix for prefix in prefixes if not (prefix / "pyvenv.cfg").exists() and ROOT / "install" not in prefix.parents]


def system_ros() -> Path | None:
    """The prefix that holds rclpy where ROS 2 is installed and sourced, else None."""
    return next((prefix for prefix in ament_prefixes() if (prefix / "share" / "rclpy").is_dir()), None)


def has_library(name: str) -> bool:
    ldconfig = shutil.which("ldconfig") or "/sbin/ldconfig"
    listed = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=False).stdout
    return name in listed


def missing_apt_packages() -> list[str]:
    """What the machine lacks, judged by the programs and files themselves, as names of Debian and Ubuntu packages."""
    missing = [package for program, package in (("cmake", "cmake"), ("c++", "g++"), ("make", "make")) if not shutil.which(program)]
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        missing.append(f"python{VERSION}-dev")
    try:
        import ensurepip  # noqa: F401  (Debian splits it off; venv needs it)
    except ImportError:
        missing.append(f"python{VERSION}-venv")
    # MuJoCo renders through EGL (Mesa's or NVIDIA's) or, failing that, through OSMesa.
    if not has_library("libOSMesa.so"):
        if not has_library("libEGL.so.1"):
            missing.append("libegl1")
        if not has_library("libEGL_nvidia.so"):
            if not has_library("libEGL_mesa.so"):
                missing.append("libegl-mesa0")
            if not glob.glob("/usr/lib/*/dri/*_dri.so") and not has_library("libgallium"):
                missing.append("libgl1-mesa-dri")
    return missing


# --------------------------------------------------------------------------------------------------------- running programs


def run(step: str, command: list[str], *, show: str, environment: dict[str, str] | None = None) -> None:
    """Runs a command, its whole output in log/setup/<step>.log and the lines that match `show` on the terminal.

    On a terminal the last such line replaces the one before; elsewhere one is printed every few seconds.
    Raises SetupError with the end of the output.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{step}.log"
    tail: list[str] = []
    shown, last = 0, 0.0
    terminal = sys.stdout.isatty()
    with log.open("w", encoding="utf-8") as record:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                record.write(line)
                tail = [*tail[-24:], line.rstrip()]
                if re.search(show, line):
                    shown += 1
                    text = f"      {shown:3d}  {line.strip()}"[: shutil.get_terminal_size().columns - 1]
                    if terminal:
                        print(f"\r\033[K{text}", end="", flush=True)
                    elif time.monotonic() - last > 5:
                        last = time.monotonic()
                        say(text)
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        finally:
            if terminal:
                print("\r\033[K", end="", flush=True)
    if code:
        end = "\n".join(f"      {line}" for line in tail)
        raise SetupError(f"{' '.join(command[:4])} ... failed (exit code {code}); its output ends:\n{end}\n  all of it: {log}")


def pip(step: str, *arguments: str) -> None:
    # --no-compile: compiling all of torch and transformers takes longer than compiling what gets imported, when it is.
    options = ["--disable-pip-version-check", "--progress-bar", "off", "--no-compile"]
    run(
        step,
        [str(VENV_PYTHON), "-m", "pip", "install", *options, *arguments],
        show=r"^(Collecting|Installing|Downloading|Building)|Successfully",
    )


def fingerprint(*paths: Path | str) -> str:
    """Hash of the contents of files (Path) and of texts (str)."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(str(path).encode())
        digest.update(path.read_bytes() if isinstance(path, Path) else b"")
    return digest.hexdigest()


# -------------------------------------------------------------------------------------------------------------------- steps


def check_machine() -> None:
    ros = system_ros()
    if ros is None and (sys.platform != "linux" or platform.machine() != "x86_64"):
        raise SetupError(
            f"ROS 2 comes as Python wheels for Linux on x86_64 only, and this is {sys.platform} on {platform.machine()}: "
            "install ROS 2 Jazzy, `source /opt/ros/jazzy/setup.bash`, and run this again"
        )
    if ros is not None and not list(ros.glob(f"lib/python{VERSION}/site-packages/rclpy")):
        built = ", ".join(path.name for path in ros.glob("lib/python3.*")) or "another Python"
        raise SetupError(f"ROS 2 in {ros} was built for {built}, but this is Python {VERSION}: choose with `make setup PYTHON=...`")
    missing = missing_apt_packages()
    if not missing:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        prefix = "sudo " if shutil.which("apt-get") else "(with your package manager, by the Debian names) "
        raise SetupError(f"this machine lacks {', '.join(missing)}. Run\n\n    {prefix}{' '.join(command)}\n\n  and `make setup` again")
    say(f"      installing {', '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run("apt-update", ["apt-get", "update"], show=r"^(Get|Hit)", environment=environment)
    run("apt", command, show=r"^(Get|Unpacking|Setting up)", environment=environment)
    still = missing_apt_packages()
    if still:
        raise SetupError(f"apt-get installed its packages, but {', '.join(still)} is still not found")


def create_environment() -> None:
    options = ["--system-site-packages"] if system_ros() else []
    for made_with_it in ("build", "install"):
        shutil.rmtree(ROOT / made_with_it, ignore_errors=True)
    run("venv", [sys.executable, "-m", "venv", "--clear", *options, str(VENV)], show="$^")
    # colcon must not look for packages in here.
    (VENV / "COLCON_IGNORE").touch()


def pinned(package: str) -> str:
    """Its line in requirements.txt: "torch==2.13.0"."""
    found = re.search(rf"^{package}==\S+", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None, package
    return found[0]


def install_cpu_torch() -> None:
    """torch's CPU build, of the pinned version, ahead of the rest: PyPI's own build brings gigabytes for GPUs.

    From where pip is configured to look, else by uv, which knows where PyTorch keeps its CPU builds. Where neither has it, PyPI's
    build is left to come with the rest: it runs without a GPU too.
    """
    torch = pinned("torch")
    try:
        pip("torch-pip", "--no-deps", f"{torch}+cpu")
        return
    except SetupError:
        say("      pip is not configured to find torch's CPU build: asking PyTorch's own server")
    try:
        pip("uv", pinned("uv"))
        command = [str(VENV / "bin" / "uv"), "pip", "install", "--python", str(VENV_PYTHON), "--no-deps", "--torch-backend", "cpu", torch]
        run("torch-uv", command, show=r"^(Downloading|Prepared|Installed)")
    except SetupError:
        say("      note: no CPU build of torch within reach; PyPI's build, with several GB for NVIDIA GPUs, does as well")


def install_requirements() -> None:
    has_gpu = shutil.which("nvidia-smi") is not None
    if not has_gpu:
        install_cpu_torch()
    files = ["-r", "requirements.txt"]
    if system_ros() is None:
        files += ["-r", "requirements-ros.txt"]
    pip("pip", *files)
    if os.environ.get("PYTHONDONTWRITEBYTECODE"):
        compile_packages()
    if has_gpu:
        has_cuda = "import sys, torch; sys.exit(torch.version.cuda is None)"
        if subprocess.run([str(VENV_PYTHON), "-c", has_cuda], capture_output=True, check=False).returncode:
            say("      note: this machine has an NVIDIA GPU, but your pip configuration chose torch's CPU build")


def compile_packages() -> None:
    """Where PYTHONDONTWRITEBYTECODE is set (containers often do) nobody would keep what an import compiles: every process that trains would
    compile torch again, which takes it seconds."""
    site = next((VENV / "lib").glob("python3*/site-packages"))
    paths = [str(site / name) for name in ("torch", "sympy", "mpmath", "numpy", "transformers", "mujoco") if (site / name).is_dir()]
    # Not all of it is meant to compile: templates, code for other versions of Python.
    subprocess.run([str(VENV_PYTHON), "-m", "compileall", "-qq", *paths], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def install_models() -> None:
    # Hash mode is all or nothing in pip, hence a file and a call of their own.
    pip("models", "--no-deps", "--require-hashes", "-r", "requirements-models.txt")


def install_lerobot() -> None:
    """Beside the environment's packages, not among them: policy_node/lerobot_import.py says why."""
    target = VENV / "lerobot"
    shutil.rmtree(target, ignore_errors=True)
    pip("lerobot", "--no-deps", "--target", str(target), "-r", "requirements-lerobot.txt")


def rewrite_cmake_paths() -> None:
    """The ROS 2 wheels' CMake files name include folders of the machine that built them; put this one's in their place."""
    script = "import numpy, sysconfig; print(sysconfig.get_path('include')); print(numpy.get_include())"
    environment = {**os.environ, "_ROS_WHEELS_BOOTSTRAP_COMPLETE": "1"}
    python_include, numpy_include = subprocess.run(
        [str(VENV_PYTHON), "-c", script], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    changed = 0
    for path in (VENV / "share").rglob("*.cmake"):
        text = path.read_text(encoding="utf-8")
        if "/opt/python/" not in text:
            continue
        text = re.sub(r"/opt/python/[^;\"\s]*/numpy/(_core|core)/include", numpy_include, text)
        text = re.sub(r"/opt/python/[^;\"\s]*/include/python3\.\d+", python_include, text)
        if "/opt/python/" in text:
            raise SetupError(f"{path} names a folder of the machine that built the wheel in a way that is not known here")
        path.write_text(text, encoding="utf-8")
        changed += 1
    say(f"      {changed} files")


def colcon(step: str, *arguments: str) -> None:
    # The environment as a user has it, from the one place that defines it. make's own variables would reach cmake's make.
    script = 'unset MAKEFLAGS MAKELEVEL MFLAGS; source scripts/env.sh; exec python -m colcon build --executor sequential "$@"'
    # --executor sequential: compiling already uses every core.
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    run(step, ["bash", "-c", script, "bash", *arguments], show=r"^(Starting|Finished|Failed|Summary)|^\[", environment=environment)


def build_messages() -> None:
    bases = ["src/msgs"]
    for package in ("control_msgs", "ros_gz_interfaces"):
        if not any((prefix / "share" / package).is_dir() for prefix in ament_prefixes()):
            bases.append(f"compat/{package}")
    options = ["--event-handlers", "console_direct+", "--cmake-args", f"-DPython3_EXECUTABLE={VENV_PYTHON}", "-DBUILD_TESTING=OFF"]
    colcon("messages", "--base-paths", *bases, *options)


def build_packages() -> None:
    # Linked, so that an edited module takes effect without a build.
    colcon("packages", "--symlink-install", "--base-paths", "src", "--packages-select", *PYTHON_PACKAGES)


def prepare_language_model() -> None:
    """Once per user, in about a minute: else the first reward node would take that time."""
    run("language", ["bash", "-c", "source scripts/env.sh && exec python -m reward_node.pocket.language"], show="$^")


def check_result() -> None:
    script = (
        "source scripts/env.sh && python -c '"
        "import mujoco, numpy, torch, rclpy, whetstone, whetstone_msgs.msg, control_msgs.action; "
        'from importlib.metadata import entry_points; assert entry_points(group="whetstone.policies"); '
        'renderer = mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 16, 16); renderer.render(); '
        'print(f"      torch {torch.__version__}, mujoco {mujoco.__version__}, numpy {numpy.__version__}")\''
    )
    result = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = (result.stdout + result.stderr).strip().splitlines()
        raise SetupError("the finished installation does not work: " + "\n      ".join(lines[-8:]))
    say(result.stdout.rstrip())
    absent = [name for name in EXECUTABLES if not (ROOT / "install" / name.split("/")[0] / "lib" / name).is_file()]
    if absent:
        raise SetupError(f"the build left no executable {', '.join(absent)}")


# --------------------------------------------------------------------------------------------------------------------- main


def environment_works() -> bool:
    """True when .venv runs, is of this Python and was made in this place."""
    if not VENV_PYTHON.exists():
        return False
    script = "import sys, pip; print(sys.version_info[:2] == tuple(map(int, sys.argv[1].split('.'))))"
    environment = {**os.environ, "_ROS_WHEELS_BOOTSTRAP_COMPLETE": "1"}
    result = subprocess.run([str(VENV_PYTHON), "-c", script, VERSION], env=environment, capture_output=True, text=True, check=False)
    # An environment knows its place by its full path: a moved checkout needs a new one.
    activate = VENV / "bin" / "activate"
    return result.stdout.strip() == "True" and activate.is_file() and str(VENV) in activate.read_text(encoding="utf-8")


def main() -> None:
    ros = system_ros()
    if ros is None:
        # Nothing of another checkout or an older build that this shell has sourced.
        for name in ("AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH", "COLCON_PREFIX_PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "ROS_DISTRO"):
            os.environ.pop(name, None)
    else:
        say(f"setup: using ROS 2 in {ros}")

    base = fingerprint(VERSION, str(ROOT), str(ros))
    pinned = fingerprint(base, ROOT / "requirements.txt", ROOT / "requirements-ros.txt")
    models = fingerprint(base, ROOT / "requirements-models.txt")
    lerobot = fingerprint(base, ROOT / "requirements-lerobot.txt")
    interfaces = sorted(path for top in ("src/msgs", "compat") for path in (ROOT / top).rglob("*") if path.is_file())
    messages = fingerprint(pinned, *interfaces)
    packaging = [ROOT / "src" / package / name for package in PYTHON_PACKAGES for name in ("package.xml", "setup.py", "setup.cfg")]
    # Which files there are, not what is in them: they are linked.
    shared = [path for top in ("config", "launch", "assets") for path in (ROOT / top).rglob("*") if "__pycache__" not in path.parts]
    packages = fingerprint(messages, *packaging, *sorted(str(path) for path in shared))

    # (name, what it says, what it does, what it depends on; None: looked at every time)
    steps: list[tuple[str, str, Callable[[], None], str | None]] = [
        ("machine", "compiler, Python headers, rendering libraries", check_machine, None),
        ("environment", f"Python {VERSION} environment in .venv", create_environment, base),
        ("requirements", "Python packages" if ros else "Python packages and ROS 2 Jazzy", install_requirements, pinned),
        ("models", "robot models and a language model", install_models, models),
        ("lerobot", "LeRobot, for its policies", install_lerobot, lerobot),
        ("cmake", "paths in the CMake files of ROS 2", rewrite_cmake_paths, pinned),
        ("messages", "building the messages (about a minute)", build_messages, messages),
        ("packages", "building the packages", build_packages, packages),
        ("language", "language model of the pocket VLM", prepare_language_model, models),
        ("check", "trying all of it", check_result, packages),
    ]
    if VENV.exists():
        if not environment_works():
            shutil.rmtree(STAMPS, ignore_errors=True)
        elif not STAMPS.exists():
            # Made by hand, or by a run that was interrupted right here: pip completes it.
            STAMPS.mkdir()
            (STAMPS / "environment").write_text(base)
    if not (ROOT / "install").exists():
        for name in ("messages", "packages"):
            (STAMPS / name).unlink(missing_ok=True)

    started = time.monotonic()
    changed = False
    for number, (name, title, action, wanted) in enumerate(steps, 1):
        stamp = STAMPS / name
        if wanted is not None and stamp.is_file() and stamp.read_text() == wanted:
            continue
        begun = time.monotonic()
        say(f"[{number}/{len(steps)}] {title}")
        action()
        say(f"      done in {time.monotonic() - begun:.1f} s")
        if wanted is not None:
            changed = True
            STAMPS.mkdir(parents=True, exist_ok=True)
            stamp.write_text(wanted)
    if changed:
        say(f"setup: ready in {time.monotonic() - started:.0f} s; now `source scripts/env.sh`")
    else:
        say("setup: up to date")


if __name__ == "__main__":
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("setup: another setup runs in this checkout; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            main()
        except SetupError as error:
            say(f"setup: {error}")
            sys.exit(1)
        except KeyboardInterrupt:
            say("\nsetup: interrupted; `make setup` goes on from here")
            sys.exit(130)
