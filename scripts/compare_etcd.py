#!/usr/bin/env python3
"""Compares three nodes of hearthd with three of etcd, on this machine and disk, in one run.

usage: scripts/compare_etcd.py [--rounds N] [--seconds N] [--connections N] [--dir DIR] [--only etcd|hearth]

In each round each system is started with empty data directories, measured and stopped, so that only one
of them runs at a time; the tables show medians over the rounds. Both run with their default settings:
every write is synced on a majority before it is acknowledged. Each client is a closed loop over one
connection, and the clients are spread over the nodes; names and URIs are etcd's keys and values. Needs etcd
(Debian: etcd-server), the optimised binaries (`make build`; CARGO_TARGET_DIR is honoured) and cargo, which
builds the load generator for etcd. Five rounds take less than five minutes. The output goes into
docs/performance.md.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from nodes import NSCTL, HEARTHD, ROOT, TARGET_ROOT, Etcd, Hearth, cpu_seconds, end_cleanly, environment, file_system, machine, sync_time, want

# Label of the row, etcd's operation, Hearth's operation, and the target ratio of Hearth's rate to etcd's.
OPERATIONS = [
    ("registrations / puts", "put", "register", 4),
    ("look-ups, linearizable / gets, linearizable", "get", "lookup", 6),
    ("look-ups, stale / gets, serializable", "serializable-get", "stale lookup", 8),
]


def build_etcd_load():
    target = os.path.join(TARGET_ROOT, "etcd-load")
    subprocess.run(["cargo", "build", "--quiet", "--release", "--locked", "--target-dir", target, "--manifest-path",
                    os.path.join(ROOT, "scripts", "etcd-load", "Cargo.toml")], check=True)
    return os.path.join(target, "release", "etcd-load")


def measure(command, pids):
    """Returns the load's report, with the processor time used by the servers and by the load."""
    servers = cpu_seconds(pids)
    load = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    if done.returncode != 0:
        sys.exit("%s\n%s%s" % (" ".join(command), done.stdout, done.stderr))
    report = json.loads(done.stdout)
    if report["errors"] != 0:
        sys.exit("%d errors in %s: %s" % (report["errors"], " ".join(command), report))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    report["server_cpu"] = cpu_seconds(pids) - servers
    report["load_cpu"] = after.ru_utime + after.ru_stime - load.ru_utime - load.ru_stime
    return report


def round_of_etcd(load, options, folder):
    reports = {}
    with Etcd(folder) as cluster:
        for _, operation, _, _ in OPERATIONS:
            command = [load, operation, "--endpoints", ",".join(cluster.endpoints),
                       "--connections", str(options.connections), "--seconds", str(options.seconds)]
            reports[operation] = measure(command, cluster.pids())
    return reports


def round_of_hearth(options, folder):
    reports = {}
    for arguments, operations in (((), ["register", "lookup"]), (("--reads", "stale"), ["stale lookup"])):
        path = os.path.join(folder, "-".join(arguments) or "default")
        os.mkdir(path)
        with Hearth(path, arguments=arguments) as cluster:
            for operation in operations:
                command = [NSCTL, "-o", "json", "--endpoints", ",".join(cluster.endpoints), "bench", operation.split()[-1],
                           "--threads", "1", "--connections", str(options.connections), "--seconds", str(options.seconds)]
                reports[operation] = measure(command, cluster.pids())
    return reports


def median(reports, *keys):
    def item(report):
        for key in keys:
            report = report[key]
        return report
    return statistics.median(item(report) for report in reports)


def microseconds_a_call(reports, key):
    """Returns the median processor time per call. It includes warm-up and preparation, so it is a little too
    high, for both systems alike."""
    return statistics.median(report[key] / max(1, report["operations"]) * 1e6 for report in reports)


def latencies(reports):
    return "%.1f / %.1f" % (median(reports, "latency_us", "p50") / 1000, median(reports, "latency_us", "p99") / 1000)


def costs(reports):
    return "%.0f + %.0f" % (microseconds_a_call(reports, "server_cpu"), microseconds_a_call(reports, "load_cpu"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--dir", help="where to create the data directories of the nodes; must be on a real disk")
    parser.add_argument("--only", choices=["etcd", "hearth"])
    parser.add_argument("--etcd", default="etcd", help="the program")
    options = parser.parse_args()
    end_cleanly()
    systems = [options.only] if options.only else ["etcd", "hearth"]
    if "hearth" in systems:
        want(HEARTHD, NSCTL)
    load = build_etcd_load() if "etcd" in systems else None
    folder = tempfile.mkdtemp(prefix="hearth-compare-", dir=options.dir)
    began = time.monotonic()
    results = {system: [] for system in systems}
    try:
        version = subprocess.run(["etcd", "--version"], capture_output=True, text=True).stdout.splitlines()[:1]
        print("%s; %s; synced write of 4 KB on %s: %.2f ms; %d clients; %d rounds of %g s" % (
            machine(), ", ".join(version), file_system(folder), sync_time(folder), options.connections, options.rounds,
            options.seconds), flush=True)
        for number in range(options.rounds):
            # The system that is first in one round is last in the next.
            for system in systems if number % 2 == 0 else systems[::-1]:
                path = os.path.join(folder, "%s%d" % (system, number))
                os.mkdir(path)
                reports = round_of_etcd(load, options, path) if system == "etcd" else round_of_hearth(options, path)
                results[system].append(reports)
                shutil.rmtree(path)
                print("round %d, %s: %s" % (number + 1, system, ", ".join(
                    "%s %d/s" % (name, report["operations_per_second"]) for name, report in reports.items())), flush=True)
    finally:
        shutil.rmtree(folder)
    print("\n| operation | %s | ms p50 / p99 | CPU µs a call, servers + load |%s" % (
        " /s | ".join({"etcd": "etcd", "hearth": "hearthd"}[system] for system in systems) + " /s",
        " ratio | aim |" if len(systems) == 2 else ""))
    print("|---|%s---|---|%s" % ("---:|" * len(systems), "---:|---:|" if len(systems) == 2 else ""))
    is_met = True
    for row, etcd, hearth, aim in OPERATIONS:
        names = {"etcd": etcd, "hearth": hearth}
        reports = {system: [one[names[system]] for one in results[system]] for system in systems}
        rate = {system: median(reports[system], "operations_per_second") for system in systems}
        line = "| %s | %s | %s | %s |" % (
            row, " | ".join("%d" % rate[system] for system in systems),
            "; ".join(latencies(reports[system]) for system in systems),
            "; ".join(costs(reports[system]) for system in systems))
        if len(systems) == 2:
            ratio = rate["hearth"] / rate["etcd"]
            is_met = is_met and ratio >= aim
            line += " %.1f | %d |" % (ratio, aim)
        print(line)
    if len(systems) == 2:
        print("\nall aims met" if is_met else "\nnot all aims met")
    print("errors: 0; took %d s" % (time.monotonic() - began))


if __name__ == "__main__":
    main()
