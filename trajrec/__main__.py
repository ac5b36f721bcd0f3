"""`python -m trajrec`."""

from trajrec.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
