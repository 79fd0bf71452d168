"""Training data of SARM2: demonstrations as features, and batches of windows from them.

Role: encodes every frame once with the frozen encoder, splits off held-out episodes, draws augmented windows.
Labels (ground truth of progress, primitive and completion, or a person's of progress) are used here, for training, and nowhere at
inference. Does not depend on ROS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from reward_node.sarm2.configuration import SARM2Settings
from reward_node.sarm2.encoder import Encoder
from reward_node.sarm2.losses import UNKNOWN, Labels
from reward_node.sarm2.slopes import label_path, load_curve
from reward_node.sarm2.windows import forward_window, pause, rewind
from whetstone.demonstrations import Demonstration, load_demonstrations
from whetstone.errors import ConfigError
from whetstone.task import PRIMITIVES, also_true

ENCODE_BATCH = 64


def load_episodes(folders: str, robot: str) -> list[Demonstration]:
    """Episodes of the folders (joined by commas): the experts' and, so that it knows their faults too, the base policy's.

    Where a person has labelled an episode (sarm2/slopes.py), that is its progress. InputError names a file that cannot be used.
    """
    given = folders or f"build/demonstrations/{robot},build/rollouts/{robot}"
    return [with_human_labels(episode) for folder in given.split(",") for episode in load_demonstrations(folder)]


def with_human_labels(episode: Demonstration) -> Demonstration:
    """The episode with the progress of the label file beside it, or as it is where there is none."""
    curve = load_curve(label_path(episode.path), len(episode.frame_steps))
    return episode if curve is None else replace(episode, progress=curve)


def split(demonstrations: Sequence[Demonstration], share: float, seed: int) -> tuple[list[Demonstration], list[Demonstration]]:
    """(training, held out): of every task and kind, `share` of the episodes (at least one of two) is held out."""
    random = np.random.default_rng(seed)
    groups: dict[tuple[str, str, bool], list[Demonstration]] = {}
    for demonstration in demonstrations:
        groups.setdefault((demonstration.task, demonstration.kind, demonstration.success), []).append(demonstration)
    training, held_out = [], []
    for key in sorted(groups):
        members = groups[key]
        order = random.permutation(len(members))
        count = 0 if len(members) < 2 else max(1, round(share * len(members)))
        held_out += [members[index] for index in sorted(order[:count])]
        training += [members[index] for index in sorted(order[count:])]
    return training, held_out


def encode(encoder: Encoder, demonstration: Demonstration, cameras: Sequence[str]) -> np.ndarray:
    """(F, feature_size) float16: every frame of a demonstration through the frozen encoder."""
    images = demonstration.images()
    count = len(demonstration.frame_steps)
    rows = []
    with torch.inference_mode():
        for first in range(0, count, ENCODE_BATCH):
            batch = {camera: images[camera][first : first + ENCODE_BATCH] for camera in cameras}
            rows.append(encoder.features(batch).cpu().numpy().astype(np.float16))
    return np.concatenate(rows)


@dataclass
class Batch:
    """features: (B, 1 + recent, F); state: (B, 1 + recent, state_width), the joint states at those frames;
    sentence: (B,) index into Windows.instructions; labels: (B, recent) each."""

    features: Tensor
    state: Tensor
    sentence: Tensor
    labels: Labels


class Windows:
    """All training episodes end to end, and random windows of them.

    `null` is the index of the primitive that means "none of these": the label of frames under a wrong instruction.
    """

    def __init__(self, settings: SARM2Settings, encoder: Encoder, demonstrations: Sequence[Demonstration], seed: int) -> None:
        self.settings = settings
        self.null = settings.primitives.index("null")
        self.random = np.random.default_rng(seed)
        features, state, progress, primitive, completed, start, length, stride, sentence, weight = [], [], [], [], [], [], [], [], [], []
        self.instructions = sorted({demonstration.instruction for demonstration in demonstrations})
        tasks = {demonstration.instruction: demonstration.task for demonstration in demonstrations}
        count = {task: sum(demonstration.task == task for demonstration in demonstrations) for task in set(tasks.values())}
        total = 0
        for demonstration in tqdm(demonstrations, desc="encoding", unit="episode", leave=False):
            features.append(encode(encoder, demonstration, settings.cameras))
            state.append(joint_states(demonstration, settings.network.state_width))
            progress.append(demonstration.progress)
            primitive.append(primitive_labels(demonstration, settings.primitives))
            completed.append(demonstration.completed)
            start.append(total)
            length.append(len(demonstration.frame_steps))
            stride.append(frame_stride(demonstration, settings.every))
            sentence.append(self.instructions.index(demonstration.instruction))
            weight.append(1.0 / count[demonstration.task])
            total += len(demonstration.frame_steps)
        self.features = torch.from_numpy(np.concatenate(features))
        self.state = torch.from_numpy(np.concatenate(state))
        self.progress = np.concatenate(progress).astype(np.float32)
        self.primitive = np.concatenate(primitive).astype(np.int64)
        self.completed = np.concatenate(completed).astype(np.float32)
        self.start, self.length, self.stride, self.sentence = map(np.array, (start, length, stride, sentence))
        self.weight = np.array(weight) / np.sum(weight)
        # Row i: which instructions are certainly wrong for frames of instruction i.
        known = also_true()
        self.wrong = [
            [other for other, text in enumerate(self.instructions) if tasks[text] not in (tasks[own], *known.get(tasks[own], ()))]
            for own in self.instructions
        ]

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and scale of features and joint states, (F + state_width,) each, for the network's input normalisation."""
        step = max(1, len(self.features) // 20000)
        sample = torch.cat([self.features[::step].float(), self.state[::step]], dim=1)
        return sample.mean(dim=0), sample.std(dim=0).clamp_min(1e-3)

    def batch(self, size: int) -> Batch:
        """Random augmented windows: rewound, paused, at another speed, under a wrong instruction, with noise on the features."""
        training, random, recent = self.settings.training, self.random, self.settings.network.recent
        clip = random.choice(len(self.weight), size=size, p=self.weight)
        length = self.length[clip]
        place = random.random(size)
        late = random.random(size) < training.late
        place = np.where(late, 1.0 - 0.4 * place, place)
        newest = np.minimum((place * length).astype(int), length - 1)
        # A policy is slower or faster than the expert: half to one and a half times the usual distance of frames.
        usual = self.stride[clip]
        stride = np.maximum(1, usual + random.integers(-1, 2, size=size) * (random.random(size) < 0.5))
        back = random.integers(1, min(training.rewind_frames, recent - 1) + 1, size=size) * (random.random(size) < training.rewind)
        held = random.integers(1, recent, size=size) * (random.random(size) < training.pause)
        window = pause(rewind(newest, stride, recent, back), held) if recent > 1 else forward_window(newest, stride, recent)
        rows = self.start[clip][:, None] + window
        progress, completed, primitive = self.progress[rows], self.completed[rows], self.primitive[rows]
        sentence = self.sentence[clip].copy()
        for index in np.flatnonzero(random.random(size) < training.wrong_instruction):
            others = self.wrong[sentence[index]]
            if others:
                sentence[index] = random.choice(others)
                # Other words: certainly not completed. How far along is unknown, until the other task's end shows it is wrong.
                ended = completed[index] > 0
                progress[index] = np.where(ended, 0.0, np.nan)
                primitive[index] = np.where(ended, self.null, UNKNOWN)
                completed[index] = 0.0
        seen = torch.from_numpy(np.concatenate([self.start[clip][:, None], rows], axis=1))
        labels = Labels(torch.from_numpy(progress), torch.from_numpy(completed), torch.from_numpy(primitive))
        return Batch(self.features[seen].float(), self.state[seen], torch.from_numpy(sentence), labels)


def joint_states(demonstration: Demonstration, width: int) -> np.ndarray:
    """(F, width) float32: the proprioception measured at each frame; empty where width is 0. ConfigError where it is of another width."""
    if width == 0:
        return np.zeros((len(demonstration.frame_steps), 0), np.float32)
    given = demonstration.proprioception.shape[1]
    if given != width:
        raise ConfigError(
            f"network.state_width is {width}, but the proprioception in {demonstration.path} is {given} wide; set it to {given}, or to 0"
        )
    return demonstration.measured()


def primitive_labels(demonstration: Demonstration, primitives: Sequence[str]) -> np.ndarray:
    """(F,) index into `primitives` of what is done at each frame; what they have no name for is "null"."""
    null = primitives.index("null")
    place = np.array([primitives.index(name) if name in primitives else null for name in PRIMITIVES])
    return place[demonstration.primitive]


def frame_stride(demonstration: Demonstration, every: int) -> int:
    """Stored frames between two scored ones: a demonstration keeps every n-th control step."""
    steps = np.diff(demonstration.frame_steps[:2])
    return max(1, round(every / int(steps[0]))) if len(steps) else 1
