"""Who may change a cluster, with the real Pyro4 and Pyro5 as strangers, with its key, and from its own machine.

usage: admin.py HEARTHD README

To be run where 10.66.0.1 is an address of this machine: callers that use it come from elsewhere, as far as
the node can see.
"""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import tempfile

import Pyro4
import Pyro4.errors
import Pyro5.api
import Pyro5.errors

HEARTHD, README = sys.argv[1:3]
HERE, THERE = "127.0.0.1:9090", "10.66.0.1:9090"
CHANGES = [("add", ()), ("add", (2 ** 53,)), ("promote", (2,)), ("remove", (1,)), ("remove", (2,)),
           ("transfer_leader", ()), ("transfer_leader", (1,)),
           ("snapshot_begin", ()), ("snapshot_piece", ("a", 0)), ("snapshot_end", ("a",))]
folder = tempfile.mkdtemp()


def write_key(name, text):
    path = os.path.join(folder, name)
    with open(path, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(text)
    return path


KEYS = write_key("keys", "the first key of the test\nthe second key of the test\n")
OTHER = write_key("other", "another key, of another cluster\n")
SECOND = write_key("second", "  the second key of the test \n")


class Node:
    """A cluster of one at both addresses."""

    def __init__(self, *options, **environment):
        command = [HEARTHD, "-n", "0.0.0.0", "-x", "--log-level", "warn"] + list(options)
        environment = dict(os.environ, **environment)
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        for line in self.process.stdout:
            if line.startswith(b"URI ="):
                return
        sys.exit(self.process.stderr.read().decode())

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.process.send_signal(signal.SIGTERM)
        _, log = self.process.communicate(timeout=60)
        self.log = log.decode()
        if kind is not None:
            print(self.log)


def raised(call, *args):
    try:
        call(*args)
    except Exception as error:  # whatever it is, the caller looks at it
        return error
    raise AssertionError("%r raised nothing" % (args,))


def is_denied(error):
    return type(error) in (Pyro4.errors.NamingError, Pyro5.errors.NamingError) and str(error).startswith("denied: ")


def example(family, key_file, address):
    """Runs the example of the README, and returns what it prints."""
    with open(README) as file:
        blocks = re.findall(r"```python\n(.*?)```", file.read(), re.DOTALL)
    code, = [block for block in blocks if "hearth admin v1" in block]
    assert "alpha:9090" in code and "/etc/hearth.key" in code and code.count("\n") <= 10, code
    code = code.replace("alpha:9090", address).replace("/etc/hearth.key", key_file)
    code = code.replace("Pyro5.api", "Pyro4") if family == "Pyro4" else code
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    return printed.getvalue()


def batch_of(proxy):
    return Pyro4.batch(proxy) if isinstance(proxy, Pyro4.Proxy) else Pyro5.api.BatchProxy(proxy)


def proxies(address):
    uri = "PYRO:Hearth.Cluster@" + address
    return [Pyro4.Proxy(uri), Pyro5.api.Proxy(uri)]


CLUSTER = ["--initial-cluster", "1=10.66.0.1:9092", "--node-id", "1", "-s", "rocksdb:" + os.path.join(folder, "data")]
next_id = 2
with Node(*CLUSTER, "--cluster-key-file", KEYS) as node:
    for stranger in proxies(THERE):
        with stranger:
            stranger._pyroBind()
            assert {"challenge", "authorize"} < set(stranger._pyroMethods), stranger._pyroMethods
            for method, arguments in CHANGES:
                error = raised(getattr(stranger, method), *arguments)
                assert is_denied(error) and "--cluster-key-file" in str(error), (method, error)
            batch = batch_of(stranger)
            batch.status()
            batch.add()
            results = batch()
            assert next(iter(results))["leader"] == 1
            assert is_denied(raised(next, results))
            # Everybody may look.
            assert stranger.status()["leader"] == 1 and stranger.health()["healthy"] and stranger.members()
            assert type(raised(stranger.remove, 3, True)) is TypeError
            assert type(raised(stranger.authorize, 5)) is TypeError
            assert is_denied(raised(stranger.authorize, "0" * 64))
            # One proof for each challenge, and so many wrong ones.
            for _ in range(8):
                nonce = stranger.challenge()
                assert re.fullmatch("[0-9a-f]{64}", nonce), nonce
                assert is_denied(raised(stranger.authorize, "0" * 64))
            assert is_denied(raised(stranger.challenge)) and is_denied(raised(stranger.add))
    for family in ("Pyro4", "Pyro5"):
        for key_file in (KEYS, SECOND):
            assert example(family, key_file, THERE) == "%d\n" % next_id, (family, next_id)
            next_id += 1
        error = raised(example, family, OTHER, THERE)
        assert is_denied(error) and "no key" in str(error), error
    for neighbour in proxies(HERE):
        with neighbour:
            assert neighbour.add() == next_id
            next_id += 1
    with Pyro5.api.Proxy("PYRO:Hearth.Cluster@" + THERE) as stranger:
        assert is_denied(raised(stranger.add)), "what others have proved is theirs"
for part in ["call=add(9007199254740992)", "call=remove(2)", "call=authorize", 'right=the cluster key',
             "right=this machine", "peer=10.66.0.1:"]:
    assert part in node.log, (part, node.log)

# Without a cluster's key there is nothing to prove.
with Node(*CLUSTER, "--insecure-peers") as node:
    with Pyro5.api.Proxy("PYRO:Hearth.Cluster@" + THERE) as stranger:
        error = raised(stranger.challenge)
        assert is_denied(error) and "no cluster key" in str(error), error
        assert is_denied(raised(stranger.add))
    with Pyro4.Proxy("PYRO:Hearth.Cluster@" + HERE) as neighbour:
        assert neighbour.add() == next_id

# With an HMAC key every call is signed with it.
with Node(*CLUSTER, "--insecure-peers", PYRO_HMAC_KEY="signed") as node:
    with Pyro4.Proxy("PYRO:Hearth.Cluster@" + THERE) as holder:
        holder._pyroHmacKey = b"signed"
        assert holder.add() == next_id + 1
    with Pyro4.Proxy("PYRO:Hearth.Cluster@" + THERE) as stranger:
        assert "hmac" in str(raised(lambda: stranger.add()))
assert "right=the HMAC key" in node.log, node.log
print("all is well")
