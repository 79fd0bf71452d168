"""What every language model asks of an instruction.

Role: one check, one wording. Does not depend on torch or ROS.
"""

from __future__ import annotations

from whetstone.errors import InputError

LONGEST = 2000
"""Characters: more is no instruction but a mistake, and would cost every score a prompt of that length."""


def checked(instruction: str) -> str:
    """The instruction. InputError where it is too long or not text that a tokenizer takes."""
    if len(instruction) > LONGEST:
        raise InputError(f"the instruction has {len(instruction)} characters, at most {LONGEST} are taken: '{instruction[:40]}...'")
    try:
        instruction.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the instruction is not valid UTF-8 (character {error.start}): {ascii(instruction[:40])}") from None
    return instruction
