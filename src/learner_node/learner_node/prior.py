"""Episodes from before the run: demonstrations or an earlier run's, from which a part of every batch is drawn.

Role: what configuration says of them, their reading, and the check that they are of this robot. How much of a batch they are is RLPD's
symmetric sampling (Ball et al., arXiv 2302.02948): half. Depends on numpy alone; knows nothing of ROS.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from learner_node.interventions import corrected
from learner_node.rounds import judged
from whetstone.action_space import ActionConverter
from whetstone.contracts import PolicySpec, Rollout
from whetstone.errors import ConfigError, InputError
from whetstone.fitting import misfit
from whetstone.store import RolloutStore


def read_prior(folder: str, spec: PolicySpec, source: str, converter: ActionConverter | None = None) -> Iterator[Rollout]:
    """The episodes in a folder of rollouts, or in that of a run, in order of their ids, as they were carried out (interventions.py); those
    that were aborted are left out.

    spec: of the policy that learns from them. source: the file with the key `prior`, for errors. converter: as in `corrected`. Raises
    ConfigError naming what is missing, damaged or another robot's; at the end where there was none.
    """
    named = f"{source}: key 'prior': {folder}"
    path = Path(folder).expanduser()
    path = path / "rollouts" if (path / "rollouts").is_dir() else path
    if not path.is_dir():
        raise ConfigError(f"{named}: no such folder")
    store, count = RolloutStore(path), 0
    for name in store.list():
        try:
            rollout = store.read(name)
        except InputError as error:
            raise ConfigError(f"{source}: key 'prior': {error}; `whetstone episodes list {folder}` sets it aside") from None
        wrong = misfit(rollout, spec)
        if wrong:
            raise ConfigError(f"{named}: episode {name} {wrong}")
        if judged([rollout]):
            count += 1
            try:
                yield corrected(rollout, converter)
            except InputError as error:
                raise ConfigError(f"{named}: {error}") from None
    if not count:
        raise ConfigError(f"{named}: holds no episode that came to its end; name a run, or what `whetstone episodes import` wrote")


def prior_count(batch: int, share: float, prior: int, own: int) -> int:
    """How many of a batch are drawn from before the run: `share` of it, all of it where there is nothing else, and never more than there
    are decisions, so that a handful of corrections is not learned by heart."""
    return batch if not own else min(round(share * batch), prior)
