"""Clusters of real nodes on this machine, of hearthd and of etcd, for the scripts that measure them.

A module of other scripts. Needs the optimised binaries (`make build`; CARGO_TARGET_DIR is honoured).
"""

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TARGET_ROOT = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
TARGET = os.path.join(TARGET_ROOT, "release")
HEARTHD = os.path.join(TARGET, "hearthd")
NSCTL = os.path.join(TARGET, "nsctl")

# The longest time in seconds that a cluster may take to start, on a busy machine.
START_TIME_MAX = 60


def end_cleanly():
    """Makes SIGTERM end this program by an exception, so that no node is left behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))


def want(*programs):
    missing = [program for program in programs if not os.access(program, os.X_OK)]
    if missing:
        sys.exit("not there: %s (`make build` makes hearthd and nsctl)" % ", ".join(missing))


def free_ports(count):
    """Returns ports of the loopback interface that are free at this moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


def environment():
    """Returns this process's environment without the variables that would configure a server."""
    prefixes = ("PYRO", "HEARTH_", "NSCTL_", "ETCD", "RUST_LOG")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}


def machine():
    with open("/proc/cpuinfo") as info:
        models = [line.split(":", 1)[1].strip() for line in info if line.startswith("model name")]
    return "%d cores (%s), Linux %s" % (os.cpu_count(), models[0] if models else "?", os.uname().release)


def sync_time(folder):
    """Returns the milliseconds that a synced write of 4 KB takes in this directory: the median of 200."""
    path, times = os.path.join(folder, "sync-time"), []
    with open(path, "wb", buffering=0) as file:
        for _ in range(200):
            file.write(b"x" * 4096)
            began = time.monotonic()
            os.fdatasync(file.fileno())
            times.append(time.monotonic() - began)
    os.remove(path)
    return statistics.median(times) * 1000


def file_system(folder):
    done = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True)
    return done.stdout.strip() or "unknown file system"


def cpu_seconds(pids):
    """Returns the processor time in seconds that these processes have used so far."""
    total = 0
    for pid in pids:
        with open("/proc/%d/stat" % pid) as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def resident_mb(pid):
    with open("/proc/%d/statm" % pid) as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def nsctl(*arguments, prefix=(), timeout=60):
    """Returns the JSON document that nsctl prints, or `None` if it prints none."""
    done = subprocess.run(list(prefix) + [NSCTL, "-o", "json"] + list(arguments), capture_output=True, text=True,
                          env=environment(), timeout=timeout)
    try:
        return json.loads(done.stdout)
    except ValueError:
        return None


class Node:
    """One process, its log and its directory."""

    def __init__(self, number, folder, command, prefix=()):
        self.number, self.folder, self.command, self.prefix = number, folder, command, list(prefix)
        self.log = os.path.join(folder, "node%d.log" % number)
        self.process = None
        self.ready = threading.Event()

    def start(self):
        self.ready.clear()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.prefix + self.command, stdout=subprocess.PIPE, stderr=log,
                                            env=environment(), start_new_session=True)
        threading.Thread(target=self._read, args=(self.process, self.ready), daemon=True).start()

    @staticmethod
    def _read(process, ready):
        for line in process.stdout:
            if line.startswith(b"URI = "):
                ready.set()

    @property
    def pid(self):
        return self.process.pid

    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def signal(self, number):
        self.process.send_signal(number)

    def last_words(self):
        with open(self.log, errors="replace") as log:
            return "".join(log.readlines()[-8:])

    def stop(self):
        if not self.is_running():
            return
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def kill(self):
        if self.is_running():
            self.process.kill()
            self.process.wait()


class Cluster:
    """Some nodes that are started and stopped together."""

    nodes = ()

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        for node in self.nodes:
            node.start()
        self.wait_ready()

    def stop(self):
        for node in self.nodes:
            if node.is_running():
                node.signal(signal.SIGTERM)
        for node in self.nodes:
            node.stop()

    def pids(self):
        return [node.pid for node in self.nodes]

    def wait(self, what, condition, seconds=START_TIME_MAX):
        """Waits until the condition holds. A node that ends meanwhile ends this program."""
        deadline = time.monotonic() + seconds
        while True:
            found = condition()
            if found:
                return found
            for node in self.nodes:
                if node.process is not None and node.process.poll() is not None:
                    sys.exit("node %d ended with %s:\n%s" % (node.number, node.process.returncode, node.last_words()))
            if time.monotonic() > deadline:
                logs = "\n".join("node %d: %s" % (node.number, node.last_words()) for node in self.nodes)
                sys.exit("%s: not within %d s\n%s" % (what, seconds, logs))
            time.sleep(0.05)


class Hearth(Cluster):
    """Nodes of hearthd with RocksDB, on the loopback interface or each in its own namespace of `network`."""

    def __init__(self, folder, count=3, arguments=(), network=None):
        if network is None:
            hosts, ports = ["127.0.0.1"] * count, free_ports(2 * count)
            own, peer = ports[:count], ports[count:]
        else:
            hosts, own, peer = network.hosts, [9090] * count, [9092] * count
        # The command prefix for programs that talk to the nodes.
        self.client_prefix = network.client_prefix if network else []
        self.endpoints = ["%s:%d" % pair for pair in zip(hosts, own)]
        peers = ["%s:%d" % pair for pair in zip(hosts, peer)]
        founders = ",".join("%d=%s" % (index + 1, address) for index, address in enumerate(peers))
        options = list(arguments)
        if network is not None:
            # These are no loopback addresses, and a cluster that other machines can reach needs a key.
            key = os.path.join(folder, "cluster.key")
            with open(key, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
                file.write("the key of the clusters that are measured\n")
            options += ["--cluster-key-file", key]
        self.nodes = []
        for index in range(count):
            number = index + 1
            command = [HEARTHD, "-n", hosts[index], "-p", str(own[index]), "-x",
                       "-s", "rocksdb:" + os.path.join(folder, "hearth%d" % number), "--node-id", str(number),
                       "--peer-addr", peers[index], "--initial-cluster", founders] + options
            self.nodes.append(Node(number, folder, command, network.prefix(number) if network else []))

    def wait_ready(self):
        self.wait("hearthd", lambda: all(node.ready.is_set() for node in self.nodes))
        self.leader()

    def status(self, exclude=None):
        """Returns the cluster status from a running node, or `None`."""
        endpoints = [self.endpoints[node.number - 1] for node in self.nodes
                     if node.is_running() and node.number != exclude]
        return nsctl("--endpoints", ",".join(endpoints), "--timeout", "3", "cluster", "status", prefix=self.client_prefix)

    def leader(self, exclude=None):
        def find():
            status = self.status(exclude)
            return status and status["leader"] != exclude and status["leader"]
        return self.node(self.wait("a leader", find))

    def node(self, number):
        return self.nodes[number - 1]

    def wait_caught_up(self, lag_max=1000):
        """Waits until every member answers and is close to the leader, although clients continue to write."""
        def is_caught_up():
            status = self.status()
            members = status["members"] if status and status["leader"] else []
            return len(members) == len(self.nodes) and all(
                member["reachable"] and member["ready"] and (member["lag"] or 0) <= lag_max for member in members)
        self.wait("all nodes caught up", is_caught_up)


class Etcd(Cluster):
    """Nodes of etcd with default settings: synced writes, no TLS, no authentication."""

    def __init__(self, folder, count=3, program="etcd"):
        ports = free_ports(2 * count)
        own, peer = ports[:count], ports[count:]
        self.endpoints = ["127.0.0.1:%d" % port for port in own]
        founders = ",".join("n%d=http://127.0.0.1:%d" % (index + 1, port) for index, port in enumerate(peer))
        self.nodes = []
        for index in range(count):
            client, peers = "http://127.0.0.1:%d" % own[index], "http://127.0.0.1:%d" % peer[index]
            command = [program, "--name", "n%d" % (index + 1), "--data-dir", os.path.join(folder, "etcd%d" % (index + 1)),
                       "--listen-client-urls", client, "--advertise-client-urls", client,
                       "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers,
                       "--initial-cluster", founders, "--initial-cluster-state", "new", "--log-level", "error"]
            self.nodes.append(Node(index + 1, folder, command))

    def wait_ready(self):
        def is_healthy(endpoint):
            host, port = endpoint.split(":")
            try:
                with socket.create_connection((host, int(port)), timeout=1) as sock:
                    sock.sendall(b"GET /health HTTP/1.0\r\n\r\n")
                    answer = b"".join(iter(lambda: sock.recv(4096), b""))
            except OSError:
                return False
            return b'"health":"true"' in answer
        self.wait("etcd", lambda: all(is_healthy(endpoint) for endpoint in self.endpoints))
