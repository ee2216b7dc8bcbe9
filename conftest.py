"""Settings that name a file are taken from this folder, wherever pytest was started."""

from pathlib import Path


def pytest_configure(config):
    """`pytest --nbval PATH/notebooks` finds what it compares by, from any folder."""
    named = getattr(config.option, "nbval_sanitize_with", None)
    if named and not Path(named).is_absolute() and not Path(named).exists():
        config.option.nbval_sanitize_with = str(Path(__file__).resolve().parent / named)
