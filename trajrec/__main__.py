"""`python -m trajrec`."""

from trajrec.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
