"""What happens between a plan and its first process: the run directory, the lock, the parameter files.

Role: everything `whetstone run` and the launch files do alike before they start nodes. Checks first and creates last, so that
a refused run leaves nothing behind. Does not depend on ROS.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from robot_bringup import records, resuming
from robot_bringup.plan import NodeSpec, Plan
from robot_bringup.run_arguments import LOCAL
from whetstone import config, jsonfile, results
from whetstone.errors import ConfigError, InputError
from whetstone.profile import load_profile

_REPORTED_PACKAGES = (
    "numpy",
    "torch",
    "mujoco",
    "safetensors",
    "ros-rclpy",
    "rich",
    "whetstone",
    "robot_bringup",
    "reward_node",
    "policy_node",
    "learner_node",
)


class Preparation:
    """A prepared run: holds the lock on (domain, namespace) until closed (use contextlib.closing)."""

    def __init__(self, plan: Plan):
        """Check disk, lock and run directory, then write the parameter files. Raises ConfigError, InputError."""
        self.plan = plan
        check_space(plan.run_dir, plan.arguments["min_free_gb"])
        resumed = bool(plan.arguments.get("resume"))
        if not resumed and plan.run_dir.exists() and (not plan.run_dir.is_dir() or any(plan.run_dir.iterdir())):
            begun = (plan.run_dir / records.SETTINGS).is_file()
            hint = "; name a new folder" + (", or go on with that run by resume:=true" if begun else "")
            raise ConfigError(f"run_dir:={plan.run_dir} already holds something{hint}")
        settings = resuming.check(plan.run_dir, configuration_hash(plan), plan.config_files) if resumed else describe(plan)
        self._lock = DomainLock(plan.domain_id, plan.namespace)
        try:
            if resumed:
                resuming.tidy(plan.run_dir)
                settings[resuming.RESUMED] = settings.get(resuming.RESUMED, 0) + 1
            self.parameter_files = {node.name: self._write_parameters(node) for node in plan.nodes}
            (plan.run_dir / "logs").mkdir(exist_ok=True)
            jsonfile.write(plan.run_dir / records.SETTINGS, settings)
        except OSError as error:
            self._lock.close()
            raise InputError(f"run directory {plan.run_dir} cannot be written: {error.strerror}") from None
        except BaseException:
            self._lock.close()
            raise

    def close(self) -> None:
        """Let the next run have the domain."""
        self._lock.close()

    def _write_parameters(self, node: NodeSpec) -> Path:
        path = self.plan.run_dir / "parameters" / f"{node.name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump({"/**": {"ros__parameters": node.parameters}}, allow_unicode=True), encoding="utf-8")
        return path


class DomainLock:
    """At most one run per ROS domain and namespace on this machine, as a file lock that dies with the process."""

    def __init__(self, domain_id: int, namespace: str):
        self.path = Path(tempfile.gettempdir()) / f"whetstone-domain-{domain_id}-{namespace.replace('/', '.')}.lock"
        try:
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be opened: {error.strerror}") from None
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._handle, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._handle)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise InputError(f"{self.path}: cannot be locked: {error.strerror}") from None
            raise ConfigError(
                f"another run (process {holder}) uses domain_id {domain_id} with namespace {namespace}; "
                "use another domain_id:= or namespace:="
            ) from None
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Release. The file stays: removing it would let two runs lock two files of one name."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def check_space(run_dir: Path, min_free_gb: float) -> None:
    """Raises InputError where the disk of run_dir has less free space than asked for."""
    folder = run_dir
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    if free < min_free_gb:
        raise InputError(f"no space for rollouts: {free:.1f} GB free in {folder}, {min_free_gb:g} GB wanted (argument min_free_gb)")


def describe(plan: Plan) -> dict[str, Any]:
    """What the run directory remembers of how it was made: arguments, schedule, configuration files, versions."""
    return {
        "mode": plan.mode,
        "arguments": plan.arguments,
        "segments": json.loads(json.dumps([segment.__dict__ for segment in plan.segments])),
        "configuration": {name: path.read_text(encoding="utf-8") for name, path in plan.config_files.items()},
        "configuration_hash": configuration_hash(plan),
        "versions": versions(),
        "commit": results.commit(),
        "machine": results.machine(),
    }


def configuration_hash(plan: Plan) -> str:
    """12 hex digits over everything that a result of the plan depends on: arguments, YAML files and the assets."""
    arguments = {name: value for name, value in plan.arguments.items() if name not in LOCAL}
    files = {name: config.load_yaml(path) for name, path in plan.config_files.items()}
    return config.config_hash(
        {"arguments": arguments, "files": files, "assets": assets_table(load_profile(plan.arguments["robot"]).asset_name)}
    )


def assets_table(robot: str) -> dict[str, str]:
    """Weights in assets/ -> first 12 hex digits of their sha256, less those that bear another robot's name (policy_so100.safetensors);
    a model card says nothing new of a run."""
    folder = config.root() / "assets"
    others = set(config.available("robots")) - {robot}
    paths = sorted(folder.rglob("*.safetensors")) if folder.is_dir() else []
    names = {str(path.relative_to(folder)): path for path in paths}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        for name, path in names.items()
        if others.isdisjoint(re.split(r"\W|_", name))
    }


def versions() -> dict[str, str]:
    """Version of Python and of each package that shapes a result; packages that are not installed are left out."""
    found = {"python": platform.python_version()}
    for name in _REPORTED_PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
