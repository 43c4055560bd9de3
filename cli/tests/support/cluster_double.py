"""A daemon of the real Pyro4 or Pyro5 with the object `Hearth.Cluster`, whose answers are made up.

usage: cluster_double.py pyro4|pyro5 healthy|ailing
"""

import hmac
import os
import sys

family, state = sys.argv[1:]
if family == "pyro4":
    from Pyro4 import Daemon, current_context as context, expose
    from Pyro4.errors import NamingError
else:
    from Pyro5.api import Daemon, current_context as context, expose
    from Pyro5.errors import NamingError


def member(number, **items):
    return dict({
        "id": number, "peer_addr": "10.0.0.%d:9092" % number, "ns_addr": "10.0.0.%d:9090" % number,
        "role": "follower", "voter": True, "last_applied": 120, "last_log_index": 121, "lag": 0,
        "state_hash": "5e" * 16, "name_count": 17, "snapshot_index": None, "purged_index": 100, "version": "0.1.0",
        "disk_free": 1 << 40, "ready": True, "alarms": [], "reachable": True, "error": None,
        "promotes_itself": False}, **items)


@expose
class Cluster:
    def status(self):
        away = dict.fromkeys(
            ["ns_addr", "role", "last_applied", "last_log_index", "lag", "state_hash", "name_count", "version"])
        away.update(reachable=False, ready=False, error="connection refused")
        return {
            "cluster": "sensors", "cluster_id": "ab" * 16, "answered_by": 1, "leader": 2, "term": 7,
            "members": [
                member(1, state_hash="77" * 16, alarms=["disk nearly full: 12 MB free"]),
                member(2, role="leader"),
                member(3, **away),
                member(4, role="learner", voter=False, promotes_itself=True, last_applied=90, lag=31, ready=False),
            ]}

    def members(self):
        return [{"id": n, "peer_addr": "10.0.0.%d:9092" % n, "voter": n < 4, "promotes_itself": n == 4}
                for n in (1, 2, 4)]

    def health(self):
        if state == "healthy":
            return {"healthy": True, "ready": True, "leader": 2, "alarms": [], "reason": ""}
        return {"healthy": False, "ready": False, "leader": None, "alarms": ["disk nearly full"],
                "reason": "no leader for 4 s"}

    def add(self, node_id=None):
        if node_id == 2:
            raise NamingError("refused: number 2 was used before; take another one")
        return node_id or 5

    def promote(self, node_id):
        if node_id == 9:
            raise NamingError("unknown member: 9")

    def remove(self, node_id):
        if node_id == 2:
            raise NamingError("refused: without node 2, 2 of the voters 1 and 3 must be there")
        if node_id == 8 and not self.has_proof():
            raise NamingError("denied: the cluster is changed from a node's own machine")

    # The original's proxies have one connection, and what a connection has proved is kept on it.
    def challenge(self):
        context.client.nonce = os.urandom(32).hex()
        return context.client.nonce

    def authorize(self, proof):
        message = b"\0".join([b"hearth admin v1", b"ab" * 16, context.client.__dict__.pop("nonce").encode()])
        context.client.proved = hmac.compare_digest(proof, hmac.new(b"the second key", message, "sha256").hexdigest())
        if not context.client.proved:
            raise NamingError("denied: this proves no key of this cluster")

    def has_proof(self):
        return getattr(context.client, "proved", False)

    def transfer_leader(self, node_id=None):
        if node_id == 6:
            raise NamingError("no quorum: 1 of 3 voters answers")
        if node_id == 7:
            raise NamingError("outcome unknown: no quorum since the change was proposed")
        return node_id or 1


@expose
class NameServer:
    def ping(self):
        pass


daemon = Daemon(host="127.0.0.1", port=0)
daemon.register(Cluster(), "Hearth.Cluster")
print("URI = %s" % daemon.register(NameServer(), "Pyro.NameServer"), flush=True)
daemon.requestLoop()
