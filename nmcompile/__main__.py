"""`python -m nmcompile ...` -> the same as the command `nmcompile ...`."""

from nmcompile.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
