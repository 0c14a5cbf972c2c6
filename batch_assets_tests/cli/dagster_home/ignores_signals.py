"""A child process for tests: it starts a child of its own, writes the id of that to a file, and runs on.

`FILE [obey]`: without `obey`, both ignore every signal that a process can ignore, as a step that hangs in a library.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

IGNORE = "import signal; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]; "
RUN_ON = "import time; time.sleep(300)"


def main() -> None:
    ignores = sys.argv[2:] != ["obey"]
    if ignores:
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    grandchild = subprocess.Popen([sys.executable, "-c", IGNORE + RUN_ON if ignores else RUN_ON])
    Path(sys.argv[1]).write_text(str(grandchild.pid))
    time.sleep(300)


if __name__ == "__main__":
    main()
