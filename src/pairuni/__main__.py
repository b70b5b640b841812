"""`python -m pairuni`, for torchrun and the like."""

import sys

from pairuni.cli.main import main

sys.exit(main())
