"""Ask many minions the same question, some at once, and say which of them gave no answer.

Salt's own batch mode calls a minion lost when a job takes longer than `timeout` and
`gather_job_timeout` together, and ends with exit code 0. Here a minion has time as long as it says
that the job runs. It is silent when it does not even say that.
"""

import time

import salt.client
import salt.utils.args
from salt.exceptions import SaltException

# Seconds for the master to publish a job, also while it is busy.
PUBLISH = 60
# How often a minion may leave the question open whether the job runs, or may say that it does not:
# the job may not have begun, or its answer may be on the way.
MISSES = 2
WAIT = 1  # second for the next event
DEEPEST = 40  # levels of an answer that are read


def ask(
    minions, function, arguments=None, at_once=10, seconds=900, told=None, tag=None, client=None
):
    """Call a function on each minion; return {minion: answer}, in the order of the minions.

    minions: a list of ids. function: an execution function that returns a dictionary, or True.
    arguments: a function that returns the keyword arguments for a minion; by default there are none
    at_once: the number of minions that work at the same time. seconds: the longest time of one.
    told: a function that gets (number of answers, minion, answer) after each answer.
    tag: where each answer is told on the master's event bus, too; by default nowhere.
    client: tests replace Salt's LocalClient.
    An answer is {"result": True, "answered": True, "answer": what the function returned}, or
    {"result": False, "answered", "comment": why there is none}. `answered` is False when the minion
    was silent. Characters in it that are not printable become question marks, but for line ends and
    tabs.
    """
    with client or salt.client.LocalClient(mopts=__opts__, listen=True) as opened:
        round_ = _Round(opened, __opts__, function, arguments or (lambda _minion: {}), seconds)
        waiting, found = list(minions), {}
        while waiting or round_.jobs:
            while waiting and len(round_.jobs) < at_once:
                round_.begin(waiting.pop(0))
            for minion, answer in round_.wait():
                found[minion] = answer
                if told:
                    told(len(found), minion, answer)
                if tag:
                    event = {"minion": minion, "done": len(found), "of": len(minions)}
                    opened.event.fire_event({**event, "result": answer["result"]}, tag)
    return {minion: found[minion] for minion in minions}


class _Job:
    """A question to one minion.

    ends: when it has taken too long. look: when the minion is asked whether the job runs.
    probes: the ids of these questions, as long as none is answered. absences: how often in a row
    the answer was no.
    """

    def __init__(self, jid, ends, look):
        self.jid, self.ends, self.look = jid, ends, look
        self.probes, self.absences = [], 0


class _Round:
    """The jobs that are under way, {minion: _Job}."""

    def __init__(self, client, opts, function, arguments, seconds):
        self.client, self.function, self.arguments = client, function, arguments
        self.seconds, self.patience = seconds, opts["gather_job_timeout"]
        self.first = opts["timeout"]
        self.jobs, self.refused = {}, []

    def begin(self, minion):
        """Ask a minion."""
        given = self.arguments(minion)
        jid, error = self._publish(minion, self.function, given)
        if error:
            self.refused.append((minion, _silent(error)))
            return
        now = time.monotonic()
        self.jobs[minion] = _Job(jid, now + self.seconds, now + self.first)

    def _publish(self, minion, function, arguments):
        """Return the id of a new job, or why there is none."""
        arg = salt.utils.args.condition_input([], arguments)
        try:
            sent = self.client.pub(
                [minion], function, arg, tgt_type="list", timeout=PUBLISH, listen=True
            )
        except SaltException as error:
            return None, f"the master sent nothing: {error}"
        if not isinstance(sent, dict) or minion not in sent.get("minions", ()):
            return None, "the master knows no minion of this name: `salt-key -L` lists them"
        return sent["jid"], None

    def wait(self):
        """Wait a moment; return the (minion, answer) that came, and those that will not come."""
        done, self.refused = self.refused, []
        began = time.monotonic()
        event = self.jobs and not done and self._next_event()
        while event:
            done += self._take(event)
            event = self.client.event.get_event(
                wait=0, tag="salt/job/", full=True, no_block=True, auto_reconnect=False
            )
        if self.jobs and not done and time.monotonic() - began < WAIT / 2:
            # The master restarts at this moment, so there is nothing to wait for.
            time.sleep(WAIT / 2)
        return done + [pair for minion in list(self.jobs) for pair in self._look(minion)]

    def _next_event(self):
        event = self.client.event.get_event(wait=WAIT, tag="salt/job/", full=True)
        # Salt turns Ctrl-C into this event.
        if event and event["tag"] == "salt/event/exit":
            raise KeyboardInterrupt
        return event

    def _take(self, event):
        """Return the answer that an event brings, if it is one to this round."""
        data = event["data"]
        # A minion can send any event, so nothing is sure to be there.
        minion, jid = data.get("id"), data.get("jid")
        job = self.jobs.get(minion) if isinstance(minion, str) else None
        if job is None or jid is None or "/ret/" not in event["tag"]:
            return []
        if jid == job.jid:
            return self._end(minion, _judge(data.get("return"), self.function))
        # A busy machine answers late, and may do so after the next question.
        if jid in job.probes:
            job.probes = []
            job.absences = 0 if data.get("return") else job.absences + 1
            job.look = time.monotonic() + self.patience
        return []

    def _look(self, minion):
        """Ask a minion whether its job runs, when it is time; return why it is given up, if so."""
        job, now = self.jobs[minion], time.monotonic()
        if now < min(job.look, job.ends):
            return []
        # The event of an answer is lost when the master restarts. The job cache still has it.
        cached = self._read_cache(job.jid)
        if minion in cached:
            return self._end(minion, _judge(cached[minion].get("ret"), self.function))
        if now >= job.ends:
            shows = f"`salt {minion} saltutil.running` shows the job"
            return self._end(minion, _failed(f"still at work after {self.seconds} s: {shows}"))
        if job.absences >= MISSES:
            return self._end(minion, _failed("the minion restarted in the middle of the job"))
        if len(job.probes) >= MISSES:
            return self._end(minion, _silent("silent: it does not answer the master"))
        probe, _error = self._publish(minion, "saltutil.find_job", {"jid": job.jid})
        if probe:
            job.probes.append(probe)
        job.look = now + self.patience
        return []

    def _read_cache(self, jid):
        try:
            return self.client.get_cache_returns(jid)
        except SaltException:
            return {}

    def _end(self, minion, answer):
        del self.jobs[minion]
        return [(minion, answer)]


def _judge(returned, function):
    """Return the answer for what a minion returned."""
    returned = _plain(returned, DEEPEST)
    if isinstance(returned, dict) or returned is True:
        return {"result": True, "answered": True, "answer": returned}
    if isinstance(returned, list):
        # Errors in place of states. Below each one, Salt quotes the file that it was rendering.
        errors = [str(each).partition("\n---")[0].splitlines() for each in returned]
        lines = [line for each in errors for line in each if not line.endswith("):")]
        return _failed("; ".join(lines) or "the minion returned nothing")
    text = str(returned).strip()
    if text == f"'{function}' is not available.":
        text += " `salt MINION saltutil.sync_modules` brings it; `state.apply chatmail` too"
    return _failed(text.splitlines()[-1] if text else "the minion returned nothing")


def _plain(value, levels):
    """Return a value without characters by which a minion could change what a terminal shows."""
    if isinstance(value, (dict, list, tuple)) and not levels:
        return "too deep"
    if isinstance(value, dict):
        return {_plain(key, 0): _plain(each, levels - 1) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each, levels - 1) for each in value]
    if not isinstance(value, str) or value.isprintable():
        return value
    return "".join(each if each.isprintable() or each in "\n\t" else "?" for each in value)


def _failed(comment):
    return {"result": False, "answered": True, "comment": comment}


def _silent(comment):
    return {"result": False, "answered": False, "comment": comment}
