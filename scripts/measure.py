#!/usr/bin/env python3
"""Compares hearthd with the real name servers, on this machine, in one run.

usage: scripts/measure.py [--rounds N] [--seconds N] [--names N] [--only lookup,register,one,batch,start,million]

Needs the optimised binaries (`make build`; CARGO_TARGET_DIR is honoured), the echo server
(`cargo build --release -p hearth-cli --example tcp_echo`) and HEARTH_TEST_PYTHON. The servers take turns
in each round, so that noise of the machine affects all of them; the tables show medians over the
rounds. The output goes into docs/performance.md.
"""

import argparse
import json
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TARGET = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "release")
PYTHON = os.environ.get("HEARTH_TEST_PYTHON", sys.executable)


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Server:
    """A server under load. The constructor returns once the server accepts connections at `port`."""

    def __init__(self, command, log=None, settings=None, says_uri=False):
        self.port = free_port()
        self.log = open(log, "w") if log else subprocess.DEVNULL
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYRO")}
        environment.update(settings or {})
        started = time.monotonic()
        self.process = subprocess.Popen(
            [part.replace("PORT", str(self.port)) for part in command],
            stdout=subprocess.PIPE if says_uri else subprocess.DEVNULL, stderr=self.log, env=environment)
        # hearthd binds its port before it has recovered, and prints its URI when it answers.
        while says_uri and not (self.process.stdout.readline() or b"URI").startswith(b"URI"):
            pass
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                break
            except OSError:
                if self.process.poll() is not None:
                    sys.exit("%s ended at its start" % command)
                if time.monotonic() - started > 60:
                    sys.exit("%s does not answer" % command)
                time.sleep(0.001)
        self.ready = time.monotonic() - started

    def resident_mb(self):
        with open("/proc/%d/status" % self.process.pid) as status:
            return int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1)) / 1024

    def context_switches(self):
        """Returns the number of context switches of all threads so far, voluntary or not."""
        count = 0
        for thread in os.listdir("/proc/%d/task" % self.process.pid):
            with open("/proc/%d/task/%s/status" % (self.process.pid, thread)) as status:
                count += sum(int(n) for n in re.findall(r"voluntary_ctxt_switches:\s+(\d+)", status.read()))
        return count

    def stop(self):
        self.process.terminate()
        self.process.wait(30)


def hearthd(*arguments, **options):
    return Server([os.path.join(TARGET, "hearthd"), "-n", "127.0.0.1", "-p", "PORT", "-x"] + list(arguments), says_uri=True, **options)


def pyro4(*arguments, **options):
    command = [PYTHON, "-W", "ignore", "-m", "Pyro4.naming", "-n", "127.0.0.1", "-p", "PORT", "-x"]
    return Server(command + list(arguments), **options)


def pyro5(*arguments):
    return Server([PYTHON, "-W", "ignore", "-m", "Pyro5.nameserver", "-n", "127.0.0.1", "-p", "PORT", "-x"] + list(arguments))


def echo():
    return Server([os.path.join(TARGET, "examples", "tcp_echo"), "PORT"])


def bench(server, operation, connections, seconds, *arguments):
    command = [os.path.join(TARGET, "nsctl"), "-o", "json", "-n", "127.0.0.1", "-p", str(server.port), "bench", operation,
               "--connections", str(connections), "--seconds", str(seconds)] + list(arguments)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit("%s\n%s%s" % (" ".join(command), done.stdout, done.stderr))
    return json.loads(done.stdout)


def table(title, results, base):
    """Prints one row per server: medians, and the ratio to the server named `base`. Returns the rates."""
    print("\n%s\n" % title)
    print("| server | operations/s | p50 µs | p99 µs | p99.9 µs | ratio |")
    print("|---|---:|---:|---:|---:|---:|")
    median = {name: statistics.median(r["operations_per_second"] for r in reports) for name, reports in results.items()}
    for name, reports in results.items():
        latency = [statistics.median(r["latency_us"][q] for r in reports) for q in ("p50", "p99", "p999")]
        print("| %s | %d | %d | %d | %d | %.2f |" % ((name, median[name]) + tuple(latency) + (median[name] / median[base],)))
    return median


def alternate(rounds, servers, run):
    results = {name: [] for name in servers}
    for _ in range(rounds):
        for name, server in servers.items():
            results[name].append(run(name, server))
    return results


def lookups(options):
    servers = {"pyro4-ns": pyro4(), "pyro5-ns": pyro5(), "hearthd (Pyro4)": hearthd(), "tcp echo": echo()}
    servers["hearthd (Pyro5)"] = servers["hearthd (Pyro4)"]

    def run(name, server):
        if name == "tcp echo":
            return bench(server, "echo", 16, options.seconds, "--protocol", "pyro4")
        family = "pyro5" if "5" in name else "pyro4"
        return bench(server, "lookup", 16, options.seconds, "--protocol", family)

    try:
        results = alternate(options.rounds, servers, run)
    finally:
        for server in servers.values():
            server.stop()
    median = table("Look-ups, 16 connections, memory store", results, "pyro4-ns")
    print("\nhearthd / bare echo: %.2f" % (median["hearthd (Pyro4)"] / median["tcp echo"]))


def registrations(options, folder):
    log = os.path.join(folder, "register.log")
    # The real server's thread pool is limited to 40 connections by default.
    pool = {"PYRO_THREADPOOL_SIZE": "100"}
    servers = {
        "pyro4-ns -s sql:": pyro4("-s", "sql:" + os.path.join(folder, "names.sqlite"), settings=pool),
        "hearthd -s rocksdb:": hearthd("-s", "rocksdb:" + os.path.join(folder, "register"), "--log-level", "info", log=log),
        "hearthd -s memory": hearthd(),
    }

    def run(name, server):
        return bench(server, "register", 64, options.seconds, "--protocol", "pyro4")

    try:
        results = alternate(options.rounds, servers, run)
    finally:
        for server in servers.values():
            server.stop()
    table("Registrations, 64 connections (pyro4-ns with THREADPOOL_SIZE=100)", results, "pyro4-ns -s sql:")
    with open(log) as text:
        for line in text:
            if "fsync" in line:
                print("\n" + line.strip())


def synced_appends(folder, seconds):
    """Returns how many times a second one thread appends 512 bytes to a file and syncs it."""
    path, block, count = os.path.join(folder, "synced"), b"x" * 512, 0
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        os.write(file, block)
        os.fdatasync(file)
        count += 1
    rate = count / (time.monotonic() - began)
    os.close(file)
    os.remove(path)
    return rate


def one_client(options, folder):
    """One client that registers one name after the other."""
    servers = {"pyro4-ns": pyro4(), "hearthd -s memory": hearthd(),
               "hearthd -s rocksdb:": hearthd("-s", "rocksdb:" + os.path.join(folder, "one"))}
    switches = {name: [] for name in servers}
    appends = []

    def run(name, server):
        if "rocksdb" in name:
            appends.append(synced_appends(folder, options.seconds / 2))
        counts = []

        def sample():
            # In the middle of the load, which has a warm-up and an end.
            for pause in (options.seconds / 2, options.seconds / 4):
                time.sleep(pause)
                counts.append((time.monotonic(), server.context_switches()))

        sampling = threading.Thread(target=sample)
        sampling.start()
        report = bench(server, "register", 1, options.seconds, "--protocol", "pyro4")
        sampling.join()
        (began, first), (ended, last) = counts
        switches[name].append((last - first) / (ended - began) / report["operations_per_second"])
        return report

    try:
        results = alternate(options.rounds, servers, run)
    finally:
        for server in servers.values():
            server.stop()
    median = table("Registrations of one client, one after the other", results, "pyro4-ns")
    print("\n| server | context switches a call |\n|---|---:|")
    for name, counts in switches.items():
        print("| %s | %.1f |" % (name, statistics.median(counts)))
    rate = statistics.median(appends)
    print("\none thread that appends and syncs 512 bytes: %d/s; hearthd -s rocksdb: / that: %.2f" % (
        rate, median["hearthd -s rocksdb:"] / rate))


def batches(options):
    """Batches of 1,000 registrations: sent as bytes that were encoded before, and by Pyro4's client."""
    servers = {"pyro4-ns": pyro4(), "hearthd": hearthd()}
    kinds = [[], ["--oneway"], ["--client"], ["--client", "--oneway"]]
    load = os.path.join(ROOT, "scripts", "batch_load.py")
    rates = {(name, tuple(kind)): [] for name in servers for kind in kinds}
    try:
        for _ in range(options.rounds):
            for kind in kinds:
                for name, server in servers.items():
                    command = [PYTHON, "-W", "ignore", load, str(server.port), str(options.seconds)] + kind
                    rates[name, tuple(kind)].append(float(subprocess.check_output(command)))
    finally:
        for server in servers.values():
            server.stop()
    print("\nRegistrations in batches of 1,000, memory store\n")
    print("| load | pyro4-ns /s | hearthd /s | ratio |\n|---|---:|---:|---:|")
    for kind in kinds:
        theirs, ours = (statistics.median(rates[name, tuple(kind)]) for name in servers)
        text = ("Pyro4's client" if "--client" in kind else "encoded before") + (", oneway" if "--oneway" in kind else "")
        print("| %s | %d | %d | %.2f |" % (text, theirs, ours, ours / theirs))


def starts(options, folder):
    rows = []
    for name, arguments in (("memory", []), ("rocksdb:, new", ["-s", "rocksdb:" + os.path.join(folder, "start")]),
                            ("rocksdb:, again", ["-s", "rocksdb:" + os.path.join(folder, "start")])):
        ready, resident = [], []
        for round_number in range(options.rounds if name != "rocksdb:, new" else 1):
            server = hearthd(*arguments)
            ready.append(server.ready)
            time.sleep(1)
            resident.append(server.resident_mb())
            server.stop()
        rows.append((name, statistics.median(ready) * 1000, statistics.median(resident)))
    print("\nStart and idle memory\n\n| store | ready after ms | resident MB after 1 s |\n|---|---:|---:|")
    for row in rows:
        print("| %s | %d | %.1f |" % row)


def million(options, folder):
    small, large = os.path.join(folder, "small"), os.path.join(folder, "large")
    for path, names in ((small, 1000), (large, options.names)):
        server = hearthd("-s", "rocksdb:" + path)
        began = time.monotonic()
        bench(server, "lookup", 16, 1, "--names", str(names), "--keep")
        print("\n%d names registered in %.0f s" % (names, time.monotonic() - began))
        server.stop()
    servers = {"1000 names": hearthd("-s", "rocksdb:" + small), "%d names" % options.names: hearthd("-s", "rocksdb:" + large)}
    for name, server in servers.items():
        time.sleep(1)
        print("%s: ready after %d ms, %.1f MB resident" % (name, server.ready * 1000, server.resident_mb()))

    def run(name, server):
        return bench(server, "lookup", 16, options.seconds, "--names", name.split()[0], "--keep", "--reuse")

    try:
        results = alternate(options.rounds, servers, run)
        for name, server in servers.items():
            print("%s: %.1f MB resident after the load" % (name, server.resident_mb()))
    finally:
        for server in servers.values():
            server.stop()
    table("Look-ups by size of the registry, 16 connections, rocksdb:", results, "1000 names")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--names", type=int, default=1_000_000)
    parser.add_argument("--only", default="lookup,register,one,batch,start,million")
    options = parser.parse_args()
    print("%s, %d cores, Linux %s, %d rounds of %d s" % (
        platform.processor() or platform.machine(), os.cpu_count(), platform.release(), options.rounds, options.seconds))
    folder = tempfile.mkdtemp(prefix="hearth-measure-")
    try:
        for part in options.only.split(","):
            if part == "lookup":
                lookups(options)
            elif part == "register":
                registrations(options, folder)
            elif part == "one":
                one_client(options, folder)
            elif part == "batch":
                batches(options)
            elif part == "start":
                starts(options, folder)
            elif part == "million":
                million(options, folder)
            else:
                sys.exit("no such part: %s" % part)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
