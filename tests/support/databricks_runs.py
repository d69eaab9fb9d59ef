"""The runs of a workspace: submitted, queued, started, ended, cancelled, listed, deleted; as by the Jobs API 2.2."""

import base64
import dataclasses
import threading
import time
import traceback

import databricks_submission as submission
from databricks_refusals import MULTIPLE_TASKS, Refusal, invalid, no_such_run
from databricks_run import CANCELLED, SUCCESS, TIMED_OUT, Ending, Run, Task, no_capacity, spot_loss
from databricks_schema import check_fields

PAGE = 25
"""Runs that a page of a list may have."""


class Runs:
    """The runs, each with a thread in which it lives.

    Args:
        runtime: runs tasks: `runtime.run(job)` gives an `Ending`.
        host: the workspace's address.

    Attributes:
        by_id: run_id to `Run`; deleted ones are not in it.
        tokens: idempotency token to run_id, also of deleted ones.
        clusters: ids of the all-purpose clusters.
        pace: state to seconds that a task spends in it at least: QUEUED, BLOCKED, PENDING, TERMINATING,
            WAITING_FOR_RETRY; without an entry, none.
        limit: how many runs may be active at once; the others queue, or are refused if they do not queue.
        deleted_token: what is said to who submits with the token of a run that was deleted. The API documents only
            that an error is returned.
    """

    def __init__(self, runtime, host=""):
        self.runtime, self.host = runtime, host
        self.by_id, self.tokens, self.clusters = {}, {}, {}
        self.pace, self.limit = {}, None
        self.deleted_token = "The run with the idempotency token {token} has been deleted."
        self.submissions = 0
        self._changed = threading.Condition(threading.RLock())
        self._held, self._endings, self._threads = set(), [], []
        self._stopped = False

    # -- what tests do

    def hold(self, state):
        """Keep what comes to a state in it: QUEUED, BLOCKED, PENDING, TERMINATING, WAITING_FOR_RETRY."""
        with self._changed:
            self._held.add(state)

    def release(self, state):
        with self._changed:
            self._held.discard(state)
            self._changed.notify_all()

    def end_next(self, ending, times=1):
        """Let the next tasks that wait for their cluster end like this instead of starting.

        Args:
            ending: an `Ending`, or a function that makes one of a cluster's id.
        """
        with self._changed:
            self._endings += [ending] * times

    def fail_for_capacity(self, times=1):
        """Let the cloud have no machine for the next clusters."""
        self.end_next(no_capacity, times)

    def lose(self, run_id, ending=spot_loss):
        """Take the cluster away from a run that runs."""
        run = self.by_id[run_id]
        self._end(run, ending(run.task.cluster_id) if callable(ending) else ending)

    def forget(self, run_id):
        """Delete a run as the service does after 60 days."""
        with self._changed:
            del self.by_id[run_id]

    def of_token(self, token):
        """The run that was submitted with a token, or None."""
        return self.by_id.get(self.tokens.get(token))

    def newest(self):
        return max(list(self.by_id.values()), key=lambda run: run.created)

    @property
    def active(self):
        return [run for run in list(self.by_id.values()) if not run.over]

    def wait_until(self, condition, timeout=60):
        """Wait until something is true, which is looked at whenever a run changes."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout), f"in vain: {list(self.by_id.values())}"

    def stop(self):
        """End everything."""
        with self._changed:
            self._stopped = True
            for run in self.active:
                self._end(run, CANCELLED)
        for thread in self._threads:
            thread.join()

    # -- the API

    def submit(self, body, user):
        submission.check(body, self.clusters)
        token = body.get("idempotency_token") or None
        with self._changed:
            self.submissions += 1
            if token in self.tokens:
                run_id = self.tokens[token]
                if run_id not in self.by_id:
                    raise invalid(self.deleted_token.format(token=token))
                return {"run_id": run_id}
            queues = (body.get("queue") or {}).get("enabled", False)
            if self.limit is not None and len(self.active) >= self.limit and not queues:
                raise Refusal(429, "WORKSPACE_RUN_LIMIT_EXCEEDED", "The run cannot start immediately.")
            run = Run(body, self.host, user)
            self.by_id[run.run_id] = run
            if token is not None:
                self.tokens[token] = run.run_id
            if body["tasks"][0].get("existing_cluster_id"):
                run.task.cluster_id = body["tasks"][0]["existing_cluster_id"]
            thread = threading.Thread(target=self._live, args=(run,), name=f"run-{run.run_id}")
            self._threads.append(thread)
            thread.start()
        return {"run_id": run.run_id}

    def get(self, query):
        run_id = _number(query, "run_id")
        with self._changed:
            for run in self.by_id.values():
                if run.run_id == run_id:
                    return run.full_view()
                for task in run.tasks:
                    if task.run_id == run_id:
                        return {**run.view(), **task.view(run), "job_run_id": run.run_id}
        raise no_such_run(run_id)

    def get_output(self, query):
        run_id = _number(query, "run_id")
        with self._changed:
            if run_id in self.by_id:
                # Runs that come by API 2.1 and later have `tasks`, and are of this kind also if there is only one.
                raise invalid(MULTIPLE_TASKS)
            for run in self.by_id.values():
                for task in run.tasks:
                    if task.run_id == run_id:
                        return task.output(run)
        raise no_such_run(run_id)

    def list(self, query):
        active, completed = query.get("active_only") == "true", query.get("completed_only") == "true"
        if active and completed:
            raise invalid("active_only and completed_only cannot both be true.")
        limit = _number(query, "limit", 20) or PAGE
        if not 0 < limit <= PAGE:
            raise invalid(f"limit must be between 1 and {PAGE}.")
        with self._changed:
            found = [run for run in self.by_id.values() if (not active or not run.over) and (not completed or run.over)]
            if query.get("run_type") not in (None, "SUBMIT_RUN") or query.get("job_id"):
                found = [run for run in found if str(run.job_id) == query.get("job_id")]
            since, until = _number(query, "start_time_from", 0), _number(query, "start_time_to", 1 << 60)
            found = [run for run in found if since <= int(run.created * 1000) <= until]
            found.sort(key=lambda run: -run.created)
            begin = _begin(query)
            page = found[begin : begin + limit]
            answer = {"has_more": begin + limit < len(found)}
            if page:
                expand = query.get("expand_tasks") == "true"
                answer["runs"] = [run.full_view() if expand else run.view() for run in page]
        if answer["has_more"]:
            answer["next_page_token"] = _page_token(begin + limit)
        if begin:
            answer["prev_page_token"] = _page_token(max(0, begin - limit))
        return answer

    def cancel(self, body):
        """As the service does, it answers before the run has ended; a run that is over stays as it is."""
        check_fields(body, run_id=int)
        with self._changed:
            self._end(self._run(body), CANCELLED)
        return {}

    def delete(self, body):
        check_fields(body, run_id=int)
        with self._changed:
            run = self._run(body)
            if not run.over:
                raise Refusal(400, "INVALID_STATE", f"Run {run.run_id} is active and cannot be deleted.")
            del self.by_id[run.run_id]
        return {}

    def _run(self, body):
        run_id = body.get("run_id")
        for run in self.by_id.values():
            if run.run_id == run_id or any(task.run_id == run_id for task in run.tasks):
                return run
        raise no_such_run(run_id)

    # -- a run's life

    def _end(self, run, ending):
        with self._changed:
            if not run.over and run.wanted is None:
                run.wanted = ending
                run.stopping.set()
                self._changed.notify_all()

    def _live(self, run):
        timeout = run.body.get("timeout_seconds") or 0
        alarm = threading.Timer(timeout, self._end, (run, TIMED_OUT))
        if timeout:
            alarm.start()
        try:
            ending = self._queue(run) or self._try(run)
            while ending.result == "FAILED" and not run.wanted and self._may_retry(run):
                ending = self._linger(run, "WAITING_FOR_RETRY") or self._try(run)
        finally:
            alarm.cancel()
        self._finish(run, ending)

    def _queue(self, run):
        self._linger(run, "QUEUED", lambda: self.limit is not None and self._before(run) >= self.limit)
        return run.wanted or self._linger(run, "BLOCKED")

    def _before(self, run):
        return sum(1 for each in self.active if each.created < run.created)

    def _try(self, run):
        """One try of the task. Returns: its `Ending`."""
        task = run.task
        self._set(run, task, "PENDING")
        if task.cluster_id is None and not run.body["tasks"][0].get("environment_key"):
            task.cluster_id = f"1128-{task.run_id % 10**6:06}-{task.run_id:x}"[:27]
        with self._changed:
            run.life, run.started = "RUNNING", run.started or time.time()
            ending = self._endings.pop(0) if self._endings else None
        stopped = self._linger(run, "PENDING")
        if ending is not None and not stopped:
            ending = ending(task.cluster_id) if callable(ending) else ending
        ending = ending if ending is not None and not stopped else stopped
        if ending is None:
            task.context_id = str(task.run_id * 7)
            self._set(run, task, "RUNNING")
            ending = self._work(Job(run, task))
            with self._changed:
                ending = run.wanted or ending
                run.wanted = run.wanted or (SUCCESS if ending is SUCCESS else None)  # what comes now comes too late
        task.ending = ending
        self._set(run, task, "TERMINATING")
        self._linger(run, "TERMINATING", stops=False)
        with self._changed:
            task.life, task.times["over"] = ending.life, time.time()
            self._changed.notify_all()
        return ending

    def _work(self, job):
        try:
            return self.runtime.run(job)
        except Exception as error:
            traceback.print_exc()
            return Ending(
                "FAILED", "INTERNAL_ERROR", "INTERNAL_ERROR", f"The stand-in failed: {error}", "INTERNAL_ERROR"
            )

    def _may_retry(self, run):
        if run.task.number >= (run.body["tasks"][0].get("max_retries") or 0):
            return False
        with self._changed:
            run.tasks.append(Task(run.task.submission, run.task.number + 1))
        return True

    def _finish(self, run, ending):
        with self._changed:
            task = run.task
            if not task.over:
                task.ending, task.life, task.times["over"] = ending, ending.life, time.time()
            failed = ending.result == "FAILED"
            if failed:  # of a task that failed, the run says INTERNAL_ERROR
                said = f"Task {task.submission['task_key']} failed with message: {ending.message}."
                run.ending = dataclasses.replace(ending, life="INTERNAL_ERROR", message=said)
            else:
                run.ending = ending
            run.life, run.ended = run.ending.life, time.time()
            self._changed.notify_all()

    def _set(self, run, task, life):
        with self._changed:
            task.life = life
            task.times.setdefault(life, time.time())
            if life == "TERMINATING":
                run.life, run.ending = life, task.ending
            self._changed.notify_all()

    def _linger(self, run, state, condition=lambda: False, stops=True):
        """Stay in a state for as long as it takes. Returns: as what the run is to end, if it is to end meanwhile."""
        end = time.monotonic() + self.pace.get(state, 0)
        with self._changed:
            while (state in self._held and not self._stopped) or condition() or time.monotonic() < end:
                if stops and run.wanted:
                    break
                run.task.life = state
                if state != "TERMINATING" and run.life not in ("RUNNING",):
                    run.life = state
                self._changed.notify_all()
                left = end - time.monotonic()
                self._changed.wait(left if left > 0 else 0.5)
            return run.wanted if stops else None


class Job:
    """What a runtime is given: a task that is to run."""

    def __init__(self, run, task):
        self.run, self.task = run, task

    @property
    def stopping(self):
        """An event that is set when the task must end."""
        return self.run.stopping

    def write(self, data):
        """Keep what the task prints."""
        self.task.write(data)

    @property
    def python(self):
        """The task's spark_python_task."""
        return self.task.submission["spark_python_task"]

    @property
    def variables(self):
        """The cluster's spark_env_vars, as they were given."""
        return (self.task.submission.get("new_cluster") or {}).get("spark_env_vars") or {}


def _number(query, name, default=None):
    text = query.get(name, default)
    try:
        return int(text)
    except (TypeError, ValueError):
        raise invalid(f"{name} must be a number, not {text!r}.") from None


def _page_token(begin):
    return base64.urlsafe_b64encode(f"from {begin}".encode()).decode()


def _begin(query):
    if not query.get("page_token"):
        return _number(query, "offset", 0)
    try:
        return int(base64.urlsafe_b64decode(query["page_token"]).split()[1])
    except (ValueError, IndexError):
        raise invalid("page_token is not one that was given.") from None
