"""The runner chatmail_fleet with Salt's loader, and minions whose answers a test plays back."""

import collections
import itertools
import json
from pathlib import Path

import salt.config
import salt.loader
import salt.output

REPOSITORY = Path(__file__).resolve().parents[2]
# What a minion does in place of an answer.
SILENT, RESTARTED = object(), object()


class Late:
    """An answer that comes after so many questions whether the job still runs."""

    def __init__(self, answer, questions):
        self.answer, self.questions = answer, questions


class Slow(Late):
    """The same, from a minion that answers each of these questions after the next one was asked."""

    open_question = None


class Cached:
    """An answer whose event was lost. Only the job cache has it."""

    def __init__(self, answer):
        self.answer = answer


class Minions:
    """Salt's LocalClient as `chatmail_asking` uses it.

    answers: {function: {minion: answer}}. An answer may be a function of the arguments.
    calls: what was called, in order: (function, minion, arguments). most: the largest number of
    minions that worked at the same time. told: the events that the runner fired.
    """

    def __init__(self, answers):
        self.answers, self.calls, self.told = answers, [], []
        self.events, self.jobs, self.cache = collections.deque(), {}, {}
        self.most, self.working, self.event = 0, set(), self
        self._jids = itertools.count(1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False

    def pub(self, tgt, function, arg, tgt_type, timeout, listen):
        """Publish a job. The answer waits as an event at once, if there is one."""
        assert (tgt_type, listen) == ("list", True)
        [minion] = tgt
        jid = str(next(self._jids))
        given = {name: arg[-1][name] for name in arg[-1] if name != "__kwarg__"} if arg else {}
        if function == "saltutil.find_job":
            self._probe(minion, jid, given["jid"])
            return {"jid": jid, "minions": tgt}
        self.calls.append((function, minion, given))
        if minion not in self.answers[function]:
            return {"jid": "0", "minions": []}
        answer = self.answers[function][minion]
        self.jobs[jid] = answer = answer(**given) if callable(answer) else answer
        self.working.add(minion)
        self.most = max(self.most, len(self.working))
        if isinstance(answer, Cached):
            self.cache[jid] = {minion: {"ret": answer.answer}}
            self.working.discard(minion)
        elif answer not in (SILENT, RESTARTED) and not isinstance(answer, Late):
            self._answer(minion, jid, answer)
        return {"jid": jid, "minions": tgt}

    def _probe(self, minion, jid, job):
        answer = self.jobs[job]
        if answer is SILENT:
            return
        if isinstance(answer, Late):
            answer.questions -= 1
            if answer.questions <= 0:
                self._answer(minion, job, answer.answer)
        if isinstance(answer, Slow):
            jid, answer.open_question = answer.open_question, jid
        runs = {"jid": job} if isinstance(answer, Late) else {}
        self._answer(minion, jid, runs)

    def _answer(self, minion, jid, answer):
        data = {"id": minion, "jid": jid, "return": answer}
        self.events.append({"tag": f"salt/job/{jid}/ret/{minion}", "data": data})

    def get_event(self, **_arguments):
        """Return the next event, None when there is none."""
        if not self.events:
            # Nothing more comes of the silent ones.
            return None
        event = self.events.popleft()
        self.working.discard(event["data"]["id"])
        return event

    def get_cache_returns(self, jid):
        """Return what the job cache has of a job."""
        return self.cache.get(jid, {})

    def fire_event(self, data, tag):
        """Note an event of the runner."""
        self.told.append((tag, data))


class Fleet:
    """The runner, on a master that has no daemon.

    directory: for Salt's files. pillar: that of the master itself.
    """

    def __init__(self, directory, monkeypatch, pillar=None):
        own = directory / "extmods"
        own.mkdir()
        for kind in ("runners", "states", "utils", "output"):
            (own / kind).symlink_to(REPOSITORY / f"_{kind}")
        pillars = directory / "pillar"
        pillars.mkdir()
        (pillars / "top.sls").write_text("base: {'*': [fleet]}")
        (pillars / "fleet.sls").write_text(json.dumps(pillar or {}))
        self.opts = salt.config.apply_master_config(
            {
                "root_dir": str(directory),
                "extension_modules": str(own),
                "pillar_roots": {"base": [str(pillars)]},
                "id": "master",
                # A minion is asked at each look whether its job runs.
                "timeout": 0,
                "gather_job_timeout": 0,
            }
        )
        self.utils = utils = salt.loader.utils(self.opts)
        self.runner = salt.loader.runner(self.opts, utils=utils)
        asking = utils["chatmail_asking.ask"].func.__globals__
        monkeypatch.setitem(asking, "WAIT", 0)
        monkeypatch.setitem(asking["salt"].client.__dict__, "LocalClient", self._connect)

    def _connect(self, mopts, listen):
        assert listen
        return self.minions

    def call(self, function, answers, *arguments, **named):
        """Call a function of the runner. answers: as Minions takes them."""
        self.minions = Minions(answers)
        called = self.runner[f"chatmail_fleet.{function}"]
        called.func.__globals__["__jid__"] = "20261126163000000000"
        return called(*arguments, **named)

    def state(self, state, answers, test=False, module="chatmail_fleet", **named):
        """Run a state of an orchestration. answers: as Minions takes them."""
        self.minions = Minions(answers)
        opts = {**self.opts, "test": test}
        serializers = salt.loader.serializers(opts)
        modules = {"saltutil.runner": self._run}
        states = salt.loader.states(opts, modules, self.utils, serializers)
        return states[f"{module}.{state}"](**named)

    def _run(self, name, kwarg):
        called = self.runner[name]
        called.func.__globals__["__jid__"] = "20261126163000000000"
        return called(**kwarg)

    def show(self, found, outputter=None):
        """Return the text that salt-run prints."""
        return salt.output.out_format(found, outputter or found["outputter"], self.opts)
