"""Runs a module, as `python -m` does, in a process that the guardian knows: `FILE_DESCRIPTOR MODULE ARGUMENT…`.

The child itself reports to the guardian: if its starter reported, a kill between the two would leave it unguarded.
"""

import os
import runpy
import signal
import sys


def main() -> None:
    pipe, module = int(sys.argv[1]), sys.argv[2]
    try:
        os.write(pipe, b"+%d\n" % os.getpid())
    except BrokenPipeError:
        sys.exit(1)  # without a guardian it might stay for ever; its starter tries again
    os.close(pipe)  # the guardian waits until no process has it open
    # A shell that starts us in the background lets us ignore SIGINT. Dagster's processes would ignore SIGTERM as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[:] = [module, *sys.argv[3:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
