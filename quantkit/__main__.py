"""The command `quantkit`, also as `python -m quantkit`."""

import sys


def start() -> int:
    """`quantkit.cli.main` on the process's command line; Ctrl-C while that is imported ends as any other."""
    try:
        from quantkit.cli import main
    except KeyboardInterrupt:
        sys.stderr.write("quantkit: interrupted; nothing partial was left behind\n")
        return 130
    return main()


if __name__ == "__main__":
    sys.exit(start())
