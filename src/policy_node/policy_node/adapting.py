"""Which tensors of a large pretrained policy are trained, and with them which ones travel.

Role: LoRA adapters by PEFT (Hu et al., arXiv 2106.09685), tensors by pattern, or none; everything else is frozen. Depends on torch; PEFT is
imported when adapters are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import nn

from policy_node.parameters import put, taken
from whetstone.errors import ConfigError


@dataclass(frozen=True)
class LoRAConfig:
    """targets: ends of the names of the linear layers that get one (`q_proj`), or one regular expression of whole names; rank; alpha: the
    adapter's output is scaled by alpha / rank."""

    targets: tuple[str, ...] | str
    rank: int = field(default=16, metadata={"ge": 1})
    alpha: float = field(default=16.0, metadata={"gt": 0})


@dataclass(frozen=True)
class TrainedConfig:
    """lora: adapters, empty: none; tensors: patterns of the names of parameters that are trained themselves ("*": all)."""

    lora: LoRAConfig | None = None
    tensors: tuple[str, ...] = ()


class Trained:
    """The trained tensors of a network, by name. With adapters they are in the network from now on, and begin as no change at all."""

    def __init__(self, network: nn.Module, config: TrainedConfig, source: str) -> None:
        """source: the YAML, for messages. Raises ConfigError where a target or a pattern is the name of nothing."""
        network.requires_grad_(False)
        plain = [name for name, value in network.named_parameters() if value.is_floating_point()]
        chosen: set[str] = set()
        for pattern in config.tensors:
            found = [name for name in plain if fnmatchcase(name, pattern)]
            if not found:
                raise ConfigError(
                    f"{source}: key 'trained.tensors': '{pattern}' is no parameter; the policy has {', '.join(plain[:6])} ..."
                )
            chosen.update(found)
        before = {id(value) for value in network.parameters()}
        wanted = {id(value) for name, value in network.named_parameters() if name in chosen}
        if config.lora is not None:
            _add(network, config.lora, source)
            adapters = [value for value in network.parameters() if id(value) not in before]
            for value in adapters:
                value.data = value.data.float()  # what is trained in small steps; PEFT casts what goes in and out
            wanted |= {id(value) for value in adapters}
        # By identity: where a layer got an adapter, its own parameters have another name now.
        self.own = {name: value for name, value in network.named_parameters() if id(value) in wanted}
        network.requires_grad_(False)
        for value in self.own.values():
            value.requires_grad_(True)

    def state(self) -> dict[str, np.ndarray]:
        return taken(self.own)

    def load(self, state: dict[str, np.ndarray]) -> None:
        """ValueError naming the first tensor that differs."""
        put(self.own, state)


def _add(network: nn.Module, config: LoRAConfig, source: str) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError(f"{source}: key 'trained.lora' needs peft, which is not installed: pip install peft") from error
    targets = config.targets if isinstance(config.targets, str) else list(config.targets)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # the learner's copy begins as the robot's
        try:
            inject_adapter_in_model(LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=targets), network)  # type: ignore[arg-type]
        except ValueError as error:
            layers = [name for name, part in network.named_modules() if isinstance(part, nn.Linear)]
            raise ConfigError(
                f"{source}: key 'trained.lora': {targets} names no layer that can get one; there are {', '.join(layers[:6])} ..."
            ) from error
