"""`python -m training`, in a clone."""

from .cli import main

raise SystemExit(main())
