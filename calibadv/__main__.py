"""`python -m calibadv`: the command of the same name."""

import sys

from calibadv_algo.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
