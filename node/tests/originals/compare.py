"""Calls the real name server and hearthd side by side, and tells where they differ.

usage: compare.py HEARTHD [--family pyro4|pyro5] [--serializer NAME] [--seed N] [--calls N] [-v]

Both servers run on this machine, on ports of their own. The real client of the family sends each call
to one and to the other: every method, with good arguments, and with arguments of every kind drawn at
random. Compared are the result or the exception (class and text), and after calls that change
something the registrations of both.

Differences that are meant (README, "Differences from Pyro") are counted by reason; any other ends the
program with exit code 1.
"""

import argparse
import os
import random
import socket
import subprocess
import sys
import time
import warnings

warnings.simplefilter("ignore")

SERIALIZERS = ["serpent", "json", "marshal", "msgpack"]

STATE = [
    ("svc.alpha", "PYRO:obj_alpha@host1.example:4001", []),
    ("svc.beta", "PYRO:obj_beta@host2.example:4002", ["printer"]),
    ("svc.gamma", "PYRO:obj_gamma@[fd00::1]:4003", ["fast", "printer"]),
    ("other", "PYRO:obj_other@./u:/run/other.sock", ["x"]),
    ("naïve 日本", "PYRO:o@h:1", ["été"]),
    ("magic", "PYRONAME:svc.alpha@somehost", []),
]

METHODS = {
    # method: the kinds of values that make sense for each parameter, in order
    "count": [],
    "ping": [],
    "lookup": ["name", "flag"],
    "register": ["name", "uri", "flag", "tags"],
    "set_metadata": ["name", "tags"],
    "remove": ["name", "prefix", "regex"],
    "list": {"pyro4": ["prefix", "regex", "tags", "tags", "flag"], "pyro5": ["prefix", "regex", "flag"]},
    "yplookup": ["tags", "tags", "flag"],
}

KEYWORDS = {
    "count": [],
    "ping": [],
    "lookup": ["name", "return_metadata"],
    "register": ["name", "uri", "safe", "metadata"],
    "set_metadata": ["name", "metadata"],
    "remove": ["name", "prefix", "regex"],
    "list": {
        "pyro4": ["prefix", "regex", "metadata_all", "metadata_any", "return_metadata"],
        "pyro5": ["prefix", "regex", "return_metadata"],
    },
    "yplookup": ["meta_all", "meta_any", "return_metadata"],
}

CHANGES = {"register", "set_metadata", "remove"}


class Peer:
    """One family's client, whichever server it talks to."""

    def __init__(self, family):
        self.family = family
        if family == "pyro4":
            import Pyro4
            import Pyro4.core

            self.config, self.URI, self.Proxy = Pyro4.config, Pyro4.URI, Pyro4.Proxy
            self.batch = Pyro4.batch
            self.config.SERIALIZERS_ACCEPTED = set(SERIALIZERS)
        else:
            import Pyro5.api
            import Pyro5.client
            import Pyro5.core

            self.config, self.URI, self.Proxy = Pyro5.config, Pyro5.core.URI, Pyro5.client.Proxy
            self.batch = Pyro5.client.BatchProxy


class Server:
    """A running name server."""

    def __init__(self, command, port, environment):
        self.port = port
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    sys.exit("%s did not start: %s" % (command, self.process.stderr.read().decode()))
                time.sleep(0.02)

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def start(hearthd, family):
    """The real server of a family, and hearthd."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYRO")}
    accepted = dict(clean, PYRO_SERIALIZERS_ACCEPTED=",".join(SERIALIZERS))
    module = "Pyro4.naming" if family == "pyro4" else "Pyro5.nameserver"
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", module, "-n", "127.0.0.1", "-p", str(port)]
    real = Server(command, port, accepted if family == "pyro4" else clean)
    port = free_port()
    try:
        ours = Server([hearthd, "-n", "127.0.0.1", "-p", str(port)], port, accepted)
    except SystemExit:
        real.stop()
        raise
    return real, ours


class Side:
    """One server as seen by one client."""

    def __init__(self, peer, server, serializer):
        self.peer, self.serializer, self.location = peer, serializer, "127.0.0.1:%d" % server.port
        peer.config.SERIALIZER = "serpent"
        self.admin = peer.Proxy("PYRO:Pyro.NameServer@" + self.location)
        self.admin._pyroBind()
        self.proxies = {}
        for obj in ("Pyro.NameServer", "Pyro.Daemon"):
            peer.config.SERIALIZER = serializer
            self.proxies[obj] = peer.Proxy("PYRO:%s@%s" % (obj, self.location))
            self.proxies[obj]._pyroTimeout = 10
        # The original lets clients overwrite its own entry; each reset puts it back.
        peer.config.SERIALIZER = "serpent"
        uri, tags = self.admin.lookup("Pyro.NameServer", return_metadata=True)
        self.own_entry = ("Pyro.NameServer", str(uri), sorted(tags))

    def reset(self):
        self.peer.config.SERIALIZER = "serpent"
        batch = self.peer.batch(self.admin)
        batch.remove(regex="(?s).*")
        for name, uri, tags in STATE + [self.own_entry]:
            batch.register(name, uri, metadata=tags)
        list(batch())

    def registrations(self):
        self.peer.config.SERIALIZER = "serpent"
        found = self.admin.list(return_metadata=True)
        return {name: (uri, sorted(map(repr, tags))) for name, (uri, tags) in found.items() if name != "Pyro.NameServer"}

    def call(self, call):
        self.peer.config.SERIALIZER = self.serializer
        proxy = self.proxies[call.obj]
        try:
            if call.batch:
                batch = self.peer.batch(proxy)
                for method, args, kwargs in call.batch:
                    getattr(batch, method)(*args, **kwargs)
                outcome = ("returned", [self.shown(value) for value in self.batch_results(batch)])
            else:
                value = proxy._pyroInvoke(call.method, call.args, call.kwargs)
                outcome = ("returned", self.shown(value))
        except Exception as x:  # noqa: B902, every outcome is data here
            outcome = ("raised", type(x).__module__ + "." + type(x).__name__, self.normal(str(x)))
            if not hasattr(x, "_pyroTraceback"):
                outcome += ("locally",)
        if not proxy._pyroConnection:
            outcome += ("closed",)
        return outcome

    def batch_results(self, batch):
        results = []
        try:
            for value in batch():
                results.append(value)
        except Exception as x:  # noqa: B902
            results.append("%s: %s" % (type(x).__name__, x))
        return results

    def normal(self, text):
        return text.replace(self.location, "<location>")

    def shown(self, value):
        """A text that is equal for equal values: order of sets and tag lists does not count, that of dicts does."""
        if isinstance(value, self.peer.URI):
            if isinstance(value.object, (set, frozenset)):
                return "URI PYROMETA:%s %s" % (sorted(value.object), value.location)
            return "URI " + self.normal(str(value))
        if isinstance(value, dict):
            return "{%s}" % ", ".join("%r: %s" % (k, self.shown(v)) for k, v in value.items())
        if isinstance(value, (set, frozenset, list)):
            return "%s(%s)" % (type(value).__name__, ", ".join(sorted(self.shown(v) for v in value)))
        if isinstance(value, tuple):
            return "(%s)" % ", ".join(self.shown(v) for v in value)
        return self.normal(repr(value))


class Call:
    """One call to be made on both sides."""

    def __init__(self, method, args=(), kwargs=None, obj="Pyro.NameServer", batch=None):
        self.method, self.args, self.kwargs, self.obj, self.batch = method, tuple(args), dict(kwargs or {}), obj, batch

    def __repr__(self):
        if self.batch:
            return "batch %r" % (self.batch,)
        return "%s%s(%s)" % (
            "daemon." if self.obj == "Pyro.Daemon" else "",
            self.method,
            ", ".join([repr(a) for a in self.args] + ["%s=%r" % item for item in self.kwargs.items()]),
        )

    def changes(self):
        if self.batch:
            return any(method in CHANGES for method, _, _ in self.batch)
        return self.method in CHANGES


def values(peer):
    """Arguments by kind: those that make sense, then those of every kind."""
    good = {
        "name": ["svc.alpha", "svc.beta", "magic", "nope", "new", "", "Pyro.NameServer", "naïve 日本", "nul\0x", "quote'\"", "a\nb"],
        "uri": ["PYRO:o@h:1", "PYRO:o@[::1]:55junk", "pyro:o@h:007", "PYRONAME:n", "PYROMETA:a,b@h", "PYRO:o@./u:/s", "nonsense",
                "PYRO:o", "PYRO:o@h", "PYRO:o@h:x", "PYROX:o@h:1", "PYRO:o@[[::1]]:1", "PYRO:o@[host]:1", "PYRO:o@./u:", "PYRO:o@:1",
                "PYRO:a@b@h:1", "PYRO:o@h:1:2", "PYRO:o@h:-1", "PYRO:o@h: 1_0 ", "PYRO:o@h:99999", " PYRO:o@h:1", "PYRO:o@h:1\n",
                peer.URI("PYRO:o@h:1"), peer.URI("PYRONAME:x")],
        "flag": [True, False, 0, 1, 0.0, 5.0, "", "no", None, []],
        "tags": [None, [], ["x"], ["printer"], ["printer", "fast"], ("x", "x", "y"), {"printer"}, set(), (), {"x": 1}, "x", "", 5, 0, [["t"]], True],
        "prefix": ["svc.", "svc", "SVC", "", "o", "svc_", None, ("svc.a", "oth"), 5, ["svc"], "Pyro", "naï"],
        "regex": ["svc", r"svc\.(a|b)", "alpha", "svc$", "(?!svc).*", r".*(.)\1", "(?i)SVC", "[", "(a", "*", r"\p{L}", "a{3,2}", "(?P<x>a)(?P<x>b)",
                  "", None, 5, ["x"], "(?<=a+)b", r"\Z", "a++", "Pyro.*", ".*", "(?x) svc # c", "a{99999999999}"],
    }
    odd = [None, True, False, 0, 5, -7, 1.5, 2**40, 10**30, "", "svc.alpha", "zz", b"ab", [], ["x"], [1], [["y"]], (), ("svc",), ("a", 5),
           set(), {"x"}, {}, {"k": 1}, {"k": [1, (2, {"n": None})]}, 1 + 2j, float("inf"), "x" * 300, peer.URI("PYRO:o@h:1"), ValueError("v")]
    return good, odd


def by_hand(peer):
    """Calls that chance might miss."""
    yield Call("ping", obj="Pyro.Daemon")
    yield Call("registered", obj="Pyro.Daemon")
    yield Call("info", obj="Pyro.Daemon")
    for obj in ("Pyro.NameServer", "Pyro.Daemon", "nope", "", "pyro.nameserver"):
        yield Call("get_metadata", [obj], obj="Pyro.Daemon")
    yield Call("get_metadata", ["Pyro.NameServer"], {"as_lists": True}, obj="Pyro.Daemon")
    yield Call("get_next_stream_item", ["nope"], obj="Pyro.Daemon")
    yield Call("close_stream", ["nope"], obj="Pyro.Daemon")
    yield Call("get_metadata", [], obj="Pyro.Daemon")
    yield Call("ping", [1], obj="Pyro.Daemon")
    for method in ("nosuch", "_private", "__init__", "__class__", "__dict__", "__len__", "storage", "lock", "lookup.x", "", "__getattr__", "__call__"):
        yield Call(method)
        yield Call(method, obj="Pyro.Daemon")
    for name in ("lookup", "nosuch", "storage", "__class__", "count"):
        yield Call("__getattr__", [name])
        yield Call("__setattr__", [name, 1])
    ok = ("register", ("b1", "PYRO:o@h:1"), {})
    for batch in (
        [("ping", (), {}), ("count", (), {}), ("lookup", ("svc.alpha",), {})],
        [ok, ("lookup", ("nope",), {}), ("register", ("b2", "PYRO:o@h:1"), {})],
        [("register", ("b1", 5), {}), ("ping", (), {})],
        [ok, ("list", (), {"prefix": "b"})],
        [ok, ("nosuch", (), {})],
        [ok, ("_private", (), {})],
        [],
    ):
        yield Call("<batch>", batch=batch) if batch else Call("ping")
    yield Call("lookup", ["svc.gamma", True])
    yield Call("list", [], {"return_metadata": True})
    if peer.family == "pyro4":
        yield Call("list", [], {"metadata_all": ["printer", "printer"]})
        yield Call("list", [], {"metadata_any": ["fast", "nope"], "return_metadata": True})
    else:
        yield Call("yplookup", [["printer"], None, False])
        yield Call("yplookup", [], {"meta_any": {"fast", "nope"}})


def random_call(rng, peer, good, odd):
    methods = [method for method in METHODS if method != "yplookup" or peer.family == "pyro5"]
    method = rng.choice(methods)
    kinds, names = METHODS[method], KEYWORDS[method]
    if isinstance(kinds, dict):
        kinds, names = kinds[peer.family], names[peer.family]
    count = rng.choice([len(kinds)] * 3 + list(range(len(kinds) + 2)))
    args, kwargs = [], {}
    by_name = rng.random() < 0.4
    for index in range(count):
        kind = kinds[index] if index < len(kinds) else None
        value = rng.choice(good[kind]) if kind and rng.random() < 0.75 else rng.choice(odd)
        if by_name and index < len(names) and (kwargs or rng.random() < 0.6):
            if rng.random() < 0.9:
                kwargs[names[index]] = value
        elif not kwargs:
            args.append(value)
    if rng.random() < 0.03:
        kwargs[rng.choice(["foo", "name", "prefix"])] = rng.choice(odd)
    return Call(method, args, kwargs)


def meant(call, serializer, family, real, ours):
    """Why a difference is meant, or None. The reasons are those of the README."""
    if call.method in CHANGES and real[0] == "returned" and ours[:2] == ("raised", "builtins.TypeError"):
        if ours[2].startswith("metadata tags must be str, not "):
            return "tags are text"
    if call.method in ("register", "set_metadata") and "Pyro.NameServer" in (call.args[:1] or (call.kwargs.get("name"),)):
        return "the name server's own entry does not change"
    if family == "pyro5" and "frozenset" in str(real) and call.method in ("list", "yplookup", "lookup"):
        return "a list with metadata succeeds where the original fails"
    if real[0] == "raised" and ours[0] == "returned" and "unmarshallable" in real[2] and call.method == "lookup":
        return "marshal look-ups with metadata succeed"
    if call.method == "info" and real[0] == ours[0] == "returned":
        return "info counts workers"
    return None


def compare(peer, real, ours, serializer, calls, verbose):
    sides = [Side(peer, server, serializer) for server in (real, ours)]
    different, reasons, count = 0, {}, 0
    for side in sides:
        side.reset()
    for call in calls:
        outcomes = [side.call(call) for side in sides]
        after = [None, None]
        if call.changes():
            after = [side.registrations() for side in sides]
            for side in sides:
                side.reset()
        count += 1
        if outcomes[0] == outcomes[1] and after[0] == after[1]:
            continue
        reason = meant(call, serializer, peer.family, *outcomes)
        if reason:
            reasons[reason] = reasons.get(reason, 0) + 1
            if not verbose:
                continue
        else:
            different += 1
        if verbose or different <= 25:
            print("%s %s %s%r" % (peer.family, serializer, "[%s] " % reason if reason else "", call))
            if outcomes[0] != outcomes[1]:
                print("    real:    %s\n    hearthd: %s" % tuple(str(o)[:400] for o in outcomes))
            if after[0] != after[1]:
                print("    real after:    %s\n    hearthd after: %s" % tuple(after))
    for side in sides:
        for proxy in [side.admin] + list(side.proxies.values()):
            proxy._pyroRelease()
    print("%s %s: %d calls, %d different, %d meant %s" % (peer.family, serializer, count, different, sum(reasons.values()), reasons or ""))
    return count, different


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("hearthd")
    parser.add_argument("--family", choices=("pyro4", "pyro5"))
    parser.add_argument("--serializer", choices=SERIALIZERS)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--calls", type=int, default=400, help="random calls for each family and serializer")
    parser.add_argument("-v", "--verbose", action="store_true", help="show the differences that are meant, too")
    options = parser.parse_args()
    print("seed %d" % options.seed)
    total = total_different = 0
    for family in [options.family] if options.family else ["pyro4", "pyro5"]:
        peer = Peer(family)
        good, odd = values(peer)
        real, ours = start(options.hearthd, family)
        try:
            for serializer in [options.serializer] if options.serializer else SERIALIZERS:
                rng = random.Random("%d %s %s" % (options.seed, family, serializer))
                calls = list(by_hand(peer)) + [random_call(rng, peer, good, odd) for _ in range(options.calls)]
                count, different = compare(peer, real, ours, serializer, calls, options.verbose)
                total, total_different = total + count, total_different + different
        finally:
            real.stop()
            ours.stop()
    print("%d calls compared, %d differ" % (total, total_different))
    return 1 if total_different else 0


if __name__ == "__main__":
    sys.exit(main())
