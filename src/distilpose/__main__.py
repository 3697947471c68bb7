"""``python -m distilpose``."""

import sys

from distilpose.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
