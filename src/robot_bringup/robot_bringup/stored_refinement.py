"""`whetstone refine RECORDING... learner:=... reward:=...`: a policy refined on what was recorded, without a robot and without ROS.

Role: reads stored episodes, has them scored by another reward model where one is named, gives them to a learner for a fixed number of
updates, and writes the weights with what is known of them: figures on episodes that the learner never saw, before and after. What such
figures cannot say is whether the policy succeeds more often; a robot, or the simulator, says that (`whetstone run evaluate weights:=`).
Depends on torch for the loss; not on ROS.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from robot_bringup.bags.convert import bags_to_episodes
from robot_bringup.evaluation import open_loop, recordings
from robot_bringup.evaluation.command import robot_of_all
from robot_bringup.evaluation.lanes import Pilot, PolicyLane, play
from robot_bringup.evaluation.recordings import Source, StoredEpisode
from whetstone import config, jsonfile, results, signing, snapshot
from whetstone.arguments import at_least, expanded, integer, one_of, parse_arguments, spelled
from whetstone.completion import Completion, first_success
from whetstone.contracts import ConditionedPolicy, FlowPolicy, ImitationPolicy, Policy, Rollout
from whetstone.errors import ConfigError, InputError
from whetstone.fitting import misfit
from whetstone.labelling import label
from whetstone.plugins import configured
from whetstone.profile import RobotProfile, load_profile
from whetstone.rewards import load_reward
from whetstone.store import RolloutStore
from whetstone.transfer import manifest_of

ARGUMENTS = {
    "learner": "filtered_bc", "policy": "", "weights": "", "reward": "", "robot": "", "outcomes": "", "updates": "1", "held_out": "0.2",
    "device": "cpu", "threads": "1", "seed": "0", "weights_key": "", "out": "refined",
    "outcome": "success", "instruction": "", "mapping": "", "cameras": "", "resize": "no",
}  # fmt: skip
HELP = """whetstone refine RECORDING... name:=value ...: a policy refined on stored episodes alone

RECORDING: a run's folder, a folder of episodes or one of them, a bag or a folder of bags (which become episodes in out:=/episodes, as
`whetstone convert` does it: where they are not ours, with its arguments outcome, instruction, mapping, cameras, resize).

  learner:=filtered_bc  file of config/learners; those that learn from their newest episodes alone (ppo) are refused
  policy:=''            file of config/policies; empty: the one that the learner's file names, else flow_vla
  weights:=''           snapshot (.safetensors) to begin with; empty: the base policy
  reward:=''            reward model that scores every episode anew; empty: the scores that they have
  outcomes:=''          recorded: an episode ended as it was recorded; reward: as reward:= says; empty: reward where one is named
  robot:=''             file of config/robots; empty: that of the run that the episodes belong to
  updates:=1            updates that are made of all episodes
  held_out:=0.2         share of episodes that the learner never sees and that the figures are of
  weights_key:=''       file of the key that the snapshot is signed with, as announcements of weights are
  device:=cpu  threads:=1  seed:=0
  out:=refined          folder of refined.safetensors and refined.json; start it with weights:=refined/refined.safetensors
"""
_PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}
_JUDGED = ("success", "failure", "timeout")
_MADE = ".made-by-refine"
"""File of the folder of episodes that were made from bags."""


@dataclass(frozen=True)
class Stored:
    """An episode under a name of its own and the store that its frames lie in; truth: whether it succeeded by the simulator's truth, None:
    nobody knows."""

    name: str
    store: RolloutStore
    rollout: Rollout
    truth: bool | None = None


def main(words: Sequence[str], console: Console) -> int:
    """Returns the exit code: 1 where nothing was learned. Raises WhetstoneError."""
    if not words or any(word in ("-h", "--help", "help") for word in words):
        print(HELP, end="")
        return 0
    paths = [word for word in words if ":=" not in word and word != "--from"]
    given = parse_arguments([word for word in words if ":=" in word], ARGUMENTS)
    if not paths:
        raise ConfigError("name what is to be learned from: a run's folder or episodes (with a robot: whetstone run refine)")
    updates, threads, seed, share = at_least(given, "updates", 1), at_least(given, "threads", 1), integer(given, "seed"), _share(given)
    key = signing.load_key(given["weights_key"]) if given["weights_key"] else b""
    if given["outcomes"]:
        one_of(given, {"outcomes": ("recorded", "reward")})
    if given["outcomes"] == "reward" and not given["reward"]:
        raise ConfigError("outcomes:=reward needs reward:=NAME, whose word it is")
    sources = recordings.find(paths)
    profile = load_profile(given["robot"] or robot_of_all(sources))
    import torch

    torch.set_num_threads(threads)
    policy, learner, said = _learner(given, profile, sources, seed)
    sources, left_out, lost = _as_episodes(sources, policy, profile, given)
    stored, more = _read(sources, policy)
    left_out |= more
    if given["reward"]:
        stored, more = _relabelled(stored, given, profile)
        left_out |= more
    for line in lost:
        console.print(line, **_PLAIN)
    for name, why in left_out.items():
        console.print(f"left out: {name}: {why}", **_PLAIN)
    if not stored:
        raise InputError(f"no episode can be learned from: {next(iter(left_out.values()), 'none was judged')}")
    taught, held = _split(stored, share, seed)
    for line in said:
        console.print(line, **_PLAIN)
    console.print(f"{len(taught)} episodes to learn from, {_successes(taught)} of them successes; {len(held)} held out", **_PLAIN)
    before = figures(policy, held, profile, seed)
    reports = [learner.update([one.rollout for one in taught], update, False) for update in range(updates)]
    for number, report in enumerate(reports):
        console.print(f"update {number + 1}: {report.reason}; {_metrics(report.metrics)}", **_PLAIN)
    if not any(report.deploy for report in reports):
        console.print("nothing was learned, so no weights are written", **_PLAIN)
        return 1
    policy.load_trainable_state(learner.trainable_state())
    after = figures(policy, held, profile, seed)
    for name in before:
        console.print(f"held out: {name} {_change(before[name], after[name], _why_not(name, held))}", **_PLAIN)
    path = _write(expanded(given["out"]), policy, key, given, paths, (taught, held), (before, after), reports)
    name = _policy_name(given)
    console.print(f"wrote {path}; try it: whetstone run evaluate robot:={profile.name} policy:={name} weights:={path}", **_PLAIN)
    return 0


def _share(given: dict[str, str]) -> float:
    try:
        share = float(given["held_out"])
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise ConfigError(f"argument held_out:={given['held_out']} must be a share of the episodes, at least 0 and less than 1")
    return share


def _policy_name(given: dict[str, str]) -> str:
    named = config.load_yaml(config.find("learners", given["learner"])).get("policy", "")
    return given["policy"] or str(named) or "flow_vla"


def _learner(given: dict[str, str], profile: RobotProfile, sources: Sequence[Source], seed: int) -> tuple[Policy, Any, list[str]]:
    """A policy to look at, a learner with one of its own, and what is to be said of it. Raises ConfigError where it cannot do this."""
    plugin, settings = configured("whetstone.learners", given["learner"])
    if getattr(plugin, "on_policy", False):
        raise ConfigError(
            f"learner '{given['learner']}' learns from the newest episodes of its own policy alone; on stored ones use "
            f"{', '.join(_off_policy())}"
        )
    said = []
    name = _policy_name(given)
    if settings.get("failure_weight") and not all(_drove(source, name, given["weights"]) for source in sources):
        settings = config.Contents({**settings, "failure_weight": 0.0}, config.source_of(settings, given["learner"]))
        said.append(f"{given['learner']}: failures teach nothing here, for these episodes are not of the weights that it begins with")
    policies, policy_settings = configured("whetstone.policies", name)
    both: list[Policy] = []
    for _ in range(2):
        both.append(policies.load(policy_settings, profile, given["device"]))
        if given["weights"]:
            snapshot.restore(both[-1], str(expanded(given["weights"])))
    return both[0], plugin.load(settings, both[1], seed), said


def _off_policy() -> list[str]:
    """Learners of config/learners that can learn from stored episodes."""
    found = []
    for name in config.available("learners"):
        plugin, _ = configured("whetstone.learners", name)
        if not getattr(plugin, "on_policy", False):
            found.append(name)
    return found


def _drove(source: Source, policy: str, weights: str) -> bool:
    """Whether the weights that the learner begins with drove this episode, as far as its run says."""
    arguments = recordings.arguments_of(source) if source.kind == "episode" and not weights else {}
    if arguments.get("weights") or arguments.get("policy") != policy:
        return False
    return RolloutStore(source.path).iteration(source.id) == 0


def _as_episodes(
    sources: Sequence[Source], policy: Policy, profile: RobotProfile, given: dict[str, str]
) -> tuple[list[Source], dict[str, str], list[str]]:
    """Bags as stored episodes, with frames of every control step; why some could not be; and what of the others is not there."""
    folder, left_out = expanded(given["out"]) / "episodes", dict[str, str]()
    bags = [source for source in sources if source.kind == "bag"]
    found = [source for source in sources if source.kind == "episode"]
    if not bags:
        return found, left_out, []
    _clear(folder, sources)
    # Bags of several runs hold episodes that are called alike: each run's go to a folder of their own.
    parents = dict.fromkeys(Path(source.path).parent for source in bags)
    apart = recordings.told_apart([Source("bag", str(parent), parent.name) for parent in parents])
    stores = {Path(one.path): folder / one.name if len(apart) > 1 else folder for one in apart}
    spec = policy.spec
    words = {name: given[name] for name in ("outcome", "instruction", "mapping", "cameras", "resize")}
    words |= {"robot": profile.name, "frames": "all", "execute": str(spec.execute), "horizon": str(spec.horizon)}
    lost: list[str] = []
    for source in bags:
        store = stores[Path(source.path).parent]
        try:
            made = bags_to_episodes(Path(source.path), store, words)
        except InputError as error:
            left_out[source.name] = str(error)
            continue
        found += recordings.find([str(store / name) for name in made.written])
        left_out |= {source.recording(name): why for name, why in made.left_out.items()}
        lost += [*(f"warning: {line}" for line in made.warnings), *(f"no counterpart: {line}" for line in made.lost)]
    return recordings.told_apart(found), left_out, list(dict.fromkeys(lost))


def _clear(folder: Path, sources: Sequence[Source]) -> None:
    """Take an earlier refinement's episodes away, for they are made again from the bags, but nobody else's. Raises InputError."""
    inside = next((source for source in sources if Path(source.path).resolve().is_relative_to(folder.resolve())), None)
    if inside is not None:
        raise InputError(f"{folder}: would be written anew, and {inside.name} lies in it: name another folder, out:=FOLDER")
    try:
        if folder.exists() and not (folder / _MADE).is_file() and any(folder.iterdir()):
            raise InputError(f"{folder}: is there and whetstone refine did not make it: name another folder, out:=FOLDER")
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        (folder / _MADE).write_text("whetstone refine makes this folder anew when it is given bags\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from None


def _read(sources: Sequence[Source], policy: Policy) -> tuple[list[Stored], dict[str, str]]:
    """Episodes that came to their end and fit the policy, and why the others do not."""
    found, left_out = [], {}
    truths = {run: recordings.outcomes(run) for run in {source.run for source in sources}}
    for source in sources:
        store = RolloutStore(source.path)
        try:
            rollout = store.read(source.id)
        except InputError as error:
            left_out[source.name] = str(error)
            continue
        why = misfit(rollout, policy.spec) or ("" if rollout.outcome in _JUDGED else f"its outcome is '{rollout.outcome}'")
        if why:
            left_out[source.name] = why
        else:
            truth = truths[source.run].get(source.id)
            found.append(Stored(source.name, store, rollout, None if truth is None else truth == "success"))
    return found, left_out


def _relabelled(stored: Sequence[Stored], given: dict[str, str], profile: RobotProfile) -> tuple[list[Stored], dict[str, str]]:
    """With the scores of reward:= in place of their own, and its word on success unless outcomes:=recorded."""
    path = config.find("rewards", given["reward"])
    settings = config.load_yaml(path)
    model = load_reward(given["reward"], profile, given["device"])
    judge = given["outcomes"] != "recorded"
    if judge and "success" not in settings:
        raise ConfigError(f"{config.show(path)}: has no 'success', so it judges no episode; use outcomes:=recorded")
    success = config.parse(Completion, settings.get("success", {}), f"{config.show(path)}: success")
    found, left_out = [], {}
    for one in stored:
        try:
            rollout = label(one.rollout, one.store.frames(one.rollout.episode_id), model, profile)
        except InputError as error:
            left_out[one.name] = str(error)
            continue
        if judge:
            valid = rollout.scores["valid"]
            completion, progress = (np.where(valid, rollout.scores[name], np.nan) for name in ("completion", "progress"))
            outcome = "success" if first_success(success, completion, progress) >= 0 else "timeout"
            rollout = replace(rollout, outcome=outcome, reason=f"as {model.provenance.model_id} judges afterwards")
        found.append(replace(one, rollout=rollout))
    return found, left_out


def _split(stored: Sequence[Stored], share: float, seed: int) -> tuple[list[Stored], list[Stored]]:
    """To learn from, and held out: of successes and failures the same share, at least one episode where there are several."""
    held: set[int] = set()
    random = np.random.default_rng([seed, 29])
    for success in (True, False):
        rows = [row for row, one in enumerate(stored) if (one.rollout.outcome == "success") is success]
        held |= {rows[place] for place in random.permutation(len(rows))[: round(share * len(rows))]}
    if share and not held and len(stored) > 1:
        held = {int(random.integers(len(stored)))}
    return [one for row, one in enumerate(stored) if row not in held], [stored[row] for row in sorted(held)]


def figures(policy: Policy, held: Sequence[Stored], profile: RobotProfile, seed: int) -> dict[str, float | None]:
    """Of episodes: loss: the policy's own training loss on successes, under fixed noise, None where it has none that can be asked;
    joints_success, joints_failure: open-loop error against what was done, rad (evaluation/open_loop.py)."""
    found: dict[str, float | None] = {"loss": _loss(policy, [one.rollout for one in held if one.rollout.outcome == "success"], seed)}
    wrong: dict[bool, list[float]] = {True: [], False: []}
    for one in held:
        lane = PolicyLane(Pilot("policy", policy, "greedy"), recording := StoredEpisode(one.store, one.rollout, profile), profile, "no")
        play(recording, one.rollout.instruction, [lane])
        error = open_loop.error_figures(open_loop.errors(lane.end(), recording.done, profile.period_ns), policy.spec.execute)["joints"]
        if error is not None:
            wrong[one.rollout.outcome == "success"].append(error)
    for success, word in ((True, "success"), (False, "failure")):
        found[f"joints_{word}"] = float(np.mean(wrong[success])) if wrong[success] else None
    return found


def _loss(policy: Any, rollouts: Sequence[Rollout], seed: int) -> float | None:
    """Mean over decisions."""
    import torch

    rollouts = [rollout for rollout in rollouts if len(rollout.stamps)]
    if not rollouts or not isinstance(policy, (FlowPolicy, ImitationPolicy)):
        return None
    losses, generator = [], torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for rollout in rollouts:
            if not isinstance(policy, FlowPolicy):
                words = [rollout.instruction] * len(rollout.stamps)
                losses += policy.losses(rollout.images, rollout.proprioception, rollout.actions, words, seed).tolist()
                continue
            inputs = policy.encode(rollout.images, rollout.proprioception, rollout.actions, rollout.instruction)
            state, actions = (torch.from_numpy(part).float().to(inputs.device) for part in (rollout.proprioception, rollout.actions))
            points, times, scales, wanted = policy.network.mix(policy.network.normalise(actions, state), generator)
            told = (torch.ones(len(inputs)).to(inputs.device),) if isinstance(policy, ConditionedPolicy) else ()
            losses += (policy.network.velocity(inputs, points, times, scales, *told) - wanted).square().mean(-1).tolist()
    return float(np.mean(losses))


def _write(
    out: Path,
    policy: Policy,
    key: bytes,
    given: dict[str, str],
    paths: Sequence[str],
    episodes: tuple[list[Stored], list[Stored]],
    found: tuple[dict[str, float | None], dict[str, float | None]],
    reports: Sequence[Any],
) -> Path:
    """refined.safetensors and what is known of it. The signature is that of an announcement of these weights (whetstone/signing.py)."""
    state, spec = policy.trainable_state(), policy.spec
    path = out / "refined.safetensors"
    identity = {"policy_id": spec.policy_id, "config_hash": spec.config_hash, "learner": given["learner"], "reward": given["reward"]}
    try:
        out.mkdir(parents=True, exist_ok=True)
        snapshot.save(state, str(path), identity)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
    table = snapshot.table_of(state)
    manifest = manifest_of(snapshot.pack(state, table), table, 1)
    taught, held = episodes
    jsonfile.write(
        out / "refined.json",
        {
            "command": f"whetstone refine {' '.join(paths)} {spelled(given, ARGUMENTS)}".strip(),
            "commit": results.commit(),
            "machine": results.machine(),
            **identity,
            "file_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "payload_sha256": manifest.payload_sha256,
            "signature": signing.sign(key, manifest, 0, 0, spec.policy_id, spec.config_hash) if key else "",
            "updates": [{"reason": report.reason, "metrics": report.metrics} for report in reports],
            "episodes": [one.name for one in taught],
            "held_out": [one.name for one in held],
            "before": found[0],
            "after": found[1],
            "truth": _truth([*taught, *held]),
        },
    )
    return path


def _truth(stored: Sequence[Stored]) -> dict[str, int] | None:
    """How many successes there are by outcome and by truth, where the simulator's truth is known of every episode."""
    if not stored or any(one.truth is None for one in stored):
        return None
    called = [one.rollout.outcome == "success" for one in stored]
    both = sum(word and bool(one.truth) for word, one in zip(called, stored, strict=True))
    return {"episodes": len(stored), "called_successful": sum(called), "successful": sum(bool(one.truth) for one in stored), "both": both}


def _successes(stored: Sequence[Stored]) -> int:
    return sum(one.rollout.outcome == "success" for one in stored)


def _metrics(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def _change(before: float | None, after: float | None, why_not: str) -> str:
    return f"not known: {why_not}" if before is None or after is None else f"{before:.4g} -> {after:.4g}"


def _why_not(name: str, held: Sequence[Stored]) -> str:
    """Why one of `figures` is None."""
    word = "failure" if name == "joints_failure" else "success"
    there = any((one.rollout.outcome == "success") is (word == "success") for one in held)
    return "this policy does not tell it" if there else f"no {word} was held out"
