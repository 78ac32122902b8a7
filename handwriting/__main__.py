"""`python -m handwriting`, and the command `handwriting` where the package is installed: what generate.py does."""

import signal
import sys


def main() -> None:
    """Run generate.py. Ctrl-C in the seconds of its imports just ends it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `run_cli`
    from generate import main as generate
    from handwriting.program import run_cli

    run_cli(generate)


if __name__ == "__main__":
    sys.argv[0] = "handwriting"  # as --help names it
    main()
