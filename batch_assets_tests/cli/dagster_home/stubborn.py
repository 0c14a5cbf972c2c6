"""A child for tests: it starts one of its own, writes both process ids to a file, and stays.

`FILE [obey]`: without `obey`, both ignore every signal that can be ignored, as a step does that hangs in a library.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

IGNORE = "import signal; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]; "
STAY = "import time; time.sleep(300)"


def main() -> None:
    stubborn = sys.argv[2:] != ["obey"]
    if stubborn:
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    grandchild = subprocess.Popen([sys.executable, "-c", IGNORE + STAY if stubborn else STAY])
    Path(sys.argv[1]).write_text(str(grandchild.pid))
    time.sleep(300)


if __name__ == "__main__":
    main()
