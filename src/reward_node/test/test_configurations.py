"""Every configuration of a reward that is shipped: what is wrong with a copy is said of the copy."""

from __future__ import annotations

from pathlib import Path

import pytest

from whetstone.config import available, find
from whetstone.errors import ConfigError
from whetstone.profile import load_profile
from whetstone.rewards import load_reward

PROFILE = load_profile("franka")


@pytest.mark.parametrize("name", available("rewards"))
def test_an_error_names_the_users_own_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(find("rewards", name).read_text() + "colour: red\n")
    with pytest.raises(ConfigError) as caught:
        load_reward(str(path), PROFILE)
    assert str(caught.value).startswith(f"{path}: key 'colour' is unknown")


@pytest.mark.parametrize("name", ["clip", "gvl", "lrm", "robometer", "roboreward", "topreward_qwen3_vl"])
def test_a_model_of_ones_own_is_asked_for_by_the_file_that_lacks_it(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^config/rewards/{name}\.yaml: key 'model' is empty; set it to the folder of a local"):
        load_reward(name, PROFILE)
