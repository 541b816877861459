"""`python -m lampion` is the `lampion` program."""

from lampion.cli import main

raise SystemExit(main())
