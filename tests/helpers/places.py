"""Where the repository lies, for tests that run commands in it."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
