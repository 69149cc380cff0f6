"""`python -m eval`, in a clone."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
