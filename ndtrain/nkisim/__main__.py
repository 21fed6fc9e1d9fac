"""`python -m ndtrain.nkisim script.py [arguments]`: run a script whose `nki` is the simulator."""

from __future__ import annotations

import argparse
import runpy
import sys

from ndtrain.nkisim.errors import NkiSimError
from ndtrain.nkisim.modules import as_cpu_simulator, as_nki


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m ndtrain.nkisim", description=__doc__)
    parser.add_argument("--nki", default="0.6", help="NKI version: 0.6 or 0.2")
    parser.add_argument("--shadow", action="store_true", help="also where a real nki is installed")
    parser.add_argument("-m", dest="module", help="run a module instead of a script")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="script.py and its arguments")
    options = parser.parse_args(arguments)
    if not options.module and not options.rest:
        parser.error("name a script")
    try:
        with as_nki(options.nki, shadow=options.shadow), as_cpu_simulator():
            if options.module:
                sys.argv = [options.module, *options.rest]
                runpy.run_module(options.module, run_name="__main__", alter_sys=True)
            else:
                sys.argv = options.rest
                runpy.run_path(options.rest[0], run_name="__main__")
    except NkiSimError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
