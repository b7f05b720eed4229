"""What scripts under tests/ count and wait with. They put this directory on their path."""
import os
import sys
import time

PATIENCE = 60           # seconds until what is waited for has failed to come
passed = failed = 0


def check(ok, what, *more):
    """Count it; say what failed, and whatever more explains it."""
    count(bool(ok), not ok)
    if not ok:
        print("FAIL", os.path.basename(sys.argv[0]), what, *more, flush=True)
    return ok


def count(more_passed, more_failed):
    """What another process checked."""
    global passed, failed
    passed += more_passed
    failed += more_failed


def any_failed():
    return failed > 0


def until(test, patience=PATIENCE, step=0.02):
    """Ask again and again until it says yes; what it said last."""
    end = time.monotonic() + patience
    while True:
        got = test()
        if got or time.monotonic() > end:
            return got
        time.sleep(step)


def done():
    """The last line, which ./dev reads. No check at all is a failure too."""
    print(f"{passed} passed, {failed} failed", flush=True)
    sys.exit(bool(failed) or not passed)


def whole_lines(path):
    """Those of a file that may be growing. Line by line one would get half of the last one, and then its other half as a line."""
    with open(path, errors="replace") as f:
        text = f.read()
    return text[:text.rfind("\n") + 1].splitlines()
