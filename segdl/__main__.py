"""python -m segdl"""

import sys

from segdl.cli import main

if __name__ == "__main__":
    sys.exit(main())
