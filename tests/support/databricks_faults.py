"""What goes wrong between a client and a workspace, as the tests ask for it."""

import threading
import time

from databricks_refusals import Refusal, Unheard

CODES = {429: "REQUEST_LIMIT_EXCEEDED", 500: "INTERNAL_ERROR", 503: "TEMPORARILY_UNAVAILABLE"}
CODES |= {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "RESOURCE_DOES_NOT_EXIST", 400: "BAD_REQUEST"}
CODES |= {504: "DEADLINE_EXCEEDED"}


class _Fault:
    def __init__(self, act, on, method, times, during, after):
        self.act, self.on, self.method, self.times, self.after = act, on, method, times, after
        self.end = time.monotonic() + during if during is not None else None

    def meets(self, method, path, after):
        there = self.times is None or self.times > 0
        if not there or self.after is not after or (self.end is not None and time.monotonic() > self.end):
            return False
        if (self.on is not None and self.on not in path) or self.method not in (None, method):
            return False
        if self.times is not None:
            self.times -= 1
        return True


class Faults:
    """What is to go wrong with the next requests. Each of its verbs takes:

    on: what the path of a request must contain, such as `jobs/runs/submit`; None: any.
    method: GET, POST, …; None: any.
    times: for how many requests.
    during: for how many seconds, however many requests there are; instead of `times`.
    """

    def __init__(self):
        self._faults, self._guard = [], threading.Lock()

    def throttle(self, retry_after=1, **where):
        """Answer 429, with Retry-After in seconds; None: without."""
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        self.fail(429, "Your request was rejected since your organization has exceeded the rate limit.",
                  headers=headers, **where)  # fmt: skip

    def fail(self, status, message="a failure that the tests asked for", *, code=None, headers=None, **where):
        """Answer with this status, and do nothing."""

        def act():
            raise Refusal(status, code or CODES.get(status, "UNKNOWN"), message, dict(headers or {}))

        self._add(act, **where)

    def cut(self, **where):
        """Break the connection before the request takes effect."""
        self._add(_break, **where)

    def lose(self, **where):
        """Break the connection when the request took effect: its answer is lost."""
        self._add(_break, after=True, **where)

    def delay(self, seconds, **where):
        """Answer late."""
        self._add(lambda: time.sleep(seconds), **where)

    def pause(self, **where):
        """Keep a request, or its answer if it comes `after` it took effect, until somebody lets it go on.

        Returns: two events: it is there, and what is to be set.
        """
        there, gate = threading.Event(), threading.Event()

        def act():
            there.set()
            gate.wait(120)

        self._add(act, **where)
        return there, gate

    def clear(self):
        """Let everything go well again."""
        with self._guard:
            self._faults.clear()

    def _add(self, act, on=None, method=None, times=None, during=None, after=False):
        if times is None and during is None:
            times = 1
        with self._guard:
            self._faults.append(_Fault(act, on, method, times, during, after))

    def meet(self, method, path, after=False):
        """Let a request meet what is to go wrong with it. Raises: Refusal, Unheard."""
        with self._guard:
            found = next((fault for fault in self._faults if fault.meets(method, path, after)), None)
        if found:
            found.act()


def _break():
    raise Unheard
