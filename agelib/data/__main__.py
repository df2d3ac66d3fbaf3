"""`python -m agelib.data --list`: which data sets are at hand, and from where; `--fetch NAME ...`: prepare some."""

import argparse
import sys

from agelib.data import NAMES, DataError, available, data_root, load, pack_folders


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit code is 1 if a set could not be prepared, 0 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m agelib.data", description="List or prepare data sets.")
    parser.add_argument("--list", action="store_true", help="list every set and where it would come from (the default)")
    what = f"prepare the training and test splits of these: {', '.join(NAMES)}, folder:PATH or npz:PATH"
    parser.add_argument("--fetch", nargs="+", default=[], metavar="NAME", help=what)
    parser.add_argument("--no-download", action="store_true", help="never use the network")
    args = parser.parse_args(argv)
    if args.list or not args.fetch:
        print(f"data root {data_root()}, packs in {', '.join(map(str, pack_folders()))}")
        print("\n".join(f"{name:15} {where}" for name, where in available().items()))
    failed = 0
    for name, split in [(name, split) for name in args.fetch for split in ("train", "test")]:
        try:
            found = load(name, split, download=not args.no_download)
            print(f"{name} {split}: {'x'.join(map(str, found.images.shape))}, {found.source}")
        except (DataError, ValueError) as err:
            failed = 1
            print(f"{name} {split}: {err}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main())
