"""``python -m meanflow_lite``."""

from meanflow_lite.cli import main

main()
