"""What runs of a campaign, seen from outside."""

import os
import time

import psutil


def processes_of(folder):
    """Live processes that name this folder on their command line, and their descendants."""
    found = {}
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and any(str(folder) in word for word in process.cmdline()):
                found.update({each.pid: each for each in [process, *process.children(recursive=True)]})
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return [each for each in found.values() if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def wait_for(condition, seconds=20.0):
    """Wait until `condition()` is true and give its value; fail the test after `seconds`."""
    ends = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.02)
    return value
