"""Calls three nodes with the real Pyro4 and Pyro5: three ports on 127.0.0.1 as arguments."""

import base64
import sys

import Pyro4
import Pyro4.errors
import Pyro5.api
import Pyro5.errors

PORTS = [int(port) for port in sys.argv[1:4]]
METHODS = {"add", "authorize", "challenge", "health", "members", "promote", "remove", "snapshot_begin",
           "snapshot_end", "snapshot_piece", "status", "transfer_leader"}
NUMBER_OR_NONE = (int, type(None))
MEMBER_ITEMS = {
    "id": int, "peer_addr": str, "ns_addr": str, "role": str, "voter": bool, "last_applied": int,
    "last_log_index": int, "lag": int, "state_hash": str, "name_count": int, "snapshot_index": NUMBER_OR_NONE,
    "purged_index": NUMBER_OR_NONE, "version": str, "disk_free": int, "ready": bool, "alarms": list,
    "reachable": bool, "error": type(None), "promotes_itself": bool,
}


def proxy4(object_id, port, serializer):
    Pyro4.config.SERIALIZER = serializer
    return Pyro4.Proxy("PYRO:%s@127.0.0.1:%d" % (object_id, port))


def proxy5(object_id, port, serializer):
    Pyro5.config.SERIALIZER = serializer
    return Pyro5.api.Proxy("PYRO:%s@127.0.0.1:%d" % (object_id, port))


def raised(call, *args):
    try:
        call(*args)
    except Exception as error:  # whatever it is, the caller looks at it
        return error
    raise AssertionError("%r raised nothing" % (args,))


def plain(data):
    """Bytes, as any serializer brings them."""
    return base64.b64decode(data["data"]) if isinstance(data, dict) else bytes(data)


def check(family, errors, make, serializer):
    where = (family, serializer)
    # What one registers, the others have at once.
    name = "example.%s.%s" % where
    with make("Pyro.NameServer", PORTS[0], serializer) as ns:
        ns.register(name, "PYRO:object@host:1")
    for port in PORTS[1:]:
        with make("Pyro.NameServer", port, serializer) as ns:
            assert str(ns.lookup(name)) == "PYRO:object@host:1", where
            assert "Hearth.Cluster" not in ns.list(), where
    with make("Pyro.Daemon", PORTS[1], serializer) as daemon:
        assert sorted(daemon.registered()) == ["Pyro.Daemon", "Pyro.NameServer"], where

    for port in PORTS:
        with make("Hearth.Cluster", port, serializer) as cluster:
            cluster._pyroBind()
            assert set(cluster._pyroMethods) == METHODS, (where, cluster._pyroMethods)
            assert not cluster._pyroAttrs and not cluster._pyroOneway, where
            status = cluster.status()
            assert status["cluster"] == "hearth" and len(status["cluster_id"]) == 32, (where, status)
            assert status["leader"] in (1, 2, 3) and status["term"] >= 1, (where, status)
            assert [member["id"] for member in status["members"]] == [1, 2, 3], (where, status)
            for member in status["members"]:
                assert set(member) == set(MEMBER_ITEMS), (where, set(member) ^ set(MEMBER_ITEMS))
                for key, kind in MEMBER_ITEMS.items():
                    assert isinstance(member[key], kind), (where, key, member[key])
                assert member["reachable"] is True and member["error"] is None, (where, member)
                assert member["voter"] is True and member["ready"] is True, (where, member)
                assert member["alarms"] == [] and member["role"] in ("leader", "follower"), (where, member)
            assert {m["ns_addr"] for m in status["members"]} == {"127.0.0.1:%d" % p for p in PORTS}, where
            members = cluster.members()
            assert [set(m) for m in members] == [{"id", "peer_addr", "voter", "promotes_itself"}] * 3, where
            health = cluster.health()
            assert health == {
                "healthy": True, "ready": True, "leader": status["leader"], "alarms": [], "reason": "",
            }, (where, health)
            for call, start in [
                ((cluster.promote, 77), "unknown member: 77"),
                ((cluster.remove, 77), "unknown member: 77"),
                ((cluster.transfer_leader, 77), "unknown member: 77"),
                ((cluster.promote, 0), "refused: "),
                ((cluster.add, 1), "refused: "),
            ]:
                error = raised(*call)
                assert type(error) is errors.NamingError, (where, repr(error))
                assert str(error).startswith(start), (where, str(error))
            assert type(raised(cluster.promote, "two")) is TypeError, where
            assert type(raised(cluster.remove)) is TypeError, where
            assert type(raised(cluster.remove, 77, True)) is TypeError, where
            assert type(raised(getattr, cluster, "storage")) is AttributeError, where
            begun = cluster.snapshot_begin()
            assert begun["cluster_id"] == status["cluster_id"] and begun["confirmed"] is True, (where, begun)
            pieces = [plain(cluster.snapshot_piece(begun["id"], number)) for number in (0, 0, 1)]
            assert pieces[0].startswith(b"HEARTHSN") and pieces[0] == pieces[1] and not pieces[2], where
            assert str(raised(cluster.snapshot_piece, begun["id"], 3)).startswith("refused: "), where
            cluster.snapshot_end(begun["id"])
            assert str(raised(cluster.snapshot_piece, begun["id"], 1)).startswith("refused: "), where
            assert type(raised(cluster.snapshot_piece, begun["id"], -1)) is TypeError, where


for serializer in ("serpent", "json", "marshal"):
    check("Pyro4", Pyro4.errors, proxy4, serializer)
for serializer in ("serpent", "json", "marshal", "msgpack"):
    check("Pyro5", Pyro5.errors, proxy5, serializer)

# Across the families, by the way that programs go.
with Pyro4.locateNS("127.0.0.1", PORTS[2]) as ns4, Pyro5.api.locate_ns("127.0.0.1", PORTS[1]) as ns5:
    for number in range(200):
        ns4.register("across.%d" % number, "PYRO:object%d@host:1" % number)
        assert str(ns5.lookup("across.%d" % number)) == "PYRO:object%d@host:1" % number
        assert ns5.remove("across.%d" % number) == 1
        assert ns4.list(prefix="across.") == {}

# Numbers that are given out, and leadership that is moved.
with Pyro5.api.Proxy("PYRO:Hearth.Cluster@127.0.0.1:%d" % PORTS[0]) as cluster:
    assert cluster.add() == 4
    assert cluster.add(9) == 9
    status = cluster.status()
    target = next(m["id"] for m in status["members"] if m["id"] != status["leader"])
    assert cluster.transfer_leader(target) == target
    assert cluster.health()["leader"] == target
print("all is well")
