"""Runs a module, as `python -m` does, in a process that the reaper knows: `FILE_DESCRIPTOR MODULE ARGUMENT…`.

The child itself reports to the reaper. If its parent reported it, a kill of the parent between start and report would
leave a child that the reaper does not know.
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
        sys.exit(1)  # without a reaper it might never end; its parent tries again
    os.close(pipe)  # the reaper waits until no process has it open
    # A process that a shell starts in the background ignores SIGINT. Dagster's processes would then ignore SIGTERM too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[:] = [module, *sys.argv[3:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
