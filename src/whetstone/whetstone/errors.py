"""The errors that reach a user.

Role: every failure that has a cause the user can act on is one of these, with one line that names the thing and the
fix. Executables print that line without a traceback and exit non-zero. Depends on nothing.
"""

from __future__ import annotations


class WhetstoneError(Exception):
    """One clear line: what is wrong, where, and what to do."""


class ConfigError(WhetstoneError):
    """A name, key, value or file of the configuration is wrong."""


class AssetError(WhetstoneError):
    """A file of weights or models is missing or damaged."""


class InputError(WhetstoneError):
    """Data from outside (an image, a message, a file) cannot be used, or there is no room to keep it."""


class PeerError(WhetstoneError):
    """A peer did not answer within its deadline; the message names it."""
