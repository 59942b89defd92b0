"""``python -m sparevlm`` is the command ``sparevlm``."""

import sys

from sparevlm.cli import main

if __name__ == "__main__":
    sys.exit(main())
