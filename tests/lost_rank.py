"""A process of two, of which the second dies or hangs, or neither: `python lost_rank.py dies|hangs|works MINUTES`."""

import os
import sys
import time

from pairuni import dist
from pairuni.watch import LostRankError

if __name__ == "__main__":
    how, collective_timeout = sys.argv[1], float(sys.argv[2])
    try:
        with dist.process_group("cpu", collective_timeout):
            dist.barrier()
            while how == "works":
                print(os.getpid(), flush=True)
                dist.all_gather("here")
                time.sleep(0.2)
            if dist.rank() == 1:
                if how == "dies":
                    os.kill(os.getpid(), 9)
                time.sleep(600)
            dist.all_gather("here")
    except LostRankError as err:
        print(f"lost: {err}", file=sys.stderr)
        sys.exit(3)
